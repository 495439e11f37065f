"""A 2D network on images, with the interface that training and measuring expect of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from image2point import pretrained
from image2point._timm import load_timm
from image2point.errors import InputError
from image2point.lifting.graph import move_stride
from image2point.lifting.observe import FEATURES, Rows, blocks


class ImageNetwork(nn.Module):
    """A timm network. Its parameters are those of `network`, which has timm's names.

    Attributes:
        weights: where its first weights came from.
        mean, std: of the input it expects, per channel, of values 0..1.
    """

    def __init__(self, network: nn.Module, name: str, weights: pretrained.WeightsReport) -> None:
        super().__init__()
        self.network, self.name, self.weights = network, name, weights
        settings = getattr(network, "pretrained_cfg", None) or {}
        self.mean = tuple(settings.get("mean") or (0.485, 0.456, 0.406))
        self.std = tuple(settings.get("std") or (0.229, 0.224, 0.225))
        head = network.get_classifier()  # type: ignore[operator]
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
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.network(images)
        finally:
            hook.remove()
        return seen[0], logits


def make(
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
    timm = load_timm()
    if not timm.is_model(arch.split(".")[0]):
        raise InputError(f"timm {timm.__version__} has no architecture {arch!r}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = timm.create_model(arch, pretrained=False, num_classes=classes)
    if stride_in == "conv1":
        move_stride(network, arch)
    head = network.get_classifier()
    replaced = [path for path, module in network.named_modules() if module is head]
    report, _ = pretrained.load_into(network, arch, weights, replaced, allow_missing, allow_unexpected)
    return ImageNetwork(network, arch, report)


def layers(net: ImageNetwork) -> tuple[str, ...]:
    """Names of all modules, which can be observed if they are called, and `features`."""
    return (*(name for name, _ in net.network.named_modules() if name and name != FEATURES), FEATURES)


def block_layers(net: ImageNetwork) -> tuple[str, ...]:
    """The network's blocks (see `lifting.observe.blocks`) and `features`."""
    kernels = [name for name, parameter in net.network.named_parameters() if parameter.ndim == 4]
    return (*blocks(kernels), FEATURES)


def observer(net: ImageNetwork, names: Sequence[str], per_pixel: bool = False) -> Callable[[Tensor], dict[str, Rows]]:
    """As `lifting.observe.observer`, for images: the mean over pixels of each layer, or all pixels."""
    modules = dict(net.network.named_modules())
    for name in names:
        if name not in modules and name != FEATURES:
            raise InputError(f"{net.name} has no layer {name!r}; it has {', '.join(layers(net))}")

    def observe(images: Tensor) -> dict[str, Rows]:
        seen: dict[str, Rows] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any = None) -> None:
                seen[name] = _rows(inputs[0] if name == FEATURES else output, per_pixel, f"{net.name}, layer {name}")

            return hook

        hooks = [
            net.head.register_forward_pre_hook(keep(FEATURES))
            if name == FEATURES
            else modules[name].register_forward_hook(keep(name))
            for name in names
        ]
        try:
            net.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        if missing := [name for name in names if name not in seen]:
            raise InputError(f"{net.name} does not call {', '.join(missing)}, which holds its parts without running")
        return {name: seen[name] for name in names}

    return observe


def _rows(output: Any, per_pixel: bool, where: str) -> Rows:
    if not isinstance(output, Tensor) or output.ndim not in (2, 4):
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"{where}: expected features [n, C] or a map [n, C, H, W], found {found}")
    each = torch.arange(len(output), device=output.device)
    if output.ndim == 2:
        return output.clone(), each
    if not per_pixel:
        return output.mean((2, 3)), each
    rows = output.flatten(2).transpose(1, 2).flatten(0, 1).clone()
    return rows, each.repeat_interleave(output.shape[2] * output.shape[3])
