"""Sparse voxels run as they are under `torch.compile`, which would compile hundreds of functions and gain nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`; once `take_out` was called, out of reach of `torch.compile`.

    >>> call(max, 3, 5)
    5
    """
    return function(*arguments)


def take_out() -> bool:
    """Take `call` out of reach of `torch.compile`, with a warning the first time; gives True."""
    global call
    if not hasattr(call, "_torchdynamo_disable"):
        logger.warning(
            "torch.compile leaves sparse voxels to run as they are: what they take long for is compiled already; "
            "to have a network compiled, give it voxels.dense()"
        )
        call = torch.compiler.disable(call)  # here and not above, since this imports torch's compiler
    return True


# torch.compile calls it while it traces, and takes the answer for good.
take_out._dynamo_marked_constant = True  # type: ignore[attr-defined]
