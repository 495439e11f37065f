"""2D kernels → 3D kernels: pure functions of tensors.

A 2D kernel is [C_out, C_in / groups, K1, K2], a 3D one [C_out, C_in / groups, Kx, Ky, Kz]. The rows and columns of
the 2D kernel lie on the two axes that are not the depth axis, in order: axis z: W[x, y]; y: W[x, z]; x: W[y, z].
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import ceil, prod, sqrt
from typing import get_args

import torch
from torch import Tensor

from image2point.config.lifting import AxisName, Rule

AXES: tuple[str, ...] = get_args(AxisName)
RULES = tuple(rule for rule in get_args(Rule) if rule != "tied")
"""The rules that make a 3D kernel once; under `tied` the 2D kernel stays the parameter."""


def inflate(kernel: Tensor, rule: str, axis: str) -> Tensor:
    """Fill the depth of a 3D kernel from a 2D kernel.

    The depth has as many slices as the shorter side of the 2D kernel: K for K×K, and one for 1×K and K×1, which thus
    stay lines.

    Args:
        kernel: [C_out, C_in / groups, K1, K2].
        rule: "repeat" copies the kernel into each of the K depth slices, undivided (Xu et al., Image2Point, 2022);
            "mean" also divides by K, so that an input constant along depth gives the 2D response (Carreira and
            Zisserman, I3D, 2017); "center" puts it into slice K // 2 and zeros elsewhere; "rotate" is the mean of the
            "center" kernel and its two turns about the diagonal (x → y → z → x), so that no axis is special.
        axis: the depth axis, x, y or z. Under "rotate" x and z are the same; y, which leaves the image axes the other
            way round, is their mirror image.

    Returns:
        [C_out, C_in / groups, Kx, Ky, Kz].

    Raises:
        ValueError: on an unknown rule, or where "rotate" gets a kernel that is not square.
    """
    if rule == "rotate":
        if kernel.shape[2] != kernel.shape[3]:
            raise ValueError(f"rotate needs a square kernel, found {list(kernel.shape[2:])}")
        # Turned about the diagonal, rows and columns lie on (x, y), (y, z) and (z, x): the last are in reverse order.
        flipped = kernel.transpose(2, 3)
        turns = {"x": kernel, "y": flipped, "z": kernel} if axis != "y" else {"x": flipped, "y": kernel, "z": flipped}
        on_x, on_y, on_z = (inflate(plane, "center", depth) for depth, plane in turns.items())
        return (on_x + on_y + on_z) / 3
    depth = 2 + AXES.index(axis)
    size = min(kernel.shape[2:])
    flat = kernel.unsqueeze(depth)
    if rule == "center":
        inflated = torch.zeros_like(flat).repeat_interleave(size, depth)
        inflated.select(depth, size // 2).copy_(kernel)
        return inflated
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, found {rule!r}")
    repeated = flat.repeat_interleave(size, depth)
    return repeated / size if rule == "mean" else repeated


def spread(kernel: Tensor, size: int) -> Tensor:
    """Repeat a 1×1 kernel over size × size × size, undivided: Image2Point's strided shortcut.

    [C_out, C_in / groups, 1, 1] → [C_out, C_in / groups, size, size, size].
    """
    return kernel.unsqueeze(-1).expand(-1, -1, size, size, size).contiguous()


def adapt_input(kernel: Tensor, channels: int, parts: int = 1) -> Tensor:
    """Fit a first kernel [C_out, C, K, K] to another number of input channels, as timm does.

    One channel gets the sum over the old ones; more or fewer repeat the old ones in turn, scaled by C / channels so
    that the response to equal channels stays.

    Args:
        channels: the number of input channels that are wanted.
        parts: the kernel reads C channels of each of so many pixels, pixel by pixel: [C_out, parts · C, K, K].
    """
    if parts > 1:
        adapted = adapt_input(kernel.unflatten(1, (parts, -1)).flatten(0, 1), channels)
        return adapted.unflatten(0, (-1, parts)).flatten(1, 2)
    old = kernel.shape[1]
    if channels == old:
        return kernel
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    return kernel.repeat(1, ceil(channels / old), 1, 1)[:, :channels] * (old / channels)


def same_padding(size: int, stride: int, dilation: int) -> int:
    """Near-side padding that TensorFlow's `same` rule gives an input whose length the stride divides."""
    return max(dilation * (size - 1) + 1 - stride, 0) // 2


def generator(seed: int, name: str) -> torch.Generator:
    """Random numbers for the parameter `name`: they depend on the seed and the name, and on nothing drawn before.

    Two networks lifted with one seed thus get the same fresh stem and head, whatever else differs between them.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def kaiming_normal(shape: Sequence[int], groups: int, draw: torch.Generator) -> Tensor:
    """Normal kernel of variance 2 / fan_out (He et al., 2015), fan_out = C_out / groups · taps."""
    fan_out = shape[0] // groups * prod(shape[2:])
    return torch.empty(*shape).normal_(0.0, sqrt(2.0 / fan_out), generator=draw)
