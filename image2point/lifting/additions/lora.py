"""A change of rank R of each 2D kernel (LoRA): W + up · down, lifted by the rule of W; up starts at zero.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2022, with alpha = R. The kernel counts as the
matrix [C_out, C_in / groups · K1 · K2], as in PEFT's change of a 2D convolution. PEFT itself takes no layer over
voxels: it wraps torch's own classes, renames their weights, and would give a 3D convolution a change of full depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.errors import InputError
from image2point.lifting.additions.depth import depth_values
from image2point.lifting.kernels import AXES, generator
from image2point.lifting.records import Lifting
from image2point.voxels import DepthConv, TiedConv, VoxelConv, functional

PARAMETERS = ("lora_up", "lora_down")


def plan(layers: Mapping[str, nn.Module], rank: int, record: Lifting) -> tuple[list[str], Callable[[], None]]:
    """Which of the layers take a change of a rank, or of the largest that they can have, and what gives it to them.

    Raises:
        InputError: where one has a change of another rank already, or kernels are not lifted from one 2D kernel each.
    """
    if record.options.control == "scratch":
        raise InputError(f"policy lora:{rank}: changes lifted kernels, and control scratch leaves none")
    taken = {
        name: layer
        for name, layer in layers.items()
        if type(layer) in (VoxelConv, TiedConv, DepthConv) or isinstance(layer, nn.Linear | nn.Conv2d)
    }
    sources = {r.name.removesuffix(".weight"): r.source_shape for r in record.parameters if r.name.endswith(".weight")}
    new = {}
    for name, layer in taken.items():
        spread = isinstance(layer, VoxelConv) and layer.window.taps > 1 and (sources[name] or ())[2:] == (1, 1)
        shape = _flat_shape(layer, spread)
        size = min(rank, shape[0], prod(shape[1:]))
        if is_in(layer):
            if (found := layer.get_parameter(PARAMETERS[0]).shape[1]) != size:
                raise InputError(
                    f"policy lora:{rank}: {name} has a change of rank {found} already; net.fold() puts it into the "
                    "weight, and then another can be added"
                )
            continue
        new[name] = size, shape, _fill(layer, spread, record.options.rule) if isinstance(layer, VoxelConv) else None

    def add() -> None:
        for name, (size, shape, fill) in new.items():
            layer, weight, bound = layers[name], layers[name].get_parameter("weight"), 1 / sqrt(prod(shape[1:]))
            draw = generator(record.options.seed, f"{name}.lora_down")
            down = torch.empty(size, *shape[1:]).uniform_(-bound, bound, generator=draw).to(weight)
            up = weight.new_zeros(shape[0], size)
            if isinstance(layer, VoxelConv):
                assert fill is not None
                layer.set_low_rank(up, down, fill.to(weight))
            else:
                layer.lora_up, layer.lora_down = nn.Parameter(up), nn.Parameter(down)
                layer.register_forward_hook(add_change, prepend=True)  # what `ssf` scales includes the change

    return list(taken), add


def is_in(layer: nn.Module) -> bool:
    return PARAMETERS[0] in layer._parameters


def add_change(layer: Any, given: Any, result: Any) -> Any:
    """The hook of a linear layer on sites or vectors [B, C], and of a convolution of vectors."""
    x = given[0]
    if isinstance(layer, nn.Conv2d):
        return result + F.conv2d(x[:, :, None, None], _change(layer), groups=layer.groups).flatten(1)

    def apply(features: Tensor) -> Tensor:
        return F.linear(F.linear(features, layer.lora_down), layer.lora_up)

    if isinstance(x, Tensor) and x.ndim == 2:
        return result + apply(x)
    return functional.add(result, functional.on_sites(apply, x))


def fold(layer: nn.Module) -> None:
    """Add the change to the weight."""
    weight: Any = layer._parameters["weight"]
    changed = layer.applied() if isinstance(layer, VoxelConv) else weight + _change(layer)
    layer._parameters["weight"] = nn.Parameter(changed.detach().clone(), requires_grad=weight.requires_grad)
    for name in PARAMETERS:
        del layer._parameters[name]
    layer._buffers.pop("lora_fill", None)
    layer._non_persistent_buffers_set.discard("lora_fill")
    for key, hook in list(layer._forward_hooks.items()):
        if hook is add_change:
            del layer._forward_hooks[key]


def _change(layer: Any) -> Tensor:
    return (layer.lora_up @ layer.lora_down.flatten(1)).view_as(layer.weight)


def _flat_shape(layer: nn.Module, spread: bool) -> tuple[int, ...]:
    """[C_out, C_in / groups, K1, K2] of a convolution, [C_out, C_in] of a linear layer."""
    shape = tuple(layer.get_parameter("weight").shape)
    if not isinstance(layer, VoxelConv) or len(shape) == 4:
        return shape
    axis = 2 + AXES.index(layer.axis)
    return (*shape[:2], 1, 1) if spread else shape[:axis] + shape[axis + 1 :]


def _fill(layer: VoxelConv, spread: bool, rule: str) -> Tensor:
    """What an entry of the 2D kernel became, [Kx, Ky, Kz], or 1 along an axis."""
    if spread:
        return torch.ones(layer.window.kernel)
    shape, axis = [1, 1, 1], AXES.index(layer.axis)
    shape[axis] = size = layer.window.kernel[axis]
    return depth_values(rule if size > 1 else "repeat", size, "lora").view(shape)
