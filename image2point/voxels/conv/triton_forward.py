"""Masked implicit GEMM for inflated kernels, in Triton: sum the neighbours of a column in registers, multiply once.

A program makes one tile of output rows and channels. It visits the columns that any of its rows has, channel block
after channel block, in one flat loop; the rows that a column brings are gathered, absent ones as zeros, added in
float32 and multiplied by the column's weight. With one row per column this is the general sparse convolution, and
on the mirrored or the inverse table with inputs and outputs exchanged it is the data gradient.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from image2point.voxels.conv.epilogue import Epilogue
from image2point.voxels.conv.triton_epilogue import finish, sum_parts
from image2point.voxels.conv.triton_table import SortedTable
from image2point.voxels.conv.triton_tune import Config, ceil_div, choose, power_of_two, processors

PLAIN = Epilogue()
_UNROLLED = tl.constexpr(9)  # rows per column up to which their sum is written out


@triton.jit
def multiply_add(a, b, sum, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """sum + a · b in float32. WIDEN is for the interpreter, which cannot multiply bfloat16."""
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, sum, input_precision=PRECISION)


@triton.jit
def gather(x_ptr, stride, member, step, channel, valid, DEPTH: tl.constexpr):
    """Sum over d < DEPTH of the rows of x named at `member + d · step`, absent ones (−1) as zeros: [rows, channels].

    member: a block of pointers, one per row. stride: between the rows of x. valid: which channels there are.
    """
    row = tl.load(member).to(tl.int64)
    inside = (row >= 0)[:, None] & valid[None, :]
    first = tl.load(x_ptr + row[:, None] * stride + channel[None, :], mask=inside, other=0.0)
    if DEPTH == 1:
        return first
    sum = first.to(tl.float32)
    if DEPTH <= _UNROLLED:
        for d in tl.static_range(1, DEPTH):
            row = tl.load(member + d * step).to(tl.int64)
            inside = (row >= 0)[:, None] & valid[None, :]
            sum += tl.load(x_ptr + row[:, None] * stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    else:
        for d in range(1, DEPTH):
            row = tl.load(member + d * step).to(tl.int64)
            inside = (row >= 0)[:, None] & valid[None, :]
            sum += tl.load(x_ptr + row[:, None] * stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    return sum.to(x_ptr.dtype.element_ty)


@triton.jit(do_not_specialize=["M"])
def _multiply(
    x_ptr,
    w_ptr,
    rows_ptr,
    count_ptr,
    column_ptr,
    index_ptr,
    y_ptr,
    scale_ptr,
    shift_ptr,
    residual_ptr,
    M,
    G,
    GROUPS,
    C_IN,  # per group, as C_OUT
    C_OUT,
    w_first,
    w_column,
    w_group,
    w_in,
    w_out,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    blocks_out = tl.cdiv(C_OUT, OUTPUTS)
    tile = (tl.program_id(0) // blocks_out).to(tl.int64)  # programs that gather the same rows run side by side
    group = tl.program_id(1)
    part = tl.program_id(2)
    out = tl.program_id(0) % blocks_out * OUTPUTS + tl.arange(0, OUTPUTS)
    out_valid = out < C_OUT

    blocks_in = tl.cdiv(C_IN, INPUTS)
    steps = tl.load(count_ptr + tile) * blocks_in
    sum = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    for step in range(part * steps // PARTS, (part + 1) * steps // PARTS):
        place = tile * G + step // blocks_in
        channel = step % blocks_in * INPUTS + tl.arange(0, INPUTS)
        channel_valid = channel < C_IN
        member = index_ptr + place * (DEPTH * ROWS) + tl.arange(0, ROWS)
        x = gather(x_ptr + group * C_IN, GROUPS * C_IN, member, ROWS, channel, channel_valid, DEPTH)
        column = tl.load(column_ptr + place).to(tl.int64)
        weight = w_ptr + w_first + column * w_column + group.to(tl.int64) * w_group
        w = tl.load(
            weight + channel[:, None] * w_in + out[None, :] * w_out,
            mask=channel_valid[:, None] & out_valid[None, :],
            other=0.0,
        )
        sum = multiply_add(x, w, sum, PRECISION, WIDEN)

    row = tl.load(rows_ptr + tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    C = GROUPS * C_OUT
    channel = group * C_OUT + out
    offsets = row[:, None] * C + channel[None, :]
    valid = (row >= 0)[:, None] & out_valid[None, :]
    if PARTS > 1:
        tl.store(y_ptr + part * (M.to(tl.int64) * C) + offsets, sum, mask=valid)
    else:
        finish(sum, y_ptr, offsets, channel, valid, scale_ptr, shift_ptr, residual_ptr, C, ACTIVATION)


INTERPRETED = not isinstance(_multiply, triton.JITFunction)


def multiply(
    features: Tensor,
    weight: Tensor,
    table: SortedTable,
    epilogue: Epilogue = PLAIN,
    config: Config | None = None,
) -> Tensor:
    """Convolve with a dense matrix per column and group.

    Args:
        features: [N, groups · C_in], contiguous.
        weight: [G, groups, C_in, C_out], any strides.
        config: how to cut the work; by default the tuned choice.

    Returns:
        [M, groups · C_out].
    """
    columns, groups, inputs, outputs = weight.shape
    rows, depth = table.size, table.depth
    y = features.new_empty(rows, groups * outputs)
    if y.numel() == 0:
        return y
    precision = dot_precision(features.dtype)

    def run(config: Config) -> None:
        tiles = table.tiles(config.rows)
        partial = features.new_empty(config.parts, *y.shape, dtype=torch.float32) if config.parts > 1 else y
        _multiply[(len(tiles.rows) * ceil_div(outputs, config.outputs), groups, config.parts)](
            features,
            weight,
            tiles.rows,
            tiles.count,
            tiles.columns,
            tiles.index,
            partial,
            epilogue.scale,
            epilogue.shift,
            epilogue.residual,
            rows,
            columns,
            groups,
            inputs,
            outputs,
            (columns - 1) * weight.stride(0) if table.mirrored else 0,
            -weight.stride(0) if table.mirrored else weight.stride(0),
            weight.stride(1),
            weight.stride(2),
            weight.stride(3),
            DEPTH=depth,
            PARTS=config.parts,
            ACTIVATION=epilogue.activation,
            PRECISION=precision,
            WIDEN=INTERPRETED and features.dtype == torch.bfloat16,
            ROWS=config.rows,
            OUTPUTS=config.outputs,
            INPUTS=config.inputs,
            num_warps=config.warps,
            num_stages=config.stages,
        )
        if config.parts > 1:
            sum_parts(partial, y, epilogue)

    if config is None:
        key = ("multiply", features.dtype, precision, rows.bit_length(), inputs, outputs, groups, columns, depth)
        config = choose(features.device, key, lambda: candidates(features, rows, inputs, outputs, groups, columns), run)
    run(config)
    return y


def dot_precision(dtype: torch.dtype) -> str:
    """ "tf32" or "ieee", as torch is set for float32 matrix products; without effect on other types."""
    return "tf32" if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest" else "ieee"


# Rows, outputs, inputs, warps and stages of 16-bit tiles, the best guess first; those of float32 have half the inputs.
# A tile visits few columns, each with a chain of loads (the index, then what it names). On an H200, small tiles, of
# which several share a multiprocessor and hide each other's waiting, beat large ones with deep pipelines.
_TILES = (
    (64, 128, 64, 4, 2),
    (64, 128, 128, 4, 2),
    (64, 64, 64, 4, 2),
    (64, 64, 64, 4, 4),
    (128, 128, 64, 8, 2),
    (128, 64, 64, 8, 2),
    (128, 128, 64, 8, 4),
    (64, 256, 64, 8, 2),
    (32, 64, 64, 4, 2),
    (32, 128, 128, 4, 2),
)


def candidates(features: Tensor, rows: int, inputs: int, outputs: int, groups: int, columns: int) -> list[Config]:
    """Ways to cut a convolution up, none larger than the problem; where tiles are few, parts share their work."""
    cuts = []
    for tile_rows, tile_out, tile_in, warps, stages in _TILES:
        tile_rows = min(tile_rows, _power(rows))
        tile_out = min(tile_out, _power(outputs))
        tile_in = min(tile_in * 2 // features.element_size(), _power(inputs))
        tiles = ceil_div(rows, tile_rows) * ceil_div(outputs, tile_out) * groups
        steps = columns * ceil_div(inputs, tile_in)
        parts = max(1, min(2 * processors(features.device) // tiles, steps // 4, 8))
        cuts.append(Config(tile_rows, tile_out, tile_in, warps, stages, parts))
    full = [cut for cut in cuts if _programs(cut, rows, outputs, groups) >= processors(features.device)]
    return list(dict.fromkeys(full + cuts))  # one that fills the GPU is the better first guess


def _programs(cut: Config, rows: int, outputs: int, groups: int) -> int:
    return ceil_div(rows, cut.rows) * ceil_div(outputs, cut.outputs) * groups * cut.parts


def _power(size: int) -> int:
    """The smallest power of two that holds `size`, at least 16: no side of a matrix product may be smaller."""
    return max(16, power_of_two(size))
