"""The compiled part of the `cpu` engine: gather, sum and multiply in one pass over native.cpp.

Torch's own operators need three passes with two intermediate arrays in memory; here a bag's sum is multiplied while it
is in the cache, and added to its output row. The source is compiled once per machine by its C++ compiler (a few
seconds), into the user's cache folder (`XDG_CACHE_HOME`). Where there is no compiler, or `IMAGE2POINT_NATIVE=0`, the
`cpu` engine does the same with torch alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.files import writing
from image2point.voxels.conv.blocks import by_column, starts_of
from image2point.voxels.conv.pack import packed_once
from image2point.voxels.plan import NeighbourTable

logger = logging.getLogger("image2point")

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
NAMES = {torch.float32: "float32", torch.float64: "float64"}
HEIGHT = 256
"""Rows of a block: enough that a column's bags repay the loading of its matrix, few enough to share among threads."""


def takes(features: Tensor, other: Tensor, outputs: int, groups: int) -> bool:
    """Whether a convolution of features [N, C_in] to `outputs` channels runs here: on a CPU, in float32 or float64, one
    group or one per channel. `other` is the kernel, or the gradient of the result."""
    return (
        features.device.type == "cpu"
        and features.dtype == other.dtype
        and features.dtype in NAMES
        and (groups == 1 or outputs == features.shape[1] == groups)
        and library() is not None
    )


def multiply(features: Tensor, weight: Tensor, table: NeighbourTable, groups: int, backward: bool) -> Tensor:
    """As `cpu.multiply`, for what `takes` takes: [N, C_in] → [M, C_out]."""
    reversed_ = backward and table.submanifold  # the same table, with the opposite taps
    shape = (weight.shape[2], weight.shape[3], weight.shape[4])
    found = bags(table, shape, backward and not reversed_)
    features, name = features.detach().contiguous(), NAMES[features.dtype]
    output = features.new_empty(found.size, weight.shape[0])
    if groups == 1:
        width = _call(f"width_{name}")
        kernel = packed_once(weight, ("panels", width), lambda: panels(weight, width))
        sizes = features.shape[1], weight.shape[0]
        _call(f"convolve_{name}", *found.arguments(), features, kernel, output, *sizes, int(reversed_))
    else:
        kernel = packed_once(weight, "scales", lambda: scales(weight))
        _call(f"depthwise_{name}", *found.arguments(), features, kernel, output, features.shape[1], int(reversed_))
    return output


def weight_gradient(
    features: Tensor, gradient: Tensor, table: NeighbourTable, shape: tuple[int, int, int], groups: int, backward: bool
) -> Tensor:
    """As `cpu.weight_gradient`, for what `takes` takes: [N, C_in] and [M, C_out] → [C_out, C_in / groups, *shape]."""
    found = bags(table, shape, backward)
    features, gradient = features.detach().contiguous(), gradient.detach().contiguous()
    inputs, outputs, name = features.shape[1], gradient.shape[1], NAMES[features.dtype]
    kernel = features.new_zeros(found.columns, inputs // groups, outputs)
    if groups == 1:
        _call(f"gradient_{name}", *found.arguments(), features, gradient, kernel, inputs, outputs)
    else:
        _call(f"depthwise_gradient_{name}", *found.arguments(), features, gradient, kernel, outputs)
    return kernel.permute(2, 1, 0).unflatten(2, shape).contiguous()


def _call(name: str, *arguments: Tensor | int) -> int:
    given = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a) for a in arguments]
    return int(getattr(library(), name)(*given, ctypes.c_int64(torch.get_num_threads())))


def panels(weight: Tensor, width: int) -> Tensor:
    """[C_out, C_in, kx, ky, kz] → [kx · ky · kz, ⌈C_out / width⌉, C_in, width], filled up with zeros."""
    matrices = weight.detach().flatten(2).permute(2, 1, 0)
    matrices = F.pad(matrices, (0, -weight.shape[0] % width))
    return matrices.unflatten(2, (-1, width)).transpose(1, 2).clone(memory_format=torch.contiguous_format)


def scales(weight: Tensor) -> Tensor:
    """[C, 1, kx, ky, kz] → [kx · ky · kz, C]"""
    return weight.detach().flatten(1).T.clone(memory_format=torch.contiguous_format)


# -------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, eq=False)
class Bags:
    """A neighbour table, block by block, and within a block column by column.

    Attributes:
        members: int32 [P], input rows, bag after bag; offsets: int32 [B + 1], start of each bag in it.
        rows: int32 [B], each bag's output row within its block.
        edges: int32 [blocks · G + 1], first bag of each column of each block.
        size, height: output rows, and those of a block; columns: G.
    """

    members: Tensor
    offsets: Tensor
    rows: Tensor
    edges: Tensor
    size: int
    height: int
    columns: int

    def arguments(self) -> tuple[Tensor | int, ...]:
        return self.members, self.offsets, self.rows, self.edges, self.size, self.height, self.columns


def bags(table: NeighbourTable, shape: tuple[int, int, int], backward: bool) -> Bags:
    """The table's bags, built once and kept with it; arguments as of `blocks.blocks`."""
    return table.form(("bags", shape, backward), lambda: _build(table, shape, backward))


def _build(table: NeighbourTable, shape: tuple[int, int, int], backward: bool) -> Bags:
    # Everything follows from the order of the dimensions (block, column, row, tap within column): nothing is sorted.
    entries = by_column(table, shape, backward)
    size = entries.shape[2]
    height = max(min(HEIGHT, size), 1)
    entries = F.pad(entries, (0, -size % height), value=-1).unflatten(2, (-1, height)).permute(2, 0, 3, 1).contiguous()
    present = entries >= 0
    lengths = present.sum(3, dtype=torch.int32)  # [blocks, G, height]: members of each bag
    filled = lengths > 0
    within = torch.arange(height, dtype=torch.int32).expand_as(filled)
    return Bags(
        entries.masked_select(present),
        starts_of(lengths.masked_select(filled)),
        within.masked_select(filled),
        starts_of(filled.sum(2).flatten()),
        size,
        height,
        prod(shape),
    )


# ------------------------------------------------------------------------------------------------------ the library


@cache
def library() -> ctypes.CDLL | None:
    """The compiled source, compiled now where it is not yet; None without a compiler, which is logged once."""
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


def _compiled(compiler: str) -> Path:
    state = "\n".join((SOURCE.read_text(encoding="utf-8"), *FLAGS, compiler, _processor()))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "image2point"
    target = folder / f"native-{hashlib.sha256(state.encode()).hexdigest()[:16]}.so"
    if not target.exists():
        logger.info("compiling %s with %s", SOURCE.name, compiler)
        with writing(target) as temporary:  # several processes may do so at once
            done = subprocess.run(
                [compiler, *FLAGS, "-o", str(temporary), str(SOURCE)], capture_output=True, text=True, timeout=120
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
