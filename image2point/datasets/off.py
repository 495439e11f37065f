"""Meshes in .off files, with the header on lines of its own or joined as in a part of ModelNet (`OFF490 518 0`).

Read here and not by Open3D, which takes joined headers for empty meshes, and ends the process on faces whose corners
do not exist.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.columns import unit_colours
from image2point.datasets.meshes import Mesh
from image2point.datasets.polygons import polygon_triangles
from image2point.datasets.text import read_lines
from image2point.errors import InputError, one_line


def read_off(path: Path) -> Mesh | Cloud:
    """Vertices and triangles; the vertices as points where the header promises no faces.

    Polygons are cut into triangles; a face may go on over several lines, and colours behind it are left out. Colours
    of vertices (COFF) are read, normals (NOFF) of points alone.

    Raises InputError with the path for another header, and for fewer lines or numbers than the header promises.
    """
    lines = read_lines(path)
    header = re.fullmatch(r"((?:ST|[CN])*)OFF(?![A-Z])\s*(.*)", lines[0], re.IGNORECASE) if lines else None
    if header is None or header[2].upper().startswith("BINARY"):
        start = one_line(lines[0], 60) if lines else ""
        raise InputError(f"{path}: damaged, or not a text .off file: expected OFF in its first line, found {start!r}")
    kind, joined = header[1].upper(), header[2]
    lines = [joined, *lines[1:]] if joined else lines[1:]
    counts = lines[0].split() if lines else []
    if len(counts) < 2 or not all(re.fullmatch(r"\d{1,15}", word) for word in counts[:3]):
        start = one_line(lines[0], 60) if lines else ""
        raise InputError(f"{path}: expected the numbers of vertices, faces and edges, found {start!r}")
    vertices, faces = int(counts[0]), int(counts[1])
    if 1 + vertices + faces > len(lines):
        raise InputError(
            f"{path}: the header promises {vertices} vertices and {faces} faces, found {len(lines) - 1} lines"
        )
    rows = lines[1 : 1 + vertices]
    width = 6 if "N" in kind else 3
    table = _table(path, rows, width, "vertex", np.float64)
    colours = None
    if "C" in kind and vertices and all(len(row.split()) >= width + 3 for row in rows):
        colours = unit_colours(_table(path, rows, width + 3, "vertex", np.float64)[:, width:])
    if not faces:
        return Cloud(table[:, :3], table[:, 3:6] if width == 6 else None, colours)
    rows = lines[1 + vertices :]
    if len(rows) == faces and all(row.startswith("3 ") for row in rows):
        triangles = _table(path, rows, 4, "face", np.int64)[:, 1:]
    else:
        polygons = _faces(path, rows, faces)
        sizes = np.array([len(polygon) for polygon in polygons])
        corners = np.fromiter(chain.from_iterable(polygons), np.int64)
        triangles = polygon_triangles(table[:, :3], corners, sizes, str(path))
    return Mesh(table[:, :3], triangles, colours)


def _table(path: Path, rows: list[str], width: int, what: str, kind: type) -> np.ndarray:
    """The first `width` numbers of every row, as [rows, width]."""
    if not rows:
        return np.empty((0, width), dtype=kind)
    try:
        return np.loadtxt(rows, dtype=kind, usecols=range(width), ndmin=2, comments=None)
    except ValueError:
        for number, row in enumerate(rows):
            _numbers(path, f"{what} {number}", row.split()[:width], width, kind)
        raise


def _faces(path: Path, rows: list[str], count: int) -> list[list[int]]:
    """The corners of each face. What stands behind them on the last line of a face are its colours."""
    polygons, at = [], 0
    for number in range(count):
        words = rows[at].split() if at < len(rows) else []
        size = int(words[0]) if words and re.fullmatch(r"\d{1,9}", words[0]) else -1
        at += 1
        while size >= 0 and len(words) <= size and at < len(rows):
            words += rows[at].split()
            at += 1
        polygons.append(_numbers(path, f"face {number}", words[1 : 1 + max(size, 0)], size, int))
    return polygons


def _numbers(path: Path, what: str, words: Sequence[str], width: int, kind: type) -> list[int]:
    try:
        values = [kind(word) for word in words]
    except (ValueError, OverflowError):
        values = []
    if len(values) != width or any(abs(value) >= 2**62 for value in values if kind is int):
        raise InputError(f"{path}: {what}: expected {max(width, 0)} numbers, found '{one_line(' '.join(words), 60)}'")
    return values
