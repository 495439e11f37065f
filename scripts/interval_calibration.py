"""How often the intervals that are printed hold the truth, on drawn data whose truth is known.

    python scripts/interval_calibration.py                   # the table of docs/collapse.md; half an hour on one core
    python scripts/interval_calibration.py --draws 20        # a first look

Classes are Gaussian, skewed (exponential), heavy-tailed (Student's t with 5 degrees of freedom), or unequal in size and
spread; "near" ones overlap more (CDNV about 5), "noise" has no classes at all, so that the true CDNV is infinite. What
is drawn again is what the interval speaks for: samples of the same classes, or for few-shot accuracy classes as well.
A nominal 95 % interval that holds the truth in less than 90 % of the draws fails, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from image2point.collapse import Statistics, few_shot, metrics
from image2point.collapse.intervals import METHODS
from image2point.collapse.layers import measure_layers

SIZES = ((10, 10), (10, 100), (40, 10), (40, 60))
"""(classes, samples of each)"""
FEW_SHOT = "few-shot"
KINDS = ("gaussian", "skewed", "heavy", "unequal", "near", "noise", FEW_SHOT)
DIM = 64
LEAST = 0.90
SHOTS = (1, 5)


class Population:
    """Classes [C] with means [C, d], variances per dimension [C, d] and sample sizes [C]."""

    def __init__(self, kind: str, classes: int, each: int) -> None:
        rng = np.random.default_rng(1)
        self.kind = kind
        self.means = {"near": 0.3, "noise": 0.0}.get(kind, 0.7) * rng.normal(size=(classes, DIM))
        spectrum = np.arange(1, DIM + 1) ** -0.5
        self.variances = np.tile(DIM * spectrum / spectrum.sum(), (classes, 1))
        self.count = np.full(classes, each)
        if kind == "gaussian":
            self.variances = np.ones((classes, DIM))
        if kind == "unequal":
            self.variances = self.variances * np.exp(0.8 * rng.normal(size=(classes, 1)))
            self.count = np.maximum(4, each * np.exp(0.5 * rng.normal(size=classes))).astype(int)

    @property
    def labels(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.count)), self.count)

    def draw(self, seed: int) -> np.ndarray:
        rng, size = np.random.default_rng(1000 + seed), (int(self.count.sum()), DIM)
        noise = {
            "skewed": lambda: rng.exponential(size=size) - 1,
            "heavy": lambda: rng.standard_t(5, size=size) / math.sqrt(5 / 3),
        }.get(self.kind, lambda: rng.normal(size=size))()
        return self.means[self.labels] + np.sqrt(self.variances)[self.labels] * noise

    def truth(self) -> dict[str, float]:
        """The metrics of `METHODS` for so many samples that nothing of the sample size is left in them."""
        count = torch.from_numpy(self.count) * 10**9
        variances = torch.from_numpy(self.variances)
        state = {
            "count": count,
            "mean": torch.from_numpy(self.means),
            "squares": variances.sum(1) * count,
            "scatter": torch.diag((variances * count[:, None]).sum(0)),
        }
        found = metrics(Statistics.from_state(state), ask=list(METHODS))
        if self.kind == "noise":
            found |= dict.fromkeys(("cdnv_corrected", "cdnv_median", "nc1_trace_ratio_corrected"), math.inf)
            found["vci_corrected"] = 1.0
        return found


def cover_measures(kind: str, classes: int, each: int, draws: int) -> dict[str, tuple[float, float]]:
    """Of each measure, how many of the draws had an interval and how many of these held the truth, as shares."""
    population = Population(kind, classes, each)
    truth, labels = population.truth(), population.labels
    train = torch.from_numpy(population.means + 0.2 * np.random.default_rng(2).normal(size=population.means.shape))
    everyone = Population(kind, classes, 20_000 // classes)
    sample = everyone.draw(-1)
    right = [float((torch.cdist(torch.from_numpy(sample), train).argmin(1).numpy() == everyone.labels)[own].mean())
             for own in (everyone.labels == c for c in range(classes))]  # fmt: skip
    truth["ncc_accuracy"] = float(np.average(right, weights=population.count))
    names = [*METHODS, "ncc_accuracy"]
    held: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(draws):
        batch = {"all": (torch.from_numpy(population.draw(seed)), torch.arange(len(labels)))}
        found = measure_layers(lambda batch=batch: [batch], labels, classes, names, centres={"all": train}, seed=seed)
        for name, interval in found["all"].intervals.items():
            if not math.isnan(interval.low):
                held[name].append(interval.low <= truth[name] <= interval.high)
    return {name: (len(own) / draws, float(np.mean(own)) if own else math.nan) for name, own in held.items()}


def cover_few_shot(classes: int, each: int, draws: int) -> dict[str, tuple[float, float]]:
    """The same of 5-way accuracy, whose truth is that of classes without end."""

    def accuracy(count: int, per_class: int, shots: int, episodes: int, seed: int):  # type: ignore[no-untyped-def]
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(count), per_class)
        features = 0.7 * rng.normal(size=(count, 16))[labels] + rng.normal(size=(len(labels), 16))
        return few_shot(features, labels, 5, shots, 4, episodes, seed=seed)

    found = {}
    for shots in SHOTS:
        truth = accuracy(2000, 10, shots, 20_000, 10**6).accuracy
        intervals = [accuracy(classes, each, shots, 200, seed).interval() for seed in range(draws)]
        found[f"{shots}-shot accuracy"] = (1.0, float(np.mean([i.low <= truth <= i.high for i in intervals])))
    return found


def table(draws: int, kinds: Sequence[str]) -> Iterator[tuple[str, str, str, dict[str, tuple[float, float]]]]:
    """(kind, over what, sizes, shares by name) for every setting."""
    for kind in kinds:
        for classes, each in SIZES if kind != FEW_SHOT else ():
            yield kind, "samples", f"{classes} × {each}", cover_measures(kind, classes, each, draws)
    for classes, each in SIZES if FEW_SHOT in kinds else ():
        yield "gaussian", "classes", f"{classes} × {each}", cover_few_shot(classes, each, draws)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    given = parser.parse_args()
    draws = given.draws
    torch.set_num_threads(1)
    failed = []
    print("| classes | C × n | interval over | measure | has one | holds the truth |\n|---|---|---|---|---:|---:|")
    for kind, over, size, shares in table(draws, given.kinds):
        for name, (there, held) in shares.items():
            shown = "–" if math.isnan(held) else f"{held:.3f}"
            print(f"| {kind} | {size} | {over} | {name} | {there:.2f} | {shown} |", flush=True)
            if held < LEAST:
                failed.append(f"{name} of {kind} classes, {size}: {held:.3f}")
    print(*(f"covers less than {LEAST:.2f}: {each}" for each in failed), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
