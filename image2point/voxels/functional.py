"""Operations on voxels that need no neighbours, for all three forms: sparse, masked dense, plain grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.reduce import segment_max, segment_sum
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor


def pointwise(function: Callable[[Tensor], Tensor], x: Voxels) -> Voxels:
    """Apply an elementwise function to the features; empty cells stay zero."""
    if isinstance(x, VoxelTensor):
        return x.replace(function(x.features))
    return x.replace(function(x.grid)) if isinstance(x, DenseVoxels) else function(x)


def on_sites(function: Callable[[Tensor], Tensor], x: Voxels) -> Voxels:
    """Apply a function [..., C] → [..., C′] that takes each site by itself.

    On a masked grid it runs in empty cells too, which then are zero again: no shape depends on the mask.
    """
    if isinstance(x, VoxelTensor):
        return x.replace(function(x.features))
    if isinstance(x, DenseVoxels):
        return x.replace(_channels_first(function(_channels_last(x.grid))))
    return _channels_first(function(_channels_last(x)))


def on_rows(function: Callable[[Tensor], Tensor], x: Voxels) -> Voxels:
    """Apply a function [N, C] → [N, C′] to the features of the occupied sites, as rows."""
    if isinstance(x, VoxelTensor):
        return x.replace(function(x.features))
    if isinstance(x, DenseVoxels):
        return x.replace_rows(function(x.rows))
    rows = function(_channels_last(x).reshape(-1, x.shape[1]))
    return _channels_first(rows.view(x.shape[0], *x.shape[2:], -1))


@dataclass(frozen=True)
class Clouds:
    """Reductions over the occupied sites of each cloud, of values [..., K] that stand at the sites.

    Attributes:
        mean: values at sites → values of clouds.
        total: the same, summed.
        spread: values of clouds → values at sites, or what broadcasts to them.
    """

    mean: Callable[[Tensor], Tensor]
    total: Callable[[Tensor], Tensor]
    spread: Callable[[Tensor], Tensor]


def on_clouds(function: Callable[[Tensor, Clouds], Tensor], x: Voxels) -> Voxels:
    """Apply a function [..., C] → [..., C′] that takes each site by itself but for reductions over its cloud."""
    if isinstance(x, VoxelTensor):
        sites, batch, size = x.sites, x.sites.batch, x.batch_size
        clouds = Clouds(
            mean=lambda values: segment_sum(values, batch, size) / sites.counts.clamp(min=1).unsqueeze(1),
            total=lambda values: segment_sum(values, batch, size),
            spread=lambda values: values[batch],
        )
    elif isinstance(x, DenseVoxels):
        mask = _channels_last(x.mask)
        count = mask.sum(_SPACE, keepdim=True).clamp(min=1)

        def total(values: Tensor) -> Tensor:
            return torch.where(mask, values, 0).sum(_SPACE, keepdim=True)

        clouds = Clouds(lambda values: total(values) / count, total, lambda values: values)
    else:
        clouds = Clouds(
            mean=lambda values: values.mean(_SPACE, keepdim=True),
            total=lambda values: values.sum(_SPACE, keepdim=True),
            spread=lambda values: values,
        )
    return on_sites(lambda features: function(features, clouds), x)


def add(x: Voxels, y: Voxels | Tensor | float) -> Voxels:
    """x + y, where y is voxels on the same sites, a vector per cloud [B, C], one for all [C], or a number.

    >>> add(torch.ones(1, 2, 1, 1, 1), torch.tensor([1.0, 2.0])).flatten().tolist()
    [2.0, 3.0]
    """
    return _combine(torch.add, x, y)


def subtract(x: Voxels, y: Voxels | Tensor | float) -> Voxels:
    """x − y; y as in `add`.

    >>> subtract(torch.ones(1, 2, 1, 1, 1), 3.0).flatten().tolist()
    [-2.0, -2.0]
    """
    return _combine(torch.sub, x, y)


def multiply(x: Voxels, y: Voxels | Tensor | float) -> Voxels:
    """x · y; y as in `add`. A vector per cloud is a gate, as squeeze-and-excite has it.

    >>> multiply(torch.ones(2, 1, 1, 1, 1), torch.tensor([[0.5], [2.0]])).flatten().tolist()  # a gate per cloud
    [0.5, 2.0]
    """
    return _combine(torch.mul, x, y)


def divide(x: Voxels, y: Voxels | Tensor | float) -> Voxels:
    """x / y; y as in `add`. Of voxels, only numbers and vectors divide: empty cells of a grid are zero.

    >>> divide(torch.ones(1, 2, 1, 1, 1), torch.tensor([2.0, 4.0])).flatten().tolist()
    [0.5, 0.25]
    """
    return _combine(torch.div, x, y)


def power(x: Voxels, exponent: float) -> Voxels:
    """x to the power of a positive number.

    >>> power(torch.full((1, 1, 1, 1, 1), 3.0), 2).item()
    9.0
    """
    return pointwise(lambda features: features**exponent, x)


def channels(x: Voxels, start: int | None, stop: int | None, step: int | None = None) -> Voxels:
    """The channels start:stop:step.

    >>> channels(torch.arange(4.0).view(1, 4, 1, 1, 1), 1, 3).flatten().tolist()
    [1.0, 2.0]
    """
    return pointwise(lambda features: features[:, start:stop:step], x)


def split(x: Voxels, sizes: int | Sequence[int]) -> tuple[Voxels, ...]:
    """Split the channels as `torch.split` does.

    >>> [part.shape[1] for part in split(torch.zeros(1, 5, 2, 2, 2), [1, 4])]
    [1, 4]
    """
    features = x.features if isinstance(x, VoxelTensor) else x.grid if isinstance(x, DenseVoxels) else x
    parts = torch.split(features, sizes if isinstance(sizes, int) else list(sizes), 1)
    return tuple(part if isinstance(x, Tensor) else x.replace(part) for part in parts)


def chunk(x: Voxels, chunks: int) -> tuple[Voxels, ...]:
    """Split the channels as `torch.chunk` does.

    >>> [part.shape[1] for part in chunk(torch.zeros(1, 5, 2, 2, 2), 2)]
    [3, 2]
    """
    features = x.features if isinstance(x, VoxelTensor) else x.grid if isinstance(x, DenseVoxels) else x
    return split(x, -(-features.shape[1] // chunks))


def shuffle(x: Voxels, groups: int) -> Voxels:
    """Channel shuffle (ShuffleNet): channels [groups, C / groups] become [C / groups, groups].

    >>> shuffle(torch.arange(4.0).view(1, 4, 1, 1, 1), 2).flatten().tolist()
    [0.0, 2.0, 1.0, 3.0]
    """
    return pointwise(lambda f: f.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2), x)


def sum_parts(x: Voxels, parts: int) -> Voxels:
    """Sum of the `parts` equal parts that lie one after another in the channels.

    >>> sum_parts(torch.arange(4.0).view(1, 4, 1, 1, 1), 2).flatten().tolist()
    [2.0, 4.0]
    """
    return pointwise(lambda features: features.unflatten(1, (parts, -1)).sum(1), x)


def channel_mean(x: Voxels) -> Voxels:
    """Mean over channels, as one channel.

    >>> channel_mean(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1)).item()
    2.0
    """
    return pointwise(lambda features: features.mean(1, keepdim=True), x)


def channel_max(x: Voxels) -> Voxels:
    """Maximum over channels, as one channel.

    >>> channel_max(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1)).item()
    3.0
    """
    return pointwise(lambda features: features.amax(1, keepdim=True), x)


def cat(parts: Sequence[Voxels]) -> Voxels:
    """Concatenate the channels of features on the same sites.

    >>> cat([torch.zeros(1, 2, 1, 1, 1), torch.zeros(1, 3, 1, 1, 1)]).shape[1]
    5
    """
    first = parts[0]
    for part in parts[1:]:
        _check_same(first, part)
    if isinstance(first, VoxelTensor):
        return first.replace(torch.cat([p.features for p in parts if isinstance(p, VoxelTensor)], 1))
    if isinstance(first, DenseVoxels):
        return first.replace(torch.cat([p.grid for p in parts if isinstance(p, DenseVoxels)], 1))
    return torch.cat([p for p in parts if isinstance(p, Tensor)], 1)


def spread(vectors: Tensor, like: Voxels) -> Voxels:
    """The vector of each cloud [B, C] at every site of `like`."""
    if isinstance(like, VoxelTensor):
        return like.replace(vectors[like.sites.batch])
    grid = like.grid if isinstance(like, DenseVoxels) else like
    cells = vectors[..., None, None, None].expand(-1, -1, *grid.shape[2:])
    return like.replace(cells) if isinstance(like, DenseVoxels) else cells


def global_mean(x: Voxels) -> Tensor:
    """Mean over the occupied sites of each cloud: [B, C].

    >>> grid = torch.tensor([3.0, 0.0]).view(1, 1, 2, 1, 1)
    >>> global_mean(DenseVoxels(grid, grid > 0))
    tensor([[3.]])
    """
    if isinstance(x, VoxelTensor):
        total = segment_sum(x.features, x.sites.batch, x.batch_size)
        return total / x.sites.counts.clamp(min=1).unsqueeze(
            1
        )  # counted once a batch: on a GPU the host waits for that
    if isinstance(x, DenseVoxels):
        return x.grid.sum((2, 3, 4)) / x.mask.sum((2, 3, 4)).clamp(min=1)
    return x.mean((2, 3, 4))


def global_sum(x: Voxels) -> Tensor:
    """Sum over the occupied sites of each cloud: [B, C].

    >>> global_sum(torch.ones(1, 1, 2, 2, 2))
    tensor([[8.]])
    """
    if isinstance(x, VoxelTensor):
        return segment_sum(x.features, x.sites.batch, x.batch_size)
    return (x.grid if isinstance(x, DenseVoxels) else x).sum((2, 3, 4))


def global_max(x: Voxels) -> Tensor:
    """Maximum over the occupied sites of each cloud: [B, C].

    >>> global_max(torch.arange(8.0).view(1, 1, 2, 2, 2))
    tensor([[7.]])
    """
    if isinstance(x, VoxelTensor):
        return segment_max(x.features, x.sites.batch, x.batch_size)
    if isinstance(x, DenseVoxels):
        return torch.where(x.mask, x.grid, -torch.inf).amax((2, 3, 4))
    return x.amax((2, 3, 4))


def softmax_over_sites(x: Voxels) -> Voxels:
    """Softmax of each channel over the sites of each cloud.

    >>> softmax_over_sites(torch.zeros(1, 1, 2, 1, 2)).flatten().tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    weights = pointwise(torch.exp, subtract(x, global_max(x).detach()))
    return divide(weights, global_sum(weights))


