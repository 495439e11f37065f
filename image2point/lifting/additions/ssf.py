"""Scale and shift per channel behind norms and convolutions (SSF): y = scale · layer(x) + shift, from 1 and 0.

Source: Lian et al., "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", 2022, eq. 3. They
have one behind every operation; here a convolution that a norm alone reads has none, as the norm's would do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from image2point.voxels import EvoNorm, TransposedConv, VoxelConv, functional

PARAMETERS = ("ssf_scale", "ssf_shift")
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, EvoNorm)  # those that end in · weight + bias
_LINEAR = (VoxelConv, nn.Conv2d, nn.Linear)


def plan(
    layers: Mapping[str, nn.Module], graph: fx.Graph, roles: Mapping[str, str]
) -> tuple[list[str], Callable[[], None]]:
    """Which of the layers take a scale and a shift, and what gives them to those that have none.

    Args:
        layers: of the roles body and norm.
    """
    norms = {name for name, layer in layers.items() if roles.get(name) == "norm" and isinstance(layer, _NORMS)}
    before = {
        str(node.args[0].target)
        for node in graph.nodes
        if node.op == "call_module" and node.target in norms
        if isinstance(node.args[0], fx.Node)
        if all(reader is node or reader.op == "output" for reader in node.args[0].users)
    }

    def takes(name: str, layer: nn.Module) -> bool:
        linear = isinstance(layer, _LINEAR) and not isinstance(layer, TransposedConv) and roles.get(name) == "body"
        return name in norms or (linear and name not in before)

    taken = [name for name, layer in layers.items() if takes(name, layer)]

    def add() -> None:
        for layer in (layers[name] for name in taken if not is_in(layers[name])):
            like = next(layer.parameters(), torch.empty(0))
            for parameter, value in zip(PARAMETERS, (torch.ones, torch.zeros), strict=True):
                start = value(channels(layer), dtype=like.dtype, device=like.device)
                layer.register_parameter(parameter, nn.Parameter(start))
            layer.register_forward_hook(scale_and_shift)

    return taken, add


def is_in(layer: nn.Module) -> bool:
    return PARAMETERS[0] in layer._parameters


def lacks(layer: nn.Module, leaf: str) -> bool:
    """Whether a layer can be scaled and shifted but has no weight, or no bias, of its own."""
    return isinstance(layer, (*_NORMS, *_LINEAR)) and leaf in ("weight", "bias") and getattr(layer, leaf) is None


def scale_and_shift(layer: Any, given: Any, result: Any) -> Any:
    """The hook that does it: features [N, C], grids [B, C, X, Y, Z] or vectors [B, C]."""

    def apply(features: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (features.ndim - 2)
        scale, shift = (t.to(features.dtype).view(shape) for t in (layer.ssf_scale, layer.ssf_shift))
        return torch.addcmul(shift, features, scale)

    return functional.pointwise(apply, result)


def fold(layer: nn.Module) -> None:
    """Multiply a layer's weight by its scale, and put its shift into the bias, which is made where there is none."""
    scale, shift = (layer._parameters.pop(name).detach() for name in PARAMETERS)  # type: ignore[union-attr]
    for key, hook in list(layer._forward_hooks.items()):
        if hook is scale_and_shift:
            del layer._forward_hooks[key]
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    trains = weight is not None and weight.requires_grad
    scaled = scale if weight is None else weight.detach() * scale.view(-1, *(1,) * (weight.ndim - 1))
    layer.weight = nn.Parameter(scaled, requires_grad=trains)
    shifted = shift if bias is None else torch.addcmul(shift, bias.detach(), scale)
    layer.bias = nn.Parameter(shifted, requires_grad=trains if bias is None else bias.requires_grad)


def channels(layer: Any) -> int:
    """How many a layer that can be scaled gives."""
    if isinstance(layer, _BatchNorm):
        return int(layer.num_features)
    if isinstance(layer, nn.LayerNorm):
        return int(layer.normalized_shape[0])
    return int(layer.num_channels if isinstance(layer, nn.GroupNorm) else len(layer.weight))
