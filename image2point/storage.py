"""Folders in object storage: copies of them to read from, and folders that are written there as a whole.

A copy lies in the folder `copies`, by its URL and by what lay there. A file is in it whole or not at all, and
comes once, however many processes and threads ask for it. So a copy stays right for those who read it, whatever is
written to the URL meanwhile; the next who asks gets a new one. Copies may be removed whenever nobody reads them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image2point.errors import InputError, one_line
from image2point.files import remove, sha256, user_path, write_bytes, writing
from image2point.objects import ATTEMPTS, Unexpected, client, listing, put, tried, url_of
from image2point.objects import remove as remove_object

THREADS = 8
"""Objects that one process gets or puts at a time."""
PENDING = ".image2point-writing"
"""An object that lies in a folder while it is written, and stays where that was interrupted."""

_known: dict[str, Folder] = {}


def copies() -> Path:
    """Where copies lie: in the folder that IMAGE2POINT_COPIES names, else in the user's cache folder."""
    if named := os.environ.get("IMAGE2POINT_COPIES"):
        return user_path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "image2point" / "copies"


@dataclass(frozen=True)
class Folder:
    """A folder to read from: of this machine, or the copy of one in object storage, to which files come when asked for.

    Attributes:
        home: where its files are.
        url: where they come from; None of a folder of this machine.
    """

    home: Path
    url: str | None = None

    def get(self, name: str, size: int, digest: str | None = None) -> Path:
        """The path of a file, which is in the copy from now on.

        digest: sha256 of what is to be there; checked when it comes. Raises InputError where the object cannot be had
        or is another, and where the copy cannot be written.
        """
        path = self.home / name
        if self.url is None or _has(path, size):
            return path
        with _told(self.url), _locked(self.home.parent / f"{_key(name)}.lock"):
            if not _has(path, size):
                with writing(path) as part:
                    _get(f"{self.url}/{name}", part, size, digest)
        return path

    def bring(self, sizes: Mapping[str, int]) -> None:
        """`get` of many files, by name and size."""
        _each(lambda name: self.get(name, sizes[name]), sizes, f"getting {self.url}")


def opened(path: str | Path, index: str) -> Folder:
    """A folder whose file `index` says what is in it; of one in object storage, that file alone comes at once.

    A copy is that of one content of the index. Raises InputError where there is none at a URL.
    """
    url = url_of(path)
    if url is None:
        return Folder(user_path(path))
    entries = listing(f"{url}/{index}")
    if "" not in entries:
        unfinished = f"; {PENDING} says that writing it was interrupted" if listing(f"{url}/{PENDING}") else ""
        raise InputError(f"{url} has no {index}{unfinished}: expected a folder that has one; check the name")
    with tempfile.TemporaryDirectory() as place:
        part = Path(place) / "index"
        _get(f"{url}/{index}", part, entries[""].size)
        digest = sha256(part)
        folder = Folder(_home(url, digest), url)
        with _told(url):
            if not (folder.home / index).is_file():
                write_bytes(folder.home / index, part.read_bytes())
    _known[url] = folder
    return folder


def fetched(path: str | Path) -> Path:
    """A path of this machine for what a user named: that itself, or the copy of all that lies at a URL.

    Of a URL, what the copy lacks comes first. Raises InputError where nothing lies there, where it cannot be had, and
    where it does not stay the same for as long as that takes.
    """
    url = url_of(path)
    if url is None:
        return user_path(path)
    for _ in range(ATTEMPTS):
        entries = listing(url)
        if not entries:
            raise InputError(f"{url}: nothing lies there; check the name")
        alone = list(entries) == [""]
        parent, _, last = url.rpartition("/")
        files = {last if alone else name: entry.size for name, entry in entries.items() if name or alone}
        states = json.dumps([[name, entry.size, entry.state] for name, entry in entries.items()])
        folder = Folder(_home(url, hashlib.sha256(states.encode()).hexdigest()), parent if alone else url)
        missing = {name: size for name, size in files.items() if not _has(folder.home / name, size)}
        if missing:
            folder.bring(missing)
        if not missing or listing(url) == entries:
            _known[url] = folder
            return folder.home / last if alone else folder.home
    raise InputError(f"{url} changes while it is read; wait until it is written")


