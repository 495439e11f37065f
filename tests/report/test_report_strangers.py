"""Run directories of strangers: whatever their files claim ends in one line, and takes no more than they hold."""

from __future__ import annotations

import io
import json
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_writer import edit, write_collapse

from image2point.errors import InputError
from image2point.experiments.evaluate import evaluate_run
from image2point.jobs.artefact import load
from image2point.jobs.reuse import predict
from image2point.report.arms import group
from image2point.report.page import render
from image2point.report.read import read_run
from image2point.sweeps.pivot import pivot

OLD = Path(__file__).resolve().parent.parent / "runs" / "before_tasks"


def claiming(shape: tuple[int, ...], kind: str = "<f8", content: bytes = bytes(64)) -> bytes:
    """An .npy file that says to hold an array of this shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def archive(path: Path, **members: bytes | np.ndarray) -> None:
    """Replace members of an .npz file, and leave the others."""
    held = dict(np.load(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in (held | members).items():
            if isinstance(content, np.ndarray):
                stream = io.BytesIO()
                np.save(stream, content)
                content = stream.getvalue()
            file.writestr(f"{name}.npy", content)


def of_text(name: str, text: str | bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(text.encode() if isinstance(text, str) else text)  # type: ignore[return-value]


def of_array(name: str, **members: bytes | np.ndarray) -> Callable[[Path], None]:
    return lambda run: archive(run / name, **members)


def of_value(name: str, **changes: Any) -> Callable[[Path], None]:
    return lambda run: edit(run / name, **changes)


DEEP = {"a": 0}
for _ in range(200):
    DEEP = {"a": DEEP}  # type: ignore[dict-item]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
BIG = "epoch,a\n0," + "9" * 200_000
MANY = claiming((9,), content=bytes(3 * 10**8))
TEN_POWERS = [10**30] * 10
DAMAGES = {
    "examples of 1e12 points": (of_array("examples.npz", points=claiming((10**12, 3))), r"examples\.npz.*promises"),
    "examples of 1e12 labels": (of_array("examples.npz", labels=claiming((10**12,), "<i8")), "promises"),
    "examples that unpack to 300 MB": (
        of_array("examples.npz", points=claiming((9,), content=bytes(3 * 10**8))),
        "holds",
    ),
    "examples of words": (of_array("examples.npz", labels=np.array(["a"] * 8)), "expected real points and whole"),
    "examples of objects": (of_array("examples.npz", labels=claiming((8,), "|O")), "promises object"),
    "a single label": (of_array("examples.npz", labels=np.array(3)), r"labels \[n\]"),
    "geometry of 1e12 points": (
        of_array("geometry.npz", train_points=claiming((10**12, 2))),
        "promises",
    ),
    "geometry of words": (of_array("geometry.npz", train_cosines=np.array([["a"]])), "expected floats"),
    "geometry with a single label": (of_array("geometry.npz", train_labels=np.array(1)), "whole labels"),
    "geometry without shares": (of_array("geometry.npz", shares=np.zeros(0)), r"shares \[2\]"),
    "a deep summary": (of_value("summary.json", environment=DEEP), r"summary\.json.*nested too deeply"),
    "a bottomless summary": (of_text("summary.json", '{"a":' + "[" * 100_000), "nested too deeply"),
    "a summary of a list": (of_text("summary.json", "[1]"), "should hold a JSON object, found a list"),
    "a number of 5,000 digits": (
        of_text("summary.json", '{"seed": ' + "9" * 5000 + "}"),
        r"summary\.json",
    ),
    "a word for the seconds": (of_value("summary.json", seconds="long"), "field seconds"),
    "infinite seconds": (of_text("summary.json", '{"seconds": {"total": 1e999}}'), r"summary\.json: field"),
    "classes that are a number": (of_value("summary.json", data__classes=7), r"data\.classes"),
    "a deep lifting": (of_value("lifting.json", more=DEEP), r"lifting\.json.*nested too deeply"),
    "a parameter of 1e300 values": (
        of_value("lifting.json", parameters=[{"role": "body", "origin": "copied", "shape": TEN_POWERS}]),
        r"parameters\[0\] needs role, origin, shape",
    ),
    "a parameter with a list for its role": (
        of_value("lifting.json", parameters=[{"role": ["body"], "origin": "copied", "shape": [1]}]),
        r"parameters\[0\] has role \['body'\]",
    ),
    "metrics in one huge cell": (
        of_text("metrics.csv", BIG),
        r"metrics\.csv cannot be read: field",
    ),
    "metrics of 40 MB": (of_text("metrics.csv", bytes(40 * 10**6)), r"has 40,000,000 bytes; expected at most"),
    "layers in one huge cell": (
        of_text("layers.csv", BIG),
        r"layers\.csv cannot be read: field",
    ),
    "layers with a row too long": (of_text("layers.csv", "epoch,split,layer\n0,train,a,1,2\n"), r"layers\.csv line 2"),
    "a config with anchors in anchors": (of_text("config.yaml", BOMB), r"config\.yaml is not valid YAML"),
    "a bottomless config": (of_text("config.yaml", "a: " + "[" * 5000), r"config\.yaml is not valid YAML"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_a_run_claims_is_one_line(name: str, run: Path) -> None:
    damage, told = DAMAGES[name]
    write_collapse(run)
    damage(run)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=told) as error:
            pivot([read_run(run)], ["seed"], [], "final.test_accuracy")
        assert tracemalloc.get_traced_memory()[1] < 150 * 2**20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_a_folder_or_a_pipe_in_place_of_a_file(run: Path) -> None:
    (run / "summary.json").unlink()
    (run / "summary.json").mkdir()
    with pytest.raises(InputError, match=r"summary\.json is not a file"):
        read_run(run)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("summary.json", of_value("summary.json", data=3), r"expected names under data\.classes"),
        ("summary.json", of_value("summary.json", data__classes=[1, 2]), r"expected names under data\.classes"),
        ("lifting.json", of_value("lifting.json", options=None), r"lifting\.json: damaged"),
        ("lifting.json", of_value("lifting.json", options__stem=["a"]), r"stem: expected one of"),
        (
            "lifting.json",
            of_value("lifting.json", options__axis=["z"]),
            r"text or a table of texts under options\.axis",
        ),
        ("lifting.json", of_value("lifting.json", options__num_classes=10**13), r"cannot be made|expected"),
        ("lifting.json", of_value("lifting.json", options__seed="a"), r"seed: expected a whole number"),
        ("lifting.json", of_value("lifting.json", network=3), r"expected text under network"),
        ("lifting.json", of_value("lifting.json", decoder="marble"), r"decoder: expected one of"),
        ("lifting.json", of_value("lifting.json", options__stem="marble"), "stem"),
        ("weights.safetensors", of_text("weights.safetensors", (10**12).to_bytes(8, "little")), "cannot be read"),
    ],
)
def test_networks_and_predictions_of_strangers(name: str, damage: Any, told: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD, tmp_path / "run"))
    damage(run)
    cloud = tmp_path / "cloud.npy"
    np.save(cloud, np.random.default_rng(0).random((50, 3)))
    for use in (lambda: load(run), lambda: predict(run, [cloud], points=20), lambda: evaluate_run(run)):
        with pytest.raises(InputError, match=told):
            use()


def test_examples_that_promise_too_much_are_no_number_of_points(tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD, tmp_path / "run"))
    archive(run / "examples.npz", points=claiming((2, 10**12, 3)))
    np.save(tmp_path / "cloud.npy", np.zeros((50, 3)))
    with pytest.raises(InputError, match=r"examples\.npz.*promises"):
        predict(run, [tmp_path / "cloud.npy"])


def test_scores_that_are_no_numbers(tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD, tmp_path / "run"))
    edit(run / "summary.json", final__test_loss="low")
    with pytest.raises(InputError, match=r"expected numbers under final\.test_accuracy and final\.test_loss"):
        evaluate_run(run)


WORDS: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 1e308, float("inf"), float("nan"), "", "x\x1b[2J" * 50, [], {}, [[]], {"a": 1},
)  # fmt: skip


@pytest.mark.parametrize("name", ["summary.json", "lifting.json"])
def test_any_value_in_place_of_another_is_read_or_refused(run: Path, name: str) -> None:
    """Sixty values of a file, by something else: a page and a table, or one line."""
    rng, text = np.random.default_rng(0), (run / name).read_text()
    places = _places(json.loads(text))
    for at in rng.permutation(len(places))[:60]:
        *way, last = places[at]
        content = inner = json.loads(text)
        for step in way:
            inner = inner[step]
        inner[last] = WORDS[rng.integers(len(WORDS))]
        (run / name).write_text(json.dumps(content))
        try:
            record = read_run(run)
            render(group([record]))
            pivot([record], ["seed"], [], "final.test_accuracy")
        except InputError as error:
            assert "\n" not in str(error), (*way, last, inner[last])
        except Exception as error:
            raise AssertionError((*way, last, inner[last])) from error


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [place for key, part in inner for place in ((*at, key), *_places(part, (*at, key)))]
