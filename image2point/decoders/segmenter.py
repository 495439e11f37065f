"""`image2point.segmenter`: a lifted network, a decoder and a linear layer, which score every voxel."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from typing import Any, get_args

import torch
from torch import Tensor, fx, nn

from image2point.config.lifting import Decoder
from image2point.decoders.hypercolumn import Hypercolumn
from image2point.decoders.light import Light
from image2point.decoders.parts import Maps
from image2point.decoders.unet import UNet
from image2point.errors import InputError
from image2point.lifting import LiftedNetwork, lift
from image2point.lifting.attach import attach, restart
from image2point.lifting.heads import fresh_head
from image2point.lifting.kernels import AXES, generator
from image2point.lifting.layers import SiteLinear
from image2point.lifting.records import Lifting, ParameterRecord
from image2point.lifting.regions import Call, returning
from image2point.lifting.rewrite import LAYERS
from image2point.roles import DECODER
from image2point.voxels import DenseVoxels, Voxels, VoxelTensor

logger = logging.getLogger("image2point")

DECODERS: tuple[str, ...] = get_args(Decoder)


class Segmenter(LiftedNetwork):
    """A lifted network whose stage maps a decoder joins to one map at stride 1, and a linear layer that scores voxels.

    It is a lifted network in all else: names, policies (`freeze`), observed layers, hooks, `forward_features`. What the
    2D network has behind its last stage is not in it. `lifting` lists the decoder's parameters with the role `decoder`
    and those of the last layer as `output`, all fresh.
    """

    def forward(self, x: Voxels) -> Voxels:  # type: ignore[override]
        """Scores of the classes at every input voxel: voxels of the form of x, with [N, classes] in the order of its
        rows."""
        return _in_form_of(x, self._run(x, "scores")["logits"])

    def embed(self, x: Voxels) -> tuple[Tensor, Tensor]:
        """Features before the last layer [N, p] and class scores [N, classes], a row per occupied voxel of x."""
        result = self._run(x, "embedding")
        return _rows(result["features"]), _rows(result["logits"])


def segmenter(
    network: str | nn.Module,
    num_classes: int,
    decoder: Decoder = "light",
    width: float = 1.0,
    **options: Any,
) -> Segmenter:
    """A network that scores every voxel: a 2D ConvNet, lifted, with a fresh decoder and a fresh linear layer.

    Args:
        network: what `image2point.lift` takes (a name of timm's, or a 2D module), or a lifted network, of which this
            becomes a copy without what follows its last stage.
        num_classes: classes that are scored.
        decoder: `light` (`decoders.light`), `unet`, the paper's (`decoders.unet`), or `hypercolumn`, which has no
            parameter: with the policy `head` it is the dense linear probe (`decoders.hypercolumn`).
        width: scales the channels of `light` (96) and `unet` (512, 256, 192, 192).
        options: those of `image2point.lift` but `num_classes` and `head`, for a network that is not lifted yet.

    Returns:
        The network on the device of a given lifted one, else on the CPU; in training mode.

    Raises:
        InputError: on an unknown decoder, a width that is not above 0, a network without stage maps, options of `lift`
            beside a lifted network, and as `lift` does.

    >>> import torch, image2point as i2p
    >>> net = segmenter("test_resnet", num_classes=5, weights="random").eval()
    >>> voxels = i2p.voxelize([torch.rand(200, 3)], 0.1)
    >>> scores = net(voxels)
    >>> scores.stride, scores.features.shape[1], len(scores.features) == len(voxels.features)
    (1, 5, True)
    """
    if decoder not in DECODERS:
        raise InputError(f"decoder: expected one of {', '.join(DECODERS)}, found {decoder!r}")
    if isinstance(width, bool) or not isinstance(width, int | float) or not (isfinite(width) and width > 0):
        raise InputError(f"width: expected a number above 0, found {width!r}")
    if decoder == "hypercolumn" and width != 1:
        raise InputError(f"width: a hypercolumn has no parameters that a width could scale, found {width!r}")
    if isinstance(network, LiftedNetwork):
        if options:
            raise InputError(f"{network.lifting.network} is lifted already, so {', '.join(options)} would do nothing")
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
            raise InputError(f"num_classes: expected a whole number of at least 1, found {num_classes!r}")
        lifted = copy.deepcopy(network)
    else:
        if num_classes is None:
            raise InputError("num_classes: expected the number of classes to score, found None")
        if options.get("head", "linear") != "linear":
            raise InputError(f"head: the last layer of a segmenter is linear, found {options['head']!r}")
        lifted = lift(network, num_classes=num_classes, **options)
    return _built(lifted, num_classes, decoder, width)


def _built(lifted: LiftedNetwork, num_classes: int, decoder: str, width: float) -> Segmenter:
    """The segmenter of a lifted network, whose modules it takes over."""
    if lifted.lifting.decoder:
        raise InputError(f"{lifted.lifting.network} is a segmenter already, with the decoder {lifted.lifting.decoder}")
    stages = sorted(lifted.feature_info, key=lambda stage: stage["reduction"])
    if not stages:
        raise InputError(f"{lifted.lifting.network} gives no map of a stage that a decoder could take")
    if decoder != "hypercolumn":  # the last map of each stride
        stages = list({stage["reduction"]: stage for stage in stages}.values())
    options = lifted.lifting.options
    maps = Maps(
        options.in_channels,
        tuple(stage["num_chs"] for stage in stages),
        tuple(stage["reduction"] for stage in stages),
        {
            "engine": options.engine,
            "axis": options.axis if options.axis in AXES else "z",
            "depth_padding": options.depth_padding,
        },
    )
    if decoder == "unet" and maps.strides == (1,):
        raise InputError(f"{lifted.lifting.network} has maps at stride 1 alone, so a unet would have no level")
    like = next(lifted.parameters())
    with torch.device("meta"):  # nothing is drawn
        made = _DECODERS[decoder](maps, width)
    graph, calls = _trunk(lifted)
    names = _free(lifted, "decoder"), _free(lifted, "head")
    made = made.to(like.dtype).to_empty(device="cpu")
    restart(made, names[0], options.seed)
    head = site_head(made.out_channels, num_classes, generator(options.seed, names[1]), like.dtype)
    fresh = {**_records(names[0], made, DECODER), **_records(names[1], head, "output")}
    (voxels,) = graph.find_nodes(op="placeholder")[:1]
    maps_by_name = _returned(graph)
    inputs = [voxels, [maps_by_name[stage["module"]] for stage in stages]]
    features = attach(lifted, graph, calls, names[0], made, inputs)
    logits = graph.create_node("call_module", names[1], (features,))
    logits.meta[LAYERS] = [names[1]]
    lifted.add_module(names[1], head)
    graph.output({"stages": maps_by_name, "features": features, "logits": logits})
    roles = {name: DECODER for name, _ in lifted.named_modules() if f"{name}.".startswith(f"{names[0]}.")}
    result = Segmenter(
        lifted.to(like.device), graph, _recorded(lifted, fresh, decoder, width, num_classes),
        {**lifted.roles, **roles, names[1]: "output"}, names[1], calls,
    )  # fmt: skip
    result._made = {name: lifted._made.get(name, each) for name, each in result._made.items()}
    result.hold_in_eval(lifted._held)
    return result


_DECODERS: dict[str, Callable[[Maps, float], Any]] = {
    "light": Light,
    "unet": UNet,
    "hypercolumn": lambda maps, width: Hypercolumn(maps),
}


def _trunk(lifted: LiftedNetwork) -> tuple[fx.Graph, dict[str, list[Call]]]:
    """The part of a network's graph that leads to its stage maps, whose names stay those of its output, and the calls
    that it still has. Modules and parameters that it does not use are taken from the network."""
    graph = returning(lifted._graph, ["stages"])
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    used = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    _prune(lifted, "", used)
    there = {node.name for node in graph.nodes}
    calls = {
        path: times
        for path, times in lifted._calls.items()
        if all(there.issuperset([*call.operands, *call.results]) for call in times)
    }
    return graph, calls


def _prune(module: nn.Module, prefix: str, used: set[str]) -> None:
    for held in (module._parameters, module._buffers):
        for name in [name for name in held if f"{prefix}{name}" not in used]:
            del held[name]
    for name, child in list(module._modules.items()):
        path = f"{prefix}{name}"
        if path in used or child is None:
            continue
        if any(each.startswith(f"{path}.") for each in used):
            _prune(child, f"{path}.", used)
        else:
            del module._modules[name]


def _returned(graph: fx.Graph) -> dict[str, fx.Node]:
    """The stage maps that a graph returns, by name; the graph has no output then."""
    (output,) = graph.find_nodes(op="output")
    stages = dict(output.args[0]["stages"])
    graph.erase_node(output)
    return stages


def _free(root: nn.Module, name: str) -> str:
    while name in root._modules or hasattr(Segmenter, name):
        name += "_"
    return name


def site_head(inputs: int, classes: int, draw: torch.Generator, dtype: torch.dtype) -> SiteLinear:
    """A linear layer on each voxel that begins as the fresh head of a classifier does."""
    drawn = fresh_head("linear", inputs, classes, draw, dtype)
    with torch.device("meta"):
        head = SiteLinear(inputs, classes).to(dtype)
    head.weight, head.bias = drawn.weight, drawn.bias
    return head


def _records(name: str, module: nn.Module, role: str) -> dict[str, ParameterRecord]:
    return {
        f"{name}.{path}": ParameterRecord(f"{name}.{path}", tuple(tensor.shape), role, "fresh", None, None)
        for path, tensor in module.state_dict().items()
    }


def _recorded(
    lifted: LiftedNetwork, fresh: dict[str, ParameterRecord], decoder: str, width: float, num_classes: int
) -> Lifting:
    """The record of a lifting without what is left of it no more, and with what is fresh."""
    before = lifted.lifting
    tensors = lifted.state_dict(keep_vars=True)
    gone = {r.source for r in (*before.parameters, *before.buffers) if r.name not in tensors}

    def records(kept: tuple[ParameterRecord, ...], parameters: bool) -> tuple[ParameterRecord, ...]:
        new = [r for name, r in fresh.items() if isinstance(tensors[name], nn.Parameter) == parameters]
        return (*(r for r in kept if r.name in tensors), *new)

    return replace(
        before,
        options=replace(before.options, num_classes=num_classes, head="linear"),
        parameters=records(before.parameters, True),
        buffers=records(before.buffers, False),
        sources=tuple(
            replace(source, fate="skipped") if source.fate == "used" and source.name in gone else source
            for source in before.sources
        ),
        decoder=decoder,
        decoder_width=float(width),
    )


def _rows(x: Voxels) -> Tensor:
    """Features of the occupied voxels, [N, C]."""
    if isinstance(x, VoxelTensor):
        return x.features
    return x.rows if isinstance(x, DenseVoxels) else x.permute(0, 2, 3, 4, 1).flatten(0, 3)


def _in_form_of(x: Voxels, result: Voxels) -> Voxels:
    """Sparse voxels for sparse ones, also where the network computes on a grid."""
    return x.replace(result.rows) if isinstance(x, VoxelTensor) and isinstance(result, DenseVoxels) else result
