"""All additions: adding one to a network, naming the parameters, folding them all away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from image2point.errors import InputError
from image2point.lifting.additions import adapter, depth, lora, ssf
from image2point.lifting.observe import body_blocks
from image2point.lifting.records import Lifting, ParameterRecord
from image2point.roles import addition_kind, addition_rank
from image2point.voxels import DepthConv, TiedConv, VoxelConv
from image2point.voxels.depth_conv import plain

_NEEDED = {
    "depth": "convolutions wider than 1×1",
    "lora": "convolutions and linear layers",
    "ssf": "norms that end in a weight and a bias, and convolutions",
    "adapter": "blocks of several layers that give one map",
}


def add(net: Any, addition: str, block: str = "") -> Lifting:
    """Add parameters to the layers that have the roles body and norm, in place; what is there already stays.

    Args:
        net: a lifted network.
        addition: one of `roles.ADDITIONS` with parameters of its own, with its rank where it has one (`lora:4`).
        block: layers in this block, which trains as a whole, get none.

    Returns:
        The record with what was added.

    Raises:
        InputError: as `check`, and then nothing was added.
    """
    taken, put = _plan(net, addition, block)
    put()
    record = net._lifting
    steps = dict.fromkeys((*record.additions, (addition, block)))
    return replace(_recorded(net, record, net._roles, taken), additions=tuple(steps))


def check(net: Any, addition: str, block: str = "") -> None:
    """Raise InputError where no layer takes an addition, it is there with another rank, or the kernels are not what it
    needs."""
    _plan(net, addition, block)


def _plan(net: Any, addition: str, block: str) -> tuple[list[str], Callable[[], None]]:
    """Which layers have what is added then, and what adds it to those that lack it."""
    record, roles, kind, rank = net._lifting, net._roles, addition_kind(addition), addition_rank(addition)

    def rests(name: str) -> bool:
        return not (block and f"{name}.".startswith(f"{block}."))

    layers = {name: layer for name, layer in net.named_modules() if roles.get(name) in ("body", "norm") and rests(name)}
    if kind == "adapter":
        taken, put = adapter.plan(net, [name for name in body_blocks(net) if rests(name)], rank)
    elif kind == "lora":
        taken, put = lora.plan({name: layer for name, layer in layers.items() if roles[name] == "body"}, rank, record)
    elif kind == "ssf":
        taken, put = ssf.plan(layers, net._graph, roles)
    else:
        taken, put = _plan_depth(net, layers, addition)
    if not taken:
        where = f" outside of {block}" if block else ""
        raise InputError(
            f"policy {addition}: {record.network} has no frozen layers{where} that take it: {_NEEDED[kind]}"
        )
    return taken, put


def _plan_depth(net: Any, layers: Mapping[str, nn.Module], addition: str) -> tuple[list[str], Callable[[], None]]:
    by_channel = addition != addition_kind(addition)
    there = {name: layer for name, layer in layers.items() if isinstance(layer, DepthConv)}
    if other := [name for name, layer in there.items() if (layer.depth.ndim > 1) != by_channel]:
        found = "numbers for all channels together" if by_channel else "numbers for each channel"
        raise InputError(f"policy {addition}: {other[0]} has {found} already; lift the network anew")
    convs = {name: conv for name, conv in layers.items() if isinstance(conv, VoxelConv) and depth.takes(conv)}
    made = {name: depth.add(name, conv, net._lifting.options.rule, by_channel) for name, conv in convs.items()}

    def put() -> None:
        for name, conv in made.items():
            _put(net, name, conv)

    return [*made, *there], put


def added(net: nn.Module) -> dict[str, str]:
    """The addition that each added parameter belongs to, without its rank, by the parameter's name."""
    found = {}
    for name, layer in net.named_modules():
        if isinstance(layer, DepthConv):
            found[f"{name}.depth"] = "depth"
        if isinstance(layer, adapter.Adapter):
            found |= dict.fromkeys((f"{name}.{parameter}" for parameter, _ in layer.named_parameters()), "adapter")
        for kind, each in (("lora", lora), ("ssf", ssf)):
            if each.is_in(layer):
                found |= dict.fromkeys((f"{name}.{parameter}" for parameter in each.PARAMETERS), kind)
    return found


def fold(net: nn.Module, record: Lifting, roles: Mapping[str, str]) -> Lifting:
    """Fold what was added into the weights and biases of a network, in place; returns the record of what is left.

    Adapters are layers of their own, with an activation, and stay.
    """
    folded = [name.rpartition(".")[0] for name, kind in added(net).items() if kind != "adapter"]
    taken = list(dict.fromkeys(folded))
    for name in taken:
        layer = net.get_submodule(name)
        if lora.is_in(layer):
            lora.fold(layer)
        if isinstance(layer, DepthConv):
            layer = plain(layer)
            _put(net, name, layer)
        if ssf.is_in(layer):
            ssf.fold(layer)
    left = tuple(step for step in record.additions if addition_kind(step[0]) == "adapter")
    return replace(_recorded(net, record, roles, taken), additions=left)


def as_folded(net: nn.Module, record: Lifting) -> None:
    """Give the layers of a network that was lifted anew the parameters that `fold` left those of a record, in place.

    Under rule `tied` it leaves a 3D kernel of a trained depth, and of a shift a bias, which not every layer has.
    """
    layers = dict(net.named_modules())
    for parameter in record.parameters:
        name, _, leaf = parameter.name.rpartition(".")
        layer = layers.get(name)
        if leaf == "weight" and isinstance(layer, TiedConv) and len(parameter.shape) == 5:
            _put(net, name, plain(layer))
        elif layer is not None and ssf.lacks(layer, leaf) and parameter.shape == (ssf.channels(layer),):
            setattr(layer, leaf, nn.Parameter(torch.zeros(parameter.shape)))


def _put(net: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    net.get_submodule(parent)._modules[leaf] = layer


def _recorded(net: nn.Module, record: Lifting, roles: Mapping[str, str], layers: list[str]) -> Lifting:
    """The record with the parameters that these layers have now; what is new is fresh."""
    before = {parameter.name: parameter for parameter in record.parameters}
    now = {
        f"{name}.{leaf}": (tuple(parameter.shape), roles[name])
        for name in layers
        for leaf, parameter in net.get_submodule(name).named_parameters()
    }
    gone = {name for name in before if name.rpartition(".")[0] in layers and name not in now}
    records = [replace(r, shape=now[r.name][0]) if r.name in now else r for r in before.values() if r.name not in gone]
    new = [ParameterRecord(name, *now[name], "fresh", None, None) for name in now if name not in before]
    return replace(record, parameters=(*records, *new))
