"""Depthwise convolution: gather and sum, scale, sum again, in blocks of rows that stay in the cache.

There is nothing to multiply as matrices here, so memory traffic is all that counts. Each output row has a few bags,
one per weight that reaches it: the neighbours of a bag are summed as they are gathered, the sums are scaled channel
by channel, and the bags of a row are summed. What lies between the three is as large as a block, never as the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from image2point.voxels.plan import Rows

_BLOCK_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}
"""Size of the scaled sums of one block: about the cache of a core, or enough to fill a GPU."""


def multiply(features: Tensor, weights: Tensor, rows: Rows) -> Tensor:
    """y[o] = Σ_bags weights[column of the bag] · Σ features[members of the bag]: [N, C], [G, C] → [M, C]."""
    output = features.new_empty(rows.size, features.shape[1])
    for row, bag, member in _blocks(rows, features):
        sums = sum_bags(features, rows.members[member], None if rows.offsets is None else _offsets(rows.offsets, bag))
        sums.mul_(weights.index_select(0, rows.columns[bag]))
        every = torch.arange(len(sums), dtype=torch.int32, device=sums.device)
        output[row] = sum_bags(sums, every, _offsets(rows.bags, row))
    return output


def sum_bags(features: Tensor, members: Tensor, offsets: Tensor | None) -> Tensor:
    """Sum of the features of each bag's members, [B, C]; without offsets every bag has a single member."""
    if offsets is None:
        return features.index_select(0, members)
    # Not torch.nn.functional's: this one takes no gradient, and then skips what only a gradient would need.
    return torch.embedding_bag(features.detach(), members, offsets, include_last_offset=True)[0]


def _offsets(offsets: Tensor, part: slice) -> Tensor:
    return offsets[part.start : part.stop + 1] - offsets[part.start]


def _blocks(rows: Rows, features: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, bags and members of each block. Blocks have equally many rows, and bags for `_BLOCK_BYTES` on average."""
    bags_per_row = max(len(rows.columns) / rows.size, 1.0)
    bytes_per_row = bags_per_row * features.shape[1] * features.element_size()
    height = max(int(_BLOCK_BYTES.get(features.device.type, 256 << 20) / bytes_per_row), 16)
    row = [*range(0, rows.size, height), rows.size]
    bag = rows.bags[row]
    member = bag if rows.offsets is None else rows.offsets[bag.long()]
    edges = [row, *torch.stack([bag, member]).tolist()]
    for block in range(len(row) - 1):
        first, second, third = (slice(edge[block], edge[block + 1]) for edge in edges)
        yield first, second, third
