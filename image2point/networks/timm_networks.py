"""timm's networks by name, with initial weights that a seed decides."""

from __future__ import annotations

import difflib

import torch
from torch import nn

from image2point.errors import InputError
from image2point.networks.timm_import import load_timm


def has_architecture(name: str) -> bool:
    """Whether timm has an architecture of that name, which may carry a tag (`resnet50.a1_in1k`)."""
    return bool(load_timm().is_model(name.split(".")[0]))


def timm_network(name: str, seed: int = 0, classes: int | None = None, stride_in: str = "conv2") -> nn.Module:
    """A 2D network of timm on the CPU, its weights drawn by `seed`; the global random state stays as it is.

    classes: width of the classifier; None keeps timm's own. stride_in: see `move_stride`.

    Raises:
        InputError: for an architecture or a tag that timm does not have.
    """
    timm = load_timm()
    if not has_architecture(name):
        plain = name.rpartition("/")[2]  # of a hub's `timm/resnet18.a1_in1k`
        close = [plain] if has_architecture(plain) else difflib.get_close_matches(plain, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise InputError(f"timm {timm.__version__} has no architecture {name!r}{hint}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            network = timm.create_model(name, pretrained=False, **({} if classes is None else {"num_classes": classes}))
        except RuntimeError as error:  # an unknown tag
            raise InputError(f"timm cannot make {name!r}: {error}") from None
    if stride_in == "conv1":
        move_stride(network, name)
    return network


def move_stride(network: nn.Module, name: str) -> int:
    """Move the stride of bottleneck blocks from their 3×3 to their first 1×1 convolution, as in caffe's ResNets.

    Changes the 2D network in place and returns the number of blocks that changed.

    Raises:
        InputError: where no block has the stride in its 3×3 convolution `conv2`.
    """
    moved = 0
    for block in network.modules():
        convs = [getattr(block, f"conv{i}", None) for i in (1, 2, 3)]
        if not all(isinstance(conv, nn.Conv2d) for conv in convs):
            continue
        sizes = [conv.kernel_size for conv in convs if isinstance(conv, nn.Conv2d)]
        first, second = convs[0], convs[1]
        assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
        if sizes == [(1, 1), (3, 3), (1, 1)] and second.stride != (1, 1) and first.stride == (1, 1):
            first.stride, second.stride = second.stride, (1, 1)
            moved += 1
    if not moved:
        raise InputError(
            f'stride_in="conv1" moves the stride of bottleneck blocks (conv1 1×1, conv2 3×3, conv3 1×1), '
            f'but {name} has no such block with a stride; use stride_in="conv2"'
        )
    return moved
