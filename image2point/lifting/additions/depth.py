"""The depth of inflated kernels as parameters: V[i, j, k] = depth[k] · W[i, j], W as it is, `depth` from the rule.

Ours: no other transfer has this degree of freedom. `repeat`, `mean` and `center` are points of it, so what is learnt
says which of them is right, layer by layer. K numbers per kernel, the same for all channels, are the least; with
`depth:channels` each input channel has K of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from image2point.errors import InputError
from image2point.lifting.kernels import AXES
from image2point.voxels import DepthConv, TiedConv, VoxelConv


def depth_values(rule: str, size: int, policy: str = "depth") -> Tensor:
    """The numbers by which a rule fills a depth of `size` slices, float64 [size].

    >>> depth_values("mean", 4).tolist(), depth_values("center", 3).tolist()
    ([0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0])

    Raises:
        InputError: where a rule does not fill it with multiples of one kernel.
    """
    ones = torch.ones(size, dtype=torch.float64)
    if rule == "rotate":
        raise InputError(
            f"policy {policy}: needs kernels inflated along one axis; lift with rule repeat, mean, center or tied"
        )
    if rule == "center":
        return (torch.arange(size) == size // 2).double()
    return ones / size if rule == "mean" else ones


def learnt(net: nn.Module) -> dict[str, list[float]]:
    """The numbers by which each kernel fills the depth now, by the name of its layer, in the order of the network.

    Where channels have numbers of their own, their means.
    """
    layers = ((name, layer) for name, layer in net.named_modules() if isinstance(layer, DepthConv))
    return {
        name: layer.depth.detach().double().view(-1, layer.depth.shape[-1]).mean(0).tolist() for name, layer in layers
    }


def takes(layer: nn.Module) -> bool:
    """Whether a layer is a convolution whose kernel was inflated along its depth axis: one wider than 1×1 in 2D."""
    if type(layer) not in (VoxelConv, TiedConv):
        return False
    assert isinstance(layer, VoxelConv)
    window = layer.window
    if window.kernel[AXES.index(layer.axis)] == 1:
        return False
    # The strided shortcut of the paper repeats one entry over s × s × s taps.
    spread = window.padding == (0, 0, 0) and window.kernel == (window.stride,) * 3
    return not (spread and all(torch.equal(k, k.roll(1, axis)) for k in [layer.kernel()] for axis in (2, 3, 4)))


def add(name: str, conv: VoxelConv, rule: str, by_channel: bool = False) -> DepthConv:
    """The same convolution with its depth as a parameter, [K] or, by channel, [C_in, K].

    Raises:
        InputError: where the kernel is not what the rule made of one 2D kernel.
    """
    axis = 2 + AXES.index(conv.axis)
    kernel = conv._repeat(conv.weight).detach()
    values = depth_values(rule, kernel.shape[axis]).to(kernel)
    middle = len(values) // 2
    flat = kernel.select(axis, middle) / values[middle]
    shape = [1] * 5
    shape[axis] = -1
    error = (flat.unsqueeze(axis) * values.view(shape) - kernel).abs().max()
    if error > 4 * torch.finfo(kernel.dtype).eps * kernel.abs().max():
        raise InputError(
            f"policy depth: {name}.weight {list(kernel.shape)} is not a 2D kernel that the rule {rule} lifted along "
            f"{conv.axis}, or not any more; apply the policy to a network as it was lifted"
        )
    return DepthConv.of(conv, flat.clone(), values.repeat(flat.shape[1] * conv.groups, 1) if by_channel else values)
