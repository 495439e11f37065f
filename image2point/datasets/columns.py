"""Named columns of a point file → a cloud: under which names files keep coordinates, normals and colours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.validate import check_digits
from image2point.errors import InputError, one_line

COORDINATES = ("x", "y", "z")
NORMALS = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"), ("normalx", "normaly", "normalz"))
COLOURS = (
    ("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("rf", "gf", "bf"),
)  # fmt: skip
"""Names in use, lower case; of several triples in one file the first counts."""

UNUSED = ("_", "intensity", "i", "label", "scalar")
"""Names that a user may give to columns that are left out."""


def cloud_of_columns(columns: Mapping[str, np.ndarray], where: str) -> Cloud:
    """The cloud in columns [P] by name, in capitals or not; columns of other names are left out.

    Coordinates and normals float64 [P, 3], colours in 0..1 by `unit_colours`. `where` begins messages.

    Raises InputError where x, y or z is missing, or the numbers of x, y and z have too few digits.

    >>> xyz = {name: np.zeros(2) for name in "XYZ"}
    >>> cloud_of_columns({**xyz, "Red": np.array([0, 255]), "Green": np.zeros(2), "Blue": np.zeros(2)}, "a").colours
    array([[0., 0., 0.],
           [1., 0., 0.]])
    """
    known: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        known.setdefault(name.lower(), values)
    points = _stacked(known, COORDINATES)
    if points is None:
        if not columns:
            raise InputError(f"{where}: there are no points in it, nor vertices; expected x, y and z")
        missing = next(axis for axis in COORDINATES if axis not in known)
        raise InputError(f"{where}: expected x, y and z; {missing} is missing among {one_line(', '.join(columns))}")
    check_digits(points, where)
    normals = next((n for names in NORMALS if (n := _stacked(known, names)) is not None), None)
    names = next((names for names in COLOURS if all(name in known for name in names)), None)
    colours = None if names is None else unit_colours(np.stack([known[name] for name in names], axis=1))
    return Cloud(points.astype(np.float64), None if normals is None else normals.astype(np.float64), colours)


def unit_colours(values: np.ndarray) -> np.ndarray:
    """Colours float64 [P, 3] in 0..1 from numbers [P, 3] in 0..1, 0..255 or 0..65535.

    Bytes are 0..255. Other types go by their largest value: files keep 8-bit colours in wider types, and as text.
    What is beyond, or negative, stays as it is, to be refused by `check_cloud`. Fractions above 1 by a rounding error
    are 1.

    >>> unit_colours(np.array([[0.0, 51.0, 255.0]]))
    array([[0. , 0.2, 1. ]])
    """
    scaled = values.astype(np.float64)
    largest = np.nanmax(scaled, initial=0)
    if values.dtype.kind == "f" and 1 < largest < 1.01:
        return np.minimum(scaled, 1)
    if values.dtype == np.uint8 or 1 < largest <= 255:
        return scaled / 255
    return scaled / 65535 if 255 < largest <= 65535 else scaled


def parse_columns(text: str, any_name: bool = False) -> tuple[str, ...]:
    """The names of columns that a user gives, separated by blanks or commas, lower case.

    any_name: names of attributes and labels may stand among them, as scenes have them.

    Raises InputError for unknown or repeated names, and unless x, y and z are among them.

    >>> parse_columns("x, y, z, red, green, blue")
    ('x', 'y', 'z', 'red', 'green', 'blue')
    """
    names = tuple(text.lower().replace(",", " ").split())
    triples = [COORDINATES, *NORMALS, *COLOURS]
    usable = {name for triple in triples for name in triple}
    unknown = [name for name in names if name not in usable and name not in UNUSED and not any_name]
    twice = [name for name in names if name != "_" and names.count(name) > 1]
    partial = [triple for triple in triples if 0 < len(set(triple) & set(names)) < 3]
    if unknown or twice or partial or not set(COORDINATES) <= set(names):
        raise InputError(
            f"columns '{one_line(text)}': expected x y z, perhaps nx ny nz and red green blue (r g b), each once, in "
            "the order of the file, and _ for each column that is to be left out"
        )
    return names


def _stacked(columns: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray | None:
    """Three columns as [P, 3]; None where one is missing."""
    return np.stack([columns[name] for name in names], axis=1) if all(name in columns for name in names) else None
