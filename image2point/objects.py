"""Object storage: what lies at a URL such as s3://BUCKET/FOLDER, through fsspec and the package of each kind."""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from image2point.errors import InputError, one_line

T = TypeVar("T")

SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
"""The package behind each kind of URL: S3 and what speaks its protocol, Google Cloud, repositories on the hub."""
ATTEMPTS = 4
"""How often a request is made before its failure counts."""
PAUSE = 0.5
"""Seconds before the second attempt; each pause is twice the one before."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


def url_of(path: str | Path) -> str | None:
    """The URL that a user wrote in place of a path; None for a path of this machine.

    Whatever kind of URL it is: no folder is meant by `s3:`. pathlib makes one slash of two, which is mended. Raises
    InputError for `s3:` or `gs:` without a slash, or without a bucket.

    >>> url_of(Path("s3://bucket/clouds/")), url_of("data/clouds"), url_of("hf:owner/name")
    ('s3://bucket/clouds', None, None)
    """
    if found := re.match(r"(s3|gs):(?!/+[^/])", str(path), re.IGNORECASE):
        raise InputError(f"{path}: expected {found[1].lower()}://BUCKET/...; write ./{path} for a file of that name")
    match = _URL.fullmatch(str(path))
    return f"{match[1].lower()}://{match[2].rstrip('/')}" if match else None


@dataclass(frozen=True)
class Entry:
    """An object: its size in bytes, and all that the storage says of it, which differs when its content does."""

    size: int
    state: str


def listing(url: str) -> dict[str, Entry]:
    """The objects below `url`, by their names from there on, sorted; "" is the name where `url` is an object itself.

    Empty where there is nothing. Raises InputError where that cannot be found out, as without a right to list.
    """
    files = client(url)
    home = files._strip_protocol(url)

    def found() -> dict[str, Any]:
        files.invalidate_cache()  # a client remembers what it has seen before
        try:
            return dict(files.find(home, detail=True))
        except FileNotFoundError:  # said of a folder without objects by some, of a missing bucket by all
            return {}

    entries = {}
    for path, told in tried(url, found).items():
        if told.get("type") == "file" and not path.endswith("/"):
            name = "" if path == home else path.removeprefix(f"{home}/")
            entries[_inside(name, url)] = Entry(int(told["size"]), json.dumps(told, sort_keys=True, default=str))
    return dict(sorted(entries.items()))


def _inside(name: str, url: str) -> str:
    """The name of an object, which is to be the name of a file in a folder of its own."""
    if name.startswith("/") or any(part in ("..", ".") for part in name.split("/")) or "\0" in name or "//" in name:
        raise InputError(f"{url} holds an object named {name!r:.200}, which can be no file in a folder; rename it")
    return name


def put(source: Path, url: str) -> None:
    """Write a file of this machine to `url`; InputError where that fails.

    An object appears whole or not at all: that is how such storage works.
    """
    files = client(url)
    path, size = files._strip_protocol(url), source.stat().st_size

    def do() -> None:
        files.put_file(str(source), path)
        files.invalidate_cache()
        if (found := files.info(path)["size"]) != size:
            raise Unexpected(f"{found:,} bytes arrived of {size:,}")

    tried(url, do)


def remove(url: str) -> None:
    """Remove an object, if it is there."""
    files = client(url)

    def do() -> None:
        with suppress(FileNotFoundError):
            files.rm_file(files._strip_protocol(url))

    tried(url, do)


class Unexpected(Exception):
    """What came is not what was expected; it is asked for again."""


def client(url: str) -> Any:
    """What fsspec has for this kind of URL; one for each process and thread."""
    import fsspec

    scheme = url.partition(":")[0]
    if scheme not in SCHEMES or not PurePosixPath(url.partition("://")[2]).name:
        raise InputError(
            f"{url}: expected a path of this machine or a URL {', '.join(f'{each}://BUCKET/...' for each in SCHEMES)}"
        )
    try:
        import_module(SCHEMES[scheme])
        return fsspec.filesystem(scheme)
    except ImportError:
        raise InputError(
            f"{url}: the package {SCHEMES[scheme]} is not installed: pip install 'image2point[{scheme}]'"
        ) from None
    except Exception as error:  # a client may look for credentials at once
        raise InputError(f"{url}: {type(error).__name__}: {one_line(error)}") from None


def tried(url: str, do: Callable[[], T]) -> T:
    """What `do` gives; again after a pause where it fails for a reason that may pass."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return do()
        except FileNotFoundError as error:
            raise InputError(f"{url}: no such object or bucket ({one_line(error)}); check the name") from None
        except PermissionError as error:
            raise InputError(
                f"{url}: no permission ({one_line(error)}); check the credentials, and what they may read and write"
            ) from None
        except Exception as error:  # whatever a client raises where there is no network
            if isinstance(error, OSError) and error.errno in _OF_DISK:
                raise
            if "Credential" in type(error).__name__:
                raise InputError(f"{url}: {one_line(error)}; give credentials as the package for it says") from None
            last = error
    reason = one_line(last) if isinstance(last, Unexpected) else f"{type(last).__name__}: {one_line(last)}"
    raise InputError(f"{url}: failed {ATTEMPTS} times, at last with: {reason}; give the command again later")
