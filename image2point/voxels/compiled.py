"""What is compiled for CPUs: neighbour lookups (lookup.cpp), ReLU (relu.cpp), fingerprints of
weights (remember.cpp), convolutions (conv/native.cpp).

They are compiled once per machine by its C++ compiler (a few seconds), into the user's cache folder
(`XDG_CACHE_HOME`). Where there is no compiler, or `IMAGE2POINT_NATIVE=0`, torch alone does the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from image2point.files import writing

logger = logging.getLogger("image2point")

NAMES = {torch.float32: "float32", torch.float64: "float64"}
"""Types that the functions take, and the ends of their names."""
SOURCES = tuple(Path(__file__).parent / name for name in ("lookup.cpp", "relu.cpp", "remember.cpp", "conv/native.cpp"))
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-fopenmp", "-shared", "-fPIC")


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
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("sparse convolutions on CPU run in plain torch, which is slower than compiled: %s", error)
        return None


def call(name: str, *arguments: Tensor | int) -> int:
    """Call a function of the library: contiguous tensors as pointers, numbers as int64, the number of threads last."""
    assert all(a.is_contiguous() for a in arguments if isinstance(a, Tensor)), f"{name}: a tensor is not contiguous"
    given = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a) for a in arguments]
    return int(getattr(library(), name)(*given, ctypes.c_int64(torch.get_num_threads())))


def _compiled(compiler: str) -> Path:
    texts = [source.read_text(encoding="utf-8") for source in SOURCES]
    state = "\n".join((*texts, *FLAGS, compiler, _processor()))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "image2point"
    target = folder / f"native-{hashlib.sha256(state.encode()).hexdigest()[:16]}.so"
    if not target.exists():
        logger.info("compiling %s with %s", " and ".join(source.name for source in SOURCES), compiler)
        with writing(target) as temporary:  # several processes may do so at once
            done = subprocess.run(
                [compiler, *FLAGS, "-o", str(temporary), *map(str, SOURCES)],
                capture_output=True,
                text=True,
                timeout=120,
            )
            if done.returncode:
                said = (done.stderr or done.stdout).strip().splitlines()
                raise OSError(f"{compiler} ended with {done.returncode}: {said[0] if said else 'no message'}")
    return target


def _processor() -> str:
    """What tells machines apart that share a home folder but not their instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
