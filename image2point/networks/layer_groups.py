"""The layers of a timm network in their order, by the names of its parameters, as timm groups them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from image2point.errors import InputError
from image2point.networks.timm_import import load_timm
from image2point.networks.timm_networks import has_architecture


def layer_numbers(architecture: str, names: Iterable[str]) -> dict[str, int]:
    """The number of the layer that each named parameter belongs to, from 0 at the input; the head has the largest.

    Names that the 2D network does not have count by what they begin with, and else as the head.

    Raises:
        InputError: where timm has no such network, or does not say how its layers follow each other.

    >>> layer_numbers("test_resnet", ["conv1.0.weight", "layer1.0.conv1.weight", "layer2.0.bn1.bias", "fc.weight"])
    {'conv1.0.weight': 0, 'layer1.0.conv1.weight': 1, 'layer2.0.bn1.bias': 2, 'fc.weight': 3}
    """
    if not has_architecture(architecture):
        raise unknown(f"timm has no network {architecture}, by whose layers the learning rate could decay")
    timm = load_timm()
    with torch.device("meta"):
        network = timm.create_model(architecture.split(".")[0], pretrained=False)
    silent = unknown(f"timm does not say in which order the layers of {architecture} follow each other")
    if not hasattr(network, "group_matcher"):
        raise silent
    try:
        matcher = network.group_matcher(coarse=False)
    except (NotImplementedError, AssertionError):  # by which timm says that there is none
        raise silent from None
    numbers = timm.models.group_parameters(_Named(names), matcher, reverse=True)
    return {str(name): int(number) for name, number in numbers.items()}


def unknown(problem: str) -> InputError:
    return InputError(f"training.layer_decay: {problem}; leave it out, or use training.lr_by_role")


class _Named:
    """What timm asks of a network to group its parameters: their names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = names

    def named_parameters(self) -> Iterator[tuple[str, None]]:
        return ((name, None) for name in self._names)
