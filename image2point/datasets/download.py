"""Downloads from official sources: resumed, limited in size, checked, and unpacked into one folder only."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from image2point.datasets.catalogue import Download
from image2point.datasets.prepare import file_hash
from image2point.errors import InputError, one_line
from image2point.files import clear_left, temporary, user_path

BLOCK = 2**20
TIMEOUT = 60
"""Seconds without a byte after which a download is given up; it can be resumed."""
LARGEST_UNPACKED = 200 * 2**30
LARGEST_RATIO = 200
"""Bytes unpacked per byte of the archive: text and meshes reach 20."""
MOST_FILES = 2_000_000
LONGEST_NAME, LONGEST_PATH, DEEPEST = 255, 1024, 64
"""Bytes of a name and of a path within an archive, and folders in one another: what common file systems take."""

LONGEST_READ = 16 * 2**20
"""Bytes that are asked for at once; headers of names are far shorter."""
PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}

DAMAGE = (
    EOFError,
    lzma.LZMAError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    RuntimeError,
    NotImplementedError,
)
"""What the libraries raise for archives that are broken, encrypted or of an unknown kind."""


class WebOnly(HTTPRedirectHandler):
    """Follows redirects within the web alone: not to ftp or a file, and from https to nothing that can be changed on
    the way."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        allowed = ("https://",) if req.full_url.startswith("https://") else ("https://", "http://")
        if not newurl.lower().startswith(allowed):
            raise InputError(f"{req.full_url}: the server sends us on to {one_line(newurl)}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_archive(source: Download, into: Path, progress: Callable[[int, int | None], None] = lambda *_: None) -> Path:
    """Download an archive to the folder `into`, unpack it there, and return the folder that it makes.

    An interrupted call is gone on with, wherever it was stopped or killed. The archive's sha256 is compared where one
    is published.

    Raises InputError for what `download_file` and `unpack_archive` refuse, and where the folder exists already.
    """
    into = user_path(into)
    target = into / source.folder
    archive = into / source.url.rsplit("/", 1)[-1]
    if target.exists():
        if not clear_left(target):
            raise InputError(f"{target} exists already; remove it to fetch it again")
        archive.unlink(missing_ok=True)  # killed at the end of unpack_archive
        return target
    download_file(source.url, archive, source.bytes_limit, source.sha256, progress)
    unpack_archive(archive, into, source.folder)
    return target


def download_file(
    url: str,
    path: Path,
    bytes_limit: int,
    sha256: str | None = None,
    progress: Callable[[int, int | None], None] = lambda *_: None,
) -> None:
    """Download `url` to `path`, resuming from `path`.part if it exists. If `path` exists, nothing is requested.

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
    tag = validator.read_text(encoding="utf-8") if validator.exists() else ""
    if done and tag:
        # If-Range: a file that has changed since is sent from the start.
        headers |= {"Range": f"bytes={done}-", "If-Range": tag}
    else:
        done = 0
    try:
        with build_opener(WebOnly).open(Request(url, headers=headers), timeout=TIMEOUT) as answer:
            resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")
            done = done if resumed else 0
            length = answer.headers.get("Content-Length", "")
            total = done + int(length) if length.isdigit() else None
            if (total or 0) > bytes_limit:
                raise InputError(f"{url} has {total:,} bytes; at most {bytes_limit:,} are expected")
            tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            with part.open("ab" if resumed else "wb") as file:
                # Only now, when what came of another version is gone; a weak tag does not promise the same bytes.
                validator.write_text("" if tag.startswith("W/") else tag, encoding="utf-8")
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
        raise InputError(f"{url}: the server answers {error.code} {one_line(error.reason)}") from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = one_line(getattr(error, "reason", error))
        raise InputError(f"{url}: {reason}; {done:,} bytes are kept; the same command resumes") from None
    if total is not None and done < total:
        raise InputError(f"{url} ended after {done:,} of {total:,} bytes; the same command resumes")
    validator.unlink(missing_ok=True)


def unpack_archive(archive: Path, into: Path, expected: str) -> None:
    """Unpack a .zip or .tar archive into `into`, where it must make the folder `expected`, or nothing changes.

    The archive is deleted then, while the folder that it was unpacked in is still there: what a kill in between leaves
    tells that the archive is no file of the user's.

    Raises InputError for damage, names that leave the folder (`..`, absolute, drive letters), names that are too long,
    a file where there must be a folder, links and devices, more than 2 million files, and contents that are larger
    than their archive can honestly hold.
    """
    into = user_path(into)
    into.mkdir(parents=True, exist_ok=True)
    if (into / expected).exists():
        raise InputError(f"{into / expected} exists already; remove it to unpack {archive.name} again")
    try:
        with temporary(into / expected, folder=True) as place:
            if zipfile.is_zipfile(archive):
                _unzip(archive, place)
            elif _is_tar(archive):
                _untar(archive, place)
            else:
                raise InputError(f"{archive}: expected a .zip or .tar archive; its first bytes are {_head(archive)!r}")
            if not (place / expected).is_dir():
                names = ", ".join(one_line(path.name, 60) for path in sorted(place.iterdir())[:5])
                raise InputError(f"{archive}: expected a folder {expected} in it, found {names or 'nothing'}")
            (place / expected).rename(into / expected)
            archive.unlink()
    except InputError:
        raise
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # trouble with the disk
        raise InputError(f"{archive} is damaged: {one_line(error)}; get it again") from None


def _unzip(archive: Path, place: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        entries = file.infolist()
        _check_amount(archive, len(entries), sum(entry.file_size for entry in entries))
        for row, entry in enumerate(entries):
            where = f"{archive} entry {row} {one_line(repr(entry.filename))}"
            mode = entry.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
                raise InputError(f"{where} is a link or a device, which are not unpacked")
            target = inside(entry.filename, place, where)
            if entry.is_dir():
                _make_folder(target, where)
            else:
                with file.open(entry) as content:
                    _copy(content, target, entry.file_size, where)


class _Bounded:
    """What a tar archive unpacks to, up to a limit: tarfile takes headers of any length into memory."""

    def __init__(self, stream: IO[bytes], archive: Path) -> None:
        self.stream, self.archive, self.tell = stream, archive, stream.tell
        self.limit = _allowed_size(archive) + tarfile.BLOCKSIZE * 2 * MOST_FILES

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_READ:
            raise InputError(f"{self.archive} is damaged: an entry has a header of {size:,} bytes; get it again")
        content = self.stream.read(size)
        self._check()
        return content

    def seek(self, position: int, whence: int = 0) -> int:
        place = self.stream.seek(position, whence)
        self._check()
        return place

    def _check(self) -> None:
        if self.stream.tell() > self.limit:
            raise InputError(f"{self.archive} unpacks to more than {self.limit:,} bytes, which it cannot honestly hold")


def _open_unpacked(archive: Path) -> IO[bytes]:
    """The content of a file that may be packed by gzip, bzip2 or xz."""
    opener = next((opener for magic, opener in PACKED.items() if _head(archive).startswith(magic)), open)
    stream: IO[bytes] = opener(archive, "rb")
    return stream


def _is_tar(archive: Path) -> bool:
    """Whether the first block is one of a tar archive; `tarfile.is_tarfile` reads on, as far as a header says."""
    try:
        with _open_unpacked(archive) as stream:
            tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except (*DAMAGE, OSError):
        return False
    return True


def _untar(archive: Path, place: Path) -> None:
    with _open_unpacked(archive) as stream:
        bounded: Any = _Bounded(stream, archive)
        files, size = 0, 0
        for row, entry in enumerate(file := tarfile.TarFile(fileobj=bounded)):
            where = f"{archive} entry {row} {one_line(repr(entry.name))}"
            if not (entry.isreg() or entry.isdir()):
                raise InputError(f"{where} is a link or a device, which are not unpacked")
            target = inside(entry.name, place, where)
            files, size = files + 1, size + entry.size
            _check_amount(archive, files, size)
            if entry.isdir():
                _make_folder(target, where)
            else:
                content = file.extractfile(entry)
                assert content is not None  # it is a regular file
                _copy(content, target, entry.size, where)


def inside(name: str, place: Path, where: str) -> Path:
    """The path of an entry below `place`; InputError for a name that leads elsewhere.

    >>> inside("data/a.off", Path("/place"), "entry 0").as_posix()
    '/place/data/a.off'
    """
    pure = PurePosixPath(name.replace("\\", "/"))
    drive = pure.parts and ":" in pure.parts[0]
    if not pure.parts or pure.is_absolute() or drive or ".." in pure.parts or "\0" in name:
        raise InputError(f"{where} leads out of the folder that it is unpacked to")
    lengths = [len(os.fsencode(part)) for part in pure.parts]
    if max(lengths) > LONGEST_NAME or sum(lengths) + len(lengths) > LONGEST_PATH or len(lengths) > DEEPEST:
        raise InputError(f"{where}: a name of {max(lengths):,} bytes in {len(lengths):,} folders is too long")
    return place.joinpath(*pure.parts)


def _make_folder(folder: Path, where: str) -> None:
    """InputError where the archive has a file of that name, or of one of the folders above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{where}: the archive has a file where this needs a folder") from None


def _allowed_size(archive: Path) -> int:
    """The bytes that an archive may unpack to."""
    return min(LARGEST_UNPACKED, max(LARGEST_RATIO * archive.stat().st_size, BLOCK))


def _check_amount(archive: Path, files: int, size: int) -> None:
    allowed = _allowed_size(archive)
    if files > MOST_FILES or size > allowed:
        raise InputError(
            f"{archive} unpacks to {files:,} files and {size:,} bytes; "
            f"at most {MOST_FILES:,} and {allowed:,} are accepted"
        )


def _copy(content: IO[bytes], target: Path, size: int, where: str) -> None:
    """Write one entry; its header may promise less than there is."""
    if target.exists():
        raise InputError(f"{where} is in the archive twice")
    _make_folder(target.parent, where)
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
