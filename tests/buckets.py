"""Object storage for tests: in memory with faults on demand, and a server that speaks S3."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from image2point import objects
from image2point.storage import fetched


class Bucket(MemoryFileSystem):
    """gs:// in memory. What is asked for is counted, and goes wrong where `faults` says so."""

    protocol = "gs"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    asked: ClassVar[Counter[str]] = Counter()
    faults: ClassVar[dict[str, Any]] = {}
    """Part of a name → what is called in place of getting or putting such an object: with this client and its method's
    name and arguments."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("gs://").strip("/")

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **more: Any) -> Any:
        if path.split("/")[1] != "bucket":
            raise FileNotFoundError(f"no bucket {path}")
        return super().find(path, maxdepth, withdirs, **more)

    def get_file(self, rpath: str, lpath: str, *more: Any, **named: Any) -> None:
        self.do("get_file", rpath, lpath)

    def put_file(self, lpath: str, rpath: str, *more: Any, **named: Any) -> None:
        self.do("put_file", lpath, rpath)

    def do(self, what: str, source: str, target: str) -> None:
        name = source if what == "get_file" else target
        Bucket.asked[f"{what} {name}"] += 1
        for part, fault in Bucket.faults.items():
            if part in name and fault(self, what, source, target):
                return
        getattr(super(), what)(source, target)


def written(url: str) -> set[int]:
    """Which files a copy is made of, by their numbers on the disk: one that was written twice has another."""
    return {path.stat().st_ino for path in fetched(url).rglob("*") if path.is_file()}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty bucket in memory, and an empty cache."""
    for held in (Bucket.store, Bucket.asked, Bucket.faults):
        held.clear()
    Bucket.pseudo_dirs[:] = [""]
    monkeypatch.setitem(sys.modules, "gcsfs", ModuleType("gcsfs"))
    monkeypatch.setitem(_registry, "gs", Bucket)
    monkeypatch.setattr(objects, "PAUSE", 0.0)
    monkeypatch.setenv("IMAGE2POINT_COPIES", str(tmp_path / "copies"))
    yield "gs://bucket"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty bucket on a server that speaks S3, for other processes too, and an empty cache."""
    pytest.importorskip("s3fs", reason="needs s3fs and a server: pip install 'image2point[s3]' 'moto[server]'")
    moto = pytest.importorskip("moto.server", reason="needs a server that speaks S3: pip install 'moto[server]'")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    monkeypatch.setenv("IMAGE2POINT_COPIES", str(tmp_path / "copies"))
    fsspec.filesystem("s3").clear_instance_cache()  # that of another server
    name = f"bucket-{tmp_path.name.replace('_', '-').lower()}"  # all servers of a process hold the same buckets
    fsspec.filesystem("s3").mkdir(name)
    yield f"s3://{name}"
    server.stop()


@pytest.fixture(params=["memory", "server"])
def place(request: pytest.FixtureRequest) -> str:
    """Either of them."""
    return str(request.getfixturevalue("bucket" if request.param == "memory" else "s3"))
