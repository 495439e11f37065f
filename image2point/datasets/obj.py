"""Meshes and points in Wavefront .obj files, in memory that is linear in the file."""

from __future__ import annotations

import re
from array import array
from pathlib import Path

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.columns import unit_colours
from image2point.datasets.meshes import Mesh
from image2point.datasets.polygons import polygon_triangles
from image2point.datasets.text import read_text
from image2point.errors import InputError, one_line

OTHER_SHAPES = ("l", "curv", "curv2", "surf")
"""What a file can hold in place of faces: lines, and free-form curves and surfaces."""


def read_obj(path: Path) -> Mesh | Cloud:
    """Vertices and triangles; of a file with vertices and nothing made of them, the vertices as points.

    Faces count from 1, or back from the last vertex so far (-1); polygons are cut into triangles. Colours are those
    behind the coordinates (`v x y z r g b`). Materials, textures, normals and groups are left out.

    Raises InputError with the path, and the line where there is one, for numbers that are none, faces that count from
    0 or name vertices that are not there, and files of lines or curves alone.
    """
    text = read_text(path, errors="replace")
    points, colours, corners, sizes = array("d"), array("d"), array("q"), array("q")
    others: set[str] = set()
    # A backslash joins a line with the next one.
    for number, line in enumerate(re.sub(r"\\[ \t]*\r?\n", " ", text).splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            if words[0] == "v":
                values = [float(word) for word in words[1:]]
                points.extend(values[:3])
                if len(values) < 3:
                    raise ValueError
                if len(values) in (6, 7):  # seven: with the opacity
                    colours.extend(values[3:6])
            elif words[0] in ("f", "fo"):
                face = [int(word.partition("/")[0]) for word in words[1:]]
                _check_face(face, len(points) // 3, f"{path} line {number}")
                corners.extend(corner - 1 if corner > 0 else corner + len(points) // 3 for corner in face)
                sizes.append(len(face))
            else:
                others.add(words[0])
        except (ValueError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            wanted = "v x y z" if words[0] == "v" else "f with numbers of vertices"
            raise InputError(f"{path} line {number}: expected {wanted}, found '{one_line(line, 60)}'") from None
    vertices = np.array(points).reshape(-1, 3)
    if not len(vertices):
        raise InputError(f"{path}: damaged, or not a .obj file: it has no vertices, lines that begin with v")
    shades = unit_colours(np.array(colours).reshape(-1, 3)) if len(colours) == len(points) else None
    if len(corners) and max(corners) >= len(vertices):
        raise InputError(f"{path}: a face uses vertex {max(corners) + 1}, but there are {len(vertices)} vertices")
    if len(sizes):
        return Mesh(vertices, polygon_triangles(vertices, np.array(corners), np.array(sizes), str(path)), shades)
    shapes = sorted(others & set(OTHER_SHAPES))
    if shapes:
        raise InputError(f"{path}: has no faces, only lines or curves ({', '.join(shapes)}), which have no surface")
    return Cloud(vertices, None, shades)


def _check_face(face: list[int], vertices: int, where: str) -> None:
    """Refuse what is wrong wherever the vertices are; those beyond the last may still follow."""
    if 0 in face:
        raise InputError(f"{where}: a face counts its vertices from 0; .obj counts from 1, or from -1 backwards")
    if min(face, default=0) < -vertices:
        raise InputError(f"{where}: a face uses vertex {min(face)}, but there are {vertices} vertices before it")
