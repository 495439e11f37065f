"""Peak memory: of a GPU as torch counts it, of this process as Linux does."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD, mallopt(3)
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def return_freed_blocks() -> None:
    """Have glibc give every block of 1 MiB and more back to the system when it is freed, in this process, from now on.

    By default it learns to keep blocks of up to 32 MiB. The high-water mark then says what it keeps, which differs by a
    tenth from run to run, and not what the work needs. This is slower: not for processes that measure time.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 1 << 20)


def begin(device: torch.device) -> bool:
    """Let the high-water mark of `highest` begin anew; False where the system has none."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text("5")  # proc(5)
        return "VmHWM" in _STATUS.read_text()
    except OSError:  # no Linux, or a container that forbids it
        return False


def highest(device: torch.device) -> int:
    """Most bytes that were in use at once since `begin`: of a GPU by tensors, else by this process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def peak(work: Callable[[], Any], device: torch.device) -> int | None:
    """Bytes by which memory rises, at the most, while `work` runs; None where the system cannot tell."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    if not begin(device):
        work()
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept would hide what is taken next
    begin(device)
    before = _status("VmRSS")
    work()
    return highest(device) - before


def tensor_bytes(objects: Iterable[object]) -> int:
    """Bytes of all tensors in nested dataclasses, containers and objects, each storage counted once."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    stack = list(objects)
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
        elif hasattr(item, "__dict__"):
            stack.extend(vars(item).values())
    return sum(storages.values())


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
