"""Kernel sizes, strides and paddings of 2D layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from image2point.lifting.rules.values import need


def both(sizes: int | Sequence[int]) -> tuple[int, int]:
    """Size along both image axes."""
    return (sizes, sizes) if isinstance(sizes, int | float) else (sizes[0], sizes[-1])


def equal(sizes: int | Sequence[int], what: str) -> int:
    """The one size of both image axes."""
    first, second = both(sizes)
    need(first == second, f"{what} {sizes}, which differs between the image axes")
    return first


def near_padding(
    paddings: int | Sequence[int] | Any, size: Sequence[int], dilation: int, before: tuple[int, int] = (0, 0)
) -> list[int]:
    """Near-side padding along both image axes; `before` is what padding modules have added."""
    result = []
    for padding, kernel, added in zip(both(paddings), size, before, strict=True):
        need(2 * padding <= dilation * (kernel - 1), f"padding {padding} that enlarges the map (kernel size {kernel})")
        need(padding + added <= dilation * (kernel - 1), f"padding {padding + added} beyond a kernel of size {kernel}")
        result.append(padding + added)
    return result


def size_one(size: Any) -> bool:
    return size in (1, (1, 1), [1, 1])
