"""What any lifting must satisfy, measured: relative errors in float64 that exact arithmetic would make zero."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from lifting_samples import relative, rows
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from image2point.lifting.completed import Completed
from image2point.lifting.lift_network import lift
from image2point.lifting.network import LiftedNetwork
from image2point.voxels import (
    AvgPool,
    BlurPool,
    DenseVoxels,
    GlobalResponseNorm,
    MapConv,
    MaxPool,
    Sites,
    Voxels,
    VoxelTensor,
)

IMAGE = (64, 32)
DEPTH = 4
BOX = (33, 9, 5)
GRID = (17, 6, 4)
EXACT: dict[str, Any] = {"weights": "module", "stem": "inflate", "downsample": "exact", "num_classes": None}


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in float64 and eval mode, with random norms, layer scales and whatever else is constant after
    initialisation: zeros there would multiply whole branches away."""
    draw = torch.Generator().manual_seed(seed)
    network = network.double().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
                low, high = (-0.2, 0.2) if name.endswith("bias") else (0.5, 1.0)
                parameter.uniform_(low, high, generator=draw)
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.uniform_(-0.2, 0.2, generator=draw)
                module.running_var.uniform_(0.5, 2.0, generator=draw)
    return network


def lifted(network: nn.Module, **options: Any) -> LiftedNetwork:
    """The network lifted with nothing fresh in it, in float64 and eval mode."""
    net = lift(network, **{**EXACT, **options})
    for module in net.modules():
        if isinstance(module, GlobalResponseNorm):
            module.eps = 0.0  # see `_guardless`
    return net.double().eval()


def depth_constant(network: nn.Module, **options: Any) -> tuple[float, int]:
    """Stage maps and class scores of `mean` on an image repeated along depth against the 2D network's on the image.

    Returns:
        The error; and how many windows of the 2D network had to be completed at the far border (see `Completed`).
    """
    net = lifted(network, rule="mean", depth_padding="replicate", **options)
    image = _normal((1, _channels(net), *IMAGE), 1)
    whole = [network.get_submodule(name).weight for name, module in net.named_modules() if isinstance(module, MapConv)]
    with torch.no_grad():
        found = net._run(image.unsqueeze(-1).repeat(1, 1, 1, 1, DEPTH))
        with Completed(whole) as completed, _Outputs(network, found["stages"]) as stages:
            scores = _guardless(network)(image)
    if found["logits"].ndim == 5:  # a score for every pixel
        scores = _volumes(scores, found["logits"].shape[-1])[0]
    errors = [relative(found["logits"], scores)]
    for name, volume in found["stages"].items():
        if name in stages:
            errors.append(min(relative(volume, layout) for layout in _volumes(stages[name], volume.shape[-1])))
    return max(errors), completed.count


def sparse_against_masked(net: LiftedNetwork) -> float:
    """Stage maps and class scores on sparse voxels against those on the masked grid."""
    x = _cloud(_channels(net))
    with torch.no_grad():
        return worst(_outputs(net, x), _outputs(net, x.dense()))


def occupied_against_plain(net: LiftedNetwork) -> float | None:
    """Stage maps and class scores where every cell is occupied against those on the plain grid.

    The occupied cells are sparse voxels, or a masked grid where the network was lifted for dense ones.

    None where it cannot hold: blur, and pooling that counts padding, treat the border of a plain grid as the 2D network
    treats that of an image, and voxels have no border.
    """
    for module in net.modules():
        if isinstance(module, BlurPool) or (isinstance(module, AvgPool | MaxPool) and module.padding_counts):
            return None
    grid = _normal((2, _channels(net), *GRID), 2)
    full = DenseVoxels(grid, torch.ones(2, 1, *grid.shape[2:], dtype=torch.bool))
    with torch.no_grad():
        return worst(_outputs(net, full.sparse()), _outputs(net, grid))


def turned(net: LiftedNetwork, axis: str | None = None) -> list[Tensor]:
    """Stage maps and class scores of one cloud that is turned so that its z axis is the depth axis of the network.

    The other two axes of the cloud keep their order, as those of an image do on the remaining axes. A network gives the
    same whichever axis it was lifted along.

    Args:
        axis: where the z axis goes; the network's depth axis where it is not given.

    Returns:
        Features of the sites [N, C] of each stage, in the order of the cloud before it was turned; scores [B, classes].
    """
    order = [0, 1]  # where each axis of the turned cloud comes from
    order.insert("xyz".index(axis or str(net.lifting.options.axis)), 2)
    x = _reordered(_cloud(_channels(net)), order)
    back = [order.index(source) for source in range(3)]
    with torch.no_grad():
        outputs = net._run(x)  # both from one pass
    values = [v.sparse() if isinstance(v, DenseVoxels) else v for v in (*outputs["stages"].values(), outputs["logits"])]
    return [_reordered(value, back).features if isinstance(value, VoxelTensor) else value for value in values]


def _reordered(x: VoxelTensor, order: list[int]) -> VoxelTensor:
    """The voxels with their axes in another order."""
    moved = x.coordinates[:, [0, *(1 + source for source in order)]]
    rows = torch.tensor(sorted(range(len(moved)), key=moved.tolist().__getitem__))
    return VoxelTensor(x.features[rows], Sites.of(moved[rows].contiguous(), x.batch_size, x.stride))


class _Outputs(dict[str, Tensor]):
    """What the named modules of a 2D network give while it runs."""

    def __init__(self, network: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.network, self.names = network, list(names)

    def __enter__(self) -> _Outputs:
        self.handles = [
            self.network.get_submodule(name).register_forward_hook(partial(self._note, name)) for name in self.names
        ]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _note(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self[name] = output.clone()  # before something writes into it


def _volumes(image: Tensor, depth: int) -> list[Tensor]:
    """An image repeated along depth; its channels may come last, which its shape does not always tell."""
    return [layout.unsqueeze(-1).expand(-1, -1, -1, -1, depth) for layout in (image, image.permute(0, 3, 1, 2))]


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest of the relative errors."""
    return max(relative(f, e) for f, e in zip(found, expected, strict=True))


def _guardless(network: nn.Module) -> nn.Module:
    """Global response norm divides by a sum of lengths, and adds a guard that counts for less the more cells there
    are: in these comparisons, where the cells are more in 3D, it has none."""
    for module in network.modules():
        if type(module).__name__ == "GlobalResponseNorm":
            module.eps = 0.0  # type: ignore[assignment]
    return network


def _channels(net: LiftedNetwork) -> int:
    return net.lifting.options.in_channels


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _cloud(channels: int) -> VoxelTensor:
    """Two clouds in a long box, a third of it occupied: neighbours at every scale, and small as a grid."""
    occupied = torch.rand(2, *BOX, generator=torch.Generator().manual_seed(3)) < 0.35
    occupied[:, -1, -1, -1] = True
    sites = Sites.of(occupied.nonzero().to(torch.int32), 2)
    return VoxelTensor(_normal((len(sites), channels), 4), sites)


def _outputs(net: LiftedNetwork, x: Voxels) -> list[Tensor]:
    outputs = net._run(x)
    maps, scores = [rows(value) for value in outputs["stages"].values()], outputs["logits"]
    return [*maps, scores if isinstance(scores, Tensor) and scores.ndim == 2 else rows(scores)]
