"""Depthwise sparse convolution in Triton: every output channel reads one input channel, so there is nothing to multiply
as matrices; forward, data gradient and weight gradient are gathered sums, with arithmetic in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from image2point.voxels.conv.epilogue import Epilogue
from image2point.voxels.conv.triton_epilogue import finish
from image2point.voxels.conv.triton_forward import PLAIN, gather
from image2point.voxels.conv.triton_table import ColumnRows, SortedTable
from image2point.voxels.conv.triton_tune import Config, ceil_div, choose, power_of_two, processors


@triton.jit
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
    G,
    C_OUT,
    w_first,
    w_column,
    DEPTH: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    blocks = tl.cdiv(C_OUT, CHANNELS)
    tile = (tl.program_id(0) // blocks).to(tl.int64)
    out = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    out_valid = out < C_OUT
    channel = out if MULTIPLIER == 1 else out // MULTIPLIER
    sum = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for position in range(tl.load(count_ptr + tile)):
        place = tile * G + position
        member = index_ptr + place * (DEPTH * ROWS) + tl.arange(0, ROWS)
        x = gather(x_ptr, C_OUT // MULTIPLIER, member, ROWS, channel, out_valid, DEPTH)
        column = tl.load(column_ptr + place).to(tl.int64)
        w = tl.load(w_ptr + w_first + column * w_column + out, mask=out_valid, other=0.0)
        sum += x.to(tl.float32) * w.to(tl.float32)[None, :]
    row = tl.load(rows_ptr + tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    offsets = row[:, None] * C_OUT + out[None, :]
    valid = (row >= 0)[:, None] & out_valid[None, :]
    finish(sum, y_ptr, offsets, out, valid, scale_ptr, shift_ptr, residual_ptr, C_OUT, ACTIVATION)


def multiply(
    features: Tensor, weight: Tensor, table: SortedTable, epilogue: Epilogue = PLAIN, config: Config | None = None
) -> Tensor:
    """Convolve every channel by itself.

    Args:
        features: [N, C_in], contiguous.
        weight: [G, C_out], contiguous; output channel c reads input channel c // (C_out / C_in).

    Returns:
        [M, C_out].
    """
    columns, outputs = weight.shape
    rows, depth = table.size, table.depth
    y = features.new_empty(rows, outputs)
    if y.numel() == 0:
        return y

    def run(config: Config) -> None:
        tiles = table.tiles(config.rows)
        _multiply[(len(tiles.rows) * ceil_div(outputs, config.outputs),)](
            features,
            weight,
            tiles.rows,
            tiles.count,
            tiles.columns,
            tiles.index,
            y,
            epilogue.scale,
            epilogue.shift,
            epilogue.residual,
            columns,
            outputs,
            (columns - 1) * outputs if table.mirrored else 0,
            -outputs if table.mirrored else outputs,
            DEPTH=depth,
            MULTIPLIER=outputs // features.shape[1],
            ACTIVATION=epilogue.activation,
            ROWS=config.rows,
            CHANNELS=config.outputs,
            num_warps=config.warps,
            num_stages=config.stages,
        )

    if config is None:
        key = ("depthwise", features.dtype, rows.bit_length(), outputs, columns, depth)
        config = choose(features.device, key, lambda: _candidates(_TILES, outputs), run)
    run(config)
    return y


@triton.jit(do_not_specialize=["P"])
def _weight_gradient(
    x_ptr,
    gradient_ptr,
    rows_ptr,
    members_ptr,
    starts_ptr,
    partial_ptr,
    P,
    G,
    C_OUT,
    PARTS,
    DEPTH: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    column = tl.program_id(0)
    part = tl.program_id(2)
    out = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    out_valid = out < C_OUT
    channel = out if MULTIPLIER == 1 else out // MULTIPLIER
    start = tl.load(starts_ptr + column)
    stop = tl.load(starts_ptr + column + 1)
    share = tl.cdiv(stop - start, PARTS)
    first = start + part * share
    last = tl.minimum(first + share, stop)
    sum = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for begin in range(first, last, ROWS):
        place = begin + tl.arange(0, ROWS)
        place_valid = place < last
        # Past the end the last pair stands in, and a gradient of zero makes its product nothing.
        place = tl.minimum(place, last - 1)
        x = gather(x_ptr, C_OUT // MULTIPLIER, members_ptr + place, P.to(tl.int64), channel, out_valid, DEPTH)
        row = tl.load(rows_ptr + place).to(tl.int64)
        gradient = tl.load(
            gradient_ptr + row[:, None] * C_OUT + out[None, :],
            mask=place_valid[:, None] & out_valid[None, :],
            other=0.0,
        )
        sum += x.to(tl.float32) * gradient.to(tl.float32)
    tl.store(partial_ptr + (part * G + column) * C_OUT + out, tl.sum(sum, 0), mask=out_valid)


def weight_gradient(features: Tensor, gradient: Tensor, rows: ColumnRows, config: Config | None = None) -> Tensor:
    """features [N, C_in], gradient [M, C_out] → float32 [G, C_out]; both contiguous."""
    outputs = gradient.shape[1]
    columns = len(rows.starts) - 1
    depth, pairs = rows.members.shape

    def run(config: Config) -> Tensor:
        partial = features.new_empty(config.parts, columns, outputs, dtype=torch.float32)
        _weight_gradient[(columns, ceil_div(outputs, config.outputs), config.parts)](
            features,
            gradient,
            rows.rows,
            rows.members,
            rows.starts,
            partial,
            pairs,
            columns,
            outputs,
            config.parts,
            DEPTH=depth,
            MULTIPLIER=outputs // features.shape[1],
            ROWS=config.rows,
            CHANNELS=config.outputs,
            num_warps=config.warps,
            num_stages=config.stages,
        )
        return partial.sum(0) if config.parts > 1 else partial[0]

    if config is None:
        key = ("depthwise weight", features.dtype, pairs.bit_length(), outputs, columns, depth)
        most = max(1, pairs // (columns * 256))
        blocks = columns * ceil_div(outputs, 64)
        parts = max(1, min(ceil_div(4 * processors(features.device), blocks), most, 64))
        config = choose(features.device, key, lambda: _candidates(_TILES, outputs, parts), run)
    return run(config)


_TILES = ((32, 64), (64, 32), (16, 128), (64, 64))  # rows and channels, the best guess first


def _candidates(tiles: tuple[tuple[int, int], ...], outputs: int, parts: int = 1) -> list[Config]:
    widest = max(16, power_of_two(outputs))
    return list(dict.fromkeys(Config(rows, min(width, widest), 1, 4, 2, parts) for rows, width in tiles))
