"""The engines of the sparse convolution, and the choice among them.

`reference` goes tap by tap and is differentiated by torch. The others are modules with the functions of `Engine`.
`auto` takes Triton on a GPU where it is installed and able, and `cpu` everywhere else; what was taken is logged once.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from typing import Protocol, cast

import torch
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.remember import Forms

logger = logging.getLogger("image2point")

MODULES = {
    "cpu": "image2point.voxels.conv.cpu",
    "triton": "image2point.voxels.conv.triton_engine",
    "spconv": "image2point.voxels.conv.spconv_engine",
}
ENGINES = ("auto", "reference", *MODULES)


class Engine(Protocol):
    """What the module of an engine has. Both operations are called without autograd."""

    def unavailable(self, device: torch.device) -> str | None:
        """Why the engine cannot run on a device at all, or None."""

    def unsupported(self, features: Tensor, weight: Tensor, table: NeighbourTable, groups: int) -> str | None:
        """Why it cannot run one convolution (its type or shape), or None."""

    def multiply(
        self,
        features: Tensor,
        weight: Tensor,
        table: NeighbourTable,
        groups: int = 1,
        backward: bool = False,
        forms: Forms | None = None,
    ) -> Tensor:
        """Convolve.

        Args:
            features: [N, C_in], a row per source of the table (per target if `backward`).
            weight: [C_out, C_in / groups, kx, ky, kz]. An axis along which it has size 1 and the table more is tied:
                all its taps share the weight.
            backward: read the table from target to source; with the transposed kernel that is the data gradient.
            forms: where to keep what is made of the kernel; None: nowhere.

        Returns:
            [M, C_out], a row per target (per source if `backward`).
        """

    def weight_gradient(
        self,
        features: Tensor,
        gradient: Tensor,
        table: NeighbourTable,
        shape: tuple[int, int, int],
        groups: int = 1,
        backward: bool = False,
    ) -> Tensor:
        """Gradient [C_out, C_in / groups, *shape] of the kernel, from features [N, C_in] and gradient [M, C_out]."""


def choose(name: str, features: Tensor, weight: Tensor, table: NeighbourTable, groups: int) -> Engine:
    """The engine `name` for one convolution.

    Raises:
        VoxelError: where a named engine cannot run it, with the reason.
    """
    device = features.device
    if name == "auto":
        if device.type != "cuda":
            _log_once(f"sparse convolutions on {device.type}: engine cpu")
            return _load("cpu")
        reason = unavailable("triton", device) or _load("triton").unsupported(features, weight, table, groups)
        _log_once(
            f"sparse convolutions on {device.type}: engine triton"
            if reason is None
            else f"sparse convolutions on {device.type}: engine cpu, because of triton: {reason}"
        )
        return _load("triton" if reason is None else "cpu")
    reason = unavailable(name, device) or _load(name).unsupported(features, weight, table, groups)
    if reason is not None:
        raise VoxelError(f"engine {name} cannot run this convolution: {reason}; choose engine auto")
    return _load(name)


@cache
def _load(name: str) -> Engine:
    return cast(Engine, import_module(MODULES[name]))


@cache
def unavailable(name: str, device: torch.device) -> str | None:
    """Why the engine `name` cannot run on a device at all, or None."""
    return _load(name).unavailable(device)


@cache
def _log_once(message: str) -> None:
    logger.info(message)
