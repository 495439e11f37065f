"""What the layers of a 2D or a lifted network say about a set of samples, as a source of features for `collapse`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from image2point.collapse.labels_at_random import over_null
from image2point.collapse.layers import LayerMeasures, Rows, Source
from image2point.datasets.class_split import Labelled
from image2point.files import finite
from image2point.networks import layer_names
from image2point.networks.interface import Network, modes_kept
from image2point.training.batches import Preparation, batches, in_order

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def choose_layers(network: Network, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the layers that match (`layer1.*`, `features`, `blocks`), in the order of computation.

    Raises InputError for a pattern that matches none.
    """
    return layer_names.choose_layers(patterns, network.layer_names(), network.block_names())


def layer_source(
    network: Network,
    samples: Labelled,
    recipe: Preparation,
    names: Sequence[str],
    batch_size: int,
    per_site: bool = False,
    workers: int = 0,
    fabric: Fabric | None = None,
    each_batch: Callable[[], None] = lambda: None,
    plan: Sequence[np.ndarray] | None = None,
) -> Source:
    """Each pass runs all samples (or the batches of `plan`) through the network, in eval mode and without augmentation.

    A layer gives the mean over the pixels or occupied voxels of each sample, or with `per_site` every one of them.
    """
    observe = network.observe(names, per_site)
    first = next(network.parameters())
    plan = in_order(len(samples), batch_size) if plan is None else plan

    def source() -> Iterator[Mapping[str, Rows]]:
        with modes_kept(network):
            network.eval()
            for batch in batches(samples, plan, recipe, None, workers, first.device.type == "cuda"):
                with torch.no_grad(), fabric.autocast() if fabric else nullcontext():
                    seen = observe(batch.to(first.device, first.dtype).voxels)
                yield {name: (rows.cpu(), batch.indices[owner.cpu().long()]) for name, (rows, owner) in seen.items()}
                each_batch()

    return source


def head_of(network: Network) -> dict[str, tuple[Tensor, Tensor | None]]:
    """The classifier by the layer that it reads, as `measure_layers` takes it."""
    weight, bias = network.linear_classifier()
    return {layer_names.FEATURES: (weight.detach().cpu(), None if bias is None else bias.detach().cpu())}


def plain(measures: LayerMeasures) -> dict[str, Any]:
    """Measures of a layer for JSON; what is undefined is None."""
    intervals = {name: {"error": i.error, "low": i.low, "high": i.high} for name, i in measures.intervals.items()}
    nulls = {
        name: {"mean": mean, "sd": sd, "share": over_null(measures.values[name], mean)}
        for name, (mean, sd) in measures.nulls.items()
    }
    return finite({"dim": measures.means.shape[1], "values": measures.values, "intervals": intervals, "nulls": nulls})
