"""Tasks: what is asked of a network's features. Each says what its targets, its loss and its scores are."""

from __future__ import annotations

from image2point.tasks.classification import Classification
from image2point.tasks.task import Outputs, Scores, Task

TASKS: dict[str, Task] = {"classification": Classification()}
"""By the name that a config gives under `task`."""

__all__ = ["TASKS", "Classification", "Outputs", "Scores", "Task"]
