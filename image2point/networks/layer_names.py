"""Names of a network's layers and blocks, and what an observed layer gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from image2point.errors import InputError

Rows = tuple[Tensor, Tensor]
"""Features [m, d], and for each row the index of its sample in the batch, int64 [m]."""

FEATURES = "features"
"""The layer before the classifier, under one name in every network."""

BLOCKS = "blocks"
"""The pattern that stands for a network's blocks and the features before its classifier."""


def choose_layers(patterns: Iterable[str], available: Sequence[str], blocks: Sequence[str]) -> tuple[str, ...]:
    """The layers that match any of `patterns`, in the order of `available`; the pattern `blocks` stands for those.

    Raises:
        InputError: on a pattern that matches nothing.

    >>> choose_layers(["layer2.*", "blocks"], ["layer1.0", "layer2.0", "layer2.0.conv1"], blocks=["layer1.0"])
    ('layer1.0', 'layer2.0', 'layer2.0.conv1')
    """
    wanted: set[str] = set()
    for pattern in patterns:
        matching = set(blocks) if pattern == BLOCKS else {n for n in available if fnmatchcase(n, pattern)}
        if not matching:
            raise InputError(f"no layer matches {pattern!r}; there are {', '.join(available)}")
        wanted |= matching
    return tuple(name for name in available if name in wanted)


def blocks(kernels: Iterable[str]) -> tuple[str, ...]:
    """The blocks that a network is built of, from the names of its kernels, in that order.

    A block is a module that holds kernels directly (`layer1.0` of `layer1.0.conv1.weight`), with all that is nested
    in it. What holds more than half of all kernels is no block: those directly in it (`conv_head.weight` at the top
    of a network, `features.3.weight` of a plain chain) are blocks by themselves.

    >>> blocks(["stem.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer1.1.conv1.weight"])
    ('stem', 'layer1.0', 'layer1.1')
    """
    holders = [name.rpartition(".")[0] for name in kernels]

    def is_block(name: str) -> bool:
        return bool(name) and 2 * sum(layer.startswith(f"{name}.") for layer in holders) <= len(holders)

    names = dict.fromkeys(p if is_block(p) else layer for layer in holders for p in [layer.rpartition(".")[0]])
    return tuple(name for name in names if not any(name.startswith(f"{other}.") for other in names))