def home(path: str | Path) -> Path:
    """Where the files are of a path, or of a URL that this process has opened or fetched; else a path without any."""
    if (url := url_of(path)) is None:
        return user_path(path)
    return _known[url].home if url in _known else _home(url, "none")


def by_url(text: str) -> str:
    """A text in which the copies that this process has opened or fetched go by their URLs."""
    for folder in _known.values():
        text = text.replace(str(folder.home), str(folder.url))
    return text


@contextmanager
def uploading(url: str, last: str, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder; when the block succeeds, `url` holds what is in it then.

    Files and folders of the same names are replaced; all else at the URL is somebody's and stays. What was there stays
    as it is until then. The file `last` is removed first and written last, so that whoever looks for it finds a whole
    folder or none; after an interruption, the same call writes all of it again.

    Raises InputError where such a folder is there already (unless `overwrite`) or something else is, where nothing can
    be written, which is tried before the block, and where writing fails.
    """
    before = listing(url)
    if before and not before.keys() & {last, PENDING}:
        raise InputError(f"{url} holds objects and no {last}; choose another place, or remove them")
    if last in before and not overwrite:
        raise InputError(f"{url} exists already; choose another or ask to overwrite it")
    with tempfile.TemporaryDirectory() as place, tempfile.NamedTemporaryFile() as empty:
        folder = Path(place)
        put(Path(empty.name), f"{url}/{PENDING}")
        try:
            yield folder
        except BaseException:
            if PENDING not in before:
                remove_object(f"{url}/{PENDING}")
            raise
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        if last not in files:
            raise ValueError(f"expected a file {last} in what is to be written to {url}")
        sizes = {name: path.stat().st_size for name, path in files.items() if name != last}
        remove_object(f"{url}/{last}")
        _each(lambda name: put(files[name], f"{url}/{name}"), sizes, f"writing {url}")
        folders = {name.partition("/")[0] for name in files if "/" in name}
        for name in before.keys() - files.keys() - {PENDING}:
            if name.partition("/")[0] in folders:  # of what was written before; all else is somebody's
                remove_object(f"{url}/{name}")
        put(files[last], f"{url}/{last}")
        remove_object(f"{url}/{PENDING}")


@contextmanager
def on_disk(target: Path) -> Iterator[Path]:
    """A path of this machine to write a file to: `target` itself, or one of its name, which then goes to the URL."""
    if url_of(target) is None:
        yield target
    else:
        with writing(target) as part:
            remove(part)  # what writes it may want nothing to be there
            yield part


def _get(url: str, target: Path, size: int, digest: str | None = None) -> None:
    """Write an object into a file that nobody reads yet; again, where the connection failed or ended early."""
    files = client(url)

    def do() -> None:
        files.get_file(files._strip_protocol(url), str(target))
        if (found := target.stat().st_size) != size:
            raise Unexpected(f"{found:,} bytes came, expected {size:,}")
        if digest is not None and (other := sha256(target)) != digest:
            raise Unexpected(f"its sha256 is {other[:12]}..., expected {digest[:12]}...")

    tried(url, do)


def _each(do: Callable[[str], Any], sizes: Mapping[str, int], what: str) -> None:
    """Do something for every name, several at a time, with a progress bar of bytes; the first error ends it."""
    with _bar(what, sum(sizes.values())) as advance, ThreadPoolExecutor(THREADS) as pool:
        waiting = {pool.submit(do, name): name for name in sizes}
        try:
            for future in as_completed(waiting):
                future.result()
                advance(sizes[waiting[future]])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as shown:
        task = shown.add_task(one_line(what, 60), total=total)
        yield lambda size: shown.advance(task, size)


def _home(url: str, version: str) -> Path:
    return copies() / _key(url) / version[:16]


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Trouble with this machine's disk, in one line."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the copy of {url} cannot be written in {copies()}: {error.strerror or error}; IMAGE2POINT_COPIES may "
            "name another folder for copies"
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for others who do the same; a lock goes with its process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
