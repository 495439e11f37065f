"""The 2D network as a graph: tracing it, refusing transformers, and finding stem and classifier by their position."""

from __future__ import annotations

import inspect
import operator
import sys
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from image2point.errors import InputError, one_line
from image2point.lifting.rules.registry import class_rule, is_norm, python_functions, rule_of

KERNELS = (nn.Conv2d, nn.ConvTranspose2d)
"""2D layers that have a kernel to inflate."""


class LiftError(InputError):
    """A 2D network, or one operation of it, cannot be lifted."""


@dataclass(frozen=True)
class Trace:
    """A traced 2D network.

    Attributes:
        network: the 2D network; its modules are the leaves of the graph.
        outputs: path of each submodule that was called → the node of its output.
        calls: path of each submodule that was called → what it was called with, by position and by name, and what it
            gave, each time.
    """

    name: str
    network: nn.Module
    graph: fx.Graph
    outputs: dict[str, fx.Node]
    calls: dict[str, list[tuple[Any, Any, Any]]]

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None

    def convolutions(self) -> list[fx.Node]:
        return [node for node in self.graph.nodes if isinstance(self.module(node), nn.Conv2d)]

    def kernels(self) -> list[fx.Node]:
        """Convolutions, and transposed ones."""
        return [node for node in self.graph.nodes if isinstance(self.module(node), KERNELS)]


@dataclass(frozen=True)
class Stem:
    """The stem: from the input to its last convolution and the norm right after it.

    Attributes:
        convolutions: its convolutions in order.
        norms: norms between them and the one that directly follows.
        nodes: everything from the first convolution to that norm, and blocks of pixels moved into channels before it.
        pools: pooling that follows before anything but activations does.
        branches: whether several layers read the input side by side; they are the stem's convolutions then.
        parts: number of pixels whose channels lie side by side in the input of the first convolution.
    """

    convolutions: tuple[fx.Node, ...]
    norms: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    pools: tuple[fx.Node, ...]
    branches: bool = False
    parts: int = 1

    @property
    def final_norm(self) -> fx.Node | None:
        """The norm right after the last convolution."""
        return self.norms[-1] if self.norms and self.norms[-1] is self.nodes[-1] else None


