"""Control networks: what is left when the ImageNet weights, or the whole lifting of them, are taken away."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from image2point.lifting import kernels
from image2point.lifting.graph import KERNELS
from image2point.lifting.layers import ChannelScale, SiteLinear, VectorConv
from image2point.lifting.rules import is_norm
from image2point.voxels import TiedConv, TransposedConv, VoxelConv


def redrawn(module: nn.Module, draw: torch.Generator) -> nn.Module:
    """The control `random`: a 2D layer of the body that has lost what it learned.

    A kernel is redrawn from a normal law of mean 0 and of the kernel's own variance, before it is inflated, so that
    the lifted one keeps the structure of an inflated kernel. Biases are zero, norms as at initialisation, and a layer
    scale becomes its own mean.
    """
    module = copy.deepcopy(module)
    with torch.no_grad():
        for part in module.modules():
            if is_norm(part) or isinstance(part, _BatchNorm):
                _restart_norm(part)
            elif isinstance(part, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                spread = float(part.weight.double().std(correction=0))
                part.weight.copy_(torch.empty(part.weight.shape).normal_(0.0, spread, generator=draw))
                if part.bias is not None:
                    part.bias.zero_()
                if isinstance(gain := getattr(part, "gain", None), Tensor):  # of a weight-standardised convolution
                    gain.fill_(float(gain.mean()))
            elif isinstance(gamma := getattr(part, "gamma", None), Tensor):
                gamma.copy_(held(gamma, "random"))
    return module


def _restart_norm(norm: nn.Module) -> None:
    """A 2D norm as at initialisation. timm's global response norm cannot do that itself: it begins as the identity."""
    if callable(reset := getattr(norm, "reset_parameters", None)):
        reset()
        return
    for parameter in norm.parameters():
        parameter.zero_()


def shuffled(module: nn.Module, draw: torch.Generator) -> nn.Module:
    """The control `shuffled`: the spatial entries of each kernel of a 2D layer permuted, everything else kept.

    Every pair of an input and an output channel has a permutation of its own, so that the values, and with them mean
    and variance, stay those of ImageNet while shapes such as edges are gone. 1×1 kernels have nothing to permute.
    """
    if not any(isinstance(part, KERNELS) and part.kernel_size != (1, 1) for part in module.modules()):
        return module
    module = copy.deepcopy(module)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, KERNELS) and part.kernel_size != (1, 1):
                flat = part.weight.flatten(2)
                order = torch.rand(flat.shape, generator=draw).argsort(2).to(flat.device)
                part.weight.copy_(flat.gather(2, order).view_as(part.weight))
    return module


def held(parameter: Tensor, control: str) -> Tensor:
    """A factor per channel that no layer holds (layer scale): its own mean under `random`, ones under `scratch`."""
    if control == "random":
        return torch.full_like(parameter, float(parameter.mean()))
    return torch.ones_like(parameter) if control == "scratch" else parameter.clone()


CHANGES = {"random": redrawn, "shuffled": shuffled}


def restart(module: nn.Module, draw: torch.Generator) -> None:
    """The control `scratch`, and every fresh layer: initialise a 3D layer in place.

    Kernels, and linear layers on sites: Kaiming normal by fan_out of the 3D shape. Norms: as at initialisation. Linear
    layers on pooled features: normal of standard deviation 0.01 and zero bias, so that a fresh head begins near equal
    class scores whatever the scale of the features (the initialisation that torchvision and timm give the classifiers
    of many ConvNets). Factors per channel: ones.
    """
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, VoxelConv | VectorConv | nn.Conv1d):
                kernel = part.weight
                if isinstance(part, TransposedConv):  # [C_in, C_out / groups, ...], whose outputs come second
                    kernel.copy_(kernels.kaiming_normal(kernel.transpose(0, 1).shape, 1, draw).transpose(0, 1))
                else:
                    kernel.copy_(kernels.kaiming_normal(kernel.shape, part.groups, draw))
                if isinstance(part, TiedConv):  # each entry is there several times
                    part.weight.mul_((part.weight.numel() / part.kernel().numel()) ** 0.5)
            elif isinstance(part, SiteLinear):
                part.weight.copy_(kernels.kaiming_normal(part.weight.shape, 1, draw))
            elif isinstance(part, nn.Linear):
                part.weight.copy_(torch.empty(part.weight.shape).normal_(0.0, 0.01, generator=draw))
            elif isinstance(part, ChannelScale):
                part.gamma.fill_(1.0)
            elif callable(reset := getattr(part, "reset_parameters", None)):
                reset()
                continue
            if isinstance(bias := getattr(part, "bias", None), Tensor):
                bias.zero_()
