"""The calls of the 2D network's modules, carried over into the lifted graph while it is written."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from torch import fx

from image2point.lifting.graph import Trace
from image2point.lifting.regions import WITHIN, Call, Operand
from image2point.lifting.rules import Value

_Lookup = Callable[[fx.Node], Value | None]


class Calls:
    """Notes, node by node, which modules are entered and left, with what and what for.

    Attributes:
        made: the calls of each module, in order.
    """

    def __init__(self, traced: Trace, graph: fx.Graph) -> None:
        self.made: dict[str, list[Call]] = {}
        self._traced, self._graph = traced, graph
        self._open: dict[str, tuple[Any, Any]] = {}
        self._given: dict[str, list[Value]] = {}
        self._count = 0

    @property
    def holder(self) -> str:
        """The module whose own code is running; empty for the network."""
        return next(reversed(self._open), "").partition("@")[0]

    def given(self, stride: int) -> fx.Node | None:
        """Voxels of that stride which a module is given whose call is open, the innermost that has any."""
        for key in reversed(self._open):
            for value in self._given[key]:
                if value.kind == "voxels" and value.stride == stride and value.node is not None:
                    return value.node
        return None

    def before(self, node: fx.Node, become: _Lookup) -> None:
        """A 2D node is lifted next; `become` tells what those before it have become so far."""
        stack: Any = node.meta.get("nn_module_stack", ())
        for key in [key for key in self._open if key not in stack]:
            self._leave(key, become)
        for key in stack:
            if key not in self._open:
                args, named, _ = self._traced_call(key)
                self._open[key] = _lifted((args, named), become)
                self._given[key] = [value for value in map(become, _nodes((args, named))) if value is not None]
        self._count = len(self._graph.nodes)

    def after(self) -> None:
        """It was lifted: what was written for it belongs to the calls that are open."""
        within = tuple(self._open)
        for made in islice(reversed(self._graph.nodes), len(self._graph.nodes) - self._count):
            made.meta[WITHIN] = within

    def finish(self, become: _Lookup) -> None:
        """All nodes were lifted."""
        for key in list(self._open):
            self._leave(key, become)
        for path, calls in self._traced.calls.items():
            if path not in self.made:  # nothing happens in it
                args, named, result = _lifted(calls[0], become)
                self.made[path] = [Call(args, named, result)] * len(calls)

    def _leave(self, key: str, become: _Lookup) -> None:
        args, named = self._open.pop(key)
        result = _lifted(self._traced_call(key)[2], become)
        self.made.setdefault(key.partition("@")[0], []).append(Call(args, named, result))

    def _traced_call(self, key: str) -> tuple[Any, Any, Any]:
        path, _, again = key.partition("@")  # torch.fx counts the further calls of a module
        return self._traced.calls[path][int(again or 0)]


def _nodes(structure: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(structure, lambda node: (found.append(node), node)[1])  # type: ignore[func-returns-value]
    return found


def _lifted(structure: Any, become: _Lookup) -> Any:
    """A structure with 2D nodes, in terms of the lifted graph."""
    if isinstance(structure, fx.Node):
        value = become(structure)
        return None if value is None or value.node is None else Operand(value.node.name)
    if isinstance(structure, tuple | list):
        return (tuple if isinstance(structure, tuple) else list)(_lifted(part, become) for part in structure)
    if isinstance(structure, dict):
        return {key: _lifted(part, become) for key, part in structure.items()}
    return structure
