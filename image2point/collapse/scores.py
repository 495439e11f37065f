"""Scores of frozen features that are to foretell how well fine-tuning will do; bigger is better for every one.

- "nc1_trace_ratio", "cdnv", "cdnv_directional": minus the measures of collapse of these names (`collapse.metrics`,
  `DirectionalSpread`), which are small where classes are tight.
- "logme": the evidence of a linear model (`collapse.logme`).
- "gbc": how little Gaussian classes overlap (`collapse.bhattacharyya`).
- "h_score": how much of the features the class means explain (`collapse.shrunk_h_score`).
- "ncc", "probe": accuracy of the nearest class mean and of logistic regression, by cross-validation within the samples.

None of them changes with the scale of the features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from image2point.collapse.directional import DirectionalSpread
from image2point.collapse.fewshot import linear_probe
from image2point.collapse.inputs import StatisticsError
from image2point.collapse.intervals import deal
from image2point.collapse.logme import logme
from image2point.collapse.metrics import metrics
from image2point.collapse.separability import bhattacharyya, shrunk_h_score, standardised
from image2point.collapse.statistics import Statistics

SCORES = ("nc1_trace_ratio", "cdnv", "cdnv_directional", "logme", "gbc", "h_score", "ncc", "probe")
COLLAPSE = SCORES[:3]
"""Scores that are measures of collapse, negated."""
SHARES = ("ncc", "probe")
"""Scores that are accuracies, in 0..1."""


@torch.no_grad()
def transfer_scores(features: Any, labels: Any, folds: int = 5, seed: int = 0) -> dict[str, float]:
    """Every one of `SCORES` of features [n, d] with labels [n].

    Args:
        folds: of the cross-validation behind "ncc" and "probe"; more than samples leave one out.
        seed: of the draw of the folds.

    Raises:
        StatisticsError: where there are fewer than two classes, a class has a single sample, or the features are not
            finite or the same for all samples.

    >>> scores = transfer_scores([[0.0, 1], [1, 0], [0, 2], [9, 8], [8, 9], [9, 9]], [0, 0, 0, 1, 1, 1])
    >>> scores["ncc"], round(scores["cdnv"], 4)
    (1.0, -0.0052)
    """
    x, packed = standardised(features, labels)
    S = Statistics(1 + int(packed.max()), x.shape[1], "none", x.device).update(x, packed)
    found = metrics(S, ask=["nc1_trace_ratio", "cdnv"])
    return {
        "nc1_trace_ratio": -found["nc1_trace_ratio"],
        "cdnv": -found["cdnv"],
        "cdnv_directional": -DirectionalSpread(S.means).update(x, packed).cdnv_directional,
        "logme": logme(features, labels),
        "gbc": bhattacharyya(x, packed),
        "h_score": shrunk_h_score(x, packed),
        "ncc": cross_validated(x, packed, "ncc", folds, seed),
        "probe": cross_validated(x, packed, "logistic", folds, seed),
    }


def cross_validated(features: Tensor, labels: Tensor, classifier: str, folds: int = 5, seed: int = 0) -> float:
    """Share of samples that a classifier (`fewshot.CLASSIFIERS`), fitted to the other folds, tells right.

    A class is dealt over the folds as evenly as it goes, so that one of two samples or more is never wholly left out.
    """
    if folds < 2:
        raise StatisticsError(f"folds: expected 2 or more, found {folds}")
    fold = deal(labels, min(folds, len(labels)), seed).to(labels.device)
    right = 0.0
    for number in fold.unique().tolist():
        out = fold == number
        share = linear_probe(features[~out], labels[~out], features[out], labels[out], classifier)
        right += share * int(out.sum())
    return right / len(labels)
