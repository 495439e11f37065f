"""The tasks that a config can name."""

from __future__ import annotations

from image2point.tasks.classification import Classification
from image2point.tasks.task import Task

TASKS: dict[str, Task] = {"classification": Classification()}
"""By the name that a config gives under `task`."""
