"""Weight gradient of the sparse convolution, in Triton: dW_g = Σ_rows (sum of what the row reads through g)ᵀ · dy.

For a tied kernel g runs over columns, so that its gradient costs what its forward costs. The rows of a column are
shared among programs; their partial sums in float32 are added in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from image2point.voxels.conv.triton_forward import INTERPRETED, dot_precision, gather, multiply_add
from image2point.voxels.conv.triton_table import ColumnRows
from image2point.voxels.conv.triton_tune import Config, ceil_div, choose, power_of_two, processors


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
    GROUPS,
    C_IN,  # per group, as C_OUT
    C_OUT,
    PARTS,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    blocks_out = tl.cdiv(C_OUT, OUTPUTS)
    blocks_in = tl.cdiv(C_IN, INPUTS)
    column = tl.program_id(0) // (blocks_out * blocks_in)
    block = tl.program_id(0) % (blocks_out * blocks_in)
    group = tl.program_id(1)
    part = tl.program_id(2)
    channel = block // blocks_out * INPUTS + tl.arange(0, INPUTS)
    out = block % blocks_out * OUTPUTS + tl.arange(0, OUTPUTS)
    channel_valid = channel < C_IN
    out_valid = out < C_OUT

    start = tl.load(starts_ptr + column)
    stop = tl.load(starts_ptr + column + 1)
    share = tl.cdiv(stop - start, PARTS)
    first = start + part * share
    last = tl.minimum(first + share, stop)
    sum = tl.zeros((INPUTS, OUTPUTS), dtype=tl.float32)
    for begin in range(first, last, ROWS):
        place = begin + tl.arange(0, ROWS)
        place_valid = place < last
        # Past the end the last pair stands in, and a gradient of zero makes its product nothing.
        place = tl.minimum(place, last - 1)
        member = members_ptr + place
        x = gather(x_ptr + group * C_IN, GROUPS * C_IN, member, P.to(tl.int64), channel, channel_valid, DEPTH)
        row = tl.load(rows_ptr + place).to(tl.int64)
        gradient = tl.load(
            gradient_ptr + row[:, None] * (GROUPS * C_OUT) + (group * C_OUT + out)[None, :],
            mask=place_valid[:, None] & out_valid[None, :],
            other=0.0,
        )
        sum = multiply_add(tl.trans(x), gradient, sum, PRECISION, WIDEN)

    matrix = ((part * G + column) * GROUPS + group).to(tl.int64) * C_IN * C_OUT
    tl.store(
        partial_ptr + matrix + channel[:, None] * C_OUT + out[None, :],
        sum,
        mask=channel_valid[:, None] & out_valid[None, :],
    )


def weight_gradient(
    features: Tensor, gradient: Tensor, rows: ColumnRows, groups: int, config: Config | None = None
) -> Tensor:
    """Gradient for a dense matrix per column and group.

    Args:
        features: [N, groups · C_in], gradient: [M, groups · C_out]; contiguous.
        config: how to cut the work; by default the tuned choice.

    Returns:
        float32 [G, groups, C_in, C_out].
    """
    inputs, outputs = features.shape[1] // groups, gradient.shape[1] // groups
    columns = len(rows.starts) - 1
    depth, pairs = rows.members.shape
    precision = dot_precision(features.dtype)

    def run(config: Config) -> Tensor:
        partial = features.new_empty(config.parts, columns, groups, inputs, outputs, dtype=torch.float32)
        blocks = ceil_div(inputs, config.inputs) * ceil_div(outputs, config.outputs)
        _weight_gradient[(columns * blocks, groups, config.parts)](
            features,
            gradient,
            rows.rows,
            rows.members,
            rows.starts,
            partial,
            pairs,
            columns,
            groups,
            inputs,
            outputs,
            config.parts,
            DEPTH=depth,
            PRECISION=precision,
            WIDEN=INTERPRETED and features.dtype == torch.bfloat16,
            ROWS=config.rows,
            OUTPUTS=config.outputs,
            INPUTS=config.inputs,
            num_warps=config.warps,
            num_stages=config.stages,
        )
        return partial.sum(0) if config.parts > 1 else partial[0]

    if config is None:
        key = ("weight", features.dtype, precision, pairs.bit_length(), inputs, outputs, groups, columns, depth)
        config = choose(
            features.device, key, lambda: candidates(features, pairs, inputs, outputs, groups, columns), run
        )
    return run(config)


# Rows, outputs, inputs, warps and stages of 16-bit tiles, the best guess first; those of float32 have half the rows.
_TILES = ((64, 128, 128, 8, 5), (64, 64, 64, 4, 5), (64, 128, 64, 4, 5), (32, 128, 128, 8, 5), (32, 64, 32, 4, 4))


def candidates(features: Tensor, pairs: int, inputs: int, outputs: int, groups: int, columns: int) -> list[Config]:
    """Ways to cut a weight gradient up, with enough parts to fill the GPU several times over."""
    cuts = []
    for rows, tile_out, tile_in, warps, stages in _TILES:
        rows = rows * 2 // features.element_size()
        tile_out = min(tile_out, max(16, power_of_two(outputs)))
        tile_in = min(tile_in, max(16, power_of_two(inputs)))
        tiles = columns * groups * ceil_div(outputs, tile_out) * ceil_div(inputs, tile_in)
        most = max(1, pairs // (columns * rows * 4))  # at least four blocks of rows each, on average
        parts = max(1, min(ceil_div(4 * processors(features.device), tiles), most, 64))
        cuts.append(Config(rows, tile_out, tile_in, warps, stages, parts))
    return list(dict.fromkeys(cuts))
