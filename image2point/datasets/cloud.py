"""The one sample that every reader gives: the points of a cloud, and what is known about each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

IGNORED = -1
"""The label of a point that is neither trained on nor scored."""

ATTRIBUTES = "attributes."
"""What the names of attributes begin with in `Cloud.columns`."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """P points and, where the source has them, normals, colours, labels and more; row i is point i everywhere.

    points: float32 [P, 3], in the source's units and axes, relative to `origin` (readers may hold float64 until
    `check_cloud` rounds it).
    normals: float32 [P, 3], of length 1; a row of zeros where a normal is unknown.
    colours: float32 [P, 3], red, green and blue in 0..1.
    labels: int64 [P], the class of each point, or the part of the object that it belongs to; −1: ignored.
    attributes: float32 [P] by name, such as `intensity` or `return_share`.
    origin: float64 [3], the place in the source of the point (0, 0, 0): coordinates of a map are millions of metres,
    of which float32 keeps no centimetres.

    >>> cloud = Cloud(np.zeros((4, 3)), labels=np.arange(4), attributes={"intensity": np.arange(4.0)})
    >>> cloud.take(np.array([3, 1])).labels, cloud.take(np.array([3, 1])).attributes["intensity"]
    (array([3, 1]), array([3., 1.]))
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    colours: np.ndarray | None = None
    labels: np.ndarray | None = None
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    origin: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: np.ndarray) -> Cloud:
        """The points at `rows` (indices or a mask), with all that belongs to them; new arrays."""
        return self.each(lambda values: values[rows])

    def each(self, change: Callable[[np.ndarray], np.ndarray]) -> Cloud:
        """The cloud with `change` made to every array that has a row for each point.

        >>> len(Cloud(np.zeros((4, 3)), labels=np.arange(4)).each(lambda rows: rows[:2]).labels)
        2
        """

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else change(values)

        attributes = {name: change(values) for name, values in self.attributes.items()}
        return Cloud(
            change(self.points), of(self.normals), of(self.colours), of(self.labels), attributes, self.origin.copy()
        )

    def columns(self) -> dict[str, np.ndarray]:
        """Every array with a row for each point, by name; attributes as `attributes.NAME`.

        >>> list(Cloud(np.zeros((1, 3)), attributes={"intensity": np.zeros(1)}).columns())
        ['points', 'attributes.intensity']
        """
        named = {"points": self.points, "normals": self.normals, "colours": self.colours, "labels": self.labels}
        known = {name: values for name, values in named.items() if values is not None}
        return known | {f"{ATTRIBUTES}{name}": values for name, values in sorted(self.attributes.items())}


def cloud_of(columns: Mapping[str, np.ndarray], origin: np.ndarray) -> Cloud:
    """The cloud that `Cloud.columns` took apart.

    >>> cloud_of(Cloud(np.zeros((1, 3)), attributes={"x": np.ones(1)}).columns(), np.zeros(3)).attributes
    {'x': array([1.])}
    """
    fields = {name: values for name, values in columns.items() if not name.startswith(ATTRIBUTES)}
    attributes = {name[len(ATTRIBUTES) :]: values for name, values in columns.items() if name.startswith(ATTRIBUTES)}
    return Cloud(**fields, attributes=attributes, origin=origin)


def near_origin(cloud: Cloud) -> Cloud:
    """The same cloud with the whole part of its smallest coordinates moved into `origin`, float64 [3].

    So points of a map are small numbers, which float32 holds to a fraction of a millimetre. Points that are not finite,
    or not three numbers each, move nothing: whoever checks the cloud refuses them.

    >>> cloud = near_origin(Cloud(np.array([[869400.25, 6524300.5, 210.125]])))
    >>> cloud.points.tolist(), cloud.origin.tolist()
    ([[0.25, 0.5, 0.125]], [869400.0, 6524300.0, 210.0])
    """
    points = np.asarray(cloud.points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
        return cloud
    corner = np.floor(points.min(axis=0))
    with np.errstate(over="ignore"):  # what becomes infinite is refused as well
        return replace(cloud, points=points - corner, origin=cloud.origin + corner)
