"""What plans cost: coordinates, neighbour tables and what an engine derives from them; and how all cost grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from image2point.benchmarks.clouds import scales, surface
from image2point.benchmarks.timing import compare, seconds
from image2point.training.memory import peak, tensor_bytes
from image2point.voxels import Sites, Window, neighbour_table
from image2point.voxels.conv.autograd import convolve
from image2point.voxels.plan import NeighbourTable

SUBMANIFOLD, STRIDED = Window((3, 3, 3), 1, (1, 1, 1)), Window((3, 3, 3), 2, (1, 1, 1))


def measure_plans(sites: Sites, levels: int, channels: int, engine: str, repeats: int) -> Iterator[dict[str, Any]]:
    """One row per scale: milliseconds of each part of the plan, beside one convolution that uses it."""
    for scale in scales(sites, levels):
        times = compare(_parts(scale, channels, engine), sites.device, repeats)
        yield {
            "voxels": len(scale), "stride": scale.stride, "channels": channels,
            "coarsen_ms": 1e3 * times["coarsen"],
            "table_ms": 1e3 * times["table"],
            "strided_table_ms": 1e3 * (times["strided table"] - times["coarsen"]),
            "engine_form_ms": 1e3 * (times["first use"] - times["convolution"]),
            "convolution_ms": 1e3 * times["convolution"],
        }  # fmt: skip


def _parts(sites: Sites, channels: int, engine: str) -> dict[str, Callable[[], Any]]:
    x = torch.randn(len(sites), channels, device=sites.device)
    kernel = torch.randn(channels, channels, 3, 3, 1, device=sites.device)
    table = neighbour_table(sites, SUBMANIFOLD)

    def fresh() -> Sites:
        return Sites(sites.coordinates, sites.batch_size, sites.stride)

    def first_use() -> None:
        again = NeighbourTable(table.kernel, table.reads, table.sources, table.submanifold)
        convolve(x, kernel, again, 1, engine)

    return {
        "coarsen": lambda: fresh().coarsen(2),
        "table": lambda: neighbour_table(fresh(), SUBMANIFOLD),
        "strided table": lambda: neighbour_table(fresh(), STRIDED),
        "first use": first_use,
        "convolution": lambda: convolve(x, kernel, table, 1, engine),
    }


def measure_growth(largest: int, channels: int, engine: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """Cost per voxel from 10⁴ voxels to `largest`, and at the end the fitted exponents of time and memory."""
    rows: list[dict[str, float]] = []
    for exponent in range(8, 2 * int(math.log10(largest)) + 1):
        sites = surface(int(10 ** (exponent / 2)), seed=exponent).to(device)
        kernel = torch.randn(channels, channels, 3, 3, 1, device=device)
        plan = _first(sites, kernel, engine)
        x = torch.randn(len(sites), channels, device=device, requires_grad=True)

        def step(x: Any = x, kernel: Any = kernel, sites: Any = sites) -> None:
            convolve(x, kernel, neighbour_table(sites, SUBMANIFOLD), 1, engine).sum().backward()

        step()
        time = min(seconds(step, device) for _ in range(3))
        x.grad = None
        rows.append(
            {
                "voxels": len(sites), "plan_ns_per_voxel": 1e9 * plan / len(sites),
                "step_ns_per_voxel": 1e9 * time / len(sites),
                "plan_bytes_per_voxel": tensor_bytes([sites]) / len(sites),
                "step_peak_bytes_per_voxel": (peak(step, device) or 0) / len(sites),
            }
        )  # fmt: skip
        yield dict(rows[-1])
    yield {"voxels": "fitted exponent", **{key: 1 + _slope(rows, key) for key in list(rows[0])[1:]}}


def _first(sites: Sites, kernel: torch.Tensor, engine: str) -> float:
    """Seconds to build the table and what the engine derives from it."""
    x = torch.randn(len(sites), 1, device=kernel.device)
    thin = kernel[:1, :1]
    neighbour_table(surface(100).to(kernel.device), SUBMANIFOLD)
    return seconds(lambda: convolve(x, thin, neighbour_table(sites, SUBMANIFOLD), 1, engine), kernel.device)


def _slope(rows: list[dict[str, float]], key: str) -> float:
    """Slope of log(cost per voxel) over log(voxels), by least squares."""
    x = torch.tensor([math.log(row["voxels"]) for row in rows], dtype=torch.float64)
    y = torch.tensor([math.log(max(row[key], 1e-9)) for row in rows], dtype=torch.float64)
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
