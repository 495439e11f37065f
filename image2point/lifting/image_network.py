"""The 2D network that a lifting began with, made again from its record."""

from __future__ import annotations

import torch
from torch import nn

from image2point import pretrained
from image2point._timm import load_timm
from image2point.errors import InputError
from image2point.lifting.graph import move_stride
from image2point.lifting.records import Lifting


def image_network(lifting: Lifting) -> nn.Module:
    """The 2D network with the weights that were lifted, in eval mode, on the CPU.

    Random weights are drawn again from the seed of the lifting.

    Raises:
        InputError: where the lifting began with a given module, which only its owner has, or where the weights cannot
            be read any more.
    """
    name, source = lifting.network, lifting.weights.source
    timm = load_timm()
    if source == "module" or not timm.is_model(name.split(".")[0]):
        raise InputError(f"{name} was lifted from a given module, not from a name of timm: the record cannot make it")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(lifting.options.seed)
        network = timm.create_model(name, pretrained=False)
    if lifting.options.stride_in == "conv1":
        move_stride(network, name)
    replaced = frozenset(record.name.rpartition(".")[0] for record in lifting.sources if record.fate == "replaced")
    # What was missing or left over was named when the network was lifted.
    pretrained.load_into(
        network, name, source, replaced, allow_missing=lifting.weights.missing, allow_unexpected=("*",)
    )
    return network.eval()
