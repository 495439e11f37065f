"""All additions: adding one to a network, naming the parameters, folding them all away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import fx, nn

from image2point.errors import InputError
from image2point.lifting.additions import depth, ssf
from image2point.lifting.records import Lifting, ParameterRecord
from image2point.voxels import DepthConv, VoxelConv


def add(
    net: nn.Module, graph: fx.Graph, record: Lifting, roles: Mapping[str, str], addition: str, block: str = ""
) -> Lifting:
    """Add parameters to the layers that have the roles body and norm, in place; what is there already stays.

    Args:
        graph, record, roles: of the network.
        addition: one of `roles.ADDITIONS` with parameters of its own, `depth` or `ssf`.
        block: layers in this block, which trains as a whole, get none.

    Returns:
        The record with what was added.

    Raises:
        InputError: where no layer takes it, or the kernels are not what `depth` needs.
    """
    layers = {
        name: layer
        for name, layer in net.named_modules()
        if roles.get(name) in ("body", "norm") and not (block and name.startswith(f"{block}."))
    }
    if addition == "ssf":
        taken = ssf.add(layers, graph, roles)
        needed = "norms that end in a weight and a bias, and convolutions"
    else:
        convs = {name: conv for name, conv in layers.items() if isinstance(conv, VoxelConv) and depth.takes(conv)}
        made = {name: depth.add(name, conv, record.options.rule) for name, conv in convs.items()}
        for name, conv in made.items():
            _put(net, name, conv)
        taken = [*made, *(name for name, layer in layers.items() if isinstance(layer, DepthConv))]
        needed = "convolutions wider than 1×1"
    if not taken:
        where = f" outside of {block}" if block else ""
        raise InputError(f"policy {addition}: {record.network} has no frozen layers{where} that take it: {needed}")
    steps = dict.fromkeys((*record.additions, (addition, block)))
    return replace(_recorded(net, record, roles, taken), additions=tuple(steps))


def added(net: nn.Module) -> dict[str, str]:
    """The addition that each added parameter belongs to, by the parameter's name."""
    found = {}
    for name, layer in net.named_modules():
        if isinstance(layer, DepthConv):
            found[f"{name}.depth"] = "depth"
        if ssf.is_in(layer):
            found |= dict.fromkeys((f"{name}.{parameter}" for parameter in ssf.PARAMETERS), "ssf")
    return found


def fold(net: nn.Module, record: Lifting, roles: Mapping[str, str]) -> Lifting:
    """Fold what was added into the weights and biases of a network, in place; returns the record of what is left."""
    taken = list(dict.fromkeys(name.rpartition(".")[0] for name in added(net)))
    for name in taken:
        layer = net.get_submodule(name)
        if isinstance(layer, DepthConv):
            layer = layer.plain()
            _put(net, name, layer)
        if ssf.is_in(layer):
            ssf.fold(layer)
    return replace(_recorded(net, record, roles, taken), additions=())


def _put(net: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    net.get_submodule(parent)._modules[leaf] = layer


def _recorded(net: nn.Module, record: Lifting, roles: Mapping[str, str], layers: list[str]) -> Lifting:
    """The record with the parameters that these layers have now; what is new is fresh."""
    before = {parameter.name: parameter for parameter in record.parameters}
    now = {
        f"{name}.{leaf}": (tuple(parameter.shape), roles[name])
        for name in layers
        for leaf, parameter in net.get_submodule(name).named_parameters(recurse=False)
    }
    gone = {name for name in before if name.rpartition(".")[0] in layers and name not in now}
    records = [replace(r, shape=now[r.name][0]) if r.name in now else r for r in before.values() if r.name not in gone]
    new = [ParameterRecord(name, *now[name], "fresh", None, None) for name in now if name not in before]
    return replace(record, parameters=(*records, *new))
