"""The tasks that a config can name."""

from __future__ import annotations

from image2point.tasks.classification import Classification
from image2point.tasks.segmentation import Segmentation
from image2point.tasks.task import Task

TASKS: dict[str, Task] = {"classification": Classification(), "segmentation": Segmentation()}
"""By the name that a config gives under `task`, with default settings; `Task.for_run` gives those of a run."""
