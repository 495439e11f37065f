"""The reference: sparse convolution tap by tap, the short way that is obviously right.

y[o] = Σ_k W_k · x[row read by o through tap k]. Every faster execution is tested against this one.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from image2point.voxels.plan import NeighbourTable


def convolve(features: Tensor, weight: Tensor, table: NeighbourTable, groups: int = 1) -> Tensor:
    """Convolve over a neighbour table; differentiable by autograd.

    Args:
        features: [N, C_in].
        weight: [C_out, C_in / groups, Kx, Ky, Kz].

    Returns:
        [M, C_out], one row per target of the table.
    """
    pairs, out_channels = table.pairs, weight.shape[0]
    taps = weight.flatten(2).unbind(2)
    output = features.new_zeros(table.targets, out_channels)
    for tap, (start, stop) in zip(taps, pairwise(pairs.starts), strict=True):
        rows = features[pairs.source[start:stop].long()].unflatten(1, (groups, -1))
        kernel = tap.unflatten(0, (groups, -1))
        product = (rows.unsqueeze(2) * kernel).sum(3) if groups > 1 else rows.squeeze(1) @ tap.T
        output = output.index_add(0, pairs.target[start:stop].long(), product.reshape(-1, out_channels))
    return output
