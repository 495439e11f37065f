"""Other people's sparse convolutions, each as a function of the features for given sites and kernel.

All are optional. A peer that is not installed is named with the reason, and one that gives another result than the
reference is reported as wrong and not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.datasets.files import import_open3d
from image2point.errors import one_line
from image2point.voxels import Sites, VoxelTensor, Window, neighbour_table

Convolution: TypeAlias = Callable[[Tensor], Tensor]
"""[N, C_in] → [N, C_out], rows in the order of the sites; differentiable."""


class Missing(Exception):
    """A peer that cannot run here; the message says why."""


def _brought(error: Exception) -> str:
    return ": pip install 'image2point[bench]'" if isinstance(error, ImportError) else ""


def open3d(sites: Sites, weight: Tensor) -> Convolution:
    """`open3d.ml.torch.ops.sparse_conv` on our neighbour table."""
    try:
        import_open3d()
        import open3d.ml.torch as ml3d
    except Exception as error:  # a plain Exception where its operators were built for another torch
        raise Missing(f"open3d.ml.torch cannot be imported ({type(error).__name__})") from None
    if sites.device.type != "cpu":
        raise Missing("the package open3d-cpu has no CUDA operators")
    size = (weight.shape[2], weight.shape[3], weight.shape[4])
    table = neighbour_table(sites, _window(size))
    index = table.index()
    row, tap = (index >= 0).nonzero(as_tuple=True)
    neighbours = index[row, tap]
    splits = F.pad((index >= 0).sum(1).cumsum(0), (1, 0))
    x, y, z = (torch.div(tap, size[1] * size[2], rounding_mode="floor"),
               torch.div(tap, size[2], rounding_mode="floor") % size[1], tap % size[2])  # fmt: skip
    kernel_index = ((z * size[1] + y) * size[0] + x).to(torch.uint8)  # theirs is [z, y, x, C_in, C_out]
    filters = weight.permute(4, 3, 2, 1, 0).contiguous()
    nothing = torch.empty(0)

    def convolve(features: Tensor) -> Tensor:
        return ml3d.ops.sparse_conv(
            filters, features, nothing, neighbours, kernel_index, nothing, splits, normalize=False, max_temp_mem_MB=256
        )

    return convolve


def ocnn(sites: Sites, weight: Tensor) -> Convolution:
    """`ocnn.nn.OctreeConv` on octrees of the same voxels, non-empty nodes only."""
    try:
        import ocnn as package
        from ocnn.octree import Octree, Points, merge_octrees
    except ImportError as error:
        raise Missing(f"ocnn cannot be imported ({error}){_brought(error)}") from None
    lower, upper = sites.bounds
    depth = max((max(upper) - min(lower)).bit_length(), 2)
    if depth > 16 or tuple(weight.shape[2:]) != (3, 3, 3):
        raise Missing("its octrees have at most 16 levels and its kernels here 3×3×3 taps")
    trees = []
    for cloud in range(sites.batch_size):
        index = sites.coordinates[sites.batch == cloud, 1:] - min(lower)
        points = Points(((index.float() + 0.5) / (1 << depth - 1)) - 1)
        tree = Octree(depth, full_depth=2, device=sites.device)
        tree.build_octree(points)
        trees.append(tree)
    tree = merge_octrees(trees)
    tree.construct_all_neigh()
    x, y, z, batch = (part.int() for part in tree.xyzb(depth, nempty=True))
    theirs = Sites(torch.stack([batch, x + min(lower), y + min(lower), z + min(lower)], 1), sites.batch_size)
    to_theirs = torch.searchsorted(sites.keys, theirs.keys)
    to_ours = torch.argsort(to_theirs)
    layer = package.nn.OctreeConv(weight.shape[1], weight.shape[0], [3], nempty=True).to(weight)
    layer.requires_grad_(False)
    layer.weights.copy_(weight.flatten(2).permute(2, 1, 0))

    def convolve(features: Tensor) -> Tensor:
        return layer(features[to_theirs], tree, depth)[to_ours]

    return convolve


def spconv(sites: Sites, weight: Tensor) -> Convolution:
    """`spconv.pytorch.SubMConv3d`; on a CPU it is right with one thread only."""
    try:
        import spconv.pytorch as package
    except Exception as error:
        raise Missing(f"spconv cannot be imported ({type(error).__name__}: {error}){_brought(error)}") from None
    if sites.device.type == "cpu" and torch.get_num_threads() > 1:
        raise Missing("on a CPU it gives wrong results with more than one thread; run with --threads 1")
    lower, upper = sites.bounds
    shape = [high - low + 1 for low, high in zip(lower, upper, strict=True)]
    coordinates = sites.coordinates.clone()
    coordinates[:, 1:] -= torch.tensor(lower, dtype=torch.int32, device=sites.device)
    layer = package.SubMConv3d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), bias=False, indice_key="k")
    layer = layer.to(weight).requires_grad_(False)
    layer.weight.copy_(weight.permute(0, 2, 3, 4, 1))
    keep: dict[str, object] = {}

    def convolve(features: Tensor) -> Tensor:
        voxels = package.SparseConvTensor(features, coordinates, shape, sites.batch_size, indice_dict=keep)
        result: Tensor = layer(voxels).features
        return result

    return convolve


def dense(sites: Sites, weight: Tensor) -> Convolution:
    """`torch.nn.functional.conv3d` on the whole grid, by oneDNN or cuDNN, with the way there and back."""
    lower, upper = sites.bounds
    shape = [high - low + 1 for low, high in zip(lower, upper, strict=True)]
    cells = sites.batch_size * shape[0] * shape[1] * shape[2]
    if cells * max(weight.shape[:2]) * weight.element_size() > 4 << 30:
        raise Missing("the grid would take more than 4 GiB")
    index = (sites.coordinates.long() - torch.tensor([0, *lower], device=sites.device)).unbind(1)
    padding = [(k - 1) // 2 for k in weight.shape[2:]]

    def convolve(features: Tensor) -> Tensor:
        grid = features.new_zeros(sites.batch_size, *shape, features.shape[1]).index_put(index, features)
        return F.conv3d(grid.permute(0, 4, 1, 2, 3), weight, padding=padding).permute(0, 2, 3, 4, 1)[index]

    return convolve


PEERS: dict[str, Callable[[Sites, Tensor], Convolution]] = {
    "open3d": open3d,
    "ocnn": ocnn,
    "spconv": spconv,
    "dense": dense,
}


class Prepared(NamedTuple):
    """A peer that gave the expected result. `no_gradient` says why its data gradient is not timed, if it is not."""

    convolve: Convolution
    no_gradient: str | None


def prepared(name: str, voxels: VoxelTensor, weight: Tensor, expected: Tensor, expected_gradient: Tensor) -> Prepared:
    """A peer, set up for these sites and this kernel, and checked.

    Args:
        expected: [N, C_out], what it has to give; expected_gradient: [N, C_in], of the sum of that by the features.

    Raises:
        Missing: where it cannot run, or runs and is wrong.
    """
    tolerance = 1e-3 if weight.dtype == torch.float32 else 5e-2
    with torch.no_grad():
        try:
            convolve = PEERS[name](voxels.sites, weight)
            error = _error(convolve(voxels.features), expected)
        except (RuntimeError, AssertionError, NotImplementedError) as failure:
            raise Missing(f"failed: {_line(failure)}") from None
    if not error < tolerance:
        raise Missing(f"WRONG: off by {error:.1e} of the largest value")
    features = voxels.features.clone().requires_grad_()
    try:
        gradient = torch.autograd.grad(convolve(features).sum(), features)[0]
    except (RuntimeError, AssertionError, NotImplementedError) as failure:
        return Prepared(convolve, f"no data gradient here: {_line(failure)}")
    error = _error(gradient, expected_gradient)
    return Prepared(convolve, None if error < tolerance else f"WRONG data gradient: off by {error:.1e}")


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _line(failure: Exception) -> str:
    return one_line(failure, 120)


def _window(size: tuple[int, int, int]) -> Window:
    return Window(size, 1, ((size[0] - 1) // 2, (size[1] - 1) // 2, (size[2] - 1) // 2))
