"""A 2D network on images, with the interface that training and measuring expect of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from image2point.errors import InputError
from image2point.networks.interface import features_before
from image2point.networks.layer_names import FEATURES, Rows, blocks
from image2point.networks.timm_networks import timm_network
from image2point.networks.weights import WeightsReport, load_into


class ImageNetwork(nn.Module):
    """A timm network. Its parameters are those of `network`, which has timm's names.

    Attributes:
        weights: where its first weights came from.
        mean, std: of the input it expects, per channel, of values 0..1.
    """

    def __init__(self, network: nn.Module, name: str, weights: WeightsReport) -> None:
        super().__init__()
        self.network, self.name, self.weights = network, name, weights
        settings = getattr(network, "pretrained_cfg", None) or {}
        self.mean = tuple(settings.get("mean") or (0.485, 0.456, 0.406))
        self.std = tuple(settings.get("std") or (0.229, 0.224, 0.225))
        head = cast(Any, network).get_classifier()
        if not isinstance(head, nn.Linear):
            raise InputError(f"{name} ends in {type(head).__name__}; expected a network with a linear classifier")
        self._head = next(path for path, module in network.named_modules() if module is head)

    @property
    def head(self) -> nn.Linear:
        layer = self.network.get_submodule(self._head)
        assert isinstance(layer, nn.Linear)
        return layer

    def linear_classifier(self) -> tuple[Tensor, Tensor | None]:
        """Weight [classes, p] and bias [classes] (or None) of the last layer."""
        return self.head.weight, self.head.bias

    def forward(self, images: Tensor) -> Tensor:
        """Class scores [n, classes] of images [n, 3, S, S]."""
        return self.network(images)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features before the classifier [n, p], and class scores."""
        return features_before(self.head, lambda: self.network(images))

    def layer_names(self) -> tuple[str, ...]:
        """Names of all modules, which can be observed if they are called, and `features`."""
        return (*(name for name, _ in self.network.named_modules() if name and name != FEATURES), FEATURES)

    def block_names(self) -> tuple[str, ...]:
        """The network's blocks (`networks.layer_names.blocks`) and `features`."""
        return (*blocks(name for name, parameter in self.network.named_parameters() if parameter.ndim == 4), FEATURES)

    def observe(self, names: Sequence[str], per_site: bool = False) -> Callable[[Tensor], dict[str, Rows]]:
        """A function that gives the rows of the named layers on images: means over pixels, or with `per_site` all.

        Raises InputError on a name that no layer has; the function does on a layer that the network does not call.
        """
        modules = dict(self.network.named_modules())
        for name in names:
            if name not in modules and name != FEATURES:
                raise InputError(f"{self.name} has no layer {name!r}; it has {', '.join(self.layer_names())}")

        def rows(images: Tensor) -> dict[str, Rows]:
            seen: dict[str, Rows] = {}

            def keep(name: str) -> Callable[..., None]:
                def hook(module: nn.Module, inputs: Any, output: Any = None) -> None:
                    values = inputs[0] if name == FEATURES else output
                    seen[name] = _rows(values, per_site, f"{self.name}, layer {name}")

                return hook

            hooks = [
                self.head.register_forward_pre_hook(keep(FEATURES))
                if name == FEATURES
                else modules[name].register_forward_hook(keep(name))
                for name in names
            ]
            try:
                self.network(images)
            finally:
                for hook in hooks:
                    hook.remove()
            if missing := [name for name in names if name not in seen]:
                raise InputError(f"{self.name} does not call {', '.join(missing)}, which only holds its parts")
            return {name: seen[name] for name in names}

        return rows


def image_network(
    arch: str,
    weights: str,
    classes: int,
    stride_in: str = "conv2",
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    seed: int = 0,
) -> ImageNetwork:
    """A timm network with weights (as for `lift`) and a fresh classifier of `classes` classes, drawn by `seed`.

    Raises InputError for an unknown architecture and weights that cannot be had or do not fit.
    """
    network = timm_network(arch, seed, classes, stride_in)
    head = cast(Any, network).get_classifier()
    replaced = [path for path, module in network.named_modules() if module is head]
    report, _ = load_into(network, arch, weights, replaced, allow_missing, allow_unexpected)
    return ImageNetwork(network, arch, report)


def _rows(output: Any, per_site: bool, where: str) -> Rows:
    if not isinstance(output, Tensor) or output.ndim not in (2, 4):
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"{where}: expected features [n, C] or a map [n, C, H, W], found {found}")
    each = torch.arange(len(output), device=output.device)
    if output.ndim == 2:
        return output.clone(), each
    if not per_site:
        return output.mean((2, 3)), each
    rows = output.flatten(2).transpose(1, 2).flatten(0, 1).clone()
    return rows, each.repeat_interleave(output.shape[2] * output.shape[3])
