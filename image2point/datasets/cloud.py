"""The one sample that every reader gives: the points of a cloud, and what is known about each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Cloud:
    """P points and, where the source has them, their normals, colours and part labels; row i is point i everywhere.

    points: float32 [P, 3], in the source's units and axes (readers may hold float64 until `check_cloud` rounds it).
    normals: float32 [P, 3], of length 1; a row of zeros where a normal is unknown.
    colours: float32 [P, 3], red, green and blue in 0..1.
    parts: int64 [P], the part of the object that each point belongs to.

    >>> cloud = Cloud(np.zeros((4, 3)), parts=np.arange(4))
    >>> cloud.take(np.array([3, 1])).parts
    array([3, 1])
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    colours: np.ndarray | None = None
    parts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: np.ndarray) -> Cloud:
        """The points at `rows` (indices), with all that belongs to them; new arrays."""

        def at(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return Cloud(self.points[rows], at(self.normals), at(self.colours), at(self.parts))
