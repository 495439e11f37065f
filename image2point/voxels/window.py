"""The window of a convolution or pooling: which inputs an output reads."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Window:
    """What an output site o reads: s·o − padding + k·dilation for k in [0, kernel), per axis.

    `padding` is the padding on the near side. The far side needs no number: there are always ceil(n / s)
    outputs, and what lies outside is empty.
    """

    kernel: tuple[int, int, int]
    stride: int = 1
    padding: tuple[int, int, int] = (0, 0, 0)
    dilation: int = 1

    @property
    def taps(self) -> int:
        """Sites under the window."""
        return prod(self.kernel)

    def is_pointwise(self) -> bool:
        """Whether each site reads itself and nothing else."""
        return self.taps == 1 and self.stride == 1 and self.padding == (0, 0, 0)

    def is_centred(self) -> bool:
        """Whether each site reads as far one way as the other, among its own kind: a submanifold convolution."""
        return self.stride == 1 and all(
            2 * p == (k - 1) * self.dilation for k, p in zip(self.kernel, self.padding, strict=True)
        )
