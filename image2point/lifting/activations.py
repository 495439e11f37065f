"""Statistics of the outputs of a network's layers: mean, variance and a sample, gathered batch by batch."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from image2point.lifting.kernels import generator
from image2point.lifting.network import LiftedNetwork
from image2point.networks.interface import modes_kept
from image2point.voxels import DenseVoxels, Voxels, VoxelTensor

SAMPLE = 15_000
"""Elements kept of each layer: as many as Xu et al. (2022) draw."""
DEAD = 1e-5
"""A channel is dead if its standard deviation over the sites is below this share of the layer's root mean square."""


@dataclass(frozen=True, eq=False)
class MaskedImages:
    """Images of which only some pixels count.

    Attributes:
        image: [B, C, H, W].
        mask: bool [B, 1, H, W]. A cell of a coarser map counts where any pixel in it does.
    """

    image: Tensor
    mask: Tensor


Input: TypeAlias = Voxels | MaskedImages


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """The output of one layer over all sites (occupied voxels, pixels, or clouds once they are pooled) of all inputs.

    Attributes:
        sites: their number.
        mean, variance: of each channel over the sites, float64 [C].
        sample: elements drawn with equal chances from all sites and channels, float64 [at most SAMPLE].
    """

    sites: int
    mean: Tensor
    variance: Tensor
    sample: Tensor

    @property
    def pooled_mean(self) -> float:
        """Mean over all sites and channels."""
        return float(self.mean.mean())

    @property
    def pooled_deviation(self) -> float:
        """Standard deviation over all sites and channels: the spread, and how far the channels' means lie apart."""
        return float((self.variance.mean() + self.mean.var(correction=0)).sqrt())

    @property
    def spread(self) -> float:
        """Root of the channels' mean variance: what changes from site to site, which is what the next layer can use."""
        return float(self.variance.mean().sqrt())

    @property
    def dead(self) -> float:
        """Share of channels that do not change from site to site (see `DEAD`)."""
        if self.sites < 2 or not self.finite:
            return 0.0
        size = (self.variance + self.mean.square()).mean().sqrt()
        return float((self.variance.sqrt() <= DEAD * size).double().mean())

    @property
    def finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return bool(torch.isfinite(self.mean).all() and torch.isfinite(self.variance).all())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: the pooled ones, and the quartiles of the channels' standard deviations."""
        quartiles = self.variance.sqrt().quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
        return {
            "sites": self.sites,
            "channels": len(self.mean),
            "mean": self.pooled_mean,
            "deviation": self.pooled_deviation,
            "spread": self.spread,
            "deviation_of_channels": quartiles.tolist(),
            "dead": self.dead,
            "finite": self.finite,
        }


def activation_statistics(
    network: nn.Module, batches: Iterable[Input], following: Container[str] = ()
) -> dict[str, ActivationStatistics]:
    """Statistics of every layer that holds parameters, in the order in which a lifted network calls them.

    The network runs in eval mode and is afterwards as it was.

    Args:
        network: a lifted network, or any 2D one.
        batches: inputs, one batch after another: voxels for a 3D network, images [B, C, H, W] or `MaskedImages` for
            a 2D one.
        following: names of batch norms that normalise by the statistics of the batch, as in training, and not by
            those that they have stored.

    Returns:
        Name of each layer → its statistics. The name is that of the 2D layer; where it becomes several layers in 3D,
        such as a norm and its activation, the output is that of the last.
    """
    with evaluating(network, following), gathering(network, layer_outputs(network)) as found:
        for batch in batches:
            found.run(batch)
    return found.result()


def wasserstein(a: Tensor, b: Tensor) -> float:
    """Wasserstein-1 distance between two samples of numbers, [n] and [m]: ∫ |F_a − F_b|, exactly; NaN if one is empty.

    >>> wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
    2.0

    Xu et al. (Image2Point, 2022) take it between elements of an image network's convolution outputs and elements of
    the lifted network's, 15,000 of each.
    """
    if not len(a) or not len(b) or not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        return float("nan")
    values, order = torch.cat([a, b]).double().sort()
    steps = torch.cat([values.new_full((len(a),), 1 / len(a)), values.new_full((len(b),), -1 / len(b))])
    return float((steps[order].cumsum(0)[:-1].abs() * values.diff()).sum())


def layer_outputs(network: nn.Module) -> dict[str, str]:
    """Name of each layer that holds parameters → name of the module that gives its output."""
    if not isinstance(network, LiftedNetwork):
        return {n: n for n, m in network.named_modules() if n and next(m.parameters(recurse=False), None) is not None}
    modules = dict(network.named_modules())  # by name: a child may be called like an attribute of the network
    last: dict[str, str] = {}
    for target in dict.fromkeys(str(node.target) for node in network.graph.nodes if node.op == "call_module"):
        owner = next((name for name in last if target.startswith(f"{name}.")), target)
        last[owner] = target
    return {n: t for n, t in last.items() if next(modules[n].parameters(), None) is not None}


