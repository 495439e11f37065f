"""What every run has in common, whatever its network: how it stands before it begins, how it is scored at the end."""

from __future__ import annotations

import io
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

import image2point
from image2point import config as configuration
from image2point import files, runs
from image2point.config import Config, Pretrain
from image2point.datasets.class_split import Labelled
from image2point.errors import InputError
from image2point.runs import Run
from image2point.training import checkpoint, distributed, loop, measure

if TYPE_CHECKING:
    from lightning.fabric import Fabric

FREE_TO_CHANGE = ("training.workers:", "training.checkpoint_every_minutes:", "data.root:", "images.root:", "report.")
"""Settings that do not touch the result, and so may differ when a run is resumed."""


def standing(
    place: Run, config: Config | Pretrain, resume: bool, overwrite: bool
) -> Literal["new", "checkpoint", "finished"]:
    """What there is to do. InputError where the directory exists and neither option is given, or where a run is to be
    resumed with another config than its own."""
    if not resume or not place.path.exists():
        runs.check_new(place.path, overwrite)
        return "new"
    stored = configuration.load_run_config(runs.open_run(place.path).config)
    changed = [line for line in configuration.changes(stored, config) if not line.startswith(FREE_TO_CHANGE)]
    if changed:
        raise InputError(
            f"{place.path} was started with another config and cannot be resumed with this one; changed (stored -> "
            f"given): {'; '.join(changed)}. Undo that, choose another name=..., or start again with --overwrite"
        )
    if place.finished:
        return "finished"
    return "checkpoint" if checkpoint.latest(place.checkpoint) else "new"


@contextmanager
def claimed(
    fabric: Fabric, place: Run, config: Config | Pretrain, found: str, resume: bool, overwrite: bool
) -> Iterator[None]:
    """Keep the run directory for the processes of this run while the block lasts; where it is new, make it.

    found: what `standing` gave. Raises InputError where another process is at work on the directory, or was since.
    """
    with ExitStack() as claim:

        def begin() -> None:
            claim.enter_context(runs.claimed(place.path))
            if standing(place, config, resume, overwrite) != found:
                raise InputError(f"another process was at work on {place.path} meanwhile; give the command again")
            if found == "new":
                runs.create(place.path, config.to_yaml())

        distributed.together(fabric, begin)
        yield


def score(job: loop.Job, network: nn.Module, state: loop.State) -> tuple[dict[str, Any], measure.Outputs]:
    """Take the chosen weights, score them on the test set, once, and measure their collapse.

    Returns what `summary.json` says of any network, and what the network said about the test set.
    """
    config, splits = job.config, job.splits
    by_validation = bool(state.best)
    if by_validation:
        network.load_state_dict(state.best)
    chosen = state.best_epoch if by_validation and state.best_epoch is not None else state.epoch
    job.journal.say(f"scoring {len(splits.test)} test samples with the weights of epoch {chosen}")
    clock = time.monotonic()
    found = {"test": outputs(job, splits.test)}
    tested, test_seconds = measure.scores(found["test"]), time.monotonic() - clock
    trained = None
    if "train" in config.collapse.final:
        found["train"] = outputs(job, splits.train)
        trained = measure.scores(found["train"]).accuracy
    measured = {str(split): found[split] for split in config.collapse.final}
    collapse = measure.collapse(job.fabric, network, measured) if measured else {}
    geometry = measure.geometry(job.fabric, network, measured) if measured else {}
    if geometry and job.fabric.is_global_zero:
        _save_arrays(geometry, job.run.geometry)
    row = next(row for row in state.rows if row["epoch"] == chosen)
    row |= {"test_loss": tested.loss, "test_accuracy": tested.accuracy, **loop.collapse_columns(collapse)}
    loop.write_rows(job, state)
    if not any(row["epoch"] == chosen for row in state.layers):
        loop.follow_layers(job, state, chosen, config.collapse.final)
    result = {
        "chosen_epoch": chosen,
        "chosen_by": "validation" if by_validation else "last epoch",
        "final": {
            "test_accuracy": tested.accuracy,
            "test_mean_class_accuracy": tested.mean_class_accuracy,
            "test_loss": tested.loss,
            "train_accuracy": trained,
            "validation_accuracy": state.best_score[0] if by_validation else None,
            "per_class": dict(zip(splits.test.classes, tested.per_class, strict=True)),
        },
        "collapse": collapse,
        "seconds": {"training": state.seconds, "test": test_seconds, "total": loop.elapsed(job, state)},
        "environment": environment(job.fabric),
    }
    return result, found["test"]


def outputs(job: loop.Job, samples: Labelled) -> measure.Outputs:
    """What the network says about these samples; stops where that is asked for."""

    def each_batch() -> None:
        if job.stop.requested and job.fabric.world_size == 1:
            raise loop.interrupted(job, "while scoring, after the last epoch")

    settings = job.config.training
    return measure.outputs(
        job.fabric, job.network, samples, job.recipe, settings.batch_size, settings.workers, each_batch
    )


def _save_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write an npz file, atomically; the same arrays give the same bytes."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # numpy's stubs take a name for `allow_pickle`
    files.write_bytes(path, content.getvalue())


def save_weights(network: torch.nn.Module, path: Path) -> None:
    """Write the state dict as safetensors, atomically."""
    from safetensors.torch import save_file

    with files.writing(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, temporary)


def environment(fabric: Fabric) -> dict[str, Any]:
    """What the run was made with and on."""
    on_gpu = fabric.device.type == "cuda"
    return {
        "image2point": image2point.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(fabric.device) if on_gpu else "cpu",
        "processes": fabric.world_size,
        "threads": torch.get_num_threads(),
    }


def announce_end(job: loop.Job, result: dict[str, Any]) -> None:
    """The last line of a run."""
    final = result["final"]
    job.journal.say(
        f"test accuracy {100 * final['test_accuracy']:.2f} % (mean over classes "
        f"{100 * final['test_mean_class_accuracy']:.2f} %), everything is in {job.run.path}"
    )
