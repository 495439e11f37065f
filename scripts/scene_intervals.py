"""How often intervals by bootstrap over scenes hold the truth, on drawn scenes whose truth is known.

    python scripts/scene_intervals.py                 # the table of docs/collapse.md; ten minutes on one core
    python scripts/scene_intervals.py --draws 20      # a first look

A scene shifts all of its features, and each class on its own, and has noise of its own strength. It gives as many
samples of each class. The truth is the measure over 4,000 scenes. "of the truth" is the mean of the values over it.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from image2point.collapse import Statistics, bootstrap, class_nc1, imbalanced_nc2, merge_repeated, metrics

CLASSES, DIM, EACH = 5, 8, 40
COUNTS = [5000, 1000, 300, 100, 50]
MEANS = np.abs(np.random.default_rng(0).normal(size=(CLASSES, DIM)))
LABELS = np.repeat(np.arange(CLASSES), EACH)


def scene(rng: np.random.Generator) -> Statistics:
    own = MEANS + 0.2 * rng.normal(size=DIM) + 0.4 * rng.normal(size=(CLASSES, DIM))
    noise = np.exp(0.3 * rng.normal()) * rng.normal(size=(len(LABELS), DIM))
    return Statistics(CLASSES, DIM, "class").update(own[LABELS] + noise, LABELS)


def measures(S: Statistics) -> dict[str, float]:
    each = class_nc1(S)
    simple = metrics(S, ask=["nc1", "nc1_trace_ratio", "cdnv"])
    return {**simple, "class_nc1 of class 0": float(each[0]), **imbalanced_nc2(S, COUNTS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=100)
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    rng = np.random.default_rng(99)
    truth = measures(merge_repeated([scene(rng) for _ in range(4000)], [1] * 4000))
    print("| scenes | measure | truth | of the truth | holds it |\n|---:|---|---:|---:|---:|")
    for number in (8, 20):
        found = []
        for seed in range(draws):
            rng = np.random.default_rng(1000 + seed)
            found.append(bootstrap([scene(rng) for _ in range(number)], measures, draws=100, seed=seed))
        for name, value in truth.items():
            own = [each[name] for each in found]
            share = float(np.mean([interval.value / value for interval in own]))
            held = float(np.mean([interval.low <= value <= interval.high for interval in own]))
            print(f"| {number} | `{name}` | {value:.3g} | {share:.2f} | {held:.2f} |", flush=True)


if __name__ == "__main__":
    main()
