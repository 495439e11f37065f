"""Quantities over all pairs of rows of a matrix, in blocks: no C×C matrix is ever held."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from image2point.collapse.inputs import BLOCK, row_blocks

# ‖a‖² + ‖b‖² − 2a·b is one fast matrix product, but loses the digits that ‖a−b‖² is short of ‖a‖² + ‖b‖².
# Below this ratio the difference is formed first. At the ratio itself about 1e-11 is lost.
CLOSE = 1e-4


def pair_distances(rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Squared distances of all unordered pairs of `rows` [C, d], which should be centred.

    Yields (i [m], j [m], ‖rows_i − rows_j‖² [m]) with i < j, block by block; every pair occurs once.
    """
    norms = rows.square().sum(1)
    for start, block in row_blocks(rows, len(rows)):
        rest = rows[start:]
        first, second = _upper(len(block), len(rest), rows.device)
        sums = norms[start + first] + norms[start + second]
        squared = sums - 2 * (block @ rest.mT)[first, second]
        close = (squared < CLOSE * sums).nonzero()[:, 0]
        for pairs in close.split(max(1, BLOCK // rows.shape[1])):
            squared[pairs] = (block[first[pairs]] - rest[second[pairs]]).square().sum(1)
        yield start + first, start + second, squared


def pair_cosines(rows: Tensor) -> Iterator[Tensor]:
    """Cosines of all unordered pairs of `rows` [C, d], block by block; NaN where a row is zero."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    for start, block in row_blocks(unit, len(unit)):
        rest = unit[start:]
        yield (block @ rest.mT)[_upper(len(block), len(rest), rows.device)]


def _upper(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    first, second = torch.triu_indices(rows, columns, offset=1, device=device)
    return first, second
