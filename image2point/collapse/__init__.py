"""How tightly features gather around their class means: streaming statistics, metrics of neural collapse.

    S = Statistics(num_classes, dim)          # first pass: means, variances, within-class scatter
    S.update(features, labels)                # any batch size, order, precision, device
    S = S.merge(other)                        # parts from other processes or files
    metrics(S, classifier=(weight, bias))     # {"nc1": ..., "cdnv": ..., "nc2_equiangle": ..., ...}

    D = CentreDecisions(S.means)              # second pass, over the same or other features
    D.update(features, labels, logits)
    D.ncc_accuracy, D.nc4

    g = geometric_complexity(fn, inputs)      # g.value ± g.error: how strongly an embedding moves with its input
    few_shot(features, labels, ways, shots)   # accuracy, its interval over classes; margin_error and bounds predict it
    metric_intervals(parts)                   # parts dealt by `deal`: corrected metrics with their jackknife intervals
    null(features, labels)                    # measures with labels permuted: hold uncorrected ones against them
    S.by_superclass(groups)                   # the same samples under coarser labels
    measure_layers(source, labels, classes)   # all of it for several layers at once; fit_decay says how it falls
    wasserstein(images, clouds)               # how far two sets of features are apart
    transfer_scores(features, labels)         # what foretells fine-tuning: collapse, LogME, nearest mean, linear probe
    class_nc1(S), imbalanced_nc2(S, counts)   # classes of unequal size: each alone, and the geometry that counts imply
    draw_rows(labels, scenes, each=50)        # as many samples of each class and scene; bootstrap(parts, compute) has
                                              # intervals over scenes, from the Statistics of each
    centred_cosines(S.means), simplex_cosines(C)   # the means against the frame; Plane.of_means(S.means) to draw them

    solve(UnconstrainedFeatures((5,) * 10, dim=16)).etf_distance      # theory: where free features end up

Of the rest of the project, this package needs the leaves `errors` and `files` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from image2point.collapse.bootstrap import bootstrap, draw_rows, merge_repeated
from image2point.collapse.bounds import (
    Bound,
    directional_bound,
    finite_shot_bound,
    galanti_bound,
    gaussian_error,
    margin_error,
    moment_bound,
    pairwise_bound,
)
from image2point.collapse.centres import CentreDecisions
from image2point.collapse.complexity import Complexity, complexity_penalty, geometric_complexity, input_scale
from image2point.collapse.depth import Decay, fit_decay
from image2point.collapse.directional import DirectionalSpread
from image2point.collapse.fewshot import Episodes, FewShot, draw_episodes, few_shot, linear_probe
from image2point.collapse.geometric import GeometricCollapse, geometric_collapse, largest_variance
from image2point.collapse.geometry import Plane, axis_cosines, centred_cosines, decision_axes, simplex_cosines
from image2point.collapse.imbalance import class_nc1, closest_means, imbalanced_nc2, implied_lengths, minority
from image2point.collapse.inputs import StatisticsError
from image2point.collapse.intervals import Interval, deal, jackknife, mean_interval, metric_intervals
from image2point.collapse.labels_at_random import measure_features, null
from image2point.collapse.layers import LayerMeasures, measure_layers
from image2point.collapse.logme import logme
from image2point.collapse.matrices import cdnv_matrix, distance_matrix
from image2point.collapse.metrics import metrics
from image2point.collapse.penalty import collapse_penalty
from image2point.collapse.scores import transfer_scores
from image2point.collapse.separability import bhattacharyya, shrunk_h_score
from image2point.collapse.statistics import Statistics
from image2point.collapse.theory import Solution, UnconstrainedFeatures, solve
from image2point.collapse.transport import Transport, wasserstein

if TYPE_CHECKING:
    from image2point.collapse.callback import CollapseCallback
    from image2point.collapse.torchmetric import CollapseMetric

__all__ = [
    "Bound",
    "CentreDecisions",
    "CollapseCallback",
    "CollapseMetric",
    "Complexity",
    "Decay",
    "DirectionalSpread",
    "Episodes",
    "FewShot",
    "GeometricCollapse",
    "Interval",
    "LayerMeasures",
    "Plane",
    "Solution",
    "Statistics",
    "StatisticsError",
    "Transport",
    "UnconstrainedFeatures",
    "axis_cosines",
    "bhattacharyya",
    "bootstrap",
    "cdnv_matrix",
    "centred_cosines",
    "class_nc1",
    "closest_means",
    "collapse_penalty",
    "complexity_penalty",
    "deal",
    "decision_axes",
    "directional_bound",
    "distance_matrix",
    "draw_episodes",
    "draw_rows",
    "few_shot",
    "finite_shot_bound",
    "fit_decay",
    "galanti_bound",
    "gaussian_error",
    "geometric_collapse",
    "geometric_complexity",
    "imbalanced_nc2",
    "implied_lengths",
    "input_scale",
    "jackknife",
    "largest_variance",
    "linear_probe",
    "logme",
    "margin_error",
    "mean_interval",
    "measure_features",
    "measure_layers",
    "merge_repeated",
    "metric_intervals",
    "metrics",
    "minority",
    "moment_bound",
    "null",
    "pairwise_bound",
    "shrunk_h_score",
    "simplex_cosines",
    "solve",
    "transfer_scores",
    "wasserstein",
]


def __getattr__(name: str) -> Any:
    if name == "CollapseMetric":  # torchmetrics takes seconds to import
        from image2point.collapse.torchmetric import CollapseMetric

        return CollapseMetric
    if name == "CollapseCallback":  # and so does Lightning
        from image2point.collapse.callback import CollapseCallback

        return CollapseCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
