"""Which parameters and statistics may move: policies over the roles that a lifting recorded, and one block at most.

`layer:NAME` is the layer fine-tuning of Li et al. 2024 for a lifted network, whose stem is new and so trains as well:
stem, head, and the block NAME with its norms. `scl:NAME` trains the same parameters of a network that has a skip
connection from that block to the features before the head (`lifting.skip`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from image2point.errors import InputError
from image2point.lifting.network import LiftedNetwork
from image2point.lifting.observe import block_layers
from image2point.lifting.records import ROLES
from image2point.networks.layer_names import blocks


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


_ENDS, _ALL = frozenset({"input", "output"}), frozenset(ROLES)
_HEAD, _NOTHING = frozenset({"output"}), frozenset[str]()

POLICIES: dict[str, Policy] = {
    "io": Policy(_ENDS, _ENDS),
    "io+stats": Policy(_ENDS, _ALL),
    "io+norm": Policy(_ENDS | {"norm"}, _ALL),
    "all": Policy(_ALL, _ALL),
    "head": Policy(_HEAD, _HEAD, only=_HEAD),
    "none": Policy(_NOTHING, _NOTHING, only=_NOTHING),
}
"""Names as in Xu et al. (2022): `io` stem and head; `io+stats` their `ioms`; `io+norm` their `iobn`; `head` is the
linear probe."""


BLOCK_POLICIES = ("layer", "scl")


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters."""

    trainable: int
    total: int


def freeze(net: nn.Module, policy: str) -> Counts:
    """Let exactly those parameters and running statistics move that a policy names.

    Call it before the optimizer is made. It holds through `net.train()`: under `io` the norms of the body stay in
    eval mode. Calling it again replaces the policy.

    Args:
        policy: `io`, `io+stats` (norm parameters frozen, running statistics move), `io+norm`, `all`, `head` (linear
            probe), `none`, `layer:NAME` or `scl:NAME`.

    Raises:
        InputError: on an unknown policy or block, or a network that was not lifted.
    """
    if not isinstance(net, LiftedNetwork):
        raise InputError(f"freeze needs a network made by image2point.lift, found {type(net).__name__}")
    rules, block = _rules(net, policy)
    parameters = dict(net.named_parameters())
    for record in net.lifting.parameters:
        parameters[record.name].requires_grad_(record.role in rules.trainable or _inside(record.name, block))
    held = set()
    for name, module in net.named_modules():
        role = _role(net, name)
        still = isinstance(module, _BatchNorm) and role not in rules.statistics and not _inside(name, block)
        if rules.only is not None:  # containers have no role; they rest only where everything does
            still = role not in rules.only if role else not rules.only
        if still:
            held.add(name)
    net.hold_in_eval(held)
    return count(net)


def following(net: LiftedNetwork, policy: str) -> frozenset[str]:
    """Names of the batch norms that use and follow the statistics of the batch when the network trains under a policy.

    Raises:
        InputError: on an unknown policy or block.
    """
    rules, block = _rules(net, policy)
    norms = (name for name, module in net.named_modules() if isinstance(module, _BatchNorm))
    return frozenset(name for name in norms if _role(net, name) in rules.statistics or _inside(name, block))


def blocks_of(net: LiftedNetwork) -> tuple[str, ...]:
    """The blocks of the body, in order: what `layer:` and `scl:` can name, and `auto` chooses from."""
    kernels = [r.name for r in net.lifting.parameters if r.role == "body" and len(r.shape) == 5]
    return tuple(name for name in block_layers(net) if name in blocks(kernels))


def _inside(name: str, block: str) -> bool:
    return bool(block) and name.startswith(f"{block}.")


def count(net: LiftedNetwork) -> Counts:
    """Trainable and total number of parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in net.parameters()]
    return Counts(sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes))


def count_by_role(net: LiftedNetwork) -> dict[str, Counts]:
    """Trainable and total number of parameters of each role."""
    parameters = dict(net.named_parameters())
    result = dict.fromkeys(ROLES, Counts(0, 0))
    for record in net.lifting.parameters:
        size, before = parameters[record.name].numel(), result[record.role]
        trainable = size if parameters[record.name].requires_grad else 0
        result[record.role] = Counts(before.trainable + trainable, before.total + size)
    return result


def _rules(net: LiftedNetwork, policy: str) -> tuple[Policy, str]:
    """What a policy is, and the block that it names, if any."""
    kind, _, block = policy.partition(":")
    if policy not in POLICIES and not (kind in BLOCK_POLICIES and block):
        raise InputError(f"policy: expected one of {', '.join(POLICIES)}, layer:NAME or scl:NAME, found {policy!r}")
    if block and not any(_inside(record.name, block) for record in net.lifting.parameters):
        raise InputError(f"policy {policy}: no parameter lies in {block!r}; blocks are {', '.join(blocks_of(net))}")
    return POLICIES["io" if block else policy], block


def _role(net: LiftedNetwork, name: str) -> str | None:
    """Role of a module or of the lifted one that it is part of; None for a container."""
    while name:
        if name in net.roles:
            return net.roles[name]
        name = name.rpartition(".")[0]
    return None
