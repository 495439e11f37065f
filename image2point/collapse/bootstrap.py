"""Samples that come in groups (the points of a scene): which to take, and intervals over other groups.

Points of one scene are alike, so intervals over samples would be far too narrow. Here whole groups are drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image2point.collapse.inputs import StatisticsError, as_tensor, check_seed
from image2point.collapse.intervals import Interval, check_confidence, student_quantile
from image2point.collapse.statistics import Statistics

_TRIES = 20
"""Draws for each one that is wanted, before it counts as impossible."""


def draw_rows(labels: Any, groups: Any, each: int, seed: int = 0) -> Tensor:
    """Rows of a sample with the same number of each class and group, int64, in increasing order.

    What is drawn of a group hangs on the seed, the group and its own labels alone, so that groups may come in any order
    and in any batches that keep them whole.

    Args:
        labels: class of each row, integers [n]; negative ones are never drawn.
        groups: group (scene) of each row, integers [n] from 0 on; or one number for all.
        each: rows to draw without replacement of each class in each group; all of them where there are fewer.

    Raises:
        StatisticsError: on labels and groups that are no integers of one length, or fewer than one row to draw.

    >>> labels = [0, 0, 0, 0, 1, 1, -1]
    >>> rows = draw_rows(labels, 0, each=2)
    >>> [labels[row] for row in rows]
    [0, 0, 1, 1]
    """
    classes = as_tensor(labels, "labels").cpu()
    group = as_tensor(groups, "groups").cpu()
    if group.numel() == 1 and classes.ndim == 1:
        group = group.expand(len(classes))
    if classes.ndim != 1 or group.shape != classes.shape or classes.is_floating_point() or group.is_floating_point():
        raise StatisticsError(
            f"labels and groups: expected integers [n], found {classes.dtype} {list(classes.shape)} and "
            f"{group.dtype} {list(group.shape)}"
        )
    if each < 1 or bool((group < 0).any()):
        raise StatisticsError(f"expected 1 row or more of each class, and groups from 0 on; found {each} rows")
    drawn = [np.zeros(0, dtype=np.int64)]
    for place in group.unique().tolist():
        own = (group == place).nonzero()[:, 0].numpy()
        own_classes = classes.numpy()[own]
        for label in np.unique(own_classes[own_classes >= 0]).tolist():
            rows = own[own_classes == label]
            drawn.append(np.random.default_rng((check_seed(seed), place, label)).permutation(rows)[:each])
    return torch.from_numpy(np.sort(np.concatenate(drawn)))


@torch.no_grad()
def merge_repeated(parts: Sequence[Statistics], times: Any) -> Statistics:
    """The statistics of parts of which each is taken as often as `times` [G] says: in one step, `merge` in many.

    StatisticsError where the parts do not fit together, have moments above the second, or `times` is not one whole
    number for each, 0 or more.

    >>> parts = [Statistics(1, 1).update([[0.0]], [0]), Statistics(1, 1).update([[3.0]], [0])]
    >>> merge_repeated(parts, [1, 2]).means.tolist()
    [[2.0]]
    """
    return _Stacked(parts).repeated(as_tensor(times, "times"))


class _Stacked:
    """The states of G parts side by side, stacked once for many draws."""

    def __init__(self, parts: Sequence[Statistics]) -> None:
        kinds = {(part.num_classes, part.dim, part.covariance, part.moments) for part in parts}
        if len(kinds) != 1 or parts[0].moments != 2:
            raise StatisticsError(
                "expected one part or more, of one kind and with moments=2, found (num_classes, dim, covariance, "
                f"moments) {sorted(kinds)}"
            )
        self.kind = parts[0].num_classes, parts[0].dim, parts[0].covariance, parts[0].device
        states = [part.state() for part in parts]
        self.states = {name: torch.stack([s[name].to(parts[0].device) for s in states]) for name in states[0]}

    def repeated(self, times: Tensor) -> Statistics:
        count, mean = self.states["count"], self.states["mean"]
        if times.shape != count.shape[:1] or times.is_floating_point() or bool((times < 0).any()):
            raise StatisticsError(f"times: expected {len(count)} whole numbers, 0 or more, found {times.tolist()}")
        weight = times.to(count.device).double()
        merged = Statistics(*self.kind)
        merged.count = (times.to(count.device)[:, None] * count).sum(0)
        share = weight[:, None] * count / merged.count.clamp(min=1)
        merged.mean = torch.einsum("gc,gcd->cd", share, mean)
        shift = (weight[:, None] * count).sqrt()[:, :, None] * (mean - merged.mean)
        merged.squares = weight @ self.states["squares"] + shift.square().sum((0, 2))
        if merged.scatter is not None:
            within = torch.tensordot(weight, self.states["scatter"], 1)
            between = "gcd,gce->cde" if merged.covariance == "class" else "gcd,gce->de"
            merged.scatter = within + torch.einsum(between, shift, shift)
        return merged


def bootstrap(
    groups: Sequence[Statistics],
    compute: Callable[[Statistics], Mapping[str, float]],
    draws: int = 400,
    confidence: float = 0.95,
    seed: int = 0,
    over: str = "scenes",
) -> dict[str, Interval]:
    """Intervals of `compute(all groups merged)` over other groups, by drawing as many groups again, with replacement.

    `error` is the spread over the draws times √(G/(G−1)), G being the number of groups, and the limits are
    value ± t·error, t of G−1 degrees of freedom; few groups make them wide. What is biased at few groups or samples
    stays so (`scripts/scene_intervals.py` shows how often they hold the truth). A draw in which a class of the whole
    has fewer than two samples is drawn again, since its measures would be about other classes. Limits are undefined
    (NaN) where a measure is undefined in any draw, or the same in all.

    Raises:
        StatisticsError: fewer than two groups or draws, a class that occurs in one group alone (how it varies over
            groups cannot be seen: leave it out), or classes so rare that hardly any draw has all of them.

    Source: Efron 1979; Field and Welsh 2007 for whole groups.

    >>> scenes = [Statistics(1, 1).update([[float(x)], [x + 2.0]], [0, 0]) for x in range(5)]
    >>> print(bootstrap(scenes, lambda S: {"mean": float(S.mean)})["mean"])
    3 ± 0.7 over scenes
    """
    number, upper = len(groups), check_confidence(confidence)
    if number < 2 or draws < 2:
        raise StatisticsError(f"expected 2 groups and 2 draws or more, found {number} groups and {draws} draws")
    stacked = _Stacked(groups)
    whole = stacked.repeated(torch.ones(number, dtype=torch.int64))
    occurs = (stacked.states["count"] > 0).sum(0)
    if alone := (occurs == 1).nonzero()[:, 0].tolist():
        raise StatisticsError(
            f"class {', '.join(map(str, alone))} occurs in one of {number} groups alone, so that nothing shows how it "
            "varies over them: leave its samples out, or take more groups"
        )
    several = whole.count > 1
    rng = np.random.default_rng(check_seed(seed))
    found: list[Mapping[str, float]] = []
    for _ in range(_TRIES * draws):
        drawn = stacked.repeated(torch.from_numpy(rng.multinomial(number, [1 / number] * number)))
        if bool((drawn.count[several] > 1).all()):
            found.append(compute(drawn))
        if len(found) == draws:
            break
    else:
        raise StatisticsError(
            f"of {_TRIES * draws} draws of {number} groups, {len(found)} have two samples of every class, and {draws} "
            f"are wanted; classes occur in {occurs.tolist()} groups: leave out the rarest, or take more groups"
        )
    reach = student_quantile(upper, number - 1) * math.sqrt(number / (number - 1))
    intervals = {}
    for name, value in compute(whole).items():
        spread = float(np.std([each[name] for each in found], ddof=1))
        error = spread * math.sqrt(number / (number - 1)) or math.nan
        intervals[name] = Interval(value, error, value - reach * spread, value + reach * spread, over)
        if math.isnan(error):
            intervals[name] = Interval(value, math.nan, math.nan, math.nan, over)
    return intervals
