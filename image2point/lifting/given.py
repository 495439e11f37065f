"""The 2D network as it is given: by a name of timm, or as a module, in whatever wrapper."""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.prune import BasePruningMethod, remove
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from image2point.errors import InputError
from image2point.lifting.graph import LiftError
from image2point.lifting.network import LiftedNetwork
from image2point.networks.timm_networks import timm_network

logger = logging.getLogger("image2point")

# Wrappers that call the one module inside and add no operation: DataParallel, averages of weights, torch.compile.
_INSIDE = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "ModelEma": "ema",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "OptimizedModule": "_orig_mod",
    "ImageNetwork": "network",
}


def given_network(network: object, seed: int) -> tuple[str, nn.Module]:
    """Name and private copy of the 2D network, on the CPU, without wrappers and reparametrisations.

    Raises:
        InputError: on what is neither a name of timm's nor a 2D network.
    """
    if isinstance(network, str):
        return network, timm_network(network, seed)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"lift takes the name of a timm architecture or a 2D nn.Module, found {getattr(network, '__name__', '')} "
            f"({type(network).__name__})"
        )
    inner = unwrapped(network)
    if isinstance(inner, LiftedNetwork):
        raise InputError(f"{inner.lifting.network} is lifted already; lift takes the 2D network")
    if isinstance(inner, torch.jit.ScriptModule):
        raise LiftError(f"{type(inner).__name__} is compiled by torch.jit; give the network it was made from")
    is_meta = any(parameter.is_meta for parameter in inner.parameters())  # shapes alone, no values
    private = folded(_copied(inner))
    for names in _tied(private):
        logger.warning(
            "%s: %s are one tensor in the 2D network; in 3D each is one of its own, and they train apart",
            type(inner).__name__, " and ".join(names),
        )  # fmt: skip
    return type(inner).__name__, private if is_meta else private.cpu()


def _tied(network: nn.Module) -> list[list[str]]:
    """Names of parameters that are the same tensor in different layers; a layer that is called twice is one layer."""
    names: dict[int, list[str]] = {}
    for path, module in network.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            names.setdefault(id(parameter), []).append(f"{path}.{leaf}")
    return [tied for tied in names.values() if len(tied) > 1]


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside wrappers that only pass its input on.

    >>> layer = nn.Conv2d(3, 8, 3)
    >>> unwrapped(nn.DataParallel(layer)) is layer
    True
    """
    while True:
        kinds = (_INSIDE.get(kind.__name__) for kind in type(network).__mro__)
        inner = next((getattr(network, kind, None) for kind in kinds if kind), None)
        if not isinstance(inner, nn.Module):
            return network
        logger.info("%s: taking the network inside", type(network).__name__)
        network = inner


def folded(network: nn.Module) -> nn.Module:
    """The network with plain weights in place of those that are computed from others, in place.

    Weight norm, spectral norm and pruning, as hooks or as parametrisations, are applied once and removed; so their
    values are those of eval mode.
    """
    training = network.training
    network.eval()
    with torch.no_grad():
        for path, module in list(network.named_modules()):
            for kind in _fold(module):
                logger.info("%s: %s is applied and removed", path, kind)
    return network.train(training)


def _fold(module: nn.Module) -> list[str]:
    """Make the tensors of one module plain, in place; gives the names of what was removed."""
    removed = []
    if parametrize.is_parametrized(module):
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        for name in list(parametrizations):
            removed.append(f"parametrization of {name}")
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            removed.append("weight norm")
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            removed.append("spectral norm")
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, BasePruningMethod):
            removed.append("pruning")
            remove(module, hook._tensor_name)
    return removed


def _copied(network: nn.Module) -> nn.Module:
    """A deep copy. Tensors that a hook computed belong to a graph and cannot be copied, so they are cut off it."""
    memo = {
        id(value): value.detach().clone()
        for module in network.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor)
    }
    try:
        return copy.deepcopy(network, memo)
    except Exception as error:  # whatever a module holds that cannot be copied: locks, streams, graphs
        raise InputError(f"the given {type(network).__name__} cannot be copied: {error}") from None
