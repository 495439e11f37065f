"""What a network is told about each point: named features, each with a scaling factor that runs store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from image2point.errors import InputError

WIDTHS: dict[str, int] = {"xyz": 3, "occupancy": 1}
"""Channels of each feature. `xyz`: the coordinates of the point; `occupancy`: the constant 1."""

DEFAULT_SCALING: dict[str, float] = {"xyz": 1.0, "occupancy": 1.0}


def feature_width(names: Sequence[str]) -> int:
    """The number of input channels that these features make together."""
    _check_names(names)
    return sum(WIDTHS[name] for name in names)


def input_features(
    points: np.ndarray, names: Sequence[str] = ("xyz",), scaling: Mapping[str, float] = DEFAULT_SCALING
) -> np.ndarray:
    """The features of `points` [P, 3], float32 [P, C], in the order of `names`, each times its scaling.

    A name that `scaling` leaves out has the factor in `DEFAULT_SCALING`, which is 1.

    Raises InputError for unknown or repeated names, in `names` or in `scaling`.
    """
    _check_names(names)
    unknown = sorted(set(scaling) - set(WIDTHS))
    if unknown:
        raise InputError(f"scaling names unknown input features {unknown}; known are {sorted(WIDTHS)}")
    factors = {**DEFAULT_SCALING, **scaling}
    columns = {"xyz": points, "occupancy": np.ones((len(points), 1), dtype=np.float32)}
    return np.concatenate(
        [np.asarray(columns[name], dtype=np.float32) * np.float32(factors[name]) for name in names], axis=1
    )


def _check_names(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in WIDTHS]
    if unknown or not names or len(set(names)) != len(names):
        raise InputError(
            f"input features must be one or more of {sorted(WIDTHS)}, each at most once; found {list(names)}"
        )
