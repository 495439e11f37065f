"""Does a lifting keep what the 2D network computes? Layer by layer: origins, activations, costs, warnings."""

from __future__ import annotations

from collections.abc import Container, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from image2point.lifting.activations import (
    ActivationStatistics,
    Input,
    MaskedImages,
    channels_last,
    evaluating,
    gathering,
    layer_outputs,
    wasserstein,
)
from image2point.lifting.costs import Cost, counting
from image2point.lifting.equivalence import Completed, relative
from image2point.lifting.kernels import AXES
from image2point.lifting.matched import extruded, image_in_channels
from image2point.lifting.network import LiftedNetwork
from image2point.lifting.records import ParameterRecord
from image2point.voxels import VoxelConv, VoxelTensor

BOUND = 10.0
"""Ratio of the spreads in 3D and 2D, either way, from which on a layer is warned about; from BOUND² on it explodes or
dies."""
MOSTLY = 0.5
"""Share of dead channels from which on a layer dies, where there are more than in 2D."""
MORE = 0.1
"""Dead channels are warned about where their share in 3D exceeds that in 2D by this much."""
KINDS = ("not finite", "dies", "explodes", "dead channels", "weaker", "stronger")
"""What a layer may be warned about."""
_IMAGE, _DEPTH = (64, 64), 4


@dataclass(frozen=True, eq=False)
class LayerCheck:
    """One layer of a lifted network beside the 2D layer of its name.

    Attributes:
        kind: class of the 3D layer.
        records: where each of its tensors comes from, buffers included.
        image, cloud: statistics of its output in 2D and in 3D; None where it has no counterpart or was not called.
        distance: Wasserstein-1 distance between elements of both outputs (Xu et al., 2022); None without counterpart.
        image_cost, cloud_cost: its cost per image and per cloud.
        depth_error: error on an image repeated along depth, relative to the 2D layer's output on the image; None
            where it was not measured.
        warnings: what is wrong, each beginning with one of KINDS.
    """

    name: str
    kind: str
    records: tuple[ParameterRecord, ...]
    image: ActivationStatistics | None
    cloud: ActivationStatistics | None
    distance: float | None
    image_cost: Cost
    cloud_cost: Cost
    depth_error: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        return self.records[0].role

    @property
    def origins(self) -> tuple[str, ...]:
        """Where its tensors come from: inflated, copied or fresh."""
        return tuple(dict.fromkeys(record.origin for record in self.records))

    @property
    def is_convolution(self) -> bool:
        return any(len(record.shape) > 2 for record in self.records)

    @property
    def ratio(self) -> float | None:
        """Spread of the 3D layer over that of the 2D layer; None without counterpart, and where both have none."""
        if self.image is None or self.cloud is None:
            return None
        image, cloud = self.image.spread, self.cloud.spread
        if image == 0.0:
            return None if cloud == 0.0 else float("inf")
        return cloud / image

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is not a finite number is None."""
        values = {
            "name": self.name,
            "kind": self.kind,
            "role": self.role,
            "tensors": [asdict(record) for record in self.records],
            "image": self.image and self.image.to_dict(),
            "cloud": self.cloud and self.cloud.to_dict(),
            "ratio": self.ratio,
            "wasserstein": self.distance,
            "depth_error": self.depth_error,
            "cost": {"image": asdict(self.image_cost), "cloud": asdict(self.cloud_cost)},
            "warnings": list(self.warnings),
        }
        return _finite(values)


@dataclass(frozen=True, eq=False)
class Check:
    """A lifted network beside its 2D network.

    Attributes:
        layers: in the order in which the 3D network calls them.
        held: tensors that no layer holds, such as a layer scale.
        image_parameters, cloud_parameters: numbers of parameters.
        image_size: height and width of the last batch of images.
        voxels: mean number of voxels of a cloud; None where clouds came as grids.
        no_depth_error: why no depth error was measured; empty where it was.
    """

    layers: tuple[LayerCheck, ...]
    held: tuple[ParameterRecord, ...]
    image_parameters: int
    cloud_parameters: int
    image_size: tuple[int, ...]
    voxels: float | None
    no_depth_error: str = ""

    @property
    def image_cost(self) -> Cost:
        """Cost per image."""
        return sum((layer.image_cost for layer in self.layers), Cost())

    @property
    def cloud_cost(self) -> Cost:
        """Cost per cloud."""
        return sum((layer.cloud_cost for layer in self.layers), Cost())

    @property
    def mean_distance(self) -> float | None:
        """Mean Wasserstein-1 distance over the convolutions that come from 2D ones, as Xu et al. (2022) have it."""
        found = [
            layer.distance
            for layer in self.layers
            if layer.is_convolution and "inflated" in layer.origins and layer.distance is not None
        ]
        return sum(found) / len(found) if found else None

    @property
    def depth_error(self) -> float | None:
        """The largest of the layers; None where it was not measured."""
        return max((layer.depth_error for layer in self.layers if layer.depth_error is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is not a finite number is None."""
        return _finite(
            {
                "parameters": {"image": self.image_parameters, "cloud": self.cloud_parameters},
                "cost": {"image": asdict(self.image_cost), "cloud": asdict(self.cloud_cost)},
                "image_size": list(self.image_size),
                "voxels": self.voxels,
                "mean_wasserstein": self.mean_distance,
                "depth_error": self.depth_error,
                "no_depth_error": self.no_depth_error,
                "layers": [layer.to_dict() for layer in self.layers],
                "held": [asdict(record) for record in self.held],
            }
        )


