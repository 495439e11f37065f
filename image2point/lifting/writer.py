"""Writing the lifted graph: what rules answer becomes nodes, and their modules take their places in the tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from image2point.lifting import rules
from image2point.lifting.calls import Calls
from image2point.lifting.graph import Trace
from image2point.lifting.rules import FinerSites, Lifted, Unsupported, Value
from image2point.lifting.tree import Tree


class Writer:
    """The graph and the modules of a 3D network, as far as they are written.

    Attributes:
        graph: the program.
        tree: the modules.
        calls: how the 2D network calls its modules, in terms of the graph.
        roles: role of each module and of each parameter outside layers, by name.
    """

    def __init__(self, traced: Trace) -> None:
        self.graph, self.tree = fx.Graph(), Tree(traced.network)
        self.calls = Calls(traced, self.graph)
        self.roles: dict[str, str] = {}
        self._layers: dict[tuple[str, str], list[str]] = {}  # by 2D layer and kind of operand
        self._sites: dict[int, fx.Node] = {}  # the first voxels of each stride

    def input(self) -> Value:
        """The voxels that the network is given."""
        return self._note(Value("voxels", self.graph.placeholder("x"), "BCHW"))

    def write(self, lifted: Lifted, path: str, role: str = "body") -> Value:
        """Write what a rule gave, its modules under `path`."""
        if isinstance(lifted, Value):
            return lifted
        if isinstance(lifted, rules.Call):
            arguments = tuple(self._finer(a) if isinstance(a, FinerSites) else a for a in lifted.arguments)
            return self._note(replace(lifted.result, node=self.graph.call_function(lifted.function, arguments)))
        kind = lifted.operand.kind
        if any(layer == path for layer, _ in self._layers):  # an activation used on voxels and on vectors
            parent, _, leaf = path.rpartition(".")
            path = self.tree.free(leaf, parent)
        names = self._layers[path, kind] = [f"{path}.{suffix}" if suffix else path for suffix, _ in lifted.modules]
        for name, (_, module) in zip(names, lifted.modules, strict=True):
            self.tree.place(name, module)
            self.roles[name] = role
        return self._call(names, lifted.operand, lifted.result, lifted.others)

    def write_function(self, lifted: Lifted, name: str) -> Value:
        """Write what a rule gave for a function, its modules inside the one whose code calls it."""
        return self.write(lifted, self.tree.free(name, self.calls.holder))

    def write_parameter(self, path: str, tensor: Tensor, role: str) -> None:
        """Put a parameter or buffer in its place."""
        self.tree.place(path, tensor)
        self.roles[path] = role

    def read_parameter(self, path: str, shape: tuple[int, ...]) -> Value:
        """A parameter or buffer, of which 2D code sees this shape."""
        flat = self.graph.call_function(torch.flatten, (self.graph.create_node("get_attr", path),))
        return Value("parameter", flat, shape=shape)

    def has_layer(self, path: str, operand: Value) -> bool:
        """Whether a layer was written for operands of that kind."""
        return (path, operand.kind) in self._layers

    def call_again(self, path: str, operand: Value, result: Value, others: Sequence[Value | FinerSites] = ()) -> Value:
        """Call a layer that was written before."""
        return self._call(self._layers[path, operand.kind], operand, result, others)

    def call_unchanged(self, path: str, value: Value) -> Value:
        """Call a layer that changes nothing in 3D, so that it is there and can have hooks."""
        return self._call([path], value, value) if self.tree.unchanged(path) else value

    def _call(
        self, names: list[str], operand: Value, result: Value, others: Sequence[Value | FinerSites] = ()
    ) -> Value:
        node = operand.node
        for name in names:
            further: tuple[fx.Node | None, ...] = ()
            if name is names[-1]:
                further = tuple(self._finer(v) if isinstance(v, FinerSites) else v.node for v in others)
            # The graph does not own the modules, so its own check of names would only warn.
            node = self.graph.create_node("call_module", name, (node, *further))
        return self._note(replace(result, node=node))

    def _note(self, value: Value) -> Value:
        if value.kind == "voxels" and value.node is not None:
            self._sites.setdefault(value.stride, value.node)
        return value

    def _finer(self, sites: FinerSites) -> fx.Node:
        """Earlier voxels of that stride: those that a module around here is given, or else the first there were."""
        node = self.calls.given(sites.stride) or self._sites.get(sites.stride)
        if node is None:
            raise Unsupported(
                f"no rule for upsampling to stride {sites.stride}, at which there are no earlier features"
            )
        return node
