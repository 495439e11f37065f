"""A run directory: what lies where in it."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image2point import files
from image2point.errors import InputError, listed
from image2point.files import looked_for
from image2point.storage import fetched

MOST_BYTES = 32 * 2**20
"""Of a text file of a run."""
DEEPEST = 20
"""Levels of a JSON file of a run."""


class Claimed(InputError):
    """Another process is at work on a run directory."""


@dataclass(frozen=True)
class Run:
    """The directory of one run of `transfer`."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One row per epoch; row 0 is before training."""
        return self.path / "metrics.csv"

    @property
    def layers(self) -> Path:
        """Collapse by epoch, split and layer, where `collapse.layers` asks for it."""
        return self.path / "layers.csv"

    @property
    def summary(self) -> Path:
        """The result; written last, so a run that has one is finished."""
        return self.path / "summary.json"

    @property
    def lifting(self) -> Path:
        """Where every parameter came from, and its role."""
        return self.path / "lifting.json"

    @property
    def weights(self) -> Path:
        """The chosen weights."""
        return self.path / "weights.safetensors"

    @property
    def confusion(self) -> Path:
        """How often each class was taken for each, on the test set."""
        return self.path / "confusion.csv"

    @property
    def predictions(self) -> Path:
        """What the network said of each test cloud, of a classification."""
        return self.path / "predictions.csv"

    @property
    def examples(self) -> Path:
        """A few test clouds with labels and predictions."""
        return self.path / "examples.npz"

    @property
    def geometry(self) -> Path:
        """Cosines of class means and of classifier rows, and features projected on a plane, with the chosen weights."""
        return self.path / "geometry.npz"

    @property
    def choice(self) -> Path:
        """Which block `layer:auto` or `scl:auto` chose, and what of each candidate it knew."""
        return self.path / "choice.json"

    @property
    def teacher(self) -> Path:
        """What `teacher.network` said of the clouds that no shot uses: their rows, and a probability of each class."""
        return self.path / "teacher.npz"

    @property
    def trials(self) -> Path:
        """The trials of `choose.lr`: what each rate was tried for, and its score on the validation clouds."""
        return self.path / "trials.json"

    @property
    def unfinished_trials(self) -> Path:
        """A folder for each trial that is not finished."""
        return self.path / "trials"

    @property
    def fingerprint(self) -> Path:
        """Digests of the data, and the environment, that the run was begun with."""
        return self.path / "fingerprint.json"

    @property
    def checkpoint(self) -> Path:
        """State of an unfinished run."""
        return self.path / "checkpoint"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def trackers(self) -> Path:
        """Under which id each tracker of `training.trackers` knows the run, and the last epoch it was given."""
        return self.path / "trackers.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def finished(self) -> bool:
        return self.summary.is_file()

    def read_summary(self) -> dict[str, Any]:
        """The content of summary.json; InputError where the run is unfinished or the file damaged."""
        return _read_json(self.summary, f"{self.path} is not a finished run; continue it with --resume")

    def read_classes(self, part: str = "data") -> tuple[str, ...]:
        """The class names in the part `data` of summary.json, or `images` of a pre-training."""
        content = self.read_summary().get(part)
        classes = content.get("classes") if isinstance(content, dict) else None
        if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
            raise InputError(f"{self.summary}: expected names under {part}.classes, found {classes!r:.80}")
        return tuple(classes)

    def read_choice(self) -> dict[str, Any]:
        """The content of choice.json, with the name under `block`."""
        content = _read_json(self.choice, f"{self.path} has not chosen a block to train yet")
        if not isinstance(content.get("block"), str):
            raise InputError(f"{self.choice}: expected a name under block, found {content.get('block')!r:.80}")
        return content

    def read_trials(self) -> dict[str, Any]:
        """The content of trials.json."""
        return _read_json(self.trials, f"{self.path} has not chosen a learning rate yet")

    def read_fingerprint(self) -> dict[str, Any]:
        """The content of fingerprint.json."""
        return _read_json(self.fingerprint, f"{self.path} was begun by a version that stored none")

    def read_lifting(self) -> dict[str, Any]:
        """The content of lifting.json."""
        return _read_json(self.lifting, f"{self.path} was not written by `image2point transfer`")


