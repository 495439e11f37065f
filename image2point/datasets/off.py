"""Meshes in .off files, with the header on lines of its own or joined as in a part of ModelNet (`OFF490 518 0`).

Read here and not by Open3D, which takes joined headers for empty meshes, and ends the process on faces whose corners
do not exist.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from image2point.datasets.meshes import Mesh
from image2point.datasets.polygons import fans, grouped
from image2point.datasets.text import read_lines
from image2point.errors import InputError


def read_off(path: Path) -> Mesh:
    """Vertices and triangles; polygons are cut into triangles, and normals and colours (NOFF, COFF) left out.

    Raises InputError with the path for another header, and for fewer lines or numbers than the header promises.
    """
    lines = read_lines(path)
    header = re.fullmatch(r"(?:ST)?C?N?OFF(?![A-Z])\s*(.*)", lines[0]) if lines else None
    if header is None:
        found = lines[0][:60] if lines else ""
        raise InputError(f"{path}: damaged, or not a .off file: expected OFF in its first line, found {found!r}")
    lines = [header[1], *lines[1:]] if header[1] else lines[1:]
    counts = lines[0].split() if lines else []
    if len(counts) < 2 or not all(re.fullmatch(r"\d{1,15}", word) for word in counts[:3]):
        found = lines[0][:60] if lines else ""
        raise InputError(f"{path}: expected the numbers of vertices, faces and edges, found {found!r}")
    vertices, faces = int(counts[0]), int(counts[1])
    if 1 + vertices + faces > len(lines):
        raise InputError(
            f"{path}: the header promises {vertices} vertices and {faces} faces, found {len(lines) - 1} lines"
        )
    points = _table(path, lines[1 : 1 + vertices], 3, "vertex", np.float64)
    rows = lines[1 + vertices : 1 + vertices + faces]
    if all(row.startswith("3 ") for row in rows):
        polygons = [_table(path, rows, 4, "face", np.int64)[:, 1:]]
    else:
        polygons = grouped([_face(path, number, row) for number, row in enumerate(rows)])
    return Mesh(points, fans(polygons, str(path)))


def _table(path: Path, rows: list[str], width: int, what: str, kind: type) -> np.ndarray:
    """The first `width` numbers of every row."""
    if not rows:
        return np.empty((0, width), dtype=kind)
    try:
        return np.loadtxt(rows, dtype=kind, usecols=range(width), ndmin=2, comments=None)
    except ValueError:
        for number, row in enumerate(rows):
            _numbers(path, f"{what} {number}", row.split()[:width], width, kind)
        raise


def _face(path: Path, number: int, row: str) -> list[int]:
    words = row.split()
    count = int(words[0]) if re.fullmatch(r"\d{1,9}", words[0]) else -1
    return _numbers(path, f"face {number}", words[1 : 1 + max(count, 0)], count, int)


def _numbers(path: Path, what: str, words: list[str], width: int, kind: type) -> list[int]:
    try:
        found = [kind(word) for word in words]
    except (ValueError, OverflowError):
        found = []
    if len(found) != width or any(abs(value) >= 2**62 for value in found if kind is int):
        raise InputError(f"{path}: {what}: expected {max(width, 0)} numbers, found {' '.join(words)[:60]!r}")
    return found