def check(
    image_network: nn.Module,
    net: LiftedNetwork,
    images: Iterable[Input],
    clouds: Iterable[Input],
    bound: float = BOUND,
    following: Container[str] = (),
) -> Check:
    """Compare a lifted network with its 2D network, both in eval mode; afterwards both are as they were.

    Args:
        image_network: the 2D network (`lifting.source.source_network` makes it from the record of the lifting).
        images: batches of images [B, C, H, W], or of `MaskedImages`, such as `matched.projection` makes of clouds.
        clouds: batches of voxels.
        bound: ratio of the spreads from which on a layer is warned about.
        following: names of batch norms of `net` that normalise by the statistics of the batch.
    """
    outputs, modules = layer_outputs(net), dict(net.named_modules())
    shared = {name: name for name, _ in image_network.named_modules() if name in outputs}
    counts: list[Tensor] = []
    size: tuple[int, ...] = ()
    with evaluating(net, following), gathering(net, outputs) as found, counting(net) as counted:
        for batch in clouds:
            found.run(batch)
            if isinstance(batch, VoxelTensor):
                counts.append(batch.sites.counts.double())
    in_3d, cost_3d = found.result(), counted.result()
    with evaluating(image_network), gathering(image_network, shared) as found, counting(image_network) as counted:
        for batch in images:
            # Voxels have no border: where layers without padding would make a matched image smaller, it is completed.
            with Completed() if isinstance(batch, MaskedImages) else nullcontext():
                found.run(batch)
            image = batch.image if isinstance(batch, MaskedImages) else batch
            size = tuple(image.shape[2:]) if isinstance(image, Tensor) else ()
    in_2d, cost_2d = found.result(), counted.result()
    reason = _no_depth_error(image_network, net)
    errors = {} if reason else depth_errors(image_network, net)
    tensors = (*net.lifting.parameters, *net.lifting.buffers)
    layers = []
    for name in outputs:
        on_image, on_cloud = in_2d.get(name), in_3d.get(name)
        layer = LayerCheck(
            name=name,
            kind=type(modules[name]).__name__,
            records=tuple(record for record in tensors if _belongs(record.name, name)),
            image=on_image,
            cloud=on_cloud,
            distance=None if on_image is None or on_cloud is None else wasserstein(on_image.sample, on_cloud.sample),
            image_cost=sum((cost for at, cost in cost_2d.items() if _belongs(at, name)), Cost()),
            cloud_cost=sum((cost for at, cost in cost_3d.items() if _belongs(at, name)), Cost()),
            depth_error=errors.get(name),
        )
        layers.append(replace(layer, warnings=judge(layer, bound)))
    held = tuple(record for record in tensors if not any(_belongs(record.name, name) for name in outputs))
    return Check(
        layers=tuple(layers),
        held=held,
        image_parameters=sum(parameter.numel() for parameter in image_network.parameters()),
        cloud_parameters=sum(parameter.numel() for parameter in net.parameters()),
        image_size=size,
        voxels=float(torch.cat(counts).mean()) if counts else None,
        no_depth_error=reason,
    )


