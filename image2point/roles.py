"""The roles of a network's parameters, where their values come from, and the policies over roles; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["input", "norm", "body", "output"]
ROLES: tuple[str, ...] = get_args(Role)
"""What a lifting records: the stem with its norms, every other norm before global pooling, the lifted kernels, and
everything after global pooling."""
DECODER = "decoder"
"""The role of layers that are attached to a lifted network and turn its feature maps into one map."""

Origin = Literal["inflated", "copied", "fresh", "trained"]
ORIGINS: tuple[str, ...] = get_args(Origin)
"""From a 2D kernel, from another 2D tensor, drawn, or drawn once for the lifted network that this one began as."""


@dataclass(frozen=True)
class Policy:
    """What moves.

    Attributes:
        trainable: roles whose parameters train.
        statistics: roles whose norms use and follow batch statistics in training mode.
        only: roles that may leave eval mode at all, dropout included; None for all.
    """

    trainable: frozenset[str]
    statistics: frozenset[str]
    only: frozenset[str] | None = None


_NEW, _ALL = frozenset({"input", "output", DECODER}), frozenset({*ROLES, DECODER})
_HEAD, _NOTHING = frozenset({"output"}), frozenset[str]()

POLICIES: dict[str, Policy] = {
    "io": Policy(_NEW, _NEW),
    "io+stats": Policy(_NEW, _ALL),
    "io+norm": Policy(_NEW | {"norm"}, _ALL),
    "all": Policy(_ALL, _ALL),
    "head": Policy(_HEAD, _HEAD, only=_HEAD),
    "none": Policy(_NOTHING, _NOTHING, only=_NOTHING),
}
"""Names as in Xu et al. (2022): `io` stem and head; `io+stats` their `ioms`; `io+norm` their `iobn`; `head` is the
linear probe. A decoder is new, as the stem and the head are, and trains with them."""

BLOCK_POLICIES = ("layer", "scl")
"""`layer:NAME` and `scl:NAME` train what `io` trains, and one block."""


def is_policy(text: object) -> bool:
    """Whether `text` names a policy: one of `POLICIES`, or `layer:` or `scl:` with the name of a block.

    >>> is_policy("io+norm"), is_policy("layer:layer4.1"), is_policy("layer:")
    (True, True, False)
    """
    if not isinstance(text, str):
        return False
    kind, _, block = text.partition(":")
    return text in POLICIES or (kind in BLOCK_POLICIES and bool(block))
