"""Files from official sources: resumable, limited in size, checked, and unpacked where they belong and nowhere else."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from image2point.datasets.catalogue import Download
from image2point.datasets.prepare import file_hash
from image2point.errors import InputError

BLOCK = 2**20
TIMEOUT = 60
"""Seconds without a byte after which a download is given up; it can be resumed."""
LARGEST_UNPACKED = 200 * 2**30
LARGEST_RATIO = 200
"""Bytes unpacked per byte of the archive: text and meshes reach 20."""
MOST_FILES = 2_000_000

DAMAGE = (
    EOFError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    RuntimeError,
    NotImplementedError,
)
"""What the libraries raise for archives that are broken, encrypted or of an unknown kind."""


def fetch_archive(source: Download, into: Path, progress: Callable[[int, int | None], None] = lambda *_: None) -> Path:
    """Download an archive to the folder `into`, unpack it there, and return the folder that it makes.

    A download that broke off is gone on with. The archive is kept until it is unpacked, with its sha256 compared where
    one is published.

    Raises InputError for what `download_file` and `unpack_archive` refuse, and where the folder exists already.
    """
    target = into / source.folder
    if target.exists():
        raise InputError(f"{target} exists already; remove it to fetch it again")
    archive = into / source.url.rsplit("/", 1)[-1]
    download_file(source.url, archive, source.bytes_limit, source.sha256, progress)
    unpack_archive(archive, into, source.folder)
    archive.unlink()
    return target


def download_file(
    url: str,
    path: Path,
    bytes_limit: int,
    sha256: str | None = None,
    progress: Callable[[int, int | None], None] = lambda *_: None,
) -> None:
    """Get `url` into `path`, going on with `path`.part where that is there. Done already: nothing is sent.

    progress: called with the bytes so far and the whole, where the server says so.

    Raises InputError for a server that answers with an error or not at all, more bytes than `bytes_limit`, fewer than
    promised (what came is kept), and another checksum (what came is removed).
    """
    if not url.startswith(("https://", "http://")):
        raise InputError(f"expected an http address, found {url}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        part = path.with_name(f"{path.name}.part")
        _get(url, part, bytes_limit, progress)
        part.replace(path)
    if sha256 is not None:
        found = file_hash(path)
        if found != sha256:
            path.unlink()
            raise InputError(f"{url}: sha256 {found}, expected {sha256}; the file was removed")


def _get(url: str, part: Path, bytes_limit: int, progress: Callable[[int, int | None], None]) -> None:
    done = part.stat().st_size if part.exists() else 0
    validator = part.with_name(f"{part.name}.tag")
    headers = {"User-Agent": "image2point"}
    if done and validator.exists():
        # If-Range: a file that has changed since is sent from the start.
        headers |= {"Range": f"bytes={done}-", "If-Range": validator.read_text(encoding="utf-8")}
    else:
        done = 0
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as answer:  # http only, see above
            resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")
            done = done if resumed else 0
            length = answer.headers.get("Content-Length", "")
            total = done + int(length) if length.isdigit() else None
            if (total or 0) > bytes_limit:
                raise InputError(f"{url} has {total:,} bytes; at most {bytes_limit:,} are expected")
            tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            if tag and not tag.startswith("W/"):  # a weak one does not promise the same bytes
                validator.write_text(tag, encoding="utf-8")
            with part.open("ab" if resumed else "wb") as file:
                while block := answer.read(BLOCK):
                    done += len(block)
                    if done > bytes_limit:
                        raise InputError(f"{url} sends more than the {bytes_limit:,} bytes that are expected")
                    file.write(block)
                    progress(done, total)
    except HTTPError as error:
        if error.code == 416:  # what is there is longer than the file: begin again
            part.unlink(missing_ok=True)
            validator.unlink(missing_ok=True)
        raise InputError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{url}: {reason}; {done:,} bytes are kept, the same command goes on with them") from None
    if total is not None and done < total:
        raise InputError(f"{url} ended after {done:,} of {total:,} bytes; the same command goes on with them")
    validator.unlink(missing_ok=True)


def unpack_archive(archive: Path, into: Path, expected: str) -> None:
    """Unpack a .zip or .tar archive into `into`, where it must make the folder `expected`, or nothing changes.

    Raises InputError for damage, names that leave the folder (`..`, absolute, drive letters), links and devices, more
    than 2 million files, and contents that are larger than their archive can honestly hold.
    """
    into.mkdir(parents=True, exist_ok=True)
    if (into / expected).exists():
        raise InputError(f"{into / expected} exists already; remove it to unpack {archive.name} again")
    place = Path(tempfile.mkdtemp(dir=into, prefix=".unpacking."))
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, place)
        elif tarfile.is_tarfile(archive):
            _untar(archive, place)
        else:
            raise InputError(f"{archive}: expected a .zip or .tar archive; its first bytes are {_head(archive)!r}")
        if not (place / expected).is_dir():
            found = sorted(path.name for path in place.iterdir())[:5]
            raise InputError(f"{archive}: expected a folder {expected} in it, found {', '.join(found) or 'nothing'}")
        (place / expected).rename(into / expected)
    except InputError:
        raise
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # trouble with the disk
        raise InputError(f"{archive} is damaged: {error}; get it again") from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _unzip(archive: Path, place: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        entries = file.infolist()
        _check_amount(archive, len(entries), sum(entry.file_size for entry in entries))
        for row, entry in enumerate(entries):
            where = f"{archive} entry {row} {entry.filename!r}"
            mode = entry.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
                raise InputError(f"{where} is a link or a device, which are not unpacked")
            target = inside(entry.filename, place, where)
            if entry.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                with file.open(entry) as content:
                    _copy(content, target, entry.file_size, where)


def _untar(archive: Path, place: Path) -> None:
    with tarfile.open(archive) as file:
        files, size = 0, 0
        for row, entry in enumerate(file):
            where = f"{archive} entry {row} {entry.name!r}"
            if not (entry.isreg() or entry.isdir()):
                raise InputError(f"{where} is a link or a device, which are not unpacked")
            target = inside(entry.name, place, where)
            files, size = files + 1, size + entry.size
            _check_amount(archive, files, size)
            if entry.isdir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                content = file.extractfile(entry)
                assert content is not None  # it is a regular file
                _copy(content, target, entry.size, where)


def inside(name: str, place: Path, where: str) -> Path:
    """The path of an entry below `place`; InputError for a name that leads elsewhere."""
    pure = PurePosixPath(name.replace("\\", "/"))
    drive = pure.parts and ":" in pure.parts[0]
    if not pure.parts or pure.is_absolute() or drive or ".." in pure.parts or "\0" in name:
        raise InputError(f"{where} leads out of the folder that it is unpacked to")
    return place.joinpath(*pure.parts)


def _check_amount(archive: Path, files: int, size: int) -> None:
    allowed = min(LARGEST_UNPACKED, max(LARGEST_RATIO * archive.stat().st_size, BLOCK))
    if files > MOST_FILES or size > allowed:
        raise InputError(
            f"{archive} unpacks to {files:,} files and {size:,} bytes; "
            f"at most {MOST_FILES:,} and {allowed:,} are accepted"
        )


def _copy(content: IO[bytes], target: Path, size: int, where: str) -> None:
    """Write one entry; its header may promise less than there is."""
    if target.exists():
        raise InputError(f"{where} is in the archive twice")
    target.parent.mkdir(parents=True, exist_ok=True)
    left = size
    with target.open("xb") as file:
        while block := content.read(min(BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                raise InputError(f"{where} is larger than the {size:,} bytes that its header promises")
            file.write(block)
    if left:
        raise InputError(f"{where} ends {left:,} bytes before the {size:,} that its header promises")
    os.chmod(target, 0o644)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)
