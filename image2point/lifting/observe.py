"""Looking inside a lifted network: the output of any named layer, in one pass, reduced where it is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from image2point.errors import InputError
from image2point.lifting.records import ParameterRecord
from image2point.lifting.rewrite import LAYERS
from image2point.networks.layer_names import FEATURES, Rows, blocks
from image2point.voxels import DenseVoxels, VoxelConv, Voxels, VoxelTensor
from image2point.voxels.functional import global_mean


def observing(graph: fx.Graph, names: Sequence[str], reduce: Callable[[Voxels], Any], network: str) -> fx.Graph:
    """The part of a lifted graph that leads to the named layers, giving what `reduce` makes of each.

    Raises:
        InputError: on a name that no layer has.
    """
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    part.graph_copy(graph, copies, return_output_node=True)
    nodes = layer_nodes(graph)
    rows = {}
    for name in names:
        if name not in nodes:
            raise InputError(f"{network} has no layer {name!r}; it has {', '.join(nodes)}")
        node = copies[nodes[name]]
        with part.inserting_after(node):  # a later layer may overwrite what this one gave
            rows[name] = part.call_function(reduce, (node,))
    part.output(rows)
    part.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return part


def copied(x: Voxels) -> Voxels:
    """The map itself, which nothing that follows in the network writes to."""
    if isinstance(x, VoxelTensor):
        return x.replace(x.features.clone())
    return x.replace(x.grid.clone()) if isinstance(x, DenseVoxels) else x.clone()


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


def block_layers(net: Any) -> tuple[str, ...]:
    """The blocks of a lifted network that can be observed, in order, and `features`."""
    names = {*_blocks(net, [record.name for record in _kernels(net)]), FEATURES}
    return tuple(name for name in layer_nodes(net._graph) if name in names)


def body_blocks(net: Any) -> tuple[str, ...]:
    """The blocks of the body, in order."""
    names = _blocks(net, [record.name for record in _kernels(net) if record.role == "body"])
    return tuple(name for name in block_layers(net) if name in names)


def _blocks(net: Any, kernels: Sequence[str]) -> tuple[str, ...]:
    """The blocks that hold these kernels: those of the whole 2D network, of which the 3D one may be a part."""
    lifting = net._lifting
    behind = [source.name for source in lifting.sources if source.fate == "skipped" and len(source.shape) == 4]
    found = blocks([*kernels, *behind] if lifting.options.until is not None else kernels)
    return tuple(block for block in found if any(name.startswith(f"{block}.") for name in kernels))


def _kernels(net: Any) -> list[ParameterRecord]:
    """The records of the kernels of convolutions over voxels; under rule `tied` and with `depth` they are 2D ones."""
    convs = {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, VoxelConv)}
    return [record for record in net._lifting.parameters if len(record.shape) == 5 or record.name in convs]


def layer_nodes(graph: fx.Graph) -> dict[str, fx.Node]:
    """The node that gives each layer, in order; `features` last, if there are any."""
    nodes = {name: node for node in graph.nodes for name in node.meta.get(LAYERS, ()) if name != FEATURES}
    (output,) = next(node for node in graph.nodes if node.op == "output").args
    assert isinstance(output, dict)
    return nodes | ({FEATURES: output[FEATURES]} if FEATURES in output else {})
