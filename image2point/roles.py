"""The roles of a network's parameters, where their values come from, and the policies over roles; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from image2point.errors import InputError

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
        biases: roles of which the biases train, and nothing else.
        block: the block that trains besides, if any.
        skip: whether a skip connection leads from it to the features before the head.
        additions: what is added to the layers that stay as they are: some of `ADDITIONS` but `bias`, in that order,
            with their rank (`lora:4`).
    """

    trainable: frozenset[str]
    statistics: frozenset[str]
    only: frozenset[str] | None = None
    biases: frozenset[str] = frozenset()
    block: str = ""
    skip: bool = False
    additions: tuple[str, ...] = ()


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

ADDITIONS = ("bias", "depth", "lora", "ssf", "adapter")
"""What joins `io`, `io+stats`, `io+norm`, `layer:NAME` and `scl:NAME` by a `+`: `bias`, the biases of the norms;
`depth`, the numbers by which each 2D kernel fills the depth, and `depth:channels`, such numbers for each of its input
channels; `lora:R`, a change of rank R of each 2D kernel; `ssf`, a
scale and a shift per channel; `adapter:R`, a branch of R channels behind each block. The parameters of all but `bias`
are added to the network, in the layers that stay as they are otherwise (`lifting.additions`)."""

RANKED = ("lora", "adapter")
"""Those of `ADDITIONS` that have a rank."""

PLAIN = ("bias", "depth", "depth:channels", "ssf")
"""The others, as they are written."""

_EXPECTED = (
    f"expected one of {', '.join(POLICIES)}, layer:NAME, scl:NAME, layer:auto or scl:auto; bias, depth, "
    "depth:channels, lora:R, ssf and adapter:R may follow io, io+stats, io+norm, layer:NAME and scl:NAME, each after "
    "a +"
)


def read_policy(text: object) -> Policy:
    """The policy of a name: one of `POLICIES`, or `layer:` or `scl:` with the name of a block, and what joins it.

    Raises:
        InputError: saying what is unknown, or does not go together.

    >>> sorted(read_policy("io+norm").trainable), read_policy("layer:layer4.1").block
    (['decoder', 'input', 'norm', 'output'], 'layer4.1')
    >>> read_policy("io+ssf+depth").additions
    ('depth', 'ssf')
    """
    words = text.split("+") if isinstance(text, str) else [""]
    length = 2 if "+".join(words[:2]) in POLICIES else 1
    base, added = "+".join(words[:length]), words[length:]
    kind, _, block = base.partition(":")
    if not (base in POLICIES or (kind in BLOCK_POLICIES and block)):
        missing = f"; write io+{text}" if kind in ADDITIONS else ""
        raise InputError(f"{_EXPECTED}; found {text!r}{missing}")
    kinds = [addition_kind(word) for word in added]
    if unknown := [word for word, kind in zip(added, kinds, strict=True) if kind not in ADDITIONS]:
        late = "; norm and stats come right after io" if {"norm", "stats"} & set(unknown) else ""
        raise InputError(f"{_EXPECTED}; found {' and '.join(map(repr, unknown))} in {text!r}{late}")
    if added:
        _check(str(text), base, added, kinds)
    policy = POLICIES["io" if block else base]
    return replace(
        policy,
        biases=frozenset({"norm"} if "bias" in added else ()),
        block=block,
        skip=kind == "scl",
        additions=tuple(sorted((a for a in added if a != "bias"), key=lambda a: ADDITIONS.index(addition_kind(a)))),
    )


def addition_kind(text: str) -> str:
    """What of `ADDITIONS` an addition is, without its rank.

    >>> addition_kind("lora:4"), addition_kind("depth")
    ('lora', 'depth')
    """
    return text.partition(":")[0]


def addition_rank(text: str) -> int:
    """The rank R of `lora:R` or `adapter:R`; 0 where there is none.

    >>> addition_rank("lora:4"), addition_rank("lora"), addition_rank("lora:0")
    (4, 0, 0)
    """
    rank = text.partition(":")[2]
    return int(rank) if rank.isascii() and rank.isdigit() and len(rank) < 6 else 0


def _check(text: str, base: str, added: list[str], kinds: list[str]) -> None:
    """Raise InputError where what was added does not go with the base."""
    reason = None
    if base == "all":
        reason = "all trains every parameter that there is, so nothing can be added to frozen ones"
    elif base in ("head", "none"):
        reason = f"{base} leaves the body in eval mode and untrained; begin with io"
    elif len(set(kinds)) < len(kinds):
        reason = "something is there twice"
    elif wrong := [kind for kind, each in zip(kinds, added, strict=True) if kind in RANKED and not addition_rank(each)]:
        reason = f"{wrong[0]} needs a whole number of 1 or more behind it, such as {wrong[0]}:4"
    elif wrong := [each for kind, each in zip(kinds, added, strict=True) if kind not in RANKED and each not in PLAIN]:
        wanted = " or ".join(each for each in PLAIN if addition_kind(each) == addition_kind(wrong[0]))
        reason = f"expected {wanted}, found {wrong[0]}"
    elif base == "io+norm" and "bias" in added:
        reason = "io+norm trains the biases of the norms already; write io+bias or io+norm"
    elif base.endswith(":auto"):
        reason = "auto compares blocks that train alone; name the block"
    if reason:
        raise InputError(f"policy {text}: {reason}")


def is_policy(text: object) -> bool:
    """Whether `text` names a policy, as `read_policy` takes it.

    >>> is_policy("io+norm"), is_policy("layer:layer4.1"), is_policy("layer:"), is_policy("all+depth")
    (True, True, False, False)
    """
    try:
        read_policy(text)
    except InputError:
        return False
    return True
