"""How tightly features gather around their class means: streaming statistics, metrics of neural collapse.

    S = Statistics(num_classes, dim)          # first pass: means, variances, within-class scatter
    S.update(features, labels)                # any batch size, order, precision, device
    S = S.merge(other)                        # parts from other processes or files
    metrics(S, classifier=(weight, bias))     # {"nc1": ..., "cdnv": ..., "nc2_equiangle": ..., ...}

    D = CentreDecisions(S.means)              # second pass, over the same or other features
    D.update(features, labels, logits)
    D.ncc_accuracy, D.nc4

This package needs nothing of the rest of the project.
"""

from image2point.collapse.centres import CentreDecisions
from image2point.collapse.inputs import StatisticsError
from image2point.collapse.metrics import metrics
from image2point.collapse.statistics import Statistics

__all__ = ["CentreDecisions", "Statistics", "StatisticsError", "metrics"]
