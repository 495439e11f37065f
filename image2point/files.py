"""Paths as users write them, and atomic writes: a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from image2point.errors import InputError
from image2point.objects import listing, put, url_of
from image2point.objects import remove as remove_object


def user_path(path: str | Path) -> Path:
    """A path of this machine that a user gave, with a leading `~` or `~name` expanded as a shell would.

    The one place where this is done. Without such a user the path stays as it is, and reading it says what is missing.
    Raises InputError for a URL: what may be one goes through `storage.fetched` to be read, `target_path` to be written.

    >>> user_path("data/clouds").as_posix()
    'data/clouds'
    >>> user_path("~/clouds") == Path.home() / "clouds"
    True
    """
    if url := url_of(path):
        raise InputError(
            f"{url}: expected a path of this machine here, found a URL. Datasets, finished runs, saved networks and "
            "weights are read from object storage, and results are written to it; for anything else name a local path"
        )
    return Path(os.path.expanduser(path))


def target_path(path: str | Path) -> Path:
    """A path that is written to: as `user_path`, and a URL too, to which `writing` writes.

    >>> shown(target_path("s3://bucket/report.html"))
    's3://bucket/report.html'
    """
    return Path(path) if url_of(path) else user_path(path)


def shown(path: str | Path) -> str:
    """A path as a user writes it: a URL with its two slashes."""
    return url_of(path) or str(path)


def is_there(path: str | Path) -> bool:
    """Whether anything lies at a path or URL."""
    return bool(listing(url)) if (url := url_of(path)) else user_path(path).exists()


def looked_for(path: str | Path) -> str:
    """What a message adds about a path that is not there: for a relative one, the folder that it was looked for in.

    >>> looked_for("/data/clouds")
    ''
    >>> looked_for("clouds") == f" (a relative path, looked for in {Path.cwd()})"
    True
    """
    return "" if url_of(path) or user_path(path).is_absolute() else f" (a relative path, looked for in {Path.cwd()})"


def files_below(root: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Every file in a folder and in those below it, sorted by name, behind symbolic links too but for those that lead
    to a folder above. Folders that may not be read are passed over.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     (Path(name) / "store").mkdir()
    ...     (Path(name) / "store" / "a.npy").touch()
    ...     (Path(name) / "data").mkdir()
    ...     (Path(name) / "data" / "chair").symlink_to(Path(name) / "store")
    ...     [str(path.relative_to(name)) for path in files_below(Path(name) / "data")]
    ['data/chair/a.npy']
    """
    own = os.path.realpath(root)
    if own in above:
        return
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for path in sorted(root.iterdir()):
            if path.is_dir():
                yield from files_below(path, (*above, own))
            elif path.is_file():
                yield path


def csv_cell(value: object) -> object:
    """A value for a cell of a CSV file: text that a spreadsheet would run as a formula gets an apostrophe in front.

    >>> [csv_cell(value) for value in ("=HYPERLINK(1)", "-1e-3", "resnet50", 0.5)]
    ["'=HYPERLINK(1)", '-1e-3', 'resnet50', 0.5]
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def finite(value: Any) -> Any:
    """The same for JSON, in which there is no NaN and nothing infinite: None stands for them, however deep they are.

    >>> finite({"a": (1.0, float("nan")), "b": 2})
    {'a': [1.0, None], 'b': 2}
    """
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def temporary(target: Path, folder: bool = False) -> Iterator[Path]:
    """Give an empty file or folder beside `target` while the block lasts; its end removes it, unless it was moved.

    What killed processes left of theirs is removed first (`clear_left`).

    >>> with tempfile.TemporaryDirectory() as home:
    ...     left = Path(home) / ".a.txt.killed.part"
    ...     left.touch()
    ...     with temporary(Path(home) / "a.txt") as first, temporary(Path(home) / "a.txt") as second:
    ...         left.exists(), first.exists(), second.exists()
    (False, True, True)
    """
    clear_left(target)
    names: dict[str, Any] = {"dir": target.parent, "prefix": f".{target.name}.", "suffix": ".part"}
    if folder:
        path = Path(tempfile.mkdtemp(**names))
    else:
        handle, name = tempfile.mkstemp(**names)
        os.close(handle)
        path = Path(name)
    try:
        with ExitStack() as held:
            with suppress(OSError):
                held.enter_context(_locked(path, fcntl.LOCK_EX))
            yield path
    finally:
        remove(path)


def clear_left(target: Path) -> bool:
    """Remove what killed processes left of `temporary(target)`; whether there was any.

    Each is locked as long as its process lives; where a file system knows no locks, they stay.

    >>> with tempfile.TemporaryDirectory() as home:
    ...     (Path(home) / ".a.txt.killed.part").touch()
    ...     clear_left(Path(home) / "a.txt"), clear_left(Path(home) / "a.txt")
    (True, False)
    """
    found = False
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with suppress(OSError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
            remove(left)
            found = True
    return found


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that it holds, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, kind)
        yield
    finally:
        os.close(handle)


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it onto `path` if the block succeeds.

    The content is flushed to disk before the move. On any error, a full disk included, the temporary file is
    removed and `path` stays as it was; one that a killed process left is removed by the next that writes to `path`.
    A URL gets what was written to a file of that name in a folder for the while; InputError where it takes nothing.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing(Path(folder) / "a.txt") as part:
    ...         _ = part.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    if url := url_of(path):
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / Path(path).name
            part.touch()
            yield part
            put(part, url)
        return
    target = user_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary(target) as part:
        yield part
        with open(part, "rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes files private; give the mode that an ordinary open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(target)


def tried_target(path: Path | None) -> Path | None:
    """The path of a file to write after long work, if it can be written; an option without a value gives None.

    A folder of a new file is made, and something lies beside the file for a moment. Raises InputError where that
    fails, and where a folder is there.
    """
    if path is None:
        return None
    if url := url_of(path):
        with tempfile.NamedTemporaryFile() as empty:
            put(Path(empty.name), f"{url}.part")
            remove_object(f"{url}.part")
        return path
    target = user_path(path)
    if target.is_dir():
        raise InputError(f"{target}: expected a file to write, found a folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary(target):
            return target
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}; choose another place") from None


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace the content of `path` atomically."""
    with writing(path) as part:
        part.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Replace the content of `path` atomically, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
