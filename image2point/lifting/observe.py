"""Looking inside a lifted network: what any named layer gives, in one pass, reduced as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from image2point.errors import InputError
from image2point.lifting.rewrite import LAYERS
from image2point.networks.layer_names import FEATURES, Rows, blocks
from image2point.voxels import DenseVoxels, Voxels, VoxelTensor
from image2point.voxels.functional import global_mean

if TYPE_CHECKING:
    from image2point.lifting.network import LiftedNetwork


def layers(net: LiftedNetwork) -> tuple[str, ...]:
    """Names of all layers that can be observed, in the order in which they are computed.

    They are the 2D network's names, of modules of any depth (`layer1`, `layer1.0`, `layer1.0.conv1`), and `features`.
    What the paper's stem replaces has the output of the stem.
    """
    return tuple(places(net.graph))


def observer(net: LiftedNetwork, names: Sequence[str], per_voxel: bool = False) -> Callable[[Voxels], dict[str, Rows]]:
    """A function that runs the network and gives the rows of the named layers.

    One row per cloud, the mean over the occupied voxels of a feature map, or with `per_voxel` one per occupied voxel.
    Each map is reduced where it is computed, and nothing after the last of the layers runs.

    Raises:
        InputError: on a name that no layer has.
    """
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.graph_copy(net.graph, copies, return_output_node=True)
    found = places(net.graph)
    reduce = rows_per_voxel if per_voxel else rows_per_cloud
    seen = {}
    for name in names:
        if name not in found:
            raise InputError(f"{net.lifting.network} has no layer {name!r}; it has {', '.join(found)}")
        node = copies[found[name]]
        with graph.inserting_after(node):  # a later layer may overwrite what this one gave
            seen[name] = graph.call_function(reduce, (node,))
    graph.output(seen)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    program = net.program(graph)
    return lambda x: net.execute(program, x)


def rows_per_cloud(x: Voxels) -> Rows:
    """Means over the occupied voxels of each cloud; a vector per cloud as it is."""
    means = x.clone() if isinstance(x, Tensor) and x.ndim == 2 else global_mean(x)
    return means, torch.arange(len(means), device=means.device)


def rows_per_voxel(x: Voxels) -> Rows:
    """The occupied voxels themselves; a vector per cloud as it is."""
    if isinstance(x, Tensor) and x.ndim == 2:
        return rows_per_cloud(x)
    if isinstance(x, Tensor):
        x = DenseVoxels(x, torch.ones_like(x[:, :1], dtype=torch.bool))
    x = x if isinstance(x, VoxelTensor) else x.sparse()
    return x.features.clone(), x.sites.batch


def block_layers(net: LiftedNetwork) -> tuple[str, ...]:
    """The blocks of a lifted network that can be observed, in order, and `features`."""
    names = {*blocks(record.name for record in net.lifting.parameters if len(record.shape) == 5), FEATURES}
    return tuple(name for name in dict.fromkeys(layers(net)) if name in names)


def places(graph: fx.Graph) -> dict[str, fx.Node]:
    """The node that gives each layer, in order; `features` last, if there are any."""
    found = {name: node for node in graph.nodes for name in node.meta.get(LAYERS, ()) if name != FEATURES}
    (output,) = next(node for node in graph.nodes if node.op == "output").args
    assert isinstance(output, dict)
    return found | ({FEATURES: output[FEATURES]} if FEATURES in output else {})
