"""One 3×3×3 submanifold convolution with an inflated, frozen kernel: forward, and forward with the data gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from image2point.benchmarks import plain  # the engine of that name
from image2point.benchmarks.peers import Convolution, Missing, prepared
from image2point.benchmarks.timing import compare, seconds_on_device
from image2point.voxels import Sites, VoxelError, VoxelTensor, Window, neighbour_table
from image2point.voxels.conv import engines, reference
from image2point.voxels.conv.autograd import convolve
from image2point.voxels.plan import NeighbourTable

engines.MODULES.setdefault("plain", plain.__name__)
WINDOW = Window((3, 3, 3), 1, (1, 1, 1))
OWN = {"plain": "plain", "cpu": "cpu", "triton": "triton", "spconv-triton": "spconv"}
"""Contenders that are engines of this package; plain and spconv-triton multiply every tap."""


def measure_convolution(
    sites: Sites, channels: int, dtype: torch.dtype, engine: str, against: Sequence[str], ceiling: float, repeats: int
) -> Iterator[dict[str, Any]]:
    """One row per contender: seconds forward and with the data gradient, and ours as a share of the GEMM ceiling.

    Of a GPU, its own time (`timing.seconds_on_device`). The table is built before, as are the peers' own maps;
    `bench plan` tells what that costs.
    """
    device = sites.device
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(channels, channels, 3, 3, 1, generator=generator) / (9 * channels) ** 0.5
    weight = flat.expand(-1, -1, 3, 3, 3).contiguous().to(device, dtype)
    narrow = weight[..., :1]
    x = torch.randn(len(sites), channels, generator=generator).to(device, dtype)
    table = neighbour_table(sites, WINDOW)
    leaf = x.clone().requires_grad_()
    expected = reference.convolve(leaf, weight, table)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), leaf)
    expected = expected.detach()
    pairs = int((table.reads >= 0).sum())
    products = int((table.reads.view(9, 3, -1) >= 0).any(1).sum())

    contenders: dict[str, Convolution] = {"image2point": lambda f: convolve(f, narrow, table, 1, engine)}
    remarks: dict[str, str | None] = {"image2point": None}
    for name in against:
        try:
            if name in OWN:
                function = _own(name, weight, narrow, table)
                function(x)
                contenders[name], remarks[name] = function, None
                continue
            contenders[name], remarks[name] = prepared(name, VoxelTensor(x, sites), weight, expected, expected_gradient)
        except (Missing, VoxelError) as reason:
            yield {**_case(sites, channels, dtype), "engine": name, "remark": str(reason)}
    error = float((contenders["image2point"](x) - expected).abs().max() / expected.abs().max())
    calls = {name: _forward(function, x) for name, function in contenders.items()}
    forward = compare(calls, device, repeats, seconds_on_device)
    calls = {name: _both(contenders[name], x, expected) for name in contenders if remarks[name] is None}
    both = compare(calls, device, repeats, seconds_on_device)
    for name in contenders:
        work = 2 * channels**2 * (products if name == "image2point" else pairs)
        yield {
            **_case(sites, channels, dtype), "engine": name,
            "forward_ms": 1e3 * forward[name], "fwd_bwd_ms": 1e3 * both[name] if name in both else None,
            "fwd_ratio": forward[name] / forward["image2point"],
            "fwd_bwd_ratio": both[name] / both["image2point"] if name in both else None,
            "products_ratio": pairs / products, "gemm_share": work / forward[name] / ceiling,
            "error": error if name == "image2point" else None, "remark": remarks[name],
        }  # fmt: skip


def _own(name: str, weight: Tensor, narrow: Tensor, table: NeighbourTable) -> Convolution:
    kernel = narrow if name in ("cpu", "triton") else weight
    return lambda features: convolve(features, kernel, table, 1, OWN[name])


def _case(sites: Sites, channels: int, dtype: torch.dtype) -> dict[str, Any]:
    kind = str(dtype).removeprefix("torch.")
    return {"voxels": len(sites), "stride": sites.stride, "channels": channels, "dtype": kind}


def _forward(function: Convolution, x: Tensor) -> Any:
    def run() -> None:
        with torch.no_grad():
            function(x)

    return run


def _both(function: Convolution, x: Tensor, like: Tensor) -> Any:
    features, gradient = x.clone().requires_grad_(), torch.ones_like(like)

    def run() -> None:
        torch.autograd.grad(function(features), features, gradient)

    return run