class _Tracer(fx.Tracer):
    """Traces down to the operations that have a rule, and notes what every submodule returns."""

    def __init__(self) -> None:
        functions = python_functions()
        super().__init__(autowrap_functions=tuple(functions))
        # A function may also be called as an attribute of its module.
        self._autowrap_search += [sys.modules[f.__module__] for f in functions if f.__module__ in sys.modules]
        self.outputs: dict[str, fx.Node] = {}
        self.calls: dict[str, list[tuple[Any, Any, Any]]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if class_rule(type(m)) is not None or super().is_leaf_module(m, module_qualified_name):
            return True
        # timm's small layers are leaves, so that an error names the layer and not some operation inside it.
        return type(m).__module__.startswith("timm.layers") and next(m.children(), None) is None

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        calls = self.calls.setdefault(path, [])
        calls.append((_nodes(args), _nodes(kwargs), None))
        this = len(calls) - 1
        result = super().call_module(m, forward, args, kwargs)
        calls[this] = (*calls[this][:2], _nodes(result))
        if isinstance(result, fx.Proxy):
            self.outputs[path] = result.node
        return result


def _nodes(structure: Any) -> Any:
    """The nodes of the proxies in nested tuples, lists and dictionaries."""
    if isinstance(structure, fx.Proxy):
        return structure.node
    if isinstance(structure, tuple | list):
        return (tuple if isinstance(structure, tuple) else list)(map(_nodes, structure))
    return {key: _nodes(part) for key, part in structure.items()} if isinstance(structure, dict) else structure


def trace(network: nn.Module, name: str) -> Trace:
    """Trace a 2D network with torch.fx, in eval mode.

    Raises:
        LiftError: where the network's Python code depends on its input in a way that cannot be traced.
    """
    parameters = list(inspect.signature(network.forward).parameters.values())
    defaults = {p.name: p.default for p in parameters[1:] if p.default is not p.empty}
    tracer, training = _Tracer(), network.training
    network.eval()
    try:
        graph = tracer.trace(network, concrete_args=defaults or None)
    except Exception as error:  # whatever the network's own code raises when it meets a proxy
        if refused := refusal_of_attention(network, name):
            raise refused from error
        reason = one_line(error, 300)
        raise LiftError(
            f"cannot lift {name}: torch.fx cannot trace it ({type(error).__name__}: {reason}). "
            "A network can be lifted when its forward is a fixed sequence of operations."
        ) from error
    finally:
        network.train(training)
        tracer.root = nn.Module()  # the tracer lives in cycles, and would keep the network until these are collected
    _drop_unused(graph)
    return Trace(name, network, graph, tracer.outputs, tracer.calls)


def refusal_of_attention(traced: Trace | nn.Module, name: str) -> LiftError | None:
    """The error for a network that cannot be lifted because it is a transformer; None where it is not one.

    Args:
        traced: the traced network, or where it cannot be traced the network.
    """
    network = traced.network if isinstance(traced, Trace) else traced
    paths = [path for path, module in network.named_modules() if _is_attention(module)]
    if isinstance(traced, Trace):
        calls = [node for node in traced.graph.nodes if node.target is F.scaled_dot_product_attention]
        paths += [list(node.meta.get("nn_module_stack", {"": None}))[-1] for node in calls]
    if not paths:
        return None
    kind = type(network.get_submodule(paths[0])).__name__
    where = f"module {paths[0]} ({kind})" if paths[0] else kind
    return LiftError(
        f"cannot lift {name}: not a ConvNet: it has attention over a fixed number of tokens, in {where}. A cloud has "
        "no fixed number of voxels. docs/coverage.md lists the ConvNets that lift."
    )


def check_convnet(traced: Trace) -> None:
    """Refuse a transformer at once, before its weights are looked for.

    Raises:
        LiftError: where the network has attention, and an operation that has no rule.
    """
    operations = [node for node in traced.graph.nodes if node.op in _OPERATIONS]
    has_rules = all(rule_of(traced.module(node), node.target) is not None for node in operations)
    if not has_rules and (refused := refusal_of_attention(traced, traced.name)):
        raise refused


_OPERATIONS = ("call_module", "call_function", "call_method")
_QUERIES = (
    {"qkv"}, {"q", "k", "v"}, {"q", "kv"}, {"qk", "v"}, {"query", "key", "value"}, {"q_proj", "k_proj", "v_proj"},
)  # fmt: skip


def _is_attention(module: nn.Module) -> bool:
    """Whether a module has attention over tokens: it makes queries, keys and values, and has no rule.

    Cross-covariance attention is over channels, whose number is fixed in 3D too; it has no rule yet, like any other
    operation.
    """
    if class_rule(type(module)) is not None or type(module).__name__ in ("XCA", "CrossCovarianceAttn"):
        return False
    children = {name.removeprefix("to_").removesuffix("_conv") for name, _ in module.named_children()}
    return isinstance(module, nn.MultiheadAttention) or any(names <= children for names in _QUERIES)


def find_stem(traced: Trace) -> Stem:
    """The stem, by position: all convolutions in the part of the network (a child module) that holds the first one.

    That part must be a plain chain without pooling; otherwise the first convolution alone is the stem.

    Raises:
        LiftError: where there is no convolution.
    """
    convolutions = traced.convolutions()
    if not convolutions:
        raise LiftError(f"cannot lift {traced.name}: it has no convolution")
    source = next(iter(traced.graph.nodes))
    if len(source.users) > 1:
        readers = [node for node in convolutions if node in source.users]
        after = [n for node in readers for n in node.users if is_norm(traced.module(n))]
        return Stem(tuple(readers), tuple(after), (*readers, *after), (), branches=True)
    paths = [str(node.target).split(".") for node in convolutions]
    depth = 1
    while depth < len(paths[0]) and all(path[:depth] == paths[0][:depth] for path in paths):
        depth += 1
    inside = [node for node, path in zip(convolutions, paths, strict=True) if path[:depth] == paths[0][:depth]]
    chain = _chain(traced, inside[0])
    if inside[-1] not in chain:
        inside = inside[:1]
    last = chain.index(inside[-1])
    if last + 1 < len(chain) and is_norm(traced.module(chain[last + 1])):
        last += 1
    nodes = tuple(chain[: last + 1])
    norms = tuple(node for node in nodes if is_norm(traced.module(node)))
    before = [node for node in nodes[0].all_input_nodes if _kind(traced, node) == "blocks"]
    parts = prod([_places(traced.module(node)) for node in before])
    return Stem(tuple(inside), norms, (*before, *nodes), _following_pools(traced, nodes[-1]), parts=parts)


def find_classifier(traced: Trace) -> fx.Node | None:
    """The linear layer that gives the network's output, if there is one."""
    node = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    while isinstance(node, fx.Node):
        module = traced.module(node)
        if isinstance(module, nn.Linear):
            return node
        if not isinstance(module, nn.Identity | nn.Flatten):
            return None
        node = node.args[0]
    return None


def find_head(traced: Trace) -> frozenset[fx.Node]:
    """The nodes after the global pooling: those that lead to the output without another reduction over space.

    Pooled features that are combined with feature maps again, as in squeeze-and-excite, are not among them.
    """
    found: set[fx.Node] = set()
    waiting = [node for node in traced.graph.nodes if node.op == "output"]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node.op == "placeholder":
                return frozenset()  # no global pooling
            if node not in found and _kind(traced, node) != "reduction":
                found.add(node)
                waiting.append(node)
    return frozenset(found)


def stage_modules(traced: Trace, until: str | None = None) -> list[str]:
    """Names of the stages: timm's `feature_info`, or the top-level children of another network; and the part with which
    the network was cut (`cut.py`), where that is none of them."""
    info = getattr(traced.network, "feature_info", None)
    if isinstance(info, list) and info and all(isinstance(entry, dict) and "module" in entry for entry in info):
        names = [entry["module"] for entry in info]
    else:
        names = [name for name, _ in traced.network.named_children()]
    ends = until is not None and traced.outputs[until] not in [traced.outputs.get(name) for name in names]
    return [*names, str(until)] if ends else names


def overwrites(traced: Trace, node: fx.Node) -> bool:
    """Whether a node writes into its first operand."""
    if node.op == "call_module":
        return bool(getattr(traced.module(node), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    return node.op == "call_function" and (
        node.target in (operator.iadd, operator.imul)
        or node.kwargs.get("inplace") is True
        or getattr(node.target, "__name__", "").endswith("_")
    )


def _drop_unused(graph: fx.Graph) -> None:
    """Remove assertions, and what computes sizes for them."""
    for node in reversed(list(graph.nodes)):
        is_assertion = node.op == "call_function" and node.target is torch._assert
        is_size = node.op == "call_function" and node.target in (getattr, operator.getitem, operator.eq)
        if is_assertion or ((is_size or (node.op, node.target) == ("call_method", "size")) and not node.users):
            graph.erase_node(node)


def _chain(traced: Trace, first: fx.Node) -> list[fx.Node]:
    """The nodes from `first` on, as long as each is a convolution, norm or activation with a single user."""
    chain = [first]
    while len(chain[-1].users) == 1:
        node = next(iter(chain[-1].users))
        module = traced.module(node)
        if not (isinstance(module, nn.Conv2d) or is_norm(module) or _kind(traced, node) == "elementwise"):
            break
        chain.append(node)
    return chain


def _following_pools(traced: Trace, node: fx.Node) -> tuple[fx.Node, ...]:
    while len(node.users) == 1:
        node = next(iter(node.users))
        if _kind(traced, node) == "pool":
            return (node,)
        if _kind(traced, node) != "elementwise":
            break
    return ()


def _places(module: Any) -> int:
    """Pixels that a module moves into the channels of one."""
    return int(module.bs) ** 2


def _kind(traced: Trace, node: fx.Node) -> str | None:
    """What an operation is, see `rules.registry.Rule`; None where it has no rule."""
    if node.op not in _OPERATIONS:
        return None
    rule = rule_of(traced.module(node), node.target)
    return None if rule is None else rule.kind
