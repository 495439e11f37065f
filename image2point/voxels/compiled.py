"""What is compiled for CPUs: neighbour lookups (lookup.cpp), norms (norm.cpp), ReLU (relu.cpp), fingerprints of weights
(remember.cpp), convolutions (conv/native.cpp, conv/depthwise.cpp).

The machine's C++ compiler builds them once, in a quarter of a minute, into the user's cache folder (`XDG_CACHE_HOME`).
A library found there is loaded only if nobody else can write to it and its checksum is right; otherwise it is built
again. Without a compiler, or with `IMAGE2POINT_NATIVE=0`, torch alone computes the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from image2point.files import write_text, writing

logger = logging.getLogger("image2point")

NAMES = {torch.float32: "float32", torch.float64: "float64"}
"""Types that the functions take, and the ends of their names."""
SOURCES = tuple(
    Path(__file__).parent / name
    for name in ("lookup.cpp", "norm.cpp", "relu.cpp", "remember.cpp", "conv/native.cpp", "conv/depthwise.cpp")
)
HEADERS = (Path(__file__).parent / "vectors.h",)
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
_TIMEOUT = 300
"""Seconds that the compiler may take."""
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
"""Permission of others to write."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled sources, compiled now where they are not yet; None without a compiler, which is logged once."""
    if os.environ.get("IMAGE2POINT_NATIVE", "1") == "0":
        return None
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    try:
        if compiler is None:
            raise OSError("there is no C++ compiler (c++, g++, clang++)")
        # Torch has loaded its OpenMP library under the name that this one asks for: both share one pool of threads.
        return _load(compiler)
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("sparse convolutions on CPU run in plain torch, which is slower than compiled: %s", error)
        return None


def call(name: str, *arguments: Tensor | int) -> int:
    """Call a function of the library: contiguous tensors as pointers, numbers as int64, the number of threads last."""
    assert all(a.is_contiguous() for a in arguments if isinstance(a, Tensor)), f"{name}: a tensor is not contiguous"
    given = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a) for a in arguments]
    return int(getattr(library(), name)(*given, ctypes.c_int64(torch.get_num_threads())))


def _load(compiler: str) -> ctypes.CDLL:
    """The library from the cache folder, compiled first if there is none or it cannot be trusted.

    Raises:
        OSError, subprocess.SubprocessError: where it cannot be compiled or loaded.
    """
    texts = [source.read_text(encoding="utf-8") for source in (*SOURCES, *HEADERS)]
    state = "\n".join((*texts, *FLAGS, compiler, _processor()))
    name = f"native-{hashlib.sha256(state.encode()).hexdigest()[:16]}.so"
    folder = _own_folder()
    if folder is None:
        with TemporaryDirectory(prefix="image2point-") as private:
            return ctypes.CDLL(str(_compile(compiler, Path(private) / name)))
    target = folder / name
    if (doubt := _doubt(target)) is not None:
        if os.path.lexists(target):
            logger.warning("%s %s: it is compiled again", target, doubt)
        _compile(compiler, target)
    return ctypes.CDLL(str(target))


def _own_folder() -> Path | None:
    """The cache folder, made writable by this user alone; None, with a warning, if that is impossible."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "image2point"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _is_private(folder):
            folder.chmod(folder.stat().st_mode & ~_OTHERS)  # fails on a folder of another user
        if os.access(folder, os.W_OK) and _is_private(folder):
            return folder
        reason = f"{folder} is not a folder that only this user can write to"
    except OSError as error:
        reason = str(error)
    logger.warning(
        "the compiled part of image2point cannot be kept, so every process compiles it (a quarter of a minute): %s",
        reason,
    )
    return None


def _compile(compiler: str, target: Path) -> Path:
    """Compile the sources to `target`, and write its checksum beside it."""
    logger.info("compiling %s with %s", " and ".join(source.name for source in SOURCES), compiler)
    for part in target.parent.glob(".native-*.part"):  # left by a killed process
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _TIMEOUT:
                part.unlink()
    with writing(target) as temporary:  # several processes may do so at once
        done = subprocess.run(
            [compiler, *FLAGS, "-o", str(temporary), *map(str, SOURCES)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise OSError(f"{compiler} ended with {done.returncode}: {said[0] if said else 'no message'}")
        checksum = hashlib.sha256(temporary.read_bytes()).hexdigest()
    target.chmod(0o600)
    write_text(target.with_suffix(".sha256"), checksum)
    return target


def _doubt(target: Path) -> str | None:
    """What is wrong with a library that an earlier process compiled, or None."""
    try:
        if target.is_symlink() or not target.is_file() or not _is_private(target):
            return "is not a file that only this user can write to"
        if hashlib.sha256(target.read_bytes()).hexdigest() != target.with_suffix(".sha256").read_text("ascii"):
            return "is not what the compiler wrote"
    except (OSError, UnicodeDecodeError):
        return "cannot be read, or has no checksum"
    return None


def _is_private(path: Path) -> bool:
    """Whether a file or folder belongs to this user, and nobody else may write to it."""
    state = path.stat()
    mine = not hasattr(os, "getuid") or state.st_uid == os.getuid()
    return mine and not state.st_mode & _OTHERS


def _processor() -> str:
    """What tells machines apart that share a home folder but not their instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
