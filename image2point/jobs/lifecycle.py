"""How a run stands before it begins, and whose its directory is while it lasts."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import image2point
from image2point import config as configuration
from image2point import runs
from image2point.config import Config, Pretrain
from image2point.errors import InputError
from image2point.runs import Run
from image2point.training import checkpoint, distributed

if TYPE_CHECKING:
    from lightning.fabric import Fabric

FREE_TO_CHANGE = (
    "training.workers:",
    "training.checkpoint_every_minutes:",
    "training.trackers:",
    "data.root:",
    "images.root:",
    "images.clouds.root:",
    "report.",
)
"""Settings that do not touch the result, and so may differ when a run is resumed."""

PROCESSES = ("training.devices:", "training.nodes:", "training.sharding:")
"""Those that touch it by rounding, and by what dropout draws; with `training.batch_voxels` they make other batches."""


def standing(
    run: Run, config: Config | Pretrain, resume: bool, overwrite: bool
) -> Literal["new", "choosing", "checkpoint", "finished"]:
    """What there is to do; `choosing`: the run has made trials of `choose.lr`, and is not trained yet.

    InputError where the directory exists and neither option is given, or where a run is to be resumed with another
    config than its own.
    """
    lost = run.path.is_dir() and not run.config.is_file() and runs.is_remainder(run.path)  # killed early
    if not resume or not run.path.exists() or lost:
        runs.check_new(run.path, overwrite or (resume and lost))
        return "new"
    free = FREE_TO_CHANGE if config.training.batch_voxels else (*FREE_TO_CHANGE, *PROCESSES)
    changed = [line for line in _changes(run, config) if not line.startswith(free)]
    if changed:
        raise InputError(
            f"{run.path} was started with another config and cannot be resumed with this one; changed (stored -> "
            f"given): {'; '.join(changed)}. Undo that, choose another name=..., or start again with --overwrite"
        )
    if run.finished:
        return "finished"
    if checkpoint.latest(run.checkpoint):
        return "checkpoint"
    return "choosing" if run.trials.is_file() or run.unfinished_trials.is_dir() else "new"


def check_place(config: Path, run: Path) -> None:
    """InputError where a config that is to be resumed lies in an unfinished run that is not the one that would go on:
    one that was moved or renamed would begin anew, beside its checkpoint."""
    home = Run(config.parent)
    begun = checkpoint.latest(home.checkpoint) or home.unfinished_trials.is_dir()
    if config.name == home.config.name and begun and not home.finished and home.path.resolve() != run.resolve():
        raise InputError(
            f"{home.path} is an unfinished run, and this command would not resume it but {run}: name the folder "
            f"{run.name} again, and give --runs {home.path.parent}"
        )


def moved(run: Run, config: Config | Pretrain) -> list[str]:
    """A warning where a run goes on with other processes than it began with."""
    changed = [line for line in _changes(run, config) if line.startswith(PROCESSES)]
    return [f"it began otherwise ({'; '.join(changed)}), so its result has changed by rounding"] if changed else []


def _changes(run: Run, config: Config | Pretrain) -> list[str]:
    return configuration.changes(configuration.load_run_config(runs.open_run(run.path).config), config)


def tidy(run: Run) -> None:
    """Remove what a kill right after the summary left of a finished run: its last checkpoint."""
    shutil.rmtree(run.checkpoint, ignore_errors=True)


@contextmanager
def claimed(
    fabric: Fabric, run: Run, config: Config | Pretrain, stands: str, resume: bool, overwrite: bool
) -> Iterator[None]:
    """Keep the run directory for the processes of this run while the block lasts; where it is new, make it.

    stands: what `standing` gave. A run that a new one replaces comes back where the block ends in an InputError before
    the new one has a checkpoint. Raises InputError where another process is at work on the directory, or was
    since.
    """
    with ExitStack() as claim:

        def begin() -> None:
            claim.enter_context(runs.claimed(run.path))
            if standing(run, config, resume, overwrite) != stands:
                raise InputError(f"another process was at work on {run.path} meanwhile; give the command again")
            if stands == "new":
                runs.create(run.path, config.to_yaml())
            for part in run.path.rglob(".*.part"):  # of writes that were killed
                part.unlink() if part.is_file() else shutil.rmtree(part, ignore_errors=True)

        distributed.together(fabric, begin)
        try:
            yield
        except InputError:
            if fabric.is_global_zero and stands == "new" and not checkpoint.latest(run.checkpoint):
                runs.put_back(run.path)
            raise
        if fabric.is_global_zero:
            runs.forget_replaced(run.path)


def environment(fabric: Fabric) -> dict[str, Any]:
    """What the run was made with and on."""
    on_gpu = fabric.device.type == "cuda"
    return {
        "image2point": image2point.__version__,
        "commit": _own_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(fabric.device) if on_gpu else "cpu",
        "processes": fabric.world_size,
        "threads": torch.get_num_threads(),
    }


@cache
def _own_commit() -> str | None:
    """Of the code that runs, when it was first asked: files may change under a long run."""
    return commit_of(Path(image2point.__file__))


def commit_of(file: Path) -> str | None:
    """The commit of the checkout that keeps a file, `+changes` behind it where tracked files differ from that commit.

    None where no checkout keeps it, as in an installed package, even one that lies in a folder of a checkout, and
    where there is no git.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=file.parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes")
    except (OSError, subprocess.CalledProcessError):
        return None
