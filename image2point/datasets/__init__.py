"""Point clouds and their labels: one file per dataset, and what happens to a cloud before the network."""

from __future__ import annotations

from image2point.datasets.cloud import Cloud
from image2point.datasets.splits import CloudSet, Splits, Subset

__all__ = ["Cloud", "CloudSet", "Splits", "Subset"]
