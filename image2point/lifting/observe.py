"""Looking inside a lifted network: the output of any named layer, in one pass, reduced where it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, fx

from image2point.errors import InputError
from image2point.lifting.network import LiftedNetwork
from image2point.lifting.rewrite import LAYERS
from image2point.voxels import DenseVoxels, Voxels, VoxelTensor
from image2point.voxels.functional import global_mean

Rows = tuple[Tensor, Tensor]
"""Features [m, d], and for each row the index of its cloud in the batch, int64 [m]."""

FEATURES = "features"
"""The layer before the classifier, under one name in every network."""


def layers(net: LiftedNetwork) -> tuple[str, ...]:
    """Names of all layers that can be observed, in the order in which they are computed.

    They are the 2D network's module names, at any depth (`layer1`, `layer1.0`, `layer1.0.conv1`), and `features`. A
    layer that the paper's stem replaced gives the output of the stem.
    """
    return tuple(layer_nodes(net._graph))


def observer(net: LiftedNetwork, names: Sequence[str], per_voxel: bool = False) -> Callable[[Voxels], dict[str, Rows]]:
    """A function that runs the network and gives the rows of the named layers.

    A layer has one row per cloud, the mean of its map over the occupied voxels, or with `per_voxel` one row per
    occupied voxel. Each map is reduced where it is computed, and nothing after the last of the layers runs. Blocks with
    hooks are called as modules.

    Raises:
        InputError: on a name that no layer has; when it runs, on a layer inside a block that has a hook.
    """
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.graph_copy(net._graph, copies, return_output_node=True)
    nodes = layer_nodes(net._graph)
    reduce = rows_per_voxel if per_voxel else rows_per_cloud
    rows = {}
    for name in names:
        if name not in nodes:
            raise InputError(f"{net._lifting.network} has no layer {name!r}; it has {', '.join(nodes)}")
        node = copies[nodes[name]]
        with graph.inserting_after(node):  # a later layer may overwrite what this one gave
            rows[name] = graph.call_function(reduce, (node,))
    graph.output(rows)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    program = net.program(graph)
    return lambda x: net.execute(program, x)


def rows_per_cloud(x: Voxels) -> Rows:
    """Means over the occupied voxels of each cloud; vectors per cloud stay as they are."""
    means = x.clone() if isinstance(x, Tensor) and x.ndim == 2 else global_mean(x)
    return means, torch.arange(len(means), device=means.device)


def rows_per_voxel(x: Voxels) -> Rows:
    """The features of the occupied voxels; vectors per cloud stay as they are."""
    if isinstance(x, Tensor) and x.ndim == 2:
        return rows_per_cloud(x)
    if isinstance(x, Tensor):
        x = DenseVoxels(x, torch.ones_like(x[:, :1], dtype=torch.bool))
    x = x if isinstance(x, VoxelTensor) else x.sparse()
    return x.features.clone(), x.sites.batch


def choose(patterns: Iterable[str], available: Sequence[str], blocks: Sequence[str]) -> tuple[str, ...]:
    """The layers that match any of `patterns`, in the order of `available`; the pattern `blocks` stands for `blocks`.

    Raises:
        InputError: on a pattern that matches nothing.
    """
    wanted: set[str] = set()
    for pattern in patterns:
        matches = set(blocks) if pattern == "blocks" else {n for n in available if fnmatchcase(n, pattern)}
        if not matches:
            raise InputError(f"no layer matches {pattern!r}; there are {', '.join(available)}")
        wanted |= matches
    return tuple(name for name in available if name in wanted)


def blocks(kernels: Iterable[str]) -> tuple[str, ...]:
    """The blocks that a network is built of, from the names of its kernels, in that order.

    A block is a module that holds kernels directly (`layer1.0` of `layer1.0.conv1.weight`), with all that is nested
    in it. What holds more than half of all kernels is no block: those directly in it (`conv_head.weight` at the top
    of a network, `features.3.weight` of a plain chain) are blocks by themselves.
    """
    holders = [name.rpartition(".")[0] for name in kernels]

    def is_block(name: str) -> bool:
        return bool(name) and 2 * sum(layer.startswith(f"{name}.") for layer in holders) <= len(holders)

    names = dict.fromkeys(p if is_block(p) else layer for layer in holders for p in [layer.rpartition(".")[0]])
    return tuple(name for name in names if not any(name.startswith(f"{other}.") for other in names))


def block_layers(net: LiftedNetwork) -> tuple[str, ...]:
    """The blocks of a lifted network that can be observed, in order, and `features`."""
    names = {*blocks(record.name for record in net._lifting.parameters if len(record.shape) == 5), FEATURES}
    return tuple(name for name in dict.fromkeys(layers(net)) if name in names)


def layer_nodes(graph: fx.Graph) -> dict[str, fx.Node]:
    """The node that gives each layer, in order; `features` last, if there are any."""
    nodes = {name: node for node in graph.nodes for name in node.meta.get(LAYERS, ()) if name != FEATURES}
    (output,) = next(node for node in graph.nodes if node.op == "output").args
    assert isinstance(output, dict)
    return nodes | ({FEATURES: output[FEATURES]} if FEATURES in output else {})
