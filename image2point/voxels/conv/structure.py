"""What a kernel's values allow an engine to leave out: slices of zeros, and repetitions along an axis."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from image2point.voxels.window import Window


@dataclass(frozen=True)
class Structure:
    """What of a kernel [C_out, C_in / groups, Kx, Ky, Kz] has to be computed.

    Attributes:
        window: the window without slices of zeros on its faces: K×K×1 for a kernel inflated by `center`.
        first: first tap of that window, per axis.
        tied: axes (0, 1, 2) along which the kernel repeats itself.
    """

    window: Window
    first: tuple[int, int, int]
    tied: frozenset[int]

    def cut(self, kernel: Tensor) -> Tensor:
        """The part of the kernel that counts, of size 1 along the tied axes: a view."""
        for axis in range(3):
            size = 1 if axis in self.tied else self.window.kernel[axis]
            kernel = kernel.narrow(2 + axis, self.first[axis], size)
        return kernel


def whole(window: Window, tied: frozenset[int] = frozenset()) -> Structure:
    """The structure of a kernel of which nothing is known but that it is tied."""
    return Structure(window, (0, 0, 0), tied)


def read_structure(kernel: Tensor, window: Window) -> Structure:
    """The structure of a kernel, read off its values; a kernel on the meta device has none, and counts whole."""
    if kernel.is_meta:
        return whole(window)
    tied = tied_axes(kernel)
    kernel = kernel.detach()
    size, padding, first = list(window.kernel), list(window.padding), [0, 0, 0]
    for axis in range(3):
        faces = kernel.select(2 + axis, 0), kernel.select(2 + axis, -1)
        if axis in tied or size[axis] == 1 or all(bool(face[0].any()) for face in faces):
            continue
        used = (kernel != 0).movedim(2 + axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
        first[axis], size[axis] = used[0], used[-1] - used[0] + 1
        padding[axis] -= used[0] * window.dilation
    cut = replace(window, kernel=(size[0], size[1], size[2]), padding=(padding[0], padding[1], padding[2]))
    return Structure(cut, (first[0], first[1], first[2]), tied)


def tied_axes(kernel: Tensor) -> frozenset[int]:
    """Axes (0, 1, 2) along which a kernel [C_out, C_in / groups, Kx, Ky, Kz] holds the same values."""
    tied = set()
    for axis in range(3):
        if kernel.shape[2 + axis] > 1:
            first = kernel.detach().narrow(2 + axis, 0, 1)
            # A few output channels settle the common case, a kernel that is not tied, at little cost.
            if torch.equal(first[:2].expand_as(kernel[:2]), kernel[:2]) and torch.equal(
                first.expand_as(kernel), kernel
            ):
                tied.add(axis)
    return frozenset(tied)
