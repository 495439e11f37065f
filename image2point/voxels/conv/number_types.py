"""The number types of the engines that sum in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def unsupported(features: Tensor, weight: Tensor) -> str | None:
    """Why an engine that sums in float32 cannot run on these types, or None."""
    found, kernel = (str(tensor.dtype).removeprefix("torch.") for tensor in (features, weight))
    if features.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it sums in float32, and the features are {found}"
    if found != kernel:
        return f"features and kernel must have one type, and they are {found} and {kernel}"
    return None
