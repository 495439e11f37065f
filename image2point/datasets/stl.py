"""Meshes in .stl files, text and binary."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from image2point.datasets.meshes import Mesh
from image2point.datasets.text import LARGEST, decode_text
from image2point.errors import InputError, one_line

RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
HEADER = 84
"""Bytes before the first triangle: 80 of any kind, 4 with the number of triangles."""


def read_stl(path: Path) -> Mesh:
    """The triangles, each with three vertices of its own; several solids in one file are one mesh.

    Raises InputError with the path for a binary file of another size than its header says, and text that is cut off.
    """
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes; expected at most {LARGEST:,}")
    content = path.read_bytes()
    count = int.from_bytes(content[80:HEADER], "little") if len(content) >= HEADER else None
    if count is not None and len(content) == HEADER + RECORD.itemsize * count:
        # Many binary files begin with `solid` as text does: the size tells them apart.
        with np.errstate(invalid="ignore"):  # what is not finite is refused later, with its place
            corners = np.frombuffer(content, RECORD, count, HEADER)["corners"].astype(np.float64)
    elif re.match(rb"(\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*s\0?o\0?l\0?i\0?d", content[:64], re.IGNORECASE):
        corners = _text_corners(decode_text(content, str(path), errors="replace"), path)
    else:
        promised = "no number of triangles"
        if count is not None:
            promised = f"{count} triangles, {HEADER + RECORD.itemsize * count:,} bytes"
        raise InputError(
            f"{path}: damaged, or not a .stl file: its header has {promised}, the file {len(content):,} bytes"
        )
    return Mesh(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3))


def _text_corners(text: str, path: Path) -> np.ndarray:
    """float64 [T, 3, 3] of the lines `vertex x y z`, three for each `facet`, up to a last `endsolid`."""
    rows = [line.split() for line in text.lower().splitlines()]
    vertices = [row[1:] for row in rows if row[:1] == ["vertex"]]
    facets = sum(row[:1] == ["facet"] for row in rows)
    if len(vertices) != 3 * facets or not any(row[:1] == ["endsolid"] for row in rows):
        raise InputError(
            f"{path}: damaged, or not a .stl file: {facets} facets need {3 * facets} vertices and a line endsolid, "
            f"found {len(vertices)} vertices"
        )
    for number, row in enumerate(vertices):
        if len(row) != 3:
            raise InputError(f"{path} vertex {number}: expected three numbers, found '{one_line(' '.join(row), 60)}'")
    try:
        return np.array(vertices, dtype=np.float64).reshape(-1, 3, 3)
    except ValueError as error:
        raise InputError(f"{path}: a vertex has no three numbers: {one_line(error)}") from None
