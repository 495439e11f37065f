"""Downloads from a server of our own, and archives that try to leave their folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request

import layouts
import pytest
from killing import WRITES
from typer.testing import CliRunner

from image2point.cli import app
from image2point.datasets import registry
from image2point.datasets.catalogue import Download
from image2point.datasets.download import WebOnly, download_file, fetch_archive, unpack_archive
from image2point.errors import InputError

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serves `content` with ranges; breaks off after `break_after` bytes of an answer, once."""

    content, etag, break_after, answers, moved_to = CONTENT, '"one"', 0, 200, ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.ranges.append(wanted)
        if server.moved_to:
            self.send_response(302)
            self.send_header("Location", server.moved_to)
            self.end_headers()
            server.moved_to = ""
            return
        if server.answers != 200:
            self.send_error(server.answers)
            return
        whole = wanted is None or self.headers.get("If-Range") != server.etag
        start = 0 if whole else int(wanted.removeprefix("bytes=").rstrip("-"))  # type: ignore[union-attr]
        if start > len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(200 if whole else 206)
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        if not whole:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        if server.break_after:
            body, server.break_after = body[: server.break_after], 0
        with suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_download_that_broke_off_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    path, server.break_after = tmp_path / "data.zip", 300_000
    with pytest.raises(InputError, match=r"ended after .* of 1,024,000 bytes; the same command resumes|bytes are kept"):
        download_file(server.url, path, 2**30)
    part = tmp_path / "data.zip.part"
    kept = part.stat().st_size
    assert 0 < kept <= 300_000 and not path.exists()
    seen: list[tuple[int, int | None]] = []
    download_file(server.url, path, 2**30, hashlib.sha256(CONTENT).hexdigest(), lambda *now: seen.append(now))
    assert path.read_bytes() == CONTENT and server.ranges == [None, f"bytes={kept}-"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen[0][0] > kept
    assert [each.name for each in tmp_path.iterdir()] == ["data.zip"]
    download_file(server.url, path, 2**30)  # there already: nothing is sent
    assert len(server.ranges) == 2


def test_a_file_that_changed_is_sent_from_the_start(server: Server, tmp_path: Path) -> None:
    server.break_after = 300_000
    with pytest.raises(InputError):
        download_file(server.url, tmp_path / "data.zip", 2**30)
    server.content, server.etag = CONTENT[::-1], '"two"'
    download_file(server.url, tmp_path / "data.zip", 2**30)
    assert (tmp_path / "data.zip").read_bytes() == CONTENT[::-1]


def test_a_kill_between_two_versions_does_not_mix_them(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came of the first version is gone before the second one's tag is there."""
    server.break_after = 300_000
    with pytest.raises(InputError):
        download_file(server.url, tmp_path / "data.zip", 2**30)
    server.content, server.etag = CONTENT[::-1], '"two"'
    opened = Path.open
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Path, "open", lambda path, mode="r", *a, **k: (
            sys.exit("killed") if path.suffix == ".part" else opened(path, mode, *a, **k)
        ))  # fmt: skip
        download_file(server.url, tmp_path / "data.zip", 2**30)
    download_file(server.url, tmp_path / "data.zip", 2**30)
    assert (tmp_path / "data.zip").read_bytes() == CONTENT[::-1]


def test_what_a_server_may_not_do(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    with pytest.raises(InputError, match="has 1,024,000 bytes; at most 1,000 are expected"):
        download_file(server.url, path, 1000)
    with pytest.raises(InputError, match=r"sha256 .*, expected 00; the file was removed"):
        download_file(server.url, path, 2**30, "00")
    assert not path.exists()
    server.answers = 404
    with pytest.raises(InputError, match="the server answers 404"):
        download_file(server.url, path, 2**30)
    with pytest.raises(InputError, match="expected an http address, found file:"):
        download_file("file:///etc/passwd", path, 2**30)
    with pytest.raises(InputError, match="refused"):
        download_file("http://127.0.0.1:9/x.zip", path, 2**30)


def archive(path: Path, *entries: tuple[str, bytes, int]) -> Path:
    """A zip of (name, content, mode)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content, mode in entries:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            file.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return path


def tar(path: Path, name: str, kind: bytes, link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as file:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        entry.size = 4 if kind == tarfile.REGTYPE else 0
        file.addfile(entry, io.BytesIO(b"data"))
    return path


REGULAR = stat.S_IFREG | 0o644
NOISE = ("x/a", layouts.points(0, 99).tobytes(), REGULAR)
HOSTILE = {
    "parent": lambda p: archive(p, ("x/../../evil", b"", REGULAR)),
    "absolute": lambda p: archive(p, ("/evil", b"", REGULAR)),
    "backslash": lambda p: archive(p, ("x\\..\\..\\evil", b"", REGULAR)),
    "drive": lambda p: archive(p, ("C:/evil", b"", REGULAR)),
    "link": lambda p: archive(p, ("x/link", b"/etc/passwd", stat.S_IFLNK | 0o777)),
    "twice": lambda p: archive(p, ("x/a", b"1", REGULAR), ("x/./a", b"2", REGULAR)),
    "bomb": lambda p: archive(p, ("x/a", bytes(50 * 2**20), REGULAR)),
    "other": lambda p: archive(p, ("y/a", b"1", REGULAR)),
    "empty": lambda p: archive(p),
    "text": lambda p: layouts.write(p, b"<html>not found</html>"),
    "cut": lambda p: layouts.write(p, archive(p, NOISE).read_bytes()[:-40]),
    "tar link": lambda p: tar(p, "x/link", tarfile.SYMTYPE, "/etc/passwd"),
    "tar hard link": lambda p: tar(p, "x/link", tarfile.LNKTYPE, "../../evil"),
    "tar device": lambda p: tar(p, "x/null", tarfile.CHRTYPE),
    "tar parent": lambda p: tar(p, "../evil", tarfile.REGTYPE),
    "damaged": lambda p: layouts.write(p, damaged(archive(p, NOISE))),
    "long": lambda p: archive(p, ("x/" + "é" * 128, b"", REGULAR)),
    "deep": lambda p: archive(p, ("x/" * 3000 + "a", b"", REGULAR)),
    "file above": lambda p: archive(p, ("x/a", b"", REGULAR), ("x/a/b/c", b"", REGULAR)),
    "file there": lambda p: archive(p, ("x/a", b"", REGULAR), ("x/a/", b"", stat.S_IFDIR | 0o755)),
    "folder there": lambda p: archive(p, ("x/a/b", b"", REGULAR), ("x/a", b"", REGULAR)),
    "escape": lambda p: archive(p, ("x\x1b[2J/../../a", b"", REGULAR)),
    "tar long": lambda p: tar(p, f"x/{'a' * 300}", tarfile.REGTYPE),
}
MESSAGES = {
    "parent": "entry 0 'x/../../evil' leads out of the folder", "absolute": "leads out", "backslash": "leads out",
    "drive": "leads out", "link": "entry 0 'x/link' is a link or a device", "twice": "is in the archive twice",
    "bomb": "at most", "other": "expected a folder x in it, found y", "empty": "found nothing|expected a .zip or .tar",
    "text": "expected a .zip or .tar archive; its first bytes are b'<html>no'",
    "cut": "expected a .zip or .tar|damaged", "tar link": "is a link or a device",
    "tar hard link": "is a link or a device", "tar device": "is a link or a device",
    "tar parent": "leads out", "long": "a name of 256 bytes in 2 folders is too long",
    "deep": "in 3,001 folders is too long", "file above": "entry 1 'x/a/b/c': the archive has a file where",
    "file there": "entry 1 'x/a/': the archive has a file where", "folder there": "is in the archive twice",
    "escape": r"'x\\x1b\[2J/../../a' leads out", "tar long": "a name of 300 bytes",
    "damaged": "is damaged: .*; get it again",
}  # fmt: skip


def damaged(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[60:70] = b"\xff" * 10
    return bytes(content)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_leave_no_trace(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path = HOSTILE[name](tmp_path / "archive")
    with pytest.raises(InputError, match=MESSAGES[name]) as caught:
        unpack_archive(path, home, "x")
    assert str(path) in str(caught.value) and str(caught.value).isprintable()
    assert not list(home.iterdir()) and sorted(p.name for p in tmp_path.iterdir()) == ["archive", "home"]


def test_fetch_shows_the_terms_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = layouts.modelnet_h5(tmp_path / "source")
    files = [(f"modelnet/{path.name}", path.read_bytes(), REGULAR) for path in root.iterdir()]
    server.content = archive(tmp_path / "made.zip", *files).read_bytes()
    entry = replace(registry.find_dataset("modelnet"), downloads=(Download(server.url, "modelnet", 2**20),))
    monkeypatch.setitem(registry.DATASETS, "modelnet", entry)
    into = tmp_path / "data"
    result = CliRunner().invoke(app, ["data", "fetch", "modelnet", "--into", str(into)])
    assert result.exit_code == 2 and "academic research only" in result.stdout and "--accept-terms" in result.stderr
    assert not into.exists() and not server.ranges
    result = CliRunner().invoke(app, ["data", "fetch", "modelnet", "--into", str(into), "--accept-terms"])
    assert result.exit_code == 0, result.output
    assert [path.name for path in into.iterdir()] == ["modelnet"]
    assert len(registry.load_dataset("modelnet", into / "modelnet").train) == 12
    with pytest.raises(InputError, match="exists already"):
        fetch_archive(entry.downloads[0], into)


FETCH = """
import os, sys
from pathlib import Path
from killing import count_writes
from image2point.datasets.catalogue import Download
from image2point.datasets.download import fetch_archive

def fetch(write, folder):
    child = os.fork()
    if not child:
        os.chdir(folder)
        count_writes(write)
        fetch_archive(Download(sys.argv[1], "x", 2**20), folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for write in range(1, 100):
    folder = sys.argv[2] / Path(str(write))
    folder.mkdir()
    killed = fetch(write, folder)
    print(killed, fetch(0, folder) if killed else 0, flush=True)
    if not killed:
        break
"""


def test_a_fetch_that_was_killed_is_brought_to_its_end(server: Server, tmp_path: Path) -> None:
    """At every write: the same command ends well, with the folder there and nothing else."""
    server.content = archive(tmp_path / "made.zip", NOISE, ("x/b", b"b", REGULAR), ("y", b"", REGULAR)).read_bytes()
    home, tests = tmp_path / "home", Path(__file__).parent.parent
    home.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, server.url, str(home)], env=environment, capture_output=True, text=True
    )
    codes = [line.split() for line in done.stdout.splitlines()]
    assert codes[-1] == ["0", "0"] and len(codes) > 12, done.stderr
    assert codes[:-1] == [["-9", "0"]] * (len(codes) - 1), done.stderr
    for folder in home.iterdir():
        assert sorted(path.name for path in folder.iterdir() if path.name != WRITES) == ["x"]
        assert sorted(path.name for path in (folder / "x").iterdir()) == ["a", "b"]


def test_a_folder_and_an_archive_of_the_users_stay(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    own = archive(tmp_path / "data.zip", NOISE)
    with pytest.raises(InputError, match="exists already"):
        fetch_archive(Download(server.url, "x", 2**20), tmp_path)
    assert own.is_file() and not server.ranges


def test_fetch_says_how_to_get_what_may_not_be_fetched() -> None:
    for name, word in (("shapenet", "register"), ("scanobjectnn", "agree"), ("folder", "yours")):
        result = CliRunner().invoke(app, ["data", "fetch", name, "--accept-terms"])
        assert result.exit_code == 2 and f"error: {name} cannot be fetched" in result.stderr and word in result.stderr
    result = CliRunner().invoke(app, ["data", "fetch", "modelnet_off", "--folder", "ModelNet41"])
    assert result.exit_code == 2 and "ModelNet40, ModelNet10; found 'ModelNet41'" in result.stderr


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/data.zip", "FTP://127.0.0.1/\x1b[2J", "file:///etc/passwd"])
def test_a_redirect_stays_on_the_web(server: Server, tmp_path: Path, target: str) -> None:
    server.moved_to = target
    with pytest.raises(InputError) as caught:
        download_file(server.url, tmp_path / "data.zip", 2**30)
    text = str(caught.value)
    assert "the server sends us on to" in text or f"Redirection to url '{target}' is not allowed" in text
    assert text.isprintable() and not (tmp_path / "data.zip").exists()


def test_a_redirect_within_the_web_is_followed(server: Server, tmp_path: Path) -> None:
    server.moved_to = f"{server.url}?again"
    download_file(server.url, tmp_path / "data.zip", 2**30)
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_what_came_safely_is_not_gone_on_with_in_the_open() -> None:
    request = Request("https://example.org/data.zip")
    with pytest.raises(InputError, match="sends us on to http://example"):
        WebOnly().redirect_request(request, None, 302, "", {}, "http://example.org/data.zip")
    assert WebOnly().redirect_request(request, None, 302, "", {}, "https://example.org/other.zip") is not None


@pytest.mark.parametrize("packing", ["", "gz", "bz2", "xz"])
def test_tar_in_every_packing(tmp_path: Path, packing: str) -> None:
    long = "/".join(["x", "a" * 120, "b" * 120])  # takes a header of its own
    with tarfile.open(tmp_path / "archive", f"w:{packing}") as file:
        for name in ("x/1", long):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            file.addfile(entry, io.BytesIO(b"data"))
    unpack_archive(tmp_path / "archive", tmp_path / "home", "x")
    assert (tmp_path / "home" / long).read_bytes() == b"data" and (tmp_path / "home" / "x" / "1").exists()


@pytest.mark.parametrize("size", [2**25, 2**33])
def test_a_header_larger_than_memory_is_not_read(tmp_path: Path, size: int) -> None:
    """A tar entry that says that the name of the next one has gigabytes, at the start and behind another entry."""
    entry, name = tarfile.TarInfo("x/1"), tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, size
    for row, blocks in enumerate(([name], [entry, name])):
        content = b"".join(block.tobuf(tarfile.GNU_FORMAT) for block in blocks) + bytes(2**20)
        (tmp_path / f"{row}.tar").write_bytes(gzip.compress(content))
        tracemalloc.start()
        with pytest.raises(InputError, match=r"is damaged: an entry has a header of .* bytes"):
            unpack_archive(tmp_path / f"{row}.tar", tmp_path / "home", "x")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**24 and not list((tmp_path / "home").iterdir())


def test_a_tilde_in_the_folder_that_is_unpacked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    unpack_archive(archive(tmp_path / "archive", NOISE), Path("~/data"), "x")
    assert (tmp_path / "data" / "x" / "a").is_file()
