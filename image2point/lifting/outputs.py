"""What a 2D network gives: class scores per image, or a map per pixel; and the convolution that scores pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from image2point.errors import InputError
from image2point.lifting.dead_code import drop_dead
from image2point.lifting.graph import LiftError, Trace

# What may stand between the convolution that scores each pixel and the output.
_AFTER_SCORES = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.Upsample,
    nn.Softmax,
    nn.Softmax2d,
    nn.LogSoftmax,
    nn.Sigmoid,
)
_AFTER_SCORES_CALLED = (F.interpolate, F.dropout, F.softmax, F.log_softmax, torch.softmax, torch.sigmoid, F.sigmoid)


def settle_output(traced: Trace) -> None:
    """Make one tensor the output of a graph that gives a dict with the entry `out`, as torchvision's segmenters do.

    Raises:
        LiftError: where the network gives something else: a list of maps, a dict with other entries.
    """
    (output,) = traced.graph.find_nodes(op="output")
    (result,) = output.args
    if isinstance(result, dict) and isinstance(result.get("out"), fx.Node):
        output.args = (result["out"],)
        drop_dead(traced)
    elif isinstance(result, list | tuple):
        raise LiftError(
            f"cannot lift {traced.name}: it returns {len(result)} tensors; expected one. Of a timm network made with "
            "features_only=True, lift the whole network and call net.forward_features(voxels) for the map of each stage"
        )
    elif isinstance(result, dict):
        raise LiftError(
            f"cannot lift {traced.name}: it returns a dict with {', '.join(map(repr, result))}; expected one tensor, "
            "or the entry 'out'. Wrap it in a module that returns the one you want"
        )


def pixel_classifier(traced: Trace) -> fx.Node | None:
    """The convolution that gives each pixel its scores; None in a network that ends otherwise.

    Behind it there is nothing but dropout, resizing and softmax or sigmoid. What ends in an activation, a norm or
    pooling gives features.
    """
    (output,) = traced.graph.find_nodes(op="output")
    node = output.args[0]
    while isinstance(node, fx.Node):
        module = traced.module(node)
        if isinstance(module, nn.Conv2d):
            return node
        passes = isinstance(module, _AFTER_SCORES) or node.target in _AFTER_SCORES_CALLED
        node = node.args[0] if passes and node.args else None
    return None


def fresh_scores(conv: nn.Conv2d, classes: int, draw: torch.Generator, name: str) -> nn.Conv2d:
    """A 2D convolution like `conv` that gives `classes` scores: weights normal of standard deviation 0.01, bias zero.

    >>> fresh_scores(nn.Conv2d(8, 21, 1), 5, torch.Generator(), "fcn").weight.shape
    torch.Size([5, 8, 1, 1])
    """
    if conv.groups > 1:
        raise InputError(
            f"{name} scores pixels by a convolution in {conv.groups} groups, which num_classes cannot replace; use "
            "num_classes=None"
        )
    fresh = nn.Conv2d(
        conv.in_channels, classes, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None, device="cpu", dtype=conv.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        fresh.weight.copy_(torch.empty(fresh.weight.shape).normal_(0.0, 0.01, generator=draw))
        if fresh.bias is not None:
            fresh.bias.zero_()
    return fresh
