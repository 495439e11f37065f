"""The part of a lifted graph that one module of the 2D network has become, and how that module is called.

A module that holds others can be called in 3D too where its nodes form a region: what they read from outside is what
the 2D module is given, and what is read of them outside is what it returns. Several operands and results are fine, in
lists too, as HRNet's modules have them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from image2point.errors import InputError
from image2point.voxels import DenseVoxels, VoxelTensor

WITHIN = "within"
"""Key in the `meta` of a node: names of the 2D modules in whose call it was made, outermost first."""


class LeakError(Exception):
    """Why nodes are no region."""


@dataclass(frozen=True)
class Operand:
    """The value of the node with this name; copies of a graph keep the names."""

    name: str


@dataclass(frozen=True)
class Call:
    """How the 2D network calls a module: tuples, lists and dictionaries as there, each value an `Operand`.

    What is no value in 3D stays what it is (numbers), or is None (sizes).
    """

    args: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)
    result: Any = None

    @property
    def operands(self) -> list[str]:
        """Names of the nodes that the module is given, each once."""
        return list(dict.fromkeys(operand.name for _, operand in _leaves((self.args, self.named))))

    @property
    def results(self) -> list[str]:
        """Names of the nodes that the module returns, each once."""
        return list(dict.fromkeys(operand.name for _, operand in _leaves(self.result)))

    def bind(self, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """The given values by the names of the nodes for which they stand.

        Raises:
            InputError: where they are not arranged as in the 2D network.
        """
        values: dict[str, Any] = {}
        for keys, operand in _leaves((self.args, self.named)):
            value: Any = (args, named)
            try:
                for key in keys:
                    value = value[key]
            except (LookupError, TypeError):
                value = None
            if not isinstance(value, VoxelTensor | DenseVoxels | Tensor | tuple):
                raise InputError(f"expected the arguments {_signature(self)}, found {_signature(Call(args, named))}")
            values[operand.name] = value
        return values


def replaced(structure: Any, function: Callable[[Operand], Any]) -> Any:
    """The structure with `function(operand)` in place of each operand."""
    if isinstance(structure, Operand):
        return function(structure)
    if isinstance(structure, tuple | list):
        return type(structure)(replaced(part, function) for part in structure)
    if isinstance(structure, dict):
        return {key: replaced(part, function) for key, part in structure.items()}
    return structure


def members(graph: fx.Graph) -> dict[str, list[fx.Node]]:
    """The nodes that were made in the call of each module, in order."""
    found: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        for path in node.meta.get(WITHIN, ()):
            found.setdefault(path, []).append(node)
    return found


def region(path: str, call: Call, inside: list[fx.Node], named: Mapping[str, fx.Node]) -> fx.Graph:
    """The nodes of a module as a graph of its own, whose placeholders are the operands and whose targets are relative.

    Args:
        path: name of the module; empty where the targets are relative to it already.
        inside: its nodes.
        named: all nodes of the graph by name.

    Raises:
        LeakError: where they form no region.
    """
    _check(call, inside, named)
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for name in call.operands:
        copies[named[name]] = graph.placeholder(name)
    for node in inside:
        copies[node] = copy = graph.node_copy(node, copies.__getitem__)
        if node.op in ("call_module", "get_attr"):
            target = str(node.target)
            if path and not target.startswith(f"{path}."):
                raise LeakError(f"it shares the layer {target} with others")
            copy.target = target[len(path) + 1 :] if path else target
    graph.output(replaced(call.result, lambda operand: copies[named[operand.name]]))
    return graph


def collapse(graph: fx.Graph, calls: Iterable[tuple[str, str, Call]]) -> None:
    """Put one call of a module in place of the nodes that were made in its call in 2D, if there are any.

    Args:
        calls: for each module its name in the 2D network, its name here, and how it is called. None is inside another.

    Raises:
        InputError: where the nodes form no region of this graph, because something in them is read from outside.
    """
    inside, named = members(graph), {node.name: node for node in graph.nodes}
    for path, target, call in calls:
        try:
            _collapse(graph, target, call, inside.get(path, []), named)
        except LeakError as error:
            raise InputError(
                f"{path} has a hook or was replaced, but cannot be called as a module here: {error}. "
                "Remove the hook, or put it on the modules in it"
            ) from None


def returning(graph: fx.Graph, names: Iterable[str] = ()) -> fx.Graph:
    """A copy that returns the named results alone, if any are named: each of the others is freed after its last use."""
    copy, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    copy.graph_copy(graph, copies)
    (result,) = next(node for node in reversed(graph.nodes) if node.op == "output").args
    if names:
        assert isinstance(result, dict)
        result = {name: result[name] for name in names if name in result}
    copy.output(fx.map_arg(result, copies.__getitem__))
    return copy


def rows_of(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """The nodes as rows, which can be pickled however many there are: nodes themselves refer to their neighbours."""
    return [
        (n.op, n.target, *fx.map_arg((n.args, n.kwargs), lambda node: Operand(node.name)), n.name, dict(n.meta))  # type: ignore[arg-type,return-value]
        for n in graph.nodes
    ]


def graph_of(rows: Iterable[tuple[Any, ...]]) -> fx.Graph:
    """The graph of `rows_of`."""
    graph, named = fx.Graph(), dict[str, fx.Node]()
    for op, target, args, keywords, name, meta in rows:
        args, keywords = replaced((args, keywords), lambda operand: named[operand.name])
        named[name] = node = graph.create_node(op, target, tuple(args), dict(keywords), name)
        node.meta.update(meta)
    return graph


def _collapse(graph: fx.Graph, target: str, call: Call, inside: list[fx.Node], named: dict[str, fx.Node]) -> None:
    if not inside:
        return
    _check(call, inside, named)
    with graph.inserting_before(inside[0]):
        args, keywords = replaced((call.args, call.named), lambda operand: named.get(operand.name))
        whole = graph.create_node("call_module", target, args, keywords)
        for keys, operand in _leaves(call.result):
            node, value = named[operand.name], whole
            if node in inside:
                for key in keys:
                    value = graph.call_function(operator.getitem, (value, key))
                node.replace_all_uses_with(value)
                named[operand.name] = value
    for node in reversed(inside):
        graph.erase_node(node)


def _check(call: Call, nodes: list[fx.Node], named: Mapping[str, fx.Node]) -> None:
    inside = set(nodes)
    given, returned = ({named.get(name) for name in names} for names in (call.operands, call.results))
    for node in nodes:
        for read in node.all_input_nodes:
            if read not in inside and read not in given:
                raise LeakError(f"{node.name} in it reads {read.name}, which it is not given")
        if node not in returned and not inside.issuperset(node.users):
            raise LeakError(f"{node.name} in it is also read from outside")
    if not returned <= inside | given:
        raise LeakError("it returns what is made elsewhere")


def _leaves(structure: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Operand]]:
    """The operands in a structure, each with the keys that lead to it."""
    if isinstance(structure, Operand):
        yield keys, structure
    elif isinstance(structure, tuple | list):
        for index, part in enumerate(structure):
            yield from _leaves(part, (*keys, index))
    elif isinstance(structure, dict):
        for key, part in structure.items():
            yield from _leaves(part, (*keys, key))


def _signature(call: Call) -> str:
    """The call as it is written: (voxels, [voxels, voxels])."""

    def written(part: Any) -> str:
        if isinstance(part, list | tuple):
            return f"[{', '.join(map(written, part))}]"
        if isinstance(part, Operand | VoxelTensor | DenseVoxels):
            return "voxels"
        return f"a tensor {list(part.shape)}" if isinstance(part, Tensor) else repr(part)

    keywords = [f"{name}={written(part)}" for name, part in call.named.items()]
    return f"({', '.join([*map(written, call.args), *keywords])})"
