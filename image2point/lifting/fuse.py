"""Fusing: every chain of convolution, norm, sum and activation in a lifted graph becomes one node."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from image2point.voxels import BatchNorm, Pointwise, TiedConv, VoxelConv
from image2point.voxels.block import convolve_norm_activate
from image2point.voxels.functional import add


def fuse(graph: fx.Graph, network: nn.Module) -> fx.Graph:
    """Replace every chain of a graph, in place; returns the graph.

    A chain is a convolution and the norm that is its only reader, then a sum with other voxels and an activation, each
    only if it is the only reader of what precedes it. The new node stands where the last of the chain stood, since
    everything that the chain reads is there by then. Whether it runs as one operation is decided at each call, from
    the state of the modules.
    """

    def module(node: fx.Node | None) -> nn.Module | None:
        return network.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None

    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for norm in list(graph.nodes):
        conv = norm.args[0] if isinstance(module(norm), BatchNorm) else None
        if not isinstance(conv, fx.Node) or type(module(conv)) not in (VoxelConv, TiedConv) or len(conv.users) > 1:
            continue
        if uses[norm.target] > 1:
            continue  # in training, its running statistics depend on the order
        chain, activation, residual = [conv, norm], None, None
        reader = _only_reader(norm)
        if reader is not None and reader.op == "call_function" and reader.target is add and not reader.kwargs:
            others = [argument for argument in reader.args if argument is not norm]
            if len(others) == 1 and isinstance(others[0], fx.Node):
                residual = others[0]
                chain.append(reader)
                reader = _only_reader(reader)
        if reader is not None and isinstance(module(reader), Pointwise):
            activation = reader
            chain.append(reader)
        last = chain[-1]
        with graph.inserting_before(last):
            modules = [graph.create_node("get_attr", str(node.target)) for node in (conv, norm)]
            act = None if activation is None else graph.create_node("get_attr", str(activation.target))
            fused = graph.call_function(convolve_norm_activate, (*modules, act, conv.args[0], residual))
        last.replace_all_uses_with(fused)
        for node in reversed(chain):
            graph.erase_node(node)
    return graph


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
