"""Clouds and meshes in .ply files, text and binary.

Read here and not by Open3D, which ends the process on faces whose corners do not exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.meshes import Mesh
from image2point.datasets.polygons import fans, grouped
from image2point.errors import InputError

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip

ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
LONGEST_HEADER = 64 * 2**10
CORNERS = ("vertex_indices", "vertex_index")


@dataclass(frozen=True)
class Property:
    """kind: of the values, as numpy writes it; count: of the length of a list, or empty."""

    name: str
    kind: str
    count: str = ""


@dataclass
class Element:
    name: str
    rows: int
    properties: list[Property]


def read_ply(path: Path) -> Cloud | Mesh:
    """A mesh where there are faces, else points; with the normals and colours of the vertices where there are any.

    Polygons are cut into triangles. Elements besides `vertex` and `face` are passed over.

    Raises InputError with the path for a damaged header, and for fewer values than it promises.
    """
    content = path.read_bytes()
    order, elements, start = _header(path, content)
    body: _Text | _Binary = _Binary(path, content, start, order) if order else _Text(path, content, start)
    vertices: dict[str, np.ndarray] = {}
    triangles = np.empty((0, 3), dtype=np.int64)
    for element in elements:
        columns, lists = body.read(element)
        if element.name == "vertex":
            vertices = columns
        elif element.name == "face":
            corners = [polygons for name, polygons in lists.items() if name in CORNERS]
            triangles = fans(corners[0], str(path)) if corners else triangles
    missing = [axis for axis in "xyz" if axis not in vertices]
    if missing:
        raise InputError(f"{path}: expected vertices with x, y and z; {missing[0]} is missing")
    points = _together(vertices, "x", "y", "z")
    assert points is not None
    colours = _together(vertices, "red", "green", "blue")
    if colours is not None:
        kind = next(p.kind for e in elements if e.name == "vertex" for p in e.properties if p.name == "red")
        colours = colours / np.iinfo(kind).max if kind[0] in "iu" else colours
    if len(triangles):
        return Mesh(points, triangles, colours)
    return Cloud(points, _together(vertices, "nx", "ny", "nz"), colours)


def _together(columns: dict[str, np.ndarray], *names: str) -> np.ndarray | None:
    """float64 [P, 3] of three columns; None where one is missing."""
    if not all(name in columns for name in names):
        return None
    return np.stack([columns[name].astype(np.float64) for name in names], axis=1)


def _header(path: Path, content: bytes) -> tuple[str, list[Element], int]:
    """Byte order ("" for text), elements and the start of what follows."""
    end = re.search(rb"^end_header[ \t]*(\r\n|\n|\r)", content[:LONGEST_HEADER], re.MULTILINE)
    end = end or re.search(rb"[\r\n]end_header[ \t]*(\r\n|\n|\r)", content[:LONGEST_HEADER])
    if not content.startswith(b"ply") or end is None:
        raise InputError(f"{path}: damaged, or not a .ply file: no header from `ply` to `end_header`")
    order, elements = None, list[Element]()
    for number, line in enumerate(re.split(rb"\r\n|\n|\r", content[: end.start()])[1:], start=2):
        words = line.decode("latin-1").split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        match words:
            case ["format", name, _] if name in ORDERS and order is None:
                order = ORDERS[name]
            case ["element", name, rows] if re.fullmatch(r"\d{1,15}", rows):
                elements.append(Element(name, int(rows), []))
            case ["property", kind, name] if kind in TYPES and elements:
                elements[-1].properties.append(Property(name, TYPES[kind]))
            case ["property", "list", count, kind, name] if (
                kind in TYPES and TYPES.get(count, "f")[0] in "iu" and elements
            ):
                elements[-1].properties.append(Property(name, TYPES[kind], TYPES[count]))
            case _:
                raise InputError(f"{path} line {number}: no line of a .ply header: {' '.join(words)[:60]!r}")
    if order is None:
        raise InputError(f"{path}: the .ply header has no line format")
    for element in elements:
        names = [each.name for each in element.properties]
        if len(set(names)) != len(names) or not names:
            raise InputError(f"{path}: the element {element.name!r} has no properties, or two of one name")
    return order, elements, end.end()


Columns = tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]
"""The properties of an element: columns [rows], and lists, grouped by their length: [n, length] each."""


class _Binary:
    """What follows a binary header, element by element."""

    def __init__(self, path: Path, content: bytes, start: int, order: str) -> None:
        self.path, self.content, self.at, self.order = path, content, start, order

    def read(self, element: Element) -> Columns:
        lengths: dict[str, int] = {}
        for each in element.properties:  # as the first row has them: mostly all rows are alike
            if each.count and element.rows:
                lengths[each.name] = self._first_length(element, each, lengths)
        kind = self._row(element, lengths)
        if self.at + element.rows * kind.itemsize <= len(self.content):
            rows = np.frombuffer(self.content, kind, element.rows, self.at)
            if all((rows[f"{name} length"] == length).all() for name, length in lengths.items()):
                self.at += element.rows * kind.itemsize
                lists = {name: [rows[name].reshape(element.rows, -1)] for name in lengths}
                return {p.name: rows[p.name] for p in element.properties if not p.count}, lists
        if not lengths:
            self._short(element, 0)
        return self._ragged(element)

    def _row(self, element: Element, lengths: dict[str, int]) -> np.dtype:
        fields: list[tuple] = []
        for each in element.properties:
            if each.count:
                fields.append((f"{each.name} length", self.order + each.count))
                fields.append((each.name, self.order + each.kind, (lengths.get(each.name, 0),)))
            else:
                fields.append((each.name, self.order + each.kind))
        return np.dtype(fields)

    def _first_length(self, element: Element, wanted: Property, before: dict[str, int]) -> int:
        upto = Element(element.name, 1, element.properties[: element.properties.index(wanted)])
        at = self.at + self._row(upto, before).itemsize
        return self._length(element, 0, wanted, at)

    def _length(self, element: Element, row: int, each: Property, at: int) -> int:
        size = np.dtype(each.count).itemsize
        if at + size > len(self.content):
            self._short(element, row)
        length = int(np.frombuffer(self.content, self.order + each.count, 1, at)[0])
        if length < 0 or at + size + length * np.dtype(each.kind).itemsize > len(self.content):
            self._short(element, row)
        return length

    def _ragged(self, element: Element) -> Columns:
        columns: dict[str, list] = {p.name: [] for p in element.properties if not p.count}
        lists: dict[str, list] = {p.name: [] for p in element.properties if p.count}
        for row in range(element.rows):
            for each in element.properties:
                length = 1
                if each.count:
                    length = self._length(element, row, each, self.at)
                    self.at += np.dtype(each.count).itemsize
                size = length * np.dtype(each.kind).itemsize
                if self.at + size > len(self.content):
                    self._short(element, row)
                values = np.frombuffer(self.content, self.order + each.kind, length, self.at)
                self.at += size
                if each.count:
                    lists[each.name].append(values.tolist())
                else:
                    columns[each.name].append(values[0])
        return {k: np.array(v) for k, v in columns.items()}, {k: grouped(v) for k, v in lists.items()}

    def _short(self, element: Element, row: int) -> None:
        raise InputError(
            f"{self.path}: the header promises {element.rows} rows of {element.name!r}, the file ends at row {row}"
        )


class _Text:
    """What follows a text header, element by element."""

    def __init__(self, path: Path, content: bytes, start: int) -> None:
        self.path, self.words, self.at = path, content[start:].split(), 0

    def read(self, element: Element) -> Columns:
        if not any(each.count for each in element.properties):
            width = len(element.properties)
            table = self._take(element, 0, element.rows * width).reshape(-1, width)
            return {p.name: table[:, number] for number, p in enumerate(element.properties)}, {}
        columns: dict[str, list] = {p.name: [] for p in element.properties if not p.count}
        lists: dict[str, list] = {p.name: [] for p in element.properties if p.count}
        for row in range(element.rows):
            for each in element.properties:
                value = self._take(element, row, 1)[0]
                if not each.count:
                    columns[each.name].append(value)
                    continue
                if not (0 <= value < 2**31 and value == int(value)):
                    raise InputError(f"{self.path}: {element.name} row {row}: a list of length {value:g}")
                corners = self._take(element, row, int(value))
                if not (np.abs(corners) < 2**62).all():  # false for NaN too
                    raise InputError(f"{self.path}: {element.name} row {row}: expected whole numbers in {each.name}")
                lists[each.name].append(corners.astype(np.int64).tolist())
        return {k: np.array(v) for k, v in columns.items()}, {k: grouped(v) for k, v in lists.items()}

    def _take(self, element: Element, row: int, count: int) -> np.ndarray:
        words = self.words[self.at : self.at + count]
        self.at += count
        if len(words) < count:
            raise InputError(
                f"{self.path}: the header promises {element.rows} rows of {element.name!r}, the file ends before"
            )
        try:
            return np.array(words, dtype=np.float64)
        except ValueError:
            bad = next(number for number, word in enumerate(words) if not _is_number(word))
            row += bad // max(len(element.properties), 1)
            found = words[bad][:40].decode("latin-1")
            raise InputError(f"{self.path}: {element.name} row {row}: expected a number, found {found!r}") from None


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
