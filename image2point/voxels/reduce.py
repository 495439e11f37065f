"""Reductions of rows by segment: torch-scatter's where it is installed, torch's own otherwise.

Both give the same results to rounding; this module hides which one ran. On a CPU torch's own are as fast.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor


@cache
def torch_scatter() -> ModuleType | None:
    """The torch-scatter package, or None where it is not installed or was built for another torch."""
    try:
        import torch_scatter as module
    except (ImportError, OSError):
        return None
    return module


def segment_sum(rows: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Sum of the rows of each segment.

    Args:
        rows: [N, C].
        segment: int64 [N], values in [0, segments).

    Returns:
        [segments, C].
    """
    if (scatter := torch_scatter()) is not None:
        return scatter.scatter_sum(rows, segment, dim=0, dim_size=segments)
    return rows.new_zeros(segments, rows.shape[1]).index_add(0, segment, rows)


def segment_mean(rows: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Mean of the rows of each segment, zero for an empty one: [N, C] → [segments, C]."""
    if (scatter := torch_scatter()) is not None:
        return scatter.scatter_mean(rows, segment, dim=0, dim_size=segments)
    counts = torch.bincount(segment, minlength=segments).clamp_(min=1)
    return segment_sum(rows, segment, segments) / counts.unsqueeze(1)


def segment_max(rows: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Maximum of the rows of each segment, zero for an empty one: [N, C] → [segments, C]."""
    if (scatter := torch_scatter()) is not None:
        return scatter.scatter_max(rows, segment, dim=0, dim_size=segments)[0]
    index = segment.unsqueeze(1).expand_as(rows)
    empty = rows.new_zeros(segments, rows.shape[1])
    return empty.scatter_reduce(0, index, rows, reduce="amax", include_self=False)
