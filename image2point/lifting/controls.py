"""Control networks: what is left when the ImageNet weights, or the whole lifting of them, are taken away."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from image2point.lifting import kernels
from image2point.voxels import VoxelConv

CONTROLS = ("none", "random", "scratch")


def redrawn(module: nn.Module, draw: torch.Generator) -> nn.Module:
    """The control `random`: a 2D layer of the body that has lost what it learned.

    A kernel is redrawn from a normal law of mean 0 and of the kernel's own variance, before it is inflated, so that
    the lifted one keeps the structure of an inflated kernel. Biases are zero, norms as at initialisation.
    """
    module = copy.deepcopy(module)
    with torch.no_grad():
        if isinstance(module, _BatchNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d):
            spread = float(module.weight.double().std(correction=0))
            module.weight.copy_(torch.empty(module.weight.shape).normal_(0.0, spread, generator=draw))
            if module.bias is not None:
                module.bias.zero_()
    return module


def restart(module: nn.Module, draw: torch.Generator) -> None:
    """The control `scratch`, and every fresh layer: initialise a 3D layer in place.

    Kernels: Kaiming normal by fan_out of the 3D shape. Norms: scale 1, shift 0, statistics 0 and 1. Linear layers:
    normal of standard deviation 0.01 and zero bias, so that a fresh head begins near equal class scores whatever the
    scale of the features (the initialisation that torchvision and timm give the classifiers of many ConvNets).
    """
    with torch.no_grad():
        if isinstance(module, VoxelConv):
            module.weight.copy_(kernels.kaiming_normal(module.weight.shape, module.groups, draw))
        elif isinstance(module, nn.Linear):
            module.weight.copy_(torch.empty(module.weight.shape).normal_(0.0, 0.01, generator=draw))
        elif isinstance(module, _BatchNorm):
            module.reset_parameters()
            return
        if isinstance(module, VoxelConv | nn.Linear) and module.bias is not None:
            module.bias.zero_()
