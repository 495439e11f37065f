"""Heat maps of layers and planes of classes before they are drawn, made from arms.

The page draws them with plotly (`map_figures`), files for paper with matplotlib (`vector`). Of an arm with several
runs they show the first: an average of planes or of cosines would be the geometry of no network.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from image2point.collapse.geometry import simplex_cosines
from image2point.report.arms import Arm
from image2point.report.charts import PALETTE
from image2point.report.quantities import QUANTITIES, SPLITS, Quantity
from image2point.report.read_collapse import Geometry

BY_LAYER = tuple(kind for key in ("nc1_trace_ratio", "ncc_accuracy") for kind in QUANTITIES if kind.key == key)
MOST_POINTS = 1500
"""Points of a split in a plane, taken at even steps; more would only cover each other."""
MOST_NAMES = 12
"""Up to this many classes are named in the plane; more are numbered, with a key."""


@dataclass(frozen=True)
class Heat:
    """A matrix in colours, `values` [rows, columns], the first row on top; NaN where there is nothing.

    `low`, `high`: the ends of the colour scale, the same in all maps that should be compared.
    """

    title: str
    arm: int
    values: np.ndarray
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    scale: Literal["logarithmic", "percent", "cosine", "plain"]
    low: float
    high: float


@dataclass(frozen=True)
class PlaneView:
    """Features [n, 2] of one split and class means [C, 2] in a plane; classes in the order of similarity.

    `labels` [n] and `means` go by place in `names`. `corner` and `side` are of the square that is shown,
    the same for both splits: it holds all means, and along each axis the features within Tukey's fences. `outside`: how
    many of the `samples` of the split lie outside it.
    """

    title: str
    arm: int
    points: np.ndarray
    labels: np.ndarray
    means: np.ndarray
    names: tuple[str, ...]
    shares: tuple[float, float]
    corner: tuple[float, float]
    side: float
    outside: int
    samples: int

    @property
    def axis_titles(self) -> tuple[str, str]:
        first, second = (f"{100 * share:.0f} % of the means' variance" for share in self.shares)
        return f"first axis, {first}", f"second axis, {second}"

    @property
    def marks(self) -> tuple[str, ...]:
        """What stands at each mean: its name, or its number in the key."""
        return self.names if len(self.names) <= MOST_NAMES else tuple(str(i + 1) for i in range(len(self.names)))

    @property
    def places(self) -> np.ndarray:
        """Where the marks stand, [C, 2]: a little above the means, moved off each other."""
        return apart(self.means + np.array([0, 0.035]) * self.side, 0.04 * self.side)


def depth(arms: Sequence[Arm]) -> list[Heat]:
    """Layer × epoch, first layer on top: compression and nearest-mean accuracy, on each split, for each arm."""
    heats: list[Heat] = []
    for kind in BY_LAYER:
        drawn = [(i, arm, split, _by_layer(arm, split, kind)) for i, arm in enumerate(arms) for split in SPLITS]
        known = [(i, arm, split, found) for i, arm, split, found in drawn if found is not None]
        finite = np.concatenate([m[0][np.isfinite(m[0])] for *_, m in known]) if known else np.array([])
        if not len(finite):
            continue
        low, high = (0.0, 1.0) if kind.percent else (float(finite.min()), float(finite.max()))
        heats += [
            Heat(
                _title(arms, arm, f"{kind.heading if kind.percent else kind.meaning}, {split}"), i, *found,
                "percent" if kind.percent else "logarithmic", low, high,
            )
            for i, arm, split, found in known
        ]  # fmt: skip
    return heats


def filled(arms: Sequence[Arm]) -> list[Heat]:
    """Layer × slice of the depth, first layer on top: the numbers by which kernels fill it, for each arm that has some.

    The slices of each kernel are numbered from its middle one, which an even kernel has behind its half.
    """
    known = [(i, arm, arm.first.summary.depth) for i, arm in enumerate(arms) if arm.first.summary.depth]
    every = [value for *_, layers in known for numbers in layers.values() for value in numbers]
    heats = []
    for i, arm, layers in known:
        low = min(-(len(numbers) // 2) for numbers in layers.values())
        high = max(len(numbers) - 1 - len(numbers) // 2 for numbers in layers.values())
        values = np.full((len(layers), high - low + 1), np.nan)
        for row, numbers in enumerate(layers.values()):
            start = -(len(numbers) // 2) - low
            values[row, start : start + len(numbers)] = numbers
        slices = tuple(f"{place:+d}" if place else "0" for place in range(low, high + 1))
        title = _title(arms, arm, "How kernels fill the depth")
        heats.append(Heat(title, i, values, tuple(layers), slices, "plain", min(every), max(every)))
    return heats


def _by_layer(arm: Arm, split: str, kind: Quantity) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]] | None:
    """Values [layers, epochs] with the names of both; on a logarithmic scale, what is not positive is NaN."""
    rows = [row for row in arm.first.layers if row.split == split and kind.key in row.values]
    if not rows:
        return None
    layers = tuple(dict.fromkeys(row.layer for row in rows))
    epochs = tuple(dict.fromkeys(row.epoch for row in arm.first.layers))  # of all splits: maps side by side compare
    values = np.full((len(layers), len(epochs)), np.nan)
    for row in rows:
        value = row.values[kind.key]
        if kind.percent or value > 0:
            values[layers.index(row.layer), epochs.index(row.epoch)] = value
    return values, layers, tuple(map(str, epochs))


def cosines(arms: Sequence[Arm]) -> list[Heat]:
    """For each arm, cosines between class means of train and of test, and of train with the classifier; the frame."""
    heats: list[Heat] = []
    for i, arm, found, order, names in _located(arms):
        parts = [(f"Class means of {split}", seen.cosines) for split, seen in found.splits.items()]
        parts.append(("Class means of train (rows) and the classifier (columns)", found.classifier))
        for title, matrix in parts:
            shown = matrix[np.ix_(order, order)]
            heats.append(Heat(_title(arms, arm, title), i, shown, names, names, "cosine", -1.0, 1.0))
    if heats:
        last = heats[-1]
        frame = f"The simplex frame: 1 and −1/(C − 1) = −{1 / (len(last.rows) - 1):.3g}"
        heats.append(
            Heat(frame, -1, simplex_cosines(len(last.rows)).numpy(), last.rows, last.rows, "cosine", -1.0, 1.0)
        )
    return heats


def planes(arms: Sequence[Arm]) -> list[PlaneView]:
    """For each arm, the features of train and of test in the plane of the training means."""
    views = []
    for i, arm, found, order, names in _located(arms):
        place = np.full(len(found.classifier), -1)
        place[order] = np.arange(len(order))
        # Features far out would press all others together: the square holds the means, and the others.
        ends = [fenced(seen.points) for seen in found.splits.values()]
        every = np.concatenate([*ends, *(seen.means[order] for seen in found.splits.values())])
        low, high = np.nanmin(every, axis=0), np.nanmax(every, axis=0)
        side = 1.2 * float((high - low).max()) or 1.0
        corner = ((low + high - side) / 2).tolist()
        for split, seen in found.splits.items():
            chosen = np.linspace(0, len(seen.labels) - 1, min(MOST_POINTS, len(seen.labels))).astype(int)
            chosen = chosen[place[seen.labels[chosen]] >= 0]
            share = (float(found.shares[0]), float(found.shares[1]))
            title = _title(arms, arm, f"Features of {split}")
            labels, means = place[seen.labels[chosen]], seen.means[order]
            square = ((corner[0], corner[1]), side)
            beyond = ((seen.points < corner) | (seen.points > np.add(corner, side))).any(1)
            counts = int(beyond.sum()), len(seen.labels)
            views.append(PlaneView(title, i, seen.points[chosen], labels, means, names, share, *square, *counts))
    return views


def fenced(points: np.ndarray) -> np.ndarray:
    """The least and the greatest coordinate [2, d] of points [n, d] that lies, along its own axis, within 1.5
    interquartile ranges of the quartiles (Tukey 1977); NaN counts for nothing.

    >>> fenced(np.array([[0.0], [1.0], [2.0], [3.0], [900.0]])).tolist()
    [[0.0], [3.0]]
    """
    low, high = np.nanquantile(points, (0.25, 0.75), axis=0)
    inside = (points >= low - 1.5 * (high - low)) & (points <= high + 1.5 * (high - low))
    kept = np.where(inside, points, np.nan)
    return np.stack([np.nanmin(kept, axis=0), np.nanmax(kept, axis=0)])


def class_colours(classes: int) -> list[str]:
    """A colour for each class, in order: neighbours in hue are neighbours in similarity, told apart by lightness."""
    if classes <= len(PALETTE):
        return list(PALETTE[:classes])
    colours = []
    for i in range(classes):
        rgb = colorsys.hls_to_rgb(i / classes, (0.34, 0.48, 0.6)[i % 3], 0.72)
        colours.append("#" + "".join(f"{round(255 * part):02x}" for part in rgb))
    return colours


def apart(points: np.ndarray, gap: float, rounds: int = 300) -> np.ndarray:
    """Points [n, 2] pushed off each other until no two are closer than `gap`, or for so many rounds; NaN stays."""
    moved, index = points.astype(np.float64), np.arange(len(points))
    moved += 1e-6 * gap * np.stack([np.cos(index), np.sin(index)], axis=1)  # so that equal ones part
    for _ in range(rounds):
        away = moved[:, None] - moved[None]
        distance = np.linalg.norm(away, axis=2)
        push = np.where(distance > 0, np.clip(gap - distance, 0, None) / np.maximum(distance, 1e-12), 0)
        if not np.nansum(push):
            break
        moved += 0.5 * np.nansum(push[:, :, None] * away, axis=1)
    return moved


def by_similarity(matrix: np.ndarray) -> np.ndarray:
    """Indices of the classes that occur, such that similar ones are neighbours.

    The leaves of the average-linkage tree over 1 − cosine, turned so that neighbours are as close as the tree allows
    (Bar-Joseph, Gifford and Jaakkola 2001); deterministic.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    present = np.flatnonzero(np.isfinite(np.diagonal(matrix)))
    if len(present) < 3:
        return present
    apart = 1 - matrix[np.ix_(present, present)].astype(np.float64)
    apart = np.clip((apart + apart.T) / 2, 0, None)
    np.fill_diagonal(apart, 0)
    return present[leaves_list(linkage(squareform(apart), "average", optimal_ordering=True))]


def _located(arms: Sequence[Arm]) -> list[tuple[int, Arm, Geometry, np.ndarray, tuple[str, ...]]]:
    """Arms that stored where their classes lie, with the order of classes; arms with the same classes share one.

    Where all class means coincide, as those of dead features do, or are undefined, there is nothing to show.
    """
    orders: dict[tuple[str, ...], np.ndarray] = {}
    result = []
    for i, arm in enumerate(arms):
        geometry, classes = arm.first.geometry, arm.first.summary.data.classes
        if geometry is None or "train" not in geometry.splits:
            continue
        own = by_similarity(geometry.splits["train"].cosines)
        if len(own) > 1:
            order = orders.setdefault(classes, own)
            result.append((i, arm, geometry, order, tuple(classes[c] for c in order)))
    return result


def _title(arms: Sequence[Arm], arm: Arm, title: str) -> str:
    return title if len(arms) == 1 else f"{arm.label}: {title}"
