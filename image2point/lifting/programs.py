"""Compiled programs of a lifted network and of its blocks.

The network runs one program, compiled from its whole graph, as long as nobody asks anything of a block. A block that is
watched (it has a hook, was compiled, wrapped or replaced) is called as a module from then on: the program is made again
with one call in place of the block's nodes. So blocks cost nothing until they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import fx, nn
from torch.nn.modules.module import _has_any_global_hook

from image2point.lifting.fuse import fuse
from image2point.lifting.regions import Call, collapse, graph_of, returning, rows_of

_HOOKS = (
    "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks", "_gradient_pre_hooks",
    "_gradient_hooks",
)  # fmt: skip


class Region:
    """What a block computes.

    Attributes:
        path: the block's name.
        call: how it is called.
        graph: what it runs, in terms of its own children; None where it cannot run.
        problem: why it cannot be called by the network, empty where it can.
        leaf: whether the block is a single layer, which changes nothing.
        inner: the regions of the blocks in it, by the names of its children.
    """

    def __init__(self, path: str, call: Call, graph: fx.Graph | None, problem: str, leaf: bool = False) -> None:
        self.path, self.call, self.graph, self.problem, self.leaf = path, call, graph, problem, leaf
        self.inner: dict[str, Region] = {}
        self._program = Program(graph or fx.Graph(), self.inner)

    def run(self, block: nn.Module, values: Mapping[str, Any]) -> Any:
        """What the block gives for these values of its operands."""
        return self._program(block, *(values[name] for name in self.call.operands))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_program": None, "graph": None if self.graph is None else rows_of(self.graph)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        graph = state["graph"]
        vars(self).update(state, graph=None if graph is None else graph_of(graph))
        self._program = Program(self.graph or fx.Graph(), self.inner)


class Program:
    """A graph over the children of a module, compiled when it first runs, and again when other blocks are watched.

    Args:
        names: which results of the graph it returns, where they are named.
    """

    def __init__(self, graph: fx.Graph, regions: Mapping[str, Region], names: tuple[str, ...] = ()) -> None:
        self._graph, self._regions, self._names = graph, regions, names
        self._compiled: dict[tuple[str, ...], Callable[..., Any]] = {}
        self._unwatched: _Unwatched | None = None

    def __call__(self, module: nn.Module, *values: Any) -> Any:
        """What the graph returns for the values of its placeholders, with the children of `module`."""
        return self._compiled[self.called(module)](_Children(module), *values)

    def called(self, module: nn.Module) -> tuple[str, ...]:
        """The blocks that are called as modules, since they are watched now. Their program is there afterwards."""
        everything = _has_any_global_hook()
        if self._unwatched is not None and self._unwatched.holds(module) and not everything:
            return ()
        names = tuple(watched(module, self._regions, everything))
        if names not in self._compiled:
            self._compiled[names] = self._compile(module, names)
        self._unwatched = None if names else _Unwatched(module, self._regions)
        return names

    # torch.compile asks once, while it traces, and takes the answer for good.
    called._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _compile(self, module: nn.Module, names: tuple[str, ...]) -> Callable[..., Any]:
        graph = returning(self._graph, self._names)
        inner = dict(_all(self._regions))
        collapse(graph, [(inner[name].path, name, inner[name].call) for name in names if not inner[name].leaf])
        nothing = {name for name, each in inner.items() if each.leaf}.difference(names)
        for node in list(graph.nodes):
            if node.op == "call_module" and node.target in nothing:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
        code = fuse(graph, module).python_code(root_module="self")
        namespace = dict(code.globals)
        exec(code.src, namespace)
        return namespace["forward"]


def watched(module: nn.Module, regions: Mapping[str, Region], everything: bool = False) -> Iterator[str]:
    """Names of the outermost blocks in a module that somebody watches, or that are not those of its regions."""
    for name, inner in regions.items():
        child: Any = module._modules[name]
        state = vars(child)
        if (
            state.get("_region") is not inner
            or any(map(state.get, _HOOKS))
            or "forward" in state
            or state.get("_compiled_call_impl")
            or (everything and not inner.problem)
        ):
            yield name
        elif inner.inner:
            for below in watched(child, inner.inner, everything):
                yield f"{name}.{below}"


class _Unwatched:
    """A module in which no block is watched: what tells quickly whether that is still so."""

    def __init__(self, module: nn.Module, regions: Mapping[str, Region]) -> None:
        self._module = module
        paths = [path.rpartition(".") for path, _ in _all(regions)]
        self._slots = [(module.get_submodule(parent)._modules, name) for parent, _, name in paths]
        self._blocks = [held[name] for held, name in self._slots]
        self._states = [vars(block) for block in self._blocks]
        self._hooks = [state[kind] for state in self._states for kind in _HOOKS]

    def holds(self, module: nn.Module) -> bool:
        return (
            module is self._module
            and not any(self._hooks)
            and [held[name] for held, name in self._slots] == self._blocks
            and not any("forward" in state or state.get("_compiled_call_impl") for state in self._states)
        )


def _all(regions: Mapping[str, Region], prefix: str = "") -> Iterator[tuple[str, Region]]:
    """All regions in a module, by the paths of their blocks."""
    for name, inner in regions.items():
        yield f"{prefix}{name}", inner
        yield from _all(inner.inner, f"{prefix}{name}.")


class _Children:
    """What a module holds as attributes, apart from the module's own, for generated code."""

    def __init__(self, module: nn.Module) -> None:
        self.__dict__ = {**module._parameters, **module._buffers, **module._modules}
