"""Which parameters and statistics may move: policies over the roles that a lifting recorded, and one block at most.

`layer:NAME` is the layer fine-tuning of Li et al. 2024 for a lifted network, whose stem is new and so trains as well:
stem, head, and the block NAME with its norms. `scl:NAME` trains the same parameters of a network that gets a skip
connection from that block to the features before the head (`lifting.skip`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from image2point.errors import InputError, listed
from image2point.lifting.additions import added, check
from image2point.lifting.network import LiftedNetwork
from image2point.lifting.observe import body_blocks
from image2point.lifting.skip import add_skip
from image2point.roles import ADDITIONS, DECODER, ROLES, Policy, addition_kind, read_policy

logger = logging.getLogger("image2point")


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters."""

    trainable: int
    total: int


def freeze(net: nn.Module, policy: str, roles: Mapping[str, str] | None = None) -> Counts:
    """Let exactly those parameters and running statistics move that a policy names.

    Call it before the optimizer is made. It holds through `net.train()`: under `io` the norms of the body stay in
    eval mode. Calling it again replaces the policy.

    What took the place of a lifted layer (`net.fc = nn.Linear(...)`) has the role of that layer. Whatever else was
    attached needs a role: give it here, or write it into `net.roles`, where what is given here is kept.

    Args:
        policy: `io`, `io+stats` (norm parameters frozen, running statistics move), `io+norm`, `all`, `head` (linear
            probe), `none`, `layer:NAME` or `scl:NAME`. Behind `io`, `io+stats`, `io+norm` and a block may stand
            `+bias` (the biases of the norms), `+depth` (how each 2D kernel fills the depth), `+depth:channels` (the
            same for each of its input channels), `+lora:R` (a change of rank R of each 2D kernel), `+ssf` (a scale and
            a shift per channel) and `+adapter:R` (a branch of R channels behind each block); their parameters are
            added, unless they are there (`lifting.additions`).
        roles: for layers that were attached: patterns over names (`decoder.*`), and the role of what they match:
            `input`, `norm`, `body`, `output` or `decoder`; the first that matches counts. A `decoder` trains with the
            stem and the head under all policies but `head` and `none`.

    Returns:
        Trainable and total number of parameters.

    Raises:
        InputError: on an unknown policy, block or role, a pattern that matches nothing, parameters without a role, or a
            network that was not lifted.

    >>> import image2point as i2p
    >>> net = i2p.lift("test_resnet", weights="random", num_classes=4)
    >>> net.add_module("decoder", nn.Linear(8, 8))
    >>> freeze(net, "io", roles={"decoder.*": "decoder"}).trainable == freeze(net, "head").trainable
    False
    """
    if not isinstance(net, LiftedNetwork):
        inside = " (call it on the lifted network inside, before it is wrapped)" if _holds_lifted(net) else ""
        raise InputError(f"freeze needs a network made by image2point.lift, found {type(net).__name__}{inside}")
    rules, _ = _rules(net, policy)
    _keep_roles(net, roles or {})
    if rules.biases and not _biases(net, rules, _roles(net)):
        raise InputError(f"policy {policy}: the norms of {net.lifting.network} have no biases")
    add_parameters(net, policy)
    freeze_as_it_is(net, policy)
    if policy.startswith("io+norm") and "norm" not in trained(net):
        logger.warning(
            "policy %s: the norms of %s have no parameters, so none of them trains", policy, net.lifting.network
        )
    fresh = {record.role for record in net.lifting.parameters if record.origin == "fresh"}
    if policy == "head" and "input" in fresh:
        logger.warning(
            'the stem is fresh and stays random under policy head; lift with stem="inflate" for a linear probe'
        )
    if policy == "head" and DECODER in fresh:
        logger.warning(
            'the decoder is fresh and stays random under policy head; use decoder="hypercolumn" for a linear probe'
        )
    return count(net)


