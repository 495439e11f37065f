"""Attaching a module to a lifted network: its layers become nodes of the graph, as those of the 2D network did.

So what is attached is fused, observed by name and hooked by block as everything else is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any

from torch import fx, nn

from image2point.lifting import controls, kernels
from image2point.lifting.blocks import block_like
from image2point.lifting.regions import WITHIN, Call, Operand
from image2point.lifting.rewrite import LAYERS
from image2point.voxels import functional
from image2point.voxels.upsample import upsample

_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    upsample,
    *(value for value in vars(functional).values() if isinstance(value, FunctionType)),
)
"""Functions on voxels, which are nodes themselves: the tracer does not look into them."""


def attach(
    root: nn.Module, graph: fx.Graph, calls: dict[str, list[Call]], name: str, module: nn.Module, inputs: Sequence[Any]
) -> fx.Node:
    """Write a module into a graph, its layers under `name` in `root`; returns the node of what it gives.

    Args:
        root: holds the network's modules.
        graph: of the network, yet without an output.
        calls: how the network's modules are called; those of the module are added.
        module: its forward is made of layers of `image2point.voxels` and `image2point.lifting`, and of functions of
            `voxels.functional` and `voxels.upsample`.
        inputs: what it is called with: nodes of the graph, and lists of nodes.
    """
    tracer = _Tracer(inputs)
    traced = tracer.trace(module)
    become: dict[fx.Node, Any] = {}
    given = iter(inputs)
    result: fx.Node | None = None
    for node in traced.nodes:
        if node.op == "placeholder":
            become[node] = next(given)
        elif node.target is operator.getitem and isinstance(become[node.args[0]], list | tuple):
            become[node] = become[node.args[0]][node.args[1]]
        elif node.op == "output":
            result = become[node.args[0]]
        else:
            target = f"{name}.{node.target}" if node.op == "call_module" else node.target
            args, named = fx.map_arg((node.args, node.kwargs), become.__getitem__)
            become[node] = made = graph.create_node(node.op, target, args, named)
            made.meta[WITHIN] = (name, *(f"{name}.{path}" for path in node.meta.get("nn_module_stack", ())))
    for path, (args, outcome) in {"": (list(inputs), result), **tracer.calls}.items():
        whole = f"{name}.{path}" if path else name
        calls[whole] = [Call(tuple(_operands(args, become)), {}, _operands(outcome, become))]
        if isinstance(outcome_node := become.get(outcome, outcome), fx.Node):
            outcome_node.meta.setdefault(LAYERS, []).append(whole)
    _place(root, name, module, tracer)
    assert result is not None
    return result


def restart(module: nn.Module, name: str, seed: int) -> None:
    """Draw the weights of a module's layers anew, each from (seed, its name); norms as at initialisation."""
    for path, part in module.named_modules():
        if next(part.parameters(recurse=False), None) is not None:
            controls.restart(part, kernels.generator(seed, f"{name}.{path}" if path else name))


class _Tracer(fx.Tracer):
    """Goes down to single layers, notes how modules are called, and unpacks the lists that the root is given."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        super().__init__(autowrap_functions=_FUNCTIONS)
        self.calls: dict[str, tuple[Any, Any]] = {}
        self._lengths = [len(given) if isinstance(given, list | tuple) else 0 for given in inputs]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        home = type(m).__module__
        return home.startswith(("image2point.voxels.", "image2point.lifting.")) or super().is_leaf_module(
            m, module_qualified_name
        )

    def iter(self, obj: Any) -> Iterator[Any]:
        inputs = [node for node in obj.node.graph.nodes if node.op == "placeholder"]
        return iter([obj[i] for i in range(self._lengths[inputs.index(obj.node)])])

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        self.calls[self.path_of_module(m)] = fx.node.map_aggregate((args, result), _node)
        return result


def _node(value: Any) -> Any:
    return value.node if isinstance(value, fx.Proxy) else value


def _operands(structure: Any, become: dict[fx.Node, Any]) -> Any:
    """The names of the nodes in place of them."""
    if isinstance(structure, list | tuple):
        return [_operands(part, become) for part in structure]
    node = become.get(structure, structure)
    return _operands(node, {}) if isinstance(node, list | tuple) else Operand(node.name)


def _place(root: nn.Module, name: str, module: nn.Module, tracer: _Tracer) -> None:
    """Put a module's layers under a name of `root`, in blocks where they are held by others."""
    if tracer.is_leaf_module(module, name) and not isinstance(module, nn.ModuleList | nn.ModuleDict):
        root.add_module(name, module)
        return
    root.add_module(name, block := block_like(module))
    for child, part in module.named_children():
        _place(block, child, part, tracer)
