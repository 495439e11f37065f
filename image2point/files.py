"""Paths as users write them, and atomic writes: a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def user_path(path: str | Path) -> Path:
    """A path that a user gave, with a leading `~` or `~name` expanded as a shell would.

    The one place where this is done. Without such a user the path stays as it is, and reading it says what is missing.

    >>> user_path("data/clouds").as_posix()
    'data/clouds'
    >>> user_path("~/clouds") == Path.home() / "clouds"
    True
    """
    return Path(os.path.expanduser(path))


def looked_for(path: str | Path) -> str:
    """What a message adds about a path that is not there: for a relative one, the folder that it was looked for in.

    >>> looked_for("/data/clouds")
    ''
    >>> looked_for("clouds") == f" (a relative path, looked for in {Path.cwd()})"
    True
    """
    return "" if user_path(path).is_absolute() else f" (a relative path, looked for in {Path.cwd()})"


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


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it onto `path` if the block succeeds.

    The content is flushed to disk before the move. On any error, a full disk included, the temporary file is
    removed and `path` stays as it was.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    target = user_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes files private; give the mode that an ordinary open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace the content of `path` atomically."""
    with writing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Replace the content of `path` atomically, as UTF-8."""
    write_bytes(path, content.encode("utf-8"))
