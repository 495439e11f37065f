"""Does a lifting keep what the 2D network computes? Layer by layer: origins, activations, costs, warnings."""

from __future__ import annotations

from collections.abc import Container, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from image2point.files import finite
from image2point.lifting.activations import (
    ActivationStatistics,
    Input,
    MaskedImages,
    evaluating,
    gathering,
    layer_outputs,
    wasserstein,
)
from image2point.lifting.completed import Completed
from image2point.lifting.costs import Cost, counting
from image2point.lifting.depth_errors import depth_errors, no_depth_error
from image2point.lifting.network import LiftedNetwork
from image2point.lifting.records import ParameterRecord
from image2point.voxels import VoxelTensor

BOUND = 10.0
"""A layer whose spread differs from that of the 2D layer by more than this factor is warned about; by more than its
square, it explodes or dies."""
MOSTLY = 0.5
"""A layer dies where at least this share of its channels is dead, and more of them than in 2D."""
MORE = 0.1
"""Dead channels are warned about where their share in 3D exceeds that in 2D by more than this."""
KINDS = ("not finite", "dies", "explodes", "dead channels", "weaker", "stronger")
"""What a layer may be warned about."""


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
        return finite(values)


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
        return finite(
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


def check_lifting(
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
        bound: factor between the spreads above which a layer is warned about.
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
    reason = no_depth_error(image_network, net)
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

    The spread of a fresh layer is not compared with that of the 2D layer that it replaced.
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


def _belongs(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")
