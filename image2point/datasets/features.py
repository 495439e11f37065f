"""Input features of a point, by name, each with a scaling factor that is stored with a run.

A voxel carries the mean over its points, of every feature alike. So its normal is as long as its points' normals
agree: 1 on a plane, shorter across an edge, 0 between two sheets back to back. It is not brought to length 1 again,
since that length is information, and 0 has no direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.errors import InputError

Up = Literal["x", "y", "z"]

ATTRIBUTES = ("intensity", "return_share", "number_of_returns")
"""Features that are attributes of a cloud, of the same name."""

WIDTHS: dict[str, int] = {
    "xyz": 3, "occupancy": 1, "normals": 3, "colour": 3, "height": 1, "ground_height": 1, **dict.fromkeys(ATTRIBUTES, 1)
}  # fmt: skip
"""Channels of each feature. `xyz`: the coordinates of the point; `occupancy`: the constant 1; `normals`: its unit
normal; `colour`: red, green and blue in 0..1; `height`: how far it lies above the lowest point of its cloud;
`ground_height`: above the lowest point of its cell, see `ground_height`; `intensity`: of the returned light, as the
file has it or per scene (`scene_intensity`); `return_share`: number of the return / number of returns of its pulse."""

GROUND_CELL = 5.0
"""Edge of the cells of `ground_height` where none is asked for, in the unit of the points."""


def feature_width(names: Sequence[str]) -> int:
    """The number of input channels that these features make together.

    >>> feature_width(("xyz", "normals", "height"))
    7
    """
    _check_names(names)
    return sum(WIDTHS[name] for name in names)


def input_features(
    cloud: Cloud,
    names: Sequence[str] = ("xyz",),
    scaling: Mapping[str, float] | None = None,
    up: Up | None = None,
    where: str = "cloud",
    ground_cell: float = GROUND_CELL,
) -> np.ndarray:
    """The features of P points, float32 [P, C], in the order of `names`, each times its scaling (1 where not named).

    up: the axis that `height` and `ground_height` are measured along. where: begins the message about what the cloud
    lacks. ground_cell: see `ground_height`; a cloud that has the attribute `ground_height` or `height` keeps it.

    Raises InputError for unknown or repeated names, in `names` or in `scaling`, for `normals`, `colour` or an attribute
    of a cloud without it, and for heights without `up`.

    >>> cloud = Cloud(np.array([[0, 0, 1], [0, 0, 3]], dtype=np.float32))
    >>> input_features(cloud, ("height", "occupancy"), {"height": 0.5}, up="z")
    array([[0., 1.],
           [1., 1.]], dtype=float32)
    """
    _check_names(names)
    factors = scaling or {}
    unknown = sorted(set(factors) - set(WIDTHS))
    if unknown:
        raise InputError(f"scaling names unknown input features {unknown}; known are {sorted(WIDTHS)}")
    columns: dict[str, Callable[[], np.ndarray]] = {
        "xyz": lambda: cloud.points,
        "occupancy": lambda: np.ones((len(cloud), 1)),
        "normals": lambda: _given(cloud.normals, where, "normals", "set data.normals=estimated to estimate them, or"),
        "colour": lambda: _given(cloud.colours, where, "colour", ""),
        "height": lambda: _height(cloud, up),
        "ground_height": lambda: with_ground_height(cloud, up, ground_cell).attributes["ground_height"][:, None],
        **{name: partial(_attribute, cloud, name, where) for name in ATTRIBUTES},
    }
    scaled = [columns[name]().astype(np.float32) * np.float32(factors.get(name, 1)) for name in names]
    return np.concatenate(scaled, axis=1)


def with_ground_height(cloud: Cloud, up: Up | None, cell: float = GROUND_CELL) -> Cloud:
    """The cloud with the attribute `ground_height`, which it may have already; crops of it then keep that of the whole.

    >>> with_ground_height(Cloud(np.array([[0, 0, 2], [1, 1, 5], [9, 0, 1]])), "z").attributes["ground_height"]
    array([0., 3., 0.], dtype=float32)
    """
    if "ground_height" in cloud.attributes:
        return cloud
    return replace(cloud, attributes={**cloud.attributes, "ground_height": ground_height(cloud.points, up, cell)})


def ground_height(points: np.ndarray, up: Up | None, cell: float = GROUND_CELL) -> np.ndarray:
    """How far each point lies above the lowest point of its square cell of the horizontal plane, float32 [P].

    points: [P, 3]. cell: edge of a cell, in the unit of the points; the first begins at the smallest coordinates.
    On steep ground, and where roofs or water fill a whole cell, this is not the height above the ground.

    >>> ground_height(np.array([[0, 0, 2], [1, 1, 5], [9, 0, 1]]), "z", cell=10)
    array([1., 4., 0.], dtype=float32)
    """
    ground = Ground(up, cell, points.min(axis=0))
    return ground.height(points, ground.lowest([points]))


@dataclass(frozen=True, eq=False)
class Ground:
    """The square cells of `ground_height`, for clouds that come in parts. low: smallest coordinates of the whole [3].

    Raises InputError as `ground_height` does.

    >>> ground = Ground("z", 10, np.zeros(3))
    >>> lowest = ground.lowest([np.array([[0, 0, 2], [1, 1, 5]]), np.array([[9, 0, 1]])])
    >>> ground.height(np.array([[1, 1, 5]]), lowest)
    array([4.], dtype=float32)
    """

    up: Up | None
    cell: float
    low: np.ndarray

    def __post_init__(self) -> None:
        if self.up not in ("x", "y", "z"):
            raise InputError(
                f"the input feature ground_height needs the axis that points up: x, y or z, found {self.up!r}"
            )
        if not 0 < self.cell < np.inf:
            raise InputError(f"the cells of ground_height must have a positive edge, found {self.cell}")

    def lowest(self, parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The cells that hold points of `parts` [P_i, 3], int64 [G] ascending, and the lowest coordinate of each."""
        cells, lowest = np.empty(0, dtype=np.int64), np.empty(0)
        for points in parts:
            joined = np.concatenate([cells, self._cells(points)])
            along = np.concatenate([lowest, points[:, self._axis]])
            cells, place = np.unique(joined, return_inverse=True)
            lowest = np.full(len(cells), np.inf)
            np.minimum.at(lowest, place, along)
        return cells, lowest

    def height(self, points: np.ndarray, ground: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """How far points [P, 3] lie above the `lowest` of their cells, float32 [P]."""
        cells, lowest = ground
        return (points[:, self._axis] - lowest[np.searchsorted(cells, self._cells(points))]).astype(np.float32)

    @property
    def _axis(self) -> int:
        return "xyz".index(str(self.up))

    def _cells(self, points: np.ndarray) -> np.ndarray:
        flat = np.delete(points, self._axis, axis=1).astype(np.float64) - np.delete(self.low, self._axis)
        index = np.floor(flat / self.cell).astype(np.int64)
        return (index[:, 0] << 32) + index[:, 1]


def scene_intensity(cloud: Cloud) -> Cloud:
    """The cloud with intensities in 0..1: divided by the 95th percentile of this cloud, and cut off at 1.

    Sensors, flights and files differ in the scale of intensities by factors of ten; after this a network sees
    what is bright in its scene. A cloud whose 95th percentile is 0 gets zeros; one without intensity stays as it is.

    >>> scene_intensity(Cloud(np.zeros((2, 3)), attributes={"intensity": np.array([0, 400.0])})).attributes["intensity"]
    array([0., 1.], dtype=float32)
    """
    found = cloud.attributes.get("intensity")
    if found is None:
        return cloud
    return replace(cloud, attributes={**cloud.attributes, "intensity": by_brightest(found, brightest(found))})


def brightest(intensity: np.ndarray) -> float:
    """The 95th percentile of the intensities [P] of a scene."""
    return float(np.percentile(intensity, 95))


def by_brightest(intensity: np.ndarray, top: float) -> np.ndarray:
    """Intensities float32 [P] in 0..1 of intensities [P], by those of their scene.

    >>> by_brightest(np.array([100.0, 900.0]), top=400)
    array([0.25, 1.  ], dtype=float32)
    """
    return (np.clip(intensity / top, 0, 1) if top > 0 else np.zeros(len(intensity))).astype(np.float32)


def _attribute(cloud: Cloud, name: str, where: str) -> np.ndarray:
    if name not in cloud.attributes:
        has = ", ".join(sorted(cloud.attributes)) or "none"
        raise InputError(
            f"{where}: the input feature {name} needs a cloud with that attribute, and this has {has}; take {name} out "
            "of data.features"
        )
    return cloud.attributes[name][:, None]


def _given(values: np.ndarray | None, where: str, name: str, otherwise: str) -> np.ndarray:
    if values is None:
        kind = "normals" if name == "normals" else "colours"
        advice = f"{otherwise} take {name} out of data.features".strip()
        raise InputError(f"{where}: the input feature {name} needs a cloud with {kind}, and this has none; {advice}")
    return values


def _height(cloud: Cloud, up: Up | None) -> np.ndarray:
    if "height" in cloud.attributes:  # of a part, above the lowest point of the whole
        return cloud.attributes["height"][:, None]
    if up not in ("x", "y", "z"):
        raise InputError(f"the input feature height needs the axis that points up: one of x, y, z, found {up!r}")
    along = cloud.points[:, "xyz".index(up)]
    return (along - along.min())[:, None]


def _check_names(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in WIDTHS]
    if unknown or not names or len(set(names)) != len(names):
        raise InputError(
            f"input features must be one or more of {sorted(WIDTHS)}, each at most once; found {list(names)}"
        )