def add_parameters(net: LiftedNetwork, policy: str) -> None:
    """Add what a policy adds to a network, in place; what is there already stays, with its values.

    Raises:
        InputError: as `freeze` does, and then nothing was added.

    >>> import image2point as i2p
    >>> net = i2p.lift("test_resnet", weights="random", num_classes=4)
    >>> add_parameters(net, "io+depth")
    >>> net.get_submodule("layer1.0.conv1").depth.tolist()
    [1.0, 1.0, 1.0]
    """
    rules, block = _rules(net, policy)
    for addition in rules.additions:
        check(net, addition, block)
    if rules.skip and net.lifting.skip != block:
        add_skip(net, block)
    for addition in rules.additions:
        net._add(addition, block)


def freeze_as_it_is(net: LiftedNetwork, policy: str) -> None:
    """As `freeze`, for a network that was under this policy before: nothing is added, and nothing said.

    So a policy whose additions were folded away holds what it held.

    Raises:
        InputError: as `freeze` does.
    """
    rules, block = _rules(net, policy)
    found, additions, named = _roles(net), added(net), set(map(addition_kind, rules.additions))
    biases = _biases(net, rules, found)
    for name, parameter in net.named_parameters():
        if name in additions:  # `all` trains them as well
            trains = additions[name] in named or "body" in rules.trainable
        else:
            trains = found[name] in rules.trainable or name in biases
        parameter.requires_grad_(trains or _inside(name, block))
    held = set()
    for name, module in net.named_modules():
        role = found.get(name)
        still = isinstance(module, _BatchNorm) and role not in rules.statistics and not _inside(name, block)
        if rules.only is not None:  # containers have no role; they rest only where everything does
            still = role not in rules.only if role else not rules.only
        if still:
            held.add(name)
    net.hold_in_eval(held)
    net._policy = policy


def following(net: LiftedNetwork, policy: str) -> frozenset[str]:
    """Names of the batch norms that use and follow the statistics of the batch when the network trains under a policy.

    Raises:
        InputError: on an unknown policy or block, or parameters without a role.
    """
    rules, block = _rules(net, policy)
    found = _roles(net)
    norms = (name for name, module in net.named_modules() if isinstance(module, _BatchNorm))
    return frozenset(name for name in norms if found[name] in rules.statistics or _inside(name, block))


def blocks_of(net: LiftedNetwork) -> tuple[str, ...]:
    """The blocks of the body, in order: what `layer:` and `scl:` can name, and `auto` chooses from."""
    return body_blocks(net)


def _biases(net: LiftedNetwork, rules: Policy, found: Mapping[str, str]) -> set[str]:
    """Names of the biases that a policy names."""
    return {name for name, _ in net.named_parameters() if name.endswith(".bias") and found[name] in rules.biases}


def _inside(name: str, block: str) -> bool:
    return bool(block) and name.startswith(f"{block}.")