@contextmanager
def evaluating(network: nn.Module, following: Container[str] = ()) -> Iterator[None]:
    """Eval mode without gradients, except that the batch norms in `following` use the statistics of their batch.

    Modes and running statistics are restored.
    """
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    with modes_kept(network):
        for name, module in network.named_modules():
            module.training = isinstance(module, _BatchNorm) and name in following
        try:
            with torch.no_grad():
                yield
        finally:
            for buffer, kept in buffers:
                buffer.detach().copy_(kept)


@contextmanager
def gathering(network: nn.Module, outputs: dict[str, str]) -> Iterator[Gathering]:
    """Gather statistics of the named modules while the block runs the network."""
    found, modules = Gathering(network), dict(network.named_modules())
    handles = [found.watch(name, modules[module]) for name, module in outputs.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class Gathering:
    """Statistics of the layers of a network, growing with each batch that it runs."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._layers: dict[str, _Growing] = {}
        self._mask: Tensor | None = None
        self._coarse: dict[tuple[int, int], Tensor] = {}

    def watch(self, name: str, module: nn.Module) -> RemovableHandle:
        """Gather the outputs of `module` under `name`, until the handle is removed."""
        growing = self._layers[name] = _Growing(generator(0, name))

        def see(layer: nn.Module, inputs: Any, output: Any) -> None:
            growing.add(self._rows(layer, output))

        return module.register_forward_hook(see)

    def run(self, batch: Input) -> None:
        """Run the network on a batch."""
        self._mask, self._coarse = batch.mask if isinstance(batch, MaskedImages) else None, {}
        self._network(batch.image if isinstance(batch, MaskedImages) else batch)

    def result(self) -> dict[str, ActivationStatistics]:
        """Of every layer that was called."""
        return {name: growing.result() for name, growing in self._layers.items() if growing.sites}

    def _rows(self, layer: nn.Module, output: Any) -> Tensor:
        """The features of the sites that count, [N, C]."""
        if isinstance(output, VoxelTensor):
            return output.features
        if isinstance(output, DenseVoxels):
            return output.rows
        sites = output.movedim(1, -1) if output.ndim > 2 and not channels_last(layer) else output
        if self._mask is not None and output.ndim == 4:
            size = (sites.shape[1], sites.shape[2])
            if size not in self._coarse:
                self._coarse[size] = coarse_mask(self._mask, size)[:, 0]
            return sites[self._coarse[size]]
        return sites.reshape(-1, sites.shape[-1])


def channels_last(layer: nn.Module) -> bool:
    """Whether a 2D layer has the channels on the last axis: linear layers, and norms that name no 2D in their class."""
    return isinstance(layer, nn.Linear) or (
        hasattr(layer, "normalized_shape") and "2d" not in type(layer).__name__.lower()
    )


def coarse_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells of a coarser map in which any pixel counts: bool [B, 1, H, W] → [B, 1, h, w]."""
    return nn.functional.adaptive_max_pool2d(mask.float(), size) > 0


class _Growing:
    """Count, mean and centred squares of each channel, merged as in Chan et al. (1979), and a sample of elements."""

    def __init__(self, draw: torch.Generator) -> None:
        self.sites, self._draw, self._elements = 0, draw, 0
        self._mean = self._squares = torch.zeros((), dtype=torch.float64)
        self._sample = torch.zeros(0, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Rows [N, C], of any floating type."""
        if not len(rows):
            return
        rows = rows.detach().cpu()
        rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        variance, mean = (t.double() for t in torch.var_mean(rows, 0, correction=0))
        total = self.sites + len(rows)
        apart = mean - self._mean
        self._squares = self._squares + variance * len(rows) + apart.square() * (self.sites * len(rows) / total)
        self._mean = self._mean + apart * (len(rows) / total)
        self.sites = total
        self._draw_from(rows.flatten())

    def result(self) -> ActivationStatistics:
        return ActivationStatistics(self.sites, self._mean, self._squares / self.sites, self._sample)

    def _draw_from(self, elements: Tensor) -> None:
        """Keep every element while all fit; after that, each kept one is a draw, with replacement, from all so far."""
        before, self._elements = self._elements, self._elements + len(elements)
        if self._elements <= SAMPLE:
            self._sample = torch.cat([self._sample, elements.double()])
            return
        if before < SAMPLE:  # so far everything was kept
            everything = torch.cat([self._sample, elements.double()]) if before else elements
            self._sample = everything[self._places(len(everything), SAMPLE)].double()
            return
        new = torch.rand(SAMPLE, generator=self._draw, dtype=torch.float64) < len(elements) / self._elements
        self._sample[new] = elements[self._places(len(elements), int(new.sum()))].double()

    def _places(self, count: int, size: int) -> Tensor:
        return torch.randint(count, (size,), generator=self._draw)
