"""Fair timing: warm contenders in turn, medians; and the limits of the machine to compare the times with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Work = Callable[[], Any]


def seconds(work: Work, device: torch.device) -> float:
    """Time of one call, with everything that it started on a GPU."""
    if device.type == "cuda":
        return _between_events(work, device)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def seconds_on_device(work: Work, device: torch.device, calls: int = 16) -> float:
    """Time that a GPU takes for one call, when calls are started faster than it finishes them; `seconds` elsewhere.

    The GPU sleeps until all calls are queued, so that the host's time to start them does not count, except for a
    contender that waits for the GPU within a call.
    """
    return seconds(work, device) if device.type != "cuda" else _between_events(work, device, calls, asleep=50_000_000)


def _between_events(work: Work, device: torch.device, calls: int = 1, asleep: int = 0) -> float:
    """Seconds of a GPU for each call; asleep: cycles that it waits first, 50 million being some 30 ms."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    if asleep:
        torch.cuda._sleep(asleep)
    begin.record()
    for _ in range(calls):
        work()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1000 / calls


def compare(
    contenders: Mapping[str, Work],
    device: torch.device,
    repeats: int = 7,
    clock: Callable[[Work, torch.device], float] = seconds,
) -> dict[str, float]:
    """Median seconds of each contender.

    They take turns, so that other load on the machine affects all of them. Each is called once before the first turn,
    to build plans and tune kernels, and once before each timed call, so that what the previous contender left in the
    caches does not count.
    """
    for work in contenders.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            work()
            times[name].append(clock(work, device))
    return {name: statistics.median(values) for name, values in times.items()}


def gemm_ceiling(device: torch.device, dtype: torch.dtype, rows: int = 4096, channels: int = 256) -> float:
    """Operations per second of the better of two products: of square matrices, and of [rows, C]·[C, C]."""
    best = 0.0
    for m, k in ((2048, 2048), (rows, channels)):
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, k, device=device, dtype=dtype)
        out = torch.empty(m, k, device=device, dtype=dtype)
        taken = min(seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device) for _ in range(6))  # type: ignore[misc]
        best = max(best, 2 * m * k * k / taken)
    return best


def copy_ceiling(device: torch.device, size: int = 1 << 28) -> float:
    """Bytes per second read and written by a copy far larger than the caches."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    taken = min(seconds(lambda: target.copy_(source), device) for _ in range(5))
    return 2 * size / taken


def machine(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> dict[str, Any]:
    """What the measurements were made on, and its ceilings."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    names = {dtype: str(dtype).removeprefix("torch.") for dtype in dtypes}
    ceilings = {f"gemm_gflops_{names[dtype]}": gemm_ceiling(device, dtype) / 1e9 for dtype in dtypes}
    return {
        "torch": torch.__version__,
        "device": name,
        "threads": torch.get_num_threads(),
        "copy_gb_per_s": copy_ceiling(device) / 1e9,
        **ceilings,
    }
