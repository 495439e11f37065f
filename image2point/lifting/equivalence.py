"""What any lifting must satisfy, measured: relative errors in float64 that exact arithmetic would make zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

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


class Completed(TorchFunctionMode):
    """Runs a 2D network with every window completed at the far border, to ceil(n / stride) outputs, as voxels have it.

    A layer without padding loses the border of its image in 2D. Voxels have no border, and the same sites come out as
    go in; `count` says in how many layers that makes a difference. Casts to single precision are left out.

    Args:
        whole: kernels that read a feature map as a whole, in 3D too (`MapConv`): they stay as they are.
    """

    def __init__(self, whole: Sequence[Any] = ()) -> None:
        super().__init__()
        self.whole, self.count = whole, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        if func in _PADS:
            padded = func(*args, **kwargs)
            padded.before_padding = args[0].shape[2:]
            return padded
        if func in _CONVOLUTIONS:
            return self._convolution(func, *args, **kwargs)
        if func in _MAX_POOLS:
            return self._max_pool(func, *args, **kwargs)
        if func in _AVG_POOLS:
            return self._avg_pool(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _convolution(
        self, func: Any, x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        if not isinstance(padding, str) and not any(weight is kernel for kernel in self.whole):
            x = self._extended(x, weight.shape[2:], stride, padding, dilation, 0.0)
        return func(x, weight, bias, stride, padding, dilation, groups)

    def _max_pool(
        self, func: Any, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Tensor:  # fmt: skip
        if not ceil_mode:
            x = self._extended(x, kernel_size, stride or kernel_size, padding, dilation, -torch.inf)
        return func(x, kernel_size, stride, padding, dilation, ceil_mode)

    def _avg_pool(
        self, func: Any, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: Any = None,
    ) -> Tensor:  # fmt: skip
        longer = x if ceil_mode else self._extended(x, kernel_size, stride or kernel_size, padding, 1, 0.0)
        if longer is x:
            return func(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        inside = F.pad(torch.ones_like(x), (0, longer.shape[3] - x.shape[3], 0, longer.shape[2] - x.shape[2]))
        total, cells = (func(t, kernel_size, stride, padding, False, True, 1) for t in (longer, inside))
        padded = count_include_pad and _two(padding) != (0, 0)
        size = _two(kernel_size)
        return total / (size[0] * size[1] if padded else cells.clamp(min=1))

    def _extended(self, x: Tensor, size: Any, stride: Any, padding: Any, dilation: Any, fill: float) -> Tensor:
        if x.ndim != 4 or x.shape[2:] == (1, 1):
            return x
        amounts, before = [], getattr(x, "before_padding", x.shape[2:])
        for axis in (1, 0):
            k, s, p, d = (_two(value)[axis] for value in (size, stride, padding, dilation))
            last = (-(-before[axis] // s) - 1) * s + d * (k - 1)
            amounts += [0, max(last + 1 - x.shape[2 + axis] - 2 * p, 0)]
        if not any(amounts):
            return x
        self.count += 1
        return F.pad(x, amounts, value=fill)


_PADS = (F.pad, torch._C._nn.pad)
_CONVOLUTIONS = (F.conv2d, torch.conv2d)
_MAX_POOLS = (F.max_pool2d, torch.max_pool2d)
_AVG_POOLS = (F.avg_pool2d,)


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest error relative to the largest expected magnitude; infinite where the shapes or a value are wrong."""
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    largest = expected.abs().max()
    return float((found - expected).abs().max() / (largest if largest > 0 else 1))


def worst(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest of the relative errors."""
    return max(relative(f, e) for f, e in zip(found, expected, strict=True))


def _two(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


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
    maps, scores = [_rows(value) for value in outputs["stages"].values()], outputs["logits"]
    return [*maps, scores if isinstance(scores, Tensor) and scores.ndim == 2 else _rows(scores)]


def _rows(x: Voxels) -> Tensor:
    if isinstance(x, VoxelTensor):
        return x.features
    return x.rows if isinstance(x, DenseVoxels) else x.permute(0, 2, 3, 4, 1).flatten(0, 3)
