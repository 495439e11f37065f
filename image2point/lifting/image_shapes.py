"""What a traced 2D network takes and gives: channels of its images, shapes of its values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from image2point.errors import one_line
from image2point.lifting.graph import LiftError, Stem, Trace


def shape_of(traced: Trace, node: fx.Node, channels: int, sides: Sequence[int] = (64, 224, 448)) -> torch.Size:
    """The shape of what a node gives for one image of so many channels, of the first side that is large enough."""
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    part.graph_copy(traced.graph, copies)
    part.output(copies[node])
    part.eliminate_dead_code(lambda each: each.op in ("placeholder", "output"))
    run, parameter = fx.GraphModule(traced.network.eval(), part), next(traced.network.parameters())
    for side in sides:
        try:
            with torch.no_grad():
                shape: torch.Size = run(parameter.new_zeros(1, channels, side, side)).shape
            return shape
        except RuntimeError as error:  # a kernel that is larger than the map
            reason = one_line(error, 300)
    raise LiftError(f"cannot lift {traced.name}: it cannot run on an image of {side}×{side} pixels ({reason})")


def image_channels(traced: Trace, stem: Stem) -> int:
    """Channels of the images that a network takes; pixels that its stem moves into channels are not among them."""
    conv = traced.module(stem.convolutions[0])
    assert isinstance(conv, nn.Conv2d)
    return conv.in_channels // stem.parts