def judge(layer: LayerCheck, bound: float = BOUND) -> tuple[str, ...]:
    """What is wrong with a layer, if anything.

    The spreads of a fresh layer are not held against the 2D layer whose place it took.
    """
    cloud, image = layer.cloud, layer.image
    if cloud is None:
        return ()
    if not cloud.finite:
        return ("not finite: NaN or infinite values",)
    found = []
    before = image.dead if image is not None else 0.0
    if cloud.dead > before + MORE:
        kind = "dies" if cloud.dead >= MOSTLY else "dead channels"
        found.append(f"{kind}: {cloud.dead:.0%} of the channels are the same at all sites (2D: {before:.0%})")
    ratio = None if "fresh" in layer.origins else layer.ratio
    if ratio is not None and ratio < 1 / bound:
        kind = "weaker" if ratio >= bound**-2 else "dies"
        found.append(f"{kind}: spread {ratio:.2g} times that of the 2D layer")
    if ratio is not None and ratio > bound:
        kind = "stronger" if ratio <= bound**2 else "explodes"
        found.append(f"{kind}: spread {ratio:.2g} times that of the 2D layer")
    return tuple(found)


def depth_errors(image_network: nn.Module, net: LiftedNetwork) -> dict[str, float]:
    """Error of each layer on an image repeated along depth: zero, but for rounding, under `mean`.

    A plain grid carries the image, whose border slices are repeated along depth whatever the network's own padding.
    Windows of the 2D network are completed at the far border (see `equivalence.Completed`).

    Returns:
        Largest error relative to the largest magnitude of the 2D layer's output, of every layer that is not fresh.
    """
    options = net.lifting.options
    depth = 2 + AXES.index(options.depth_axis)
    outputs = layer_outputs(net)
    fresh = {record.name.rpartition(".")[0] for record in net.lifting.parameters if record.origin == "fresh"}
    in_2d, in_3d = dict(image_network.named_modules()), dict(net.named_modules())
    shared = [name for name in outputs if name in in_2d and name not in fresh]
    expected: dict[str, list[Tensor]] = {name: [] for name in shared}
    errors: dict[str, float] = {}

    def keep(name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        expected[name].append((output.movedim(-1, 1) if channels_last(layer) else output).clone())

    def compare(name: str, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if not expected[name]:
            return  # the 2D network does not call this layer as a module
        want = expected[name].pop(0)
        want = want.unsqueeze(depth).expand_as(output) if output.ndim == 5 else want.flatten(1)
        errors[name] = max(errors.get(name, 0.0), relative(output, want))

    parameter = next(net.parameters())
    shape = (1, image_in_channels(image_network), *_IMAGE)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(parameter)
    convolutions = [(m, m.depth_padding) for m in net.modules() if isinstance(m, VoxelConv)]
    handles = [in_2d[name].register_forward_hook(partial(keep, name)) for name in shared]
    handles += [in_3d[outputs[name]].register_forward_hook(partial(compare, name)) for name in shared]
    try:
        for convolution, _ in convolutions:
            convolution.depth_padding = "replicate"
        with evaluating(image_network), evaluating(net):
            with Completed():
                image_network(image)
            net(extruded(image, options.depth_axis, _DEPTH))
    finally:
        for convolution, padding in convolutions:
            convolution.depth_padding = padding
        for handle in handles:
            handle.remove()
    return errors


def _no_depth_error(image_network: nn.Module, net: LiftedNetwork) -> str:
    """Why an image repeated along depth has no counterpart in this lifting; empty where it has."""
    options = net.lifting.options
    if options.stem != "inflate":
        return "the stem is fresh (stem=inflate has it lifted)"
    if options.control != "none":
        return f"the weights are not those of the 2D network (control {options.control})"
    if options.axis not in AXES:
        return f"there is no single depth axis (axis {options.axis})"
    if options.in_channels != image_in_channels(image_network):
        return f"images have {image_in_channels(image_network)} channels, and the voxels {options.in_channels}"
    return ""


def _belongs(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def _finite(value: Any) -> Any:
    """Numbers that JSON has no word for replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
