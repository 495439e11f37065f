"""Rows for docs/results/*.json from what was run: runs, a study, what `measure` or `rank` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

from image2point.errors import InputError
from image2point.report.read import Record, read_runs
from image2point.runs import Run
from image2point.sweeps.selection import run_folders

UNFIT = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What content raises that is not what was expected."""


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """Rows of a study, of what was measured, or of the finished runs in a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of runs, of a study or of measures, found none")
    study = folder / "rows.json"
    one_run = Run(folder).finished  # whose folder has JSON of its own
    measured = [] if one_run else [study] if study.is_file() else sorted(folder.glob("*.json"))
    rows = [] if measured else runs_in(folder)
    for path in measured:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows += content if path == study else ranked_in(content) if "candidates" in content else layers_in(content)
        except UNFIT as error:
            raise InputError(
                f"{path}: expected the JSON of a study, of `image2point measure` or of `rank`, found {error!r}; make "
                "it again, or take it away"
            ) from None
    return rows


def study_of(folder: Path) -> dict[str, Any]:
    """The study of a folder, if it is one, without settings, which name the machine's folders."""
    path = folder / "study.yaml"
    if not path.is_file():
        return {}
    asked = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"study": {key: value for key, value in asked.items() if not key.endswith("settings")}}


def runs_in(folder: Path) -> list[dict[str, Any]]:
    return [row_of(run) for run in read_runs(run_folders([folder]))]


def spread_of_depth(run: Record) -> dict[str, list[float]]:
    """By layer, the standard deviation over channels of the numbers by which they fill each slice of the depth."""
    weights = load_file(Run(run.path).weights)
    return {layer: weights[f"{layer}.depth"].double().std(0).tolist() for layer in run.summary.depth}


def validated(run: Record) -> list[list[float]]:
    """Epoch, seconds of training until then, and accuracy on the validation clouds, of each epoch that has one."""
    columns = zip(*(run.metrics[name] for name in ("epoch", "seconds", "validation_accuracy")), strict=True)
    return [[int(epoch), float(seconds), float(score)] for epoch, seconds, score in columns if score == score]


def layers_in(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each split and layer of what `image2point measure RUN --json` wrote."""
    run = Path(measured["target"]).name
    return [
        {
            "run": run,
            "split": split,
            "layer": layer,
            "values": found["values"],
            "errors": {name: interval["error"] for name, interval in found["intervals"].items()},
            "shares": {name: null["share"] for name, null in found["nulls"].items()},
            "closest": each.get("closest", {}).get(layer),
        }
        for split, each in measured["on"].items()
        for layer, found in each["layers"].items()
    ]


def ranked_in(ranking: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each candidate of what `image2point rank --json` wrote, with the block with which it ends."""
    given = dict(text.partition("=")[::2] for text in ranking["overrides"])
    return [
        {
            "candidate": each["name"],
            "shot_seed": int(given.get("data.shot_seed", 0)),
            "until": dict(text.partition("=")[::2] for text in each["settings"]).get("network.until"),
            **each["scores"],
        }
        for each in ranking["candidates"]
    ]


def row_of(run: Record) -> dict[str, Any]:
    """What the tables need of a run, and nothing about the machine's folders."""
    summary, settings = run.summary, run.settings
    test = summary.collapse.get("test", {})
    measured = {key: value for key, value in test.items() if key.partition("_null")[0] in ("nc1", "cdnv")}
    corrected = {key: test.get(key) for key in ("nc1_trace_ratio_corrected", "cdnv_median")}
    keys = (
        *("network.arch", "network.rule", "network.control", "network.decoder"),
        *("finetune.policy", "data.shots", "data.shot_seed", "training.epochs"),
    )
    return {
        "arm": summary.arm,
        "seed": summary.seed,
        **{key.partition(".")[2]: settings[key] for key in keys},
        **({"until": until} if (until := settings.get("network.until")) else {}),
        **({"depth": summary.depth} if summary.depth else {}),
        **({"depth_spread": spread_of_depth(run)} if "depth:channels" in summary.policy else {}),
        **({"block": summary.policy.partition(":")[2]} if settings["finetune.policy"].endswith(":auto") else {}),
        **({"labelled": [taught.taken, taught.right]} if (taught := summary.teacher) else {}),
        "trainable": summary.parameters.trainable,
        "parameters": summary.parameters.total,
        "chosen_lr": summary.chosen_lr,
        "trials": [[trial.lr, trial.epochs, trial.order[0] if trial.order else None] for trial in summary.trials],
        **({"validated": found} if summary.task == "classification" and (found := validated(run)) else {}),
        **{key: value for key, value in summary.final.items() if key.startswith("test_")},
        **({"per_class": summary.per_class} if summary.task == "segmentation" else {}),
        **measured,
        **corrected,
        **({"commit": found} if (found := summary.environment.get("commit")) else {}),
        "learnt": not any("nothing was learnt" in warning for warning in summary.warnings),
        "seconds": round(summary.seconds.total),
        "seconds_per_step": summary.seconds_per_step,
        "mebibytes": summary.mebibytes.training,
    }
