"""Which tile sizes a kernel runs with: measured once per class of problem on a GPU, and remembered.

A class is everything that the choice may depend on, with numbers of rows reduced to their logarithm, so that the
changing sizes of batches do not start a new search. Choices are kept in memory and, per GPU model and Triton
version, in a file below the user's cache folder (`XDG_CACHE_HOME`). `IMAGE2POINT_TUNE=0` switches the search off: then
the first candidate, picked by hand, is used.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

import torch
import triton
from triton.runtime.errors import OutOfResources

from image2point.files import write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """How a kernel is cut up.

    Attributes:
        rows, outputs, inputs: size of a tile along rows, output channels and input channels.
        warps, stages: warps per program, and depth of its software pipeline.
        parts: programs that share the work of one tile; more than one where there are too few tiles to fill a GPU.
    """

    rows: int
    outputs: int
    inputs: int
    warps: int = 4
    stages: int = 3
    parts: int = 1


_KERNELS = 2  # to be raised with changes after which earlier choices mean nothing

_chosen: dict[tuple[str, tuple[object, ...]], Config] = {}


def choose(
    device: torch.device,
    key: tuple[object, ...],
    candidates: Callable[[], Sequence[Config]],
    run: Callable[[Config], object],
) -> Config:
    """The fastest of `candidates` for problems of the class `key` on `device`.

    Args:
        run: executes the kernel with one of them. It is called several times, so it must not change its inputs.
    """
    if device.type != "cuda":
        return candidates()[0]
    name = _device_name(device)
    if (name, key) in _chosen:
        return _chosen[name, key]
    if torch.cuda.is_current_stream_capturing():
        return candidates()[0]
    return search(name, key, candidates, run)


def search(
    name: str, key: tuple[object, ...], candidates: Callable[[], Sequence[Config]], run: Callable[[Config], object]
) -> Config:
    """What an earlier process found for GPUs of this name, else the fastest of those that fit; remembered."""
    chosen = _saved(name).get(_text(key))
    if chosen is None:
        fitting = (config for config in candidates() if _fits(config, run))
        if os.environ.get("IMAGE2POINT_TUNE") == "0":
            chosen = next(fitting, None)
        else:
            times = {config: _time(config, run) for config in fitting}
            chosen = min(times, key=lambda config: times[config], default=None)
            if chosen is not None:
                _save(name, _text(key), chosen)
        if chosen is None:
            raise RuntimeError(f"no Triton configuration for {_text(key)} fits {name}: {list(candidates())}")
        log.debug("triton %s: %s", _text(key), chosen)
    _chosen[name, key] = chosen
    return chosen


def _time(config: Config, run: Callable[[Config], object]) -> float:
    """Median milliseconds of one run, caches cold."""
    return triton.testing.do_bench(lambda: run(config), warmup=5, rep=20, return_mode="median")


def _fits(config: Config, run: Callable[[Config], object]) -> bool:
    """Whether this GPU has the shared memory and registers for a configuration. Compiles it, too."""
    try:
        run(config)
    except OutOfResources:
        return False
    return True


def ceil_div(size: int, part: int) -> int:
    """How many parts cover a size. Triton's own is a function for kernels, and takes microseconds outside of one."""
    return -(-size // part)


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << max(size - 1, 0).bit_length()


@cache
def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _text(key: tuple[object, ...]) -> str:
    return " ".join(str(part) for part in key)


def _file(name: str) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "image2point"
    return folder / (re.sub(r"[^\w.]+", "-", f"{name} triton {triton.__version__} kernels {_KERNELS}") + ".json")


@cache
def _saved(name: str) -> dict[str, Config]:
    return _read(_file(name))


def _read(file: Path) -> dict[str, Config]:
    """What an earlier process found; nothing where the file is missing or another version wrote it."""
    try:
        return {key: Config(*numbers) for key, numbers in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save(name: str, key: str, config: Config) -> None:
    """Add a choice to the file. A cache folder that cannot be written costs the next process the search, no more."""
    file = _file(name)
    choices = {**_read(file), key: config}  # read again: other processes write too
    with suppress(OSError):
        write_text(file, json.dumps({key: astuple(choice) for key, choice in sorted(choices.items())}, indent=0))
