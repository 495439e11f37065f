"""Input features of a point, by name, each with a scaling factor that is stored with a run.

A voxel carries the mean over its points, of every feature alike. So its normal is as long as its points' normals
agree: 1 on a plane, shorter across an edge, 0 between two sheets back to back. It is not brought to length 1 again,
since that length is information, and 0 has no direction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.errors import InputError

Up = Literal["x", "y", "z"]

WIDTHS: dict[str, int] = {"xyz": 3, "occupancy": 1, "normals": 3, "colour": 3, "height": 1}
"""Channels of each feature. `xyz`: the coordinates of the point; `occupancy`: the constant 1; `normals`: its unit
normal; `colour`: red, green and blue in 0..1; `height`: how far it lies above the lowest point of its cloud."""


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
) -> np.ndarray:
    """The features of P points, float32 [P, C], in the order of `names`, each times its scaling (1 where not named).

    up: the axis that `height` is measured along. where: begins the message about what the cloud lacks.

    Raises InputError for unknown or repeated names, in `names` or in `scaling`, for `normals` or `colour` of a cloud
    without them, and for `height` without `up`.

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
        "height": lambda: _height(cloud.points, up),
    }
    scaled = [columns[name]().astype(np.float32) * np.float32(factors.get(name, 1)) for name in names]
    return np.concatenate(scaled, axis=1)


def _given(values: np.ndarray | None, where: str, name: str, otherwise: str) -> np.ndarray:
    if values is None:
        kind = "normals" if name == "normals" else "colours"
        advice = f"{otherwise} take {name} out of data.features".strip()
        raise InputError(f"{where}: the input feature {name} needs a cloud with {kind}, and this has none; {advice}")
    return values


def _height(points: np.ndarray, up: Up | None) -> np.ndarray:
    if up not in ("x", "y", "z"):
        raise InputError(f"the input feature height needs the axis that points up: one of x, y, z, found {up!r}")
    along = points[:, "xyz".index(up)]
    return (along - along.min())[:, None]


def _check_names(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in WIDTHS]
    if unknown or not names or len(set(names)) != len(names):
        raise InputError(
            f"input features must be one or more of {sorted(WIDTHS)}, each at most once; found {list(names)}"
        )
