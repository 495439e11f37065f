"""The groups of an optimizer: a learning rate and a weight decay for each role, and a learning rate for each layer."""

from __future__ import annotations

from typing import Any

from image2point.config import Training
from image2point.errors import InputError
from image2point.finetune import kinds
from image2point.lifting import LiftedNetwork
from image2point.networks.interface import Network
from image2point.networks.layer_groups import layer_numbers, unknown
from image2point.training.anchor import begun


def parameter_groups(network: Network, training: Training) -> list[dict[str, Any]]:
    """What trains, as groups for an optimizer: each with its `factor` on the learning rate, and its weight decay.

    A parameter's factor is that of its role (`training.lr_by_role`) times `training.layer_decay` for each layer between
    its own and the head. What `training.l2_sp` pulls to its start does not decay. Without such settings there is one
    group.

    Raises:
        InputError: where a role is named of which nothing trains, or nothing decays, where nothing that trains began
            elsewhere than afresh and `training.l2_sp` is set, and where the order of the layers is not known.

    >>> import image2point as i2p
    >>> net = i2p.lift("test_resnet", weights="random", num_classes=4)
    >>> _ = i2p.freeze(net, "io+depth")
    >>> groups = parameter_groups(net, Training(lr_by_role={"depth": 5.0}))
    >>> [(group["factor"], sum(p.numel() for p in group["params"])) for group in groups]
    [(1.0, 22548), (5.0, 21)]
    """
    trains = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    by_role = {str(role): factor for role, factor in training.lr_by_role.items()}
    decays = {str(role): decay for role, decay in training.weight_decay_by_role.items()}
    roles, numbers = dict[str, str](), dict[str, int]()
    if by_role or decays:
        assert isinstance(network, LiftedNetwork)
        roles = kinds(network)
        there = dict.fromkeys(roles[name] for name, _ in trains)
        for setting, given in (("lr_by_role", by_role), ("weight_decay_by_role", decays)):
            if wrong := [role for role in given if role not in there]:
                raise InputError(
                    f"training.{setting}: nothing of {' and '.join(wrong)} trains under the policy {network._policy}; "
                    f"what trains is {', '.join(there) or 'nothing'}"
                )
    pulled = anchored(network, training)
    if pulled and (wrong := [r for r in decays if all(name in pulled for name, _ in trains if roles[name] == r)]):
        raise InputError(
            f"training.weight_decay_by_role: {' and '.join(wrong)} began as the 2D network has it, and training.l2_sp "
            "pulls it there in place of any weight decay; leave one of them out"
        )
    if training.layer_decay != 1:
        assert isinstance(network, LiftedNetwork)
        if network._lifting.weights.source == "module":  # whose class may have the name of a network of timm's
            raise unknown(
                f"{network._lifting.network} was lifted from a module, in which the layers have no known order"
            )
        numbers = layer_numbers(network._lifting.network, (name for name, _ in network.named_parameters()))
    last = max(numbers.values(), default=0)
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, parameter in trains:
        factor = by_role.get(roles.get(name, ""), 1.0) * training.layer_decay ** (last - numbers.get(name, last))
        decay = 0.0 if name in pulled else decays.get(roles.get(name, ""), training.weight_decay)
        groups.setdefault((factor, decay), []).append(parameter)
    return [{"params": group, "factor": each[0], "weight_decay": each[1]} for each, group in groups.items()]


def anchored(network: Network, training: Training) -> dict[str, Any]:
    """The parameters that `training.l2_sp` pulls to their start: those that train and are not fresh.

    Raises:
        InputError: where there is none.
    """
    if not training.l2_sp:
        return {}
    there = begun(network)
    found = {name: p for name, p in network.named_parameters() if p.requires_grad and name in there}
    if not found:
        assert isinstance(network, LiftedNetwork)
        raise InputError(
            f"training.l2_sp pulls parameters to the weights that they began with, and all that trains under the "
            f"policy {network._policy} began fresh; set it to 0, or another finetune.policy"
        )
    return found
