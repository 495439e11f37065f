"""A 2D network whose windows at the far border of the image are completed, as those over voxels are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Completed(TorchFunctionMode):
    """While it is entered, 2D convolutions and pools give ceil(n / stride) outputs, as they do over voxels.

    Without padding, a 2D layer loses the border of its image. Voxels have no border: a layer of stride 1 has the same
    sites before and after. `count` is the number of layers where this makes a difference. Casts to single precision
    are skipped.

    Args:
        whole: kernels that read a feature map as a whole, in 3D too (`MapConv`): they stay as they are.
    """

    def __init__(self, whole: Sequence[Any] = ()) -> None:
        super().__init__()
        self.whole, self.count = whole, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        if func in _PADS:
            padded = func(*args, **kwargs)
            padded.before_padding = args[0].shape[2:]
            return padded
        if func in _CONVOLUTIONS:
            return self._convolution(func, *args, **kwargs)
        if func in _MAX_POOLS:
            return self._max_pool(func, *args, **kwargs)
        if func in _AVG_POOLS:
            return self._avg_pool(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _convolution(
        self, func: Any, x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        if not isinstance(padding, str) and not any(weight is kernel for kernel in self.whole):
            x = self._extended(x, weight.shape[2:], stride, padding, dilation, 0.0)
        return func(x, weight, bias, stride, padding, dilation, groups)

    def _max_pool(
        self, func: Any, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Tensor:  # fmt: skip
        if not ceil_mode:
            x = self._extended(x, kernel_size, stride or kernel_size, padding, dilation, -torch.inf)
        return func(x, kernel_size, stride, padding, dilation, ceil_mode)

    def _avg_pool(
        self, func: Any, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: Any = None,
    ) -> Tensor:  # fmt: skip
        longer = x if ceil_mode else self._extended(x, kernel_size, stride or kernel_size, padding, 1, 0.0)
        if longer is x:
            return func(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        inside = F.pad(torch.ones_like(x), (0, longer.shape[3] - x.shape[3], 0, longer.shape[2] - x.shape[2]))
        total, cells = (func(t, kernel_size, stride, padding, False, True, 1) for t in (longer, inside))
        padded = count_include_pad and _two(padding) != (0, 0)
        size = _two(kernel_size)
        return total / (size[0] * size[1] if padded else cells.clamp(min=1))

    def _extended(self, x: Tensor, size: Any, stride: Any, padding: Any, dilation: Any, fill: float) -> Tensor:
        if x.ndim != 4 or x.shape[2:] == (1, 1):
            return x
        amounts, before = [], getattr(x, "before_padding", x.shape[2:])
        for axis in (1, 0):
            k, s, p, d = (_two(value)[axis] for value in (size, stride, padding, dilation))
            last = (-(-before[axis] // s) - 1) * s + d * (k - 1)
            amounts += [0, max(last + 1 - x.shape[2 + axis] - 2 * p, 0)]
        if not any(amounts):
            return x
        self.count += 1
        return F.pad(x, amounts, value=fill)


_PADS = (F.pad, torch._C._nn.pad)
_CONVOLUTIONS = (F.conv2d, torch.conv2d)
_MAX_POOLS = (F.max_pool2d, torch.max_pool2d)
_AVG_POOLS = (F.avg_pool2d,)


def _two(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
