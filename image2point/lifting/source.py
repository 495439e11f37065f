"""The 2D network that a lifting began with, made again from its record."""

from __future__ import annotations

from torch import nn

from image2point.errors import InputError
from image2point.lifting.records import Lifting
from image2point.networks.timm_networks import has_architecture, timm_network
from image2point.networks.weights import load_into


def source_network(lifting: Lifting) -> nn.Module:
    """The 2D network with the weights that were lifted, in eval mode, on the CPU.

    Random weights are drawn again from the seed of the lifting.

    Raises:
        InputError: where the lifting began with a given module, which only its owner has, or where the weights cannot
            be read any more.
    """
    name, source, options = lifting.network, lifting.weights.source, lifting.options
    if source == "module" or not has_architecture(name):
        raise InputError(f"{name} was lifted from a given module, not from a name of timm: the record cannot make it")
    network = timm_network(name, options.seed, stride_in=options.stride_in)
    if options.until is None:
        gone = {record.name for record in lifting.sources if record.fate == "replaced"}
    else:  # what lies behind the end may fit as little as what was replaced
        gone = network.state_dict().keys() - {record.name for record in lifting.sources if record.fate == "used"}
    replaced = frozenset(name.rpartition(".")[0] for name in gone)
    # What was missing or left over was named when the network was lifted.
    load_into(network, name, source, replaced, allow_missing=lifting.weights.missing, allow_unexpected=("*",))
    return network.eval()
