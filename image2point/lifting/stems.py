"""Stems: what becomes of the 2D network's first layers, and the fresh convolutions that may take their place."""

from __future__ import annotations

import copy
import logging

from torch import fx, nn

from image2point.errors import InputError
from image2point.lifting import kernels
from image2point.lifting.graph import LiftError, Stem, Trace
from image2point.lifting.records import Options
from image2point.lifting.rules import rule_of
from image2point.lifting.rules.convolution import voxel_conv
from image2point.lifting.rules.sizes import both
from image2point.voxels import BatchNorm, Pointwise, VoxelConv

logger = logging.getLogger("image2point")

FRESH_STEMS = ("paper", "full", "patch")
"""Stems that are a fresh convolution and a fresh norm, after two more of the kind in `full`."""


def check_stem(kind: str, stem: Stem, network: str) -> None:
    """Raise LiftError where a network cannot have a stem of this kind."""
    if kind in ("paper", "full", "inflate1") and stem.branches:
        what = "bring the stem to stride 1 in" if kind == "inflate1" else "put the paper's stem before"
        raise LiftError(f'cannot {what} {network}, whose input feeds several branches; use stem="inflate"')
    if kind == "inflate1" and stem.parts > 1:
        raise LiftError(
            f"cannot bring the stem to stride 1 in {network}, which moves blocks of pixels into channels first; use "
            'stem="inflate"'
        )


def patch_size(traced: Trace, stem: Stem, kind: str, asked: int | None) -> int:
    """Edge of a patch in voxels for the stem `patch`: as asked, or as in 2D.

    A patch can be smaller than that of the 2D stem, not larger: 4×4 pixels are a fine detail of an image of 224×224,
    and 4×4×4 voxels are a tenth of a cloud 40 voxels wide in each direction, of which the later stages leave little.

    Raises:
        InputError: for another stem, a 2D stem that does not cut its image into patches, and sizes outside 2 … the
            2D patch.
    """
    if kind != "patch":
        raise InputError(f'patch = {asked} is the size of the patches of stem="patch", but the stem is {kind!r}')
    conv = traced.module(stem.convolutions[0])
    assert isinstance(conv, nn.Conv2d)
    size, stride = both(conv.kernel_size), both(conv.stride)
    if len(stem.convolutions) > 1 or size != stride or size[0] != size[1] or size[0] < 2:
        raise InputError(
            f'stem="patch" is for networks that cut their image into patches by one convolution, with its kernel size '
            f"as stride; the stem of {traced.name} begins with {size[0]}×{size[1]} and stride {stride[0]}"
            + (f" and has {len(stem.convolutions)} convolutions" if len(stem.convolutions) > 1 else "")
            + "; use stem=paper or stem=inflate"
        )
    if asked is None:
        return size[0]
    if not isinstance(asked, int) or not 2 <= asked <= size[0]:
        raise InputError(
            f"patch: expected 2 to {size[0]} voxels, as {traced.name} has patches of {size[0]}, found {asked!r}"
        )
    return asked


def replaced_nodes(stem: Stem, kind: str) -> tuple[fx.Node, ...]:
    """The 2D nodes whose place a fresh convolution takes: everything but the norm after it.

    The paper's stems have no pooling. Patches are not pooled in 2D, and what else follows them stays.
    """
    pools = stem.pools if kind in ("paper", "full") else ()
    return tuple(node for node in (*stem.nodes, *pools) if kind in FRESH_STEMS and node is not stem.final_norm)


def fresh_convolution(conv: nn.Conv2d, options: Options) -> tuple[VoxelConv, int]:
    """The convolution of a fresh stem, yet to be initialised, and its stride; as many channels as `conv` gives.

    `paper`: 3×3×3 with stride 1 (Xu et al., 2022); `full`: 2×2×2 with stride 2, on what `full_resolution` gives;
    `patch`: p×p×p with stride p, no padding.
    """
    edge = 2 if options.stem == "full" else options.patch or 1
    size, stride, padding = (3, 1, 1) if options.stem == "paper" else (edge, edge, 0)
    inputs = conv.out_channels if options.stem == "full" else options.in_channels
    kernel = conv.weight.new_empty(conv.out_channels, inputs, size, size, size)
    return voxel_conv(kernel, conv.bias, stride, (padding,) * 3, 1, 1, options), stride


def full_resolution(conv: nn.Conv2d, options: Options) -> nn.Sequential:
    """What the stem `full` has before its strided convolution, yet to be initialised: twice a 3×3×3 convolution of
    stride 1 with batch norm and ReLU, as Image2Point's segmentation network has it; as many channels as `conv` gives.
    """
    layers: list[nn.Module] = []
    for inputs in (options.in_channels, conv.out_channels):
        kernel = conv.weight.new_empty(conv.out_channels, inputs, 3, 3, 3)
        layers += [
            voxel_conv(kernel, None, 1, (1, 1, 1), 1, 1, options),
            BatchNorm(conv.out_channels, dtype=kernel.dtype, device=kernel.device),
            Pointwise(nn.ReLU()),
        ]
    return nn.Sequential(*layers)


def at_stride_one(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution of the 2D stem without its stride, centred where it had no padding; it shares the weights."""
    if both(conv.stride) == (1, 1):
        return conv
    unstrided = copy.copy(conv)
    unstrided.stride = (1, 1)
    if conv.padding == (0, 0) and type(conv) is nn.Conv2d:
        (rows, columns), (down, right) = both(conv.kernel_size), both(conv.dilation)
        unstrided.padding = ((rows - 1) // 2 * down, (columns - 1) // 2 * right)
    return unstrided


def adapted_convolution(conv: nn.Conv2d, parts: int, wanted: int, network: str) -> nn.Conv2d:
    """The first convolution of a network, for `wanted` input channels in place of those of an image.

    Args:
        parts: pixels whose channels lie side by side in what it reads.

    Raises:
        InputError: where it is in groups.
    """
    if conv.in_channels == parts * wanted:
        return conv
    if conv.groups > 1:
        raise InputError(
            f"in_channels = {wanted}: {network} takes {conv.in_channels} channels in {conv.groups} groups, which "
            "cannot be adapted"
        )
    rule = rule_of(conv, None)
    if rule is not None and rule.plain is not None:
        conv = rule.plain(conv)
    logger.info("stem: kernel adapted from %d to %d input channels", conv.in_channels // parts, wanted)
    adapted = copy.deepcopy(conv)
    adapted.in_channels = parts * wanted
    adapted.weight = nn.Parameter(kernels.adapt_input(conv.weight.detach(), wanted, parts))
    return adapted
