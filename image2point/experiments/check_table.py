"""The check of a lifting in a terminal: two tables, totals, and the warnings."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from image2point.lifting.check import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from image2point.lifting.check import Check, LayerCheck
    from image2point.lifting.costs import Cost
    from image2point.lifting.records import ParameterRecord

WIDTH = 120
_SMALL = 1e-3  # errors below it are rounding, in single precision


def show(check: Check) -> None:
    """Print it, 120 columns wide where nothing says how wide the terminal is."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(_origins(check))
    console.print()
    console.print(_activations(check))
    console.print()
    for line in summary(check):
        console.print(line)


def summary(check: Check) -> Iterator[str]:
    """What the layers come to, in a line each, and the warnings."""
    image, cloud = check.image_cost, check.cloud_cost
    size = "×".join(map(str, check.image_size))
    voxels = "" if check.voxels is None else f"{check.voxels:.0f} "
    yield f"parameters: 2D {check.image_parameters:,}, 3D {check.cloud_parameters:,}"
    yield (
        f"multiply–accumulates: 2D {short(image.macs)} per image of {size}; 3D {short(cloud.grid)} on the grid around "
        f"a cloud, {short(cloud.macs)} on its {voxels}voxels, {short(cloud.summed)} once equal weights share a product"
    )
    if check.mean_distance is not None:
        yield f"Wasserstein-1 distance, mean over the inflated convolutions: {short(check.mean_distance)}"
    if check.depth_error is None:
        yield f"image repeated along depth: not measured, {check.no_depth_error}"
    else:
        verdict = "the 2D network, exactly" if check.depth_error < _SMALL else "not the 2D network"
        yield f"image repeated along depth: {verdict} (largest relative error {check.depth_error:.1e})"
    warned = [layer for layer in check.layers if layer.warnings]
    yield f"warnings: {len(warned)} of {len(check.layers)} layers" if warned else "warnings: none"
    for kind in KINDS:
        found = [(layer, text) for layer in warned for text in layer.warnings if text.startswith(f"{kind}:")]
        if found:
            layer, text = found[0]
            others = f", and {len(found) - 1} more, the last {found[-1][0].name}" if len(found) > 1 else ""
            yield f"  {kind}: {layer.name} ({text.partition(': ')[2]}){others}"


def short(number: float | None) -> str:
    """A number in few letters: 0.0123, 12.3k, 1.69G; a dash for none."""
    if number is None:
        return "–"
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.3g}{letter}" if abs(number) < 1e15 else f"{number:.1e}"
    return f"{number:.3g}" if abs(number) >= 0.01 or number == 0 else f"{number:.1e}"


def _origins(check: Check) -> Table:
    table = _table("Where the layers come from, and what they cost")
    for heading in ("layer", "role", "origin", "tensors (2D → 3D)"):
        table.add_column(heading, overflow="fold")
    for heading in ("MACs 2D", "grid 3D", "voxels", "summed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in check.layers:
        costs = _costs(layer.image_cost, layer.cloud_cost)
        table.add_row(layer.name, layer.role, ", ".join(layer.origins), _tensors(layer.records), *costs)
    for record in check.held:
        table.add_row(record.name, record.role, record.origin, _tensors((record,)))
    return table


def _activations(check: Check) -> Table:
    table = _table("What they give: mean, and spread (s.d. over the sites, quadratic mean of the channels)")
    table.add_column("layer", overflow="fold")
    headings = ["mean 2D", "mean 3D", "spread 2D", "spread 3D", "ratio", "W1", "dead 2D", "dead 3D"]
    if check.depth_error is not None:
        headings.append("depth error")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for layer in check.layers:
        table.add_row(layer.name, *_statistics(layer, check.depth_error is not None), _kinds(layer))
    return table


def _statistics(layer: LayerCheck, with_depth: bool) -> list[str]:
    sides = (layer.image, layer.cloud)
    cells = [short(side.pooled_mean if side else None) for side in sides]
    cells += [short(side.spread if side else None) for side in sides]
    cells += [short(layer.ratio), short(layer.distance)]
    cells += [f"{side.dead:.0%}" if side else "–" for side in sides]
    return [*cells, "–" if layer.depth_error is None else f"{layer.depth_error:.0e}"] if with_depth else cells


def _kinds(layer: LayerCheck) -> str:
    return ", ".join(dict.fromkeys(text.partition(":")[0] for text in layer.warnings))


def _costs(image: Cost, cloud: Cost) -> list[str]:
    return [short(number) if number else "" for number in (image.macs, cloud.grid, cloud.macs, cloud.summed)]


def _tensors(records: tuple[ParameterRecord, ...]) -> str:
    """Tensors of one shape together: `weight 64×64×3×3 → 64×64×3×3×3, bias 64`."""
    texts = []
    counters = [record for record in records if record.shape]  # without the count of batches that norms keep
    for (source, shape), same in groupby(counters, lambda record: (record.source_shape, record.shape)):
        names = ", ".join(record.name.rpartition(".")[2] for record in same)
        change = f"{_shape(source)} → " if source is not None and source != shape else ""
        texts.append(f"{names} {change}{_shape(shape)}")
    return "; ".join(texts)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _table(title: str) -> Table:
    from rich.table import Table

    return Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
