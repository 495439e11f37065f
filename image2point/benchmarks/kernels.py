"""Kinds of kernels side by side on our engine: what it costs that the depth of an inflated kernel trains.

`inflated`: one 2D kernel in every slice, frozen; backward gives the data gradient. `depth`: the same with K numbers
along the depth, which train; backward gives their gradient too. `depth:channels`: K for each input channel.
`general`: a frozen kernel of 27 matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from image2point.benchmarks.conv import WINDOW
from image2point.benchmarks.timing import compare, seconds_on_device
from image2point.voxels import Sites, neighbour_table
from image2point.voxels.conv.autograd import convolve
from image2point.voxels.conv.depth import convolve_along
from image2point.voxels.remember import Forms

KINDS = ("depth", "depth:channels", "inflated", "general")


def measure_kernels(
    sites: Sites,
    channels: int,
    dtype: torch.dtype,
    engine: str,
    kinds: Sequence[str],
    repeats: int,
    depthwise: bool = False,
) -> Iterator[dict[str, Any]]:
    """One row per kind of kernel: milliseconds forward, and forward with all gradients, and both as multiples of
    `inflated`, which is measured whether it is asked for or not. Tables and packed kernels are made before.
    """
    device, groups = sites.device, channels if depthwise else 1
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(channels, channels // groups, 3, 3, 1, generator=generator).to(device, dtype)
    whole = torch.randn(channels, channels // groups, 3, 3, 3, generator=generator).to(device, dtype)
    depth = torch.tensor([0.9, 1.0, 1.1], device=device, dtype=dtype).requires_grad_()
    each = depth.detach().expand(channels, -1).clone().requires_grad_()
    trains = {"depth": [depth], "depth:channels": [each]}
    x = torch.randn(len(sites), channels, generator=generator).to(device, dtype)
    table = neighbour_table(sites, WINDOW)
    of_flat, of_whole = Forms(flat), Forms(whole)
    kernels: dict[str, Callable[[Tensor], Tensor]] = {
        "inflated": lambda f: convolve(f, flat, table, groups, engine, of_flat),
        "depth": lambda f: convolve_along(f, flat, depth, table, groups, engine, of_flat),
        "depth:channels": lambda f: convolve_along(f, flat, each, table, groups, engine, of_flat),
        "general": lambda f: convolve(f, whole, table, groups, engine, of_whole),
    }
    wanted = {name: kernels[name] for name in ("inflated", *kinds)}
    forward = compare(
        {name: _forward(kernel, x) for name, kernel in wanted.items()}, device, repeats, seconds_on_device
    )
    both = compare(
        {name: _both(kernel, x, trains.get(name, [])) for name, kernel in wanted.items()},
        device,
        repeats,
        seconds_on_device,
    )
    for name in kinds:
        yield {
            "voxels": len(sites), "stride": sites.stride, "channels": channels, "groups": groups,
            "dtype": str(dtype).removeprefix("torch."), "kernel": name,
            "forward_ms": 1e3 * forward[name], "fwd_bwd_ms": 1e3 * both[name],
            "fwd_ratio": forward[name] / forward["inflated"], "fwd_bwd_ratio": both[name] / both["inflated"],
        }  # fmt: skip


def _forward(kernel: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            kernel(x)

    return run


def _both(kernel: Callable[[Tensor], Tensor], x: Tensor, others: list[Tensor]) -> Callable[[], None]:
    features = x.clone().requires_grad_()
    gradient = torch.ones_like(x)

    def run() -> None:
        torch.autograd.grad(kernel(features), [features, *others], gradient)

    return run
