"""What measures of collapse read where labels mean nothing: noise, at four sizes, beside the null of permuted labels.

    python scripts/label_noise.py

Each of 20 draws is noise of the width given, with labels that say nothing. An uncorrected measure has a value there
that depends on the sizes alone; its null (`collapse.null`) must tell it: their means differ by no more than their
standard error allows (Bonferroni's 5 % over the table: of 28 differences, one or two are beyond two standard errors).
A corrected measure is undefined, or its interval holds what is true of noise. The exit code is 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from image2point.collapse import measure_features, null
from image2point.collapse.intervals import METHODS, student_quantile
from image2point.collapse.layers import measure_layers
from image2point.files import write_text

SIZES = ((10, 10), (10, 100), (40, 10), (40, 60))
UNCORRECTED = ("nc1", "nc1_trace_ratio", "cdnv", "cdnv_directional", "nc2_equinorm", "nc2_equiangle", "discrimination")
TRUTH = {"vci_corrected": 1.0}
"""Of noise; of the others, infinite."""


def draw(classes: int, each: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(classes * each, dim, generator=generator).double(), torch.arange(classes * each) % classes


def compare(
    classes: int, each: int, dim: int, draws: int, permutations: int = 5
) -> dict[str, tuple[float, float, float]]:
    """(mean over draws, mean of their nulls, standard error of the difference) of each uncorrected measure."""
    values, nulls = [], []
    for seed in range(draws):
        features, labels = draw(classes, each, dim, seed)
        values.append(measure_features(features, labels, UNCORRECTED))
        told = null(features, labels, UNCORRECTED, permutations, seed)
        nulls.append({name: mean for name, (mean, _) in told.items()})
    found = {}
    for name in UNCORRECTED:
        own, theirs = (np.array([each[name] for each in many]) for many in (values, nulls))
        found[name] = (own.mean(), theirs.mean(), (own - theirs).std(ddof=1) / math.sqrt(draws))
    return found


def hold(classes: int, each: int, dim: int, draws: int) -> dict[str, float]:
    """Of each corrected measure, the share of the draws in which it is undefined or its interval holds the truth."""
    held: dict[str, list[bool]] = {name: [] for name in METHODS}
    for seed in range(draws):
        features, labels = draw(classes, each, dim, seed)
        batch = {"all": (features, torch.arange(len(labels)))}
        found = measure_layers(lambda batch=batch: [batch], labels, classes, list(METHODS), seed=seed)["all"]
        for name in METHODS:
            interval = found.intervals[name]
            silent = math.isnan(found.values[name]) and math.isnan(interval.low)
            held[name].append(silent or interval.low <= TRUTH.get(name, math.inf) <= interval.high)
    return {name: float(np.mean(own)) for name, own in held.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--out", type=Path, help="folder that gets rows.json, for scripts/results.py")
    given = parser.parse_args()
    torch.set_num_threads(1)
    failed, rows = 0, list[dict[str, Any]]()
    allowed = student_quantile(1 - 0.025 / (len(SIZES) * len(UNCORRECTED)), given.draws - 1)
    print("| C × n | measure | of noise | null | difference / its standard error |\n|---|---|---:|---:|---:|")
    for classes, each in SIZES:
        for name, (value, told, error) in compare(classes, each, given.dim, given.draws).items():
            print(
                f"| {classes} × {each} | {name} | {value:.4g} | {told:.4g} | {(value - told) / error:.1f} |", flush=True
            )
            failed += abs(value - told) > allowed * error
            size = {"classes": classes, "each": each, "dim": given.dim, "draws": given.draws}
            rows.append({**size, "measure": name, "mean": value, "null": told, "error": error})
    if given.out:
        write_text(given.out / "rows.json", json.dumps(rows, indent=1))
    print("\n| C × n | corrected measure | undefined, or its interval holds the truth |\n|---|---|---:|")
    for classes, each in SIZES:
        for name, share in hold(classes, each, given.dim, given.draws).items():
            print(f"| {classes} × {each} | {name} | {share:.2f} |", flush=True)
            failed += share < 0.90
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
