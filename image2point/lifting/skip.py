"""A skip connection from a block to the features before the classifier (SCL fine-tuning).

The block's output, averaged over space, is added to the features; where it has fewer channels, the remaining features
stay as they are. So the head sees the trained block directly, and not only through the frozen layers after it.

Source: Li et al. 2024, "Understanding and Improving Transfer Learning of Deep Models via Neural Collapse". How a block
is brought to the features' size is our choice.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from image2point.errors import InputError
from image2point.lifting.network import LiftedNetwork
from image2point.lifting.observe import layer_nodes
from image2point.lifting.rewrite import LAYERS
from image2point.networks.layer_names import FEATURES
from image2point.voxels import Voxels
from image2point.voxels.functional import global_mean


def add_skip(net: LiftedNetwork, block: str) -> LiftedNetwork:
    """Connect `block` (a name of the 2D network's) to the features of `net`, in place; returns it.

    It adds no parameter. A block that holds the features, such as a head, is no module of its own afterwards.

    Raises:
        InputError: as `check_skip`, and then the network is as it was.
    """
    check_skip(net, block)
    nodes = layer_nodes(net._graph)
    features, source = nodes[FEATURES], nodes[block]
    with net._graph.inserting_after(features):
        joined = net._graph.call_function(joined_features, (features, source))
    features.replace_all_uses_with(joined, delete_user_cb=lambda user: user is not joined)
    joined.meta[LAYERS] = features.meta.pop(LAYERS, [])
    net._lifting = replace(net._lifting, skip=block)
    net._graph.lint()
    net.renew_program()
    return net


def check_skip(net: LiftedNetwork, block: str) -> None:
    """Raise InputError where the network has no such block before its features, one with more channels than there are
    features, no features before a classifier, or a skip already."""
    if net._lifting.skip:
        raise InputError(
            f"{net._lifting.network} has a skip connection from {net._lifting.skip} to the features already, and can "
            f"have none from {block}; lift it again"
        )
    nodes = layer_nodes(net._graph)
    if FEATURES not in nodes or net._lifting.decoder:
        raise InputError(f"{net._lifting.network} has no global pooling, and so no features to which a skip could lead")
    features, source = nodes[FEATURES], nodes.get(block)
    order = {node: place for place, node in enumerate(net._graph.nodes)}
    if source is None or order[source] >= order[features]:
        there = [name for name in net.block_names() if order[nodes[name]] < order[features]]
        raise InputError(
            f"{net._lifting.network} has no block {block!r} before its features; it has {', '.join(there)}"
        )
    rows = net._on_one_voxel(net.observe([block, FEATURES]))
    wide, narrow = (rows[name][0].shape[1] for name in (block, FEATURES))
    if wide > narrow:
        raise InputError(
            f"{block} of {net._lifting.network} has {wide} channels, and a skip leads from a block of at most as many "
            f"as there are features, {narrow}; choose another block"
        )


def joined_features(features: Tensor, block: Voxels) -> Tensor:
    """features [B, p] + the means of `block` over space [B, c], zero in the channels beyond c."""
    means = block if isinstance(block, Tensor) and block.ndim == 2 else global_mean(block)
    missing = features.shape[1] - means.shape[1]
    return features + torch.nn.functional.pad(means, (0, missing))