def open_run(path: str | Path) -> Run:
    """An existing run directory, or the copy of one at a URL; InputError where there is none."""
    run = Run(fetched(path))
    if run.path.is_file():
        raise InputError(f"{path} is not a run directory but a file; a run is the folder that it left: runs/NAME")
    if not run.path.is_dir():
        known = Path("runs") / Path(path).name
        hint = f"; did you mean {known}?" if Run(known).config.is_file() else looked_for(path)
        raise InputError(f"{path} is not a run directory: no such folder{hint}")
    if not run.config.is_file():
        inside = sorted(str(each.parent) for each in run.path.glob(f"*/{run.config.name}"))
        hint = f"; runs in it: {listed(inside, 3)}" if inside else ""
        raise InputError(f"{path} is not a run directory: it has no {run.config.name}{hint}")
    return run


def check_new(path: Path, overwrite: bool = False) -> None:
    """InputError where a new run cannot be made at `path`; nothing is touched.

    An existing directory is one such reason; with `overwrite` only if it holds anything that runs do not write, so that
    a slip cannot remove anything else.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise InputError(
            f"{path} exists already; continue it with --resume, replace it with --overwrite, or choose another name=..."
        )
    if not Run(path).config.is_file() and not is_remainder(path):
        raise InputError(f"{path} is not a run directory (no {Run(path).config.name}); --overwrite will not remove it")


def is_remainder(path: Path) -> bool:
    """Whether a folder is what a process that was killed left of a run directory: files of runs alone, or none.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     before = is_remainder(Path(folder))
    ...     (Path(folder) / "thesis.txt").touch()
    ...     before, is_remainder(Path(folder))
    (True, False)
    """
    run = Run(path)
    paths = [name for name, kind in vars(Run).items() if isinstance(kind, property) and name != "finished"]
    known = {getattr(run, name).name for name in paths}
    return path.is_dir() and all(each.name in known or each.suffix == ".part" for each in path.iterdir())


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keep the run directory `path`, which need not exist yet, for this process while the block lasts.

    The claim goes with the process, however that ends. Raises Claimed where another process has it.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = open(lock, "a")  # noqa: SIM115  # closed below
    except OSError as error:
        raise InputError(f"cannot write the run directory {path}: {error.strerror or error}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Claimed(f"another process is at work on {path}; wait for it, or stop it first") from None
        yield


def create(path: Path, config: str) -> Run:
    """Make a run directory with nothing but its config. Call `check_new` first: what was there before is put aside,
    until `forget_replaced` or `put_back`."""
    run, fresh, aside = Run(path), path.with_name(f".{path.name}.new"), _aside(path)
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        files.write_text(fresh / run.config.name, config)
        if path.exists() and aside.exists():  # an earlier replacement came to nothing: the first run is what counts
            shutil.rmtree(path)
        elif path.exists():  # renamed as a whole: whenever this stops, there is a whole directory or none
            path.rename(aside)
        fresh.rename(path)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise InputError(f"cannot write the run directory {path}: {error.strerror or error}") from None
    return run


def forget_replaced(path: Path) -> None:
    """Remove the run that `create` put aside: the new one is there."""
    shutil.rmtree(_aside(path), ignore_errors=True)


def put_back(path: Path) -> None:
    """Bring back the run that `create` put aside, if any, in place of the new one, which came to nothing."""
    if _aside(path).is_dir():
        shutil.rmtree(path, ignore_errors=True)
        _aside(path).rename(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def read_text(path: Path, missing: str) -> str:
    """The text of a file of a run, which may be a stranger's; `missing` says what to do where there is none.

    Raises InputError where it cannot be read, and where it is larger than such a file can honestly be.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is not a file")
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes; expected at most {MOST_BYTES:,}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {missing}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _read_json(path: Path, missing: str) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, missing))
    except RecursionError:
        raise InputError(f"{path} cannot be read: it is nested too deeply") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold a JSON object, found a {type(content).__name__}")
    if _is_deeper(content, DEEPEST):
        raise InputError(f"{path} cannot be read: it is nested too deeply")
    return content


def _is_deeper(value: Any, than: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return than < 0 or any(_is_deeper(part, than - 1) for part in parts)