def count(net: LiftedNetwork) -> Counts:
    """Trainable and total number of parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in net.parameters()]
    return Counts(sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes))


def trained(net: LiftedNetwork) -> dict[str, int]:
    """Numbers of parameters that train, by role; those that a policy added, by what they are.

    >>> import image2point as i2p
    >>> net = i2p.lift("test_resnet", weights="random", num_classes=4)
    >>> _ = freeze(net, "head"), freeze(net, "io+depth")
    >>> trained(net)
    {'input': 22160, 'output': 388, 'depth': 21}
    """
    found = kinds(net)
    result = dict.fromkeys((*ROLES, DECODER, *ADDITIONS), 0)
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            result[found[name]] += parameter.numel()
    return {name: size for name, size in result.items() if size}


def kinds(net: LiftedNetwork) -> dict[str, str]:
    """What each parameter is, by its name: an addition where a policy added it, else its role."""
    found = _roles(net)
    return {name: found[name] for name, _ in net.named_parameters()} | added(net)


def count_by_role(net: LiftedNetwork) -> dict[str, Counts]:
    """Trainable and total number of parameters of each role; of `decoder` where there is one."""
    found, result = _roles(net), dict.fromkeys(ROLES, Counts(0, 0))
    for name, parameter in net.named_parameters():
        size, before = parameter.numel(), result.get(found[name], Counts(0, 0))
        trainable = size if parameter.requires_grad else 0
        result[found[name]] = Counts(before.trainable + trainable, before.total + size)
    return result


def _rules(net: LiftedNetwork, policy: str) -> tuple[Policy, str]:
    """What a policy is, and the block that it names, if any."""
    rules = read_policy(policy)
    block = rules.block
    if rules.skip and net.lifting.decoder:
        raise InputError(
            f"policy {policy}: scl: connects a block to the one feature vector of a cloud, and this network has a "
            f"decoder that scores voxels; layer:{block} trains the same block"
        )
    within = {record.role for record in net.lifting.parameters if _inside(record.name, block)}
    if block and not within & {"body", "norm"}:
        problem = f"{block} trains under io already" if within else f"no parameter lies in {block!r}"
        raise InputError(f"policy {policy}: {problem}; blocks are {', '.join(blocks_of(net))}")
    return rules, block


# ------------------------------------------------------------------------------------------------------------ roles


def _keep_roles(net: LiftedNetwork, given: Mapping[str, str]) -> None:
    """Write the roles that patterns give into `net.roles`, by the names of modules and parameters."""
    known = (*ROLES, DECODER)
    names = [name for name in (*dict(net.named_modules()), *dict(net.named_parameters())) if name]
    matched: dict[str, list[str]] = {pattern: [] for pattern in given}
    for name in names:
        # `decoder.*` means the module `decoder` as well.
        pattern = next((p for p in given if fnmatchcase(name, p) or fnmatchcase(f"{name}.", p)), None)
        if pattern is not None:
            matched[pattern].append(name)
    for pattern, role in given.items():
        if role not in known:
            raise InputError(f"roles: expected one of {', '.join(known)} for {pattern!r}, found {role!r}")
        if not matched[pattern]:
            raise InputError(f"roles: the pattern {pattern!r} matches no module and no parameter of its own")
    for pattern, role in given.items():
        net.roles.update(dict.fromkeys(matched[pattern], role))


def _roles(net: LiftedNetwork) -> dict[str, str]:
    """The role of every parameter, of every norm, and of every module that has one.

    Raises:
        InputError: naming the parameters and norms that have none.
    """
    recorded = {record.name: record.role for record in net.lifting.parameters}
    parameters, modules = dict(net.named_parameters()), dict(net.named_modules())
    gone = {name: role for name, role in recorded.items() if name not in parameters}
    found: dict[str, str] = {}
    unknown = []
    for name in (*modules, *parameters):
        module = modules[name if name in modules else name.rpartition(".")[0]]
        role = net.roles.get(name) or recorded.get(name) or _of_owner(net, name) or _of_replaced(name, gone, module)
        if role:
            found[name] = role
        elif name in parameters or isinstance(module, _BatchNorm):
            unknown.append(name)
    if unknown:
        raise InputError(
            f"{len(unknown)} parameters and norms were attached to the network and have no role: {listed(unknown)}. "
            f'Give them one, as in roles={{"{unknown[0].split(".")[0]}.*": "decoder"}}: {", ".join(ROLES)} or {DECODER}'
        )
    return found


def _of_owner(net: LiftedNetwork, name: str) -> str | None:
    """Role of a module or of the lifted one that it is part of; None for a container."""
    while name:
        if name in net.roles:
            return net.roles[name]
        name = name.rpartition(".")[0]
    return None


def _of_replaced(name: str, gone: Mapping[str, str], module: nn.Module) -> str | None:
    """Role of what was put in the place of a container: that of the parameters which left with it.

    Those of a block had two roles, body and norm; in the new block, norms have the second.
    """
    roles: set[str] = set()
    while name and not roles:
        roles = {role for parameter, role in gone.items() if _inside(parameter, name)}
        name = name.rpartition(".")[0]
    if roles == {"body", "norm"}:
        return "norm" if "Norm" in type(module).__name__ else "body"
    return roles.pop() if len(roles) == 1 else None


def _holds_lifted(module: object) -> bool:
    """Whether a lifted network is inside, as in DataParallel or a compiled module."""
    return isinstance(module, nn.Module) and any(isinstance(part, LiftedNetwork) for part in module.modules())
