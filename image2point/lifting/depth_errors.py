"""How exactly a lifting keeps the 2D network: layer by layer, on an image that is repeated along depth."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from image2point.lifting.activations import channels_last, evaluating, layer_outputs
from image2point.lifting.completed import Completed
from image2point.lifting.kernels import AXES
from image2point.lifting.matched import extruded, image_in_channels
from image2point.lifting.network import LiftedNetwork
from image2point.voxels import VoxelConv

_IMAGE, _DEPTH = (64, 64), 4


def depth_errors(image_network: nn.Module, net: LiftedNetwork) -> dict[str, float]:
    """Error of each layer on an image repeated along depth: zero, but for rounding, under `mean`.

    A plain grid carries the image, whose border slices are repeated along depth whatever the network's own padding.
    Windows of the 2D network are completed at the far border (see `completed.Completed`).

    Returns:
        Largest error relative to the largest magnitude of the 2D layer's output, of every layer that is not fresh.
    """
    options = net.lifting.options
    depth = 2 + AXES.index(options.depth_axis)
    outputs = layer_outputs(net)
    fresh = {record.name.rpartition(".")[0] for record in net.lifting.parameters if record.origin == "fresh"}
    in_2d, in_3d = dict(image_network.named_modules()), dict(net.named_modules())
    shared = [name for name in outputs if name in in_2d and name not in fresh]
    expected: dict[str, list[Tensor]] = {name: [] for name in shared}
    errors: dict[str, float] = {}

    def keep(name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        expected[name].append((output.movedim(-1, 1) if channels_last(layer) else output).clone())

    def compare(name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if not expected[name]:
            return  # the 2D network does not call this layer as a module
        want = expected[name].pop(0)
        want = want.unsqueeze(depth).expand_as(output) if output.ndim == 5 else want.flatten(1)
        errors[name] = max(errors.get(name, 0.0), relative_error(output, want))

    parameter = next(net.parameters())
    shape = (1, image_in_channels(image_network), *_IMAGE)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(parameter)
    convolutions = [(m, m.depth_padding) for m in net.modules() if isinstance(m, VoxelConv)]
    handles = [in_2d[name].register_forward_hook(partial(keep, name)) for name in shared]
    handles += [in_3d[outputs[name]].register_forward_hook(partial(compare, name)) for name in shared]
    try:
        for convolution, _ in convolutions:
            convolution.depth_padding = "replicate"
        with evaluating(image_network), evaluating(net):
            with Completed():
                image_network(image)
            net(extruded(image, options.depth_axis, _DEPTH))
    finally:
        for convolution, padding in convolutions:
            convolution.depth_padding = padding
        for handle in handles:
            handle.remove()
    return errors


def no_depth_error(image_network: nn.Module, net: LiftedNetwork) -> str:
    """Why an image repeated along depth has no counterpart in this lifting; empty where it has."""
    options = net.lifting.options
    if options.stem == "inflate1":
        return "the stem is lifted without its strides (stem=inflate keeps them)"
    if options.stem != "inflate":
        return "the stem is fresh (stem=inflate has it lifted)"
    if options.control != "none":
        return f"the weights are not those of the 2D network (control {options.control})"
    if options.axis not in AXES:
        return f"there is no single depth axis (axis {options.axis})"
    if options.in_channels != image_in_channels(image_network):
        return f"images have {image_in_channels(image_network)} channels, and the voxels {options.in_channels}"
    return ""


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest error relative to the largest expected magnitude; infinite where the shapes or a value are wrong."""
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    largest = expected.abs().max()
    return float((found - expected).abs().max() / (largest if largest > 0 else 1))
