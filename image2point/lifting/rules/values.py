"""What rules receive and what they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from torch import fx, nn

from image2point.lifting.records import Options

Kind = Literal["voxels", "vector", "parts", "parameter", "size"]


class Unsupported(Exception):
    """Why an operation cannot be lifted. A rule raises it, and `lift` adds where the operation is.

    Attributes:
        works: the substrates on which it can be lifted.
    """

    def __init__(self, reason: str, works: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.works = works


@dataclass(frozen=True)
class Value:
    """A value of the lifted graph, and the layout of the 2D value that it stands for.

    Attributes:
        kind: voxels; one vector per cloud, always [B, C] in 3D; parts (a tuple of either); a parameter, always [C] in
            3D; or a size, which 3D code never needs.
        node: the node of the graph that computes it; None for a size, and in a result, which has no node yet.
        axes: letters of the 2D axes: "BCHW" for an image, "BHWC" with channels last, "BCN" or "BNC" with both image
            axes flattened, "BM" with these and the channels flattened, "BC", "BC11" or "B11C" for a vector. "R" stands
            for parts of the channels: "BRCHW". Of a size, the axes that it is the size of: "?" where it is arithmetic,
            "0" for a difference of equal sizes.
        stride: edge of a voxel in input voxels.
        padding: zeros that padding modules have put before both image axes; the next window reads them.
        padded: whether there are such zeros, before or after the image axes.
        radix: number of parts that "R" stands for.
        extent: cells along both image axes right after adaptive pooling, which fixes them; else empty.
        shape: shape of a 2D parameter.
        of: what a size is the size of.
    """

    kind: Kind
    node: fx.Node | None = None
    axes: str = ""
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    padded: bool = False
    radix: int = 1
    extent: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    of: Value | None = field(default=None, repr=False)

    def dim(self, dim: int) -> str:
        """Letter of an axis, given as in torch."""
        need(-len(self.axes) <= dim < len(self.axes), f"dimension {dim} of {self.axes}")
        return self.axes[dim]

    def with_axes(self, axes: str) -> Value:
        return replace(self, axes=axes)

    @property
    def vector_axes(self) -> str:
        """Axes of the vector that pooling over the image axes leaves, image axes kept as ones."""
        return self.axes.translate(str.maketrans("HWN", "111"))


@dataclass(frozen=True)
class Chain:
    """Modules that run one after another on `operand`; `result` has no node yet.

    Attributes:
        modules: each with the suffix of its name: "" for one that takes the name of the 2D module, else a child of it.
        others: further operands of the last module.
    """

    operand: Value
    modules: tuple[tuple[str, nn.Module], ...]
    result: Value
    others: tuple[Value | FinerSites, ...] = ()


@dataclass(frozen=True)
class Call:
    """A function of the nodes of values (and of numbers) that is in the graph; `result` has no node yet."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    result: Value


Lifted: TypeAlias = Chain | Call | Value


def need(condition: bool, otherwise: str) -> None:
    """Raise Unsupported unless the condition holds."""
    if not condition:
        raise Unsupported(f"no rule for {otherwise}")


def need_dense(options: Options, what: str) -> None:
    """Raise Unsupported on sparse voxels, where `what` has no meaning: for operations that need the whole grid."""
    if options.substrate != "dense":
        raise Unsupported(f"{what} has no meaning on sparse voxels", works=("dense",))


def on(x: Value, *modules: nn.Module, stride: int | None = None) -> Chain:
    """A chain of modules under the 2D module's name, whose result is laid out as x.

    Args:
        stride: of the window that they move over the sites; None where they take each site by itself.
    """
    extent = x.extent if stride is None else ()
    result = replace(x, node=None, stride=x.stride * (stride or 1), padding=(0, 0), padded=False, extent=extent)
    return Chain(x, tuple(("" if i == 0 else str(i), module) for i, module in enumerate(modules)), result)


@dataclass(frozen=True)
class FinerSites:
    """An operand that `lift` looks for: earlier voxels of that stride, for their sites."""

    stride: int