def weighted_sum(x: Voxels, weights: Voxels) -> Tensor:
    """Sum of x · weights over the sites of each cloud: [B, C].

    >>> weighted_sum(torch.ones(1, 1, 1, 1, 2), torch.full((1, 1, 1, 1, 2), 0.5))
    tensor([[1.]])
    """
    return global_sum(multiply(x, weights))


_SPACE = (1, 2, 3)  # of a grid with channels last


def _channels_last(grid: Tensor) -> Tensor:
    return grid.permute(0, 2, 3, 4, 1)


def _channels_first(grid: Tensor) -> Tensor:
    return grid.permute(0, 4, 1, 2, 3)


def _combine(function: Callable[..., Tensor], x: Voxels, y: Voxels | Tensor | float) -> Voxels:
    if not isinstance(y, VoxelTensor | DenseVoxels) and (not isinstance(y, Tensor) or y.ndim < 3):
        if isinstance(y, Tensor) and y.ndim == 2:
            y = y[x.sites.batch] if isinstance(x, VoxelTensor) else y[..., None, None, None]
        elif isinstance(y, Tensor) and y.ndim == 1 and not isinstance(x, VoxelTensor):
            y = y.view(-1, 1, 1, 1)
        return pointwise(lambda features: function(features, y), x)
    _check_same(x, y)
    if isinstance(x, VoxelTensor) and isinstance(y, VoxelTensor):
        return x.replace(function(x.features, y.features))
    if isinstance(x, DenseVoxels) and isinstance(y, DenseVoxels):
        return x.replace(function(x.grid, y.grid))
    assert isinstance(x, Tensor) and isinstance(y, Tensor)
    return function(x, y)


def _check_same(x: Voxels, y: Voxels) -> None:
    if type(x) is not type(y):
        raise VoxelError(f"cannot combine {type(x).__name__} with {type(y).__name__}")
    if isinstance(x, VoxelTensor) and isinstance(y, VoxelTensor):
        same = x.sites.same(y.sites)
    elif isinstance(x, DenseVoxels) and isinstance(y, DenseVoxels):
        # A traced program cannot ask for values.
        same = x.mask is y.mask or torch.compiler.is_compiling() or torch.equal(x.mask, y.mask)
    else:
        return
    if not same:
        raise VoxelError("cannot combine features on different sites: both must come from the same voxels and scale")
