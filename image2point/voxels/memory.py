"""How much memory a device has left."""

from __future__ import annotations

from pathlib import Path

import torch


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can be had on a device; None where it does not say.

    >>> free_bytes(torch.device("meta")) is None
    True
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None  # not Linux
    given = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    try:  # what this process's group may have, as in a container
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        given.append(limit - used + int(counts["file"]))  # what caches files is given back when it is needed
    except (OSError, ValueError, KeyError):
        pass  # no group, or no limit ("max")
    return min(given, default=None)
