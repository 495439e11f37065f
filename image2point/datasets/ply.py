"""Clouds and meshes in .ply files, text and binary.

Read here and not by Open3D, which ends the process on faces whose corners do not exist.
"""

from __future__ import annotations

import codecs
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.columns import cloud_of_columns
from image2point.datasets.meshes import Mesh
from image2point.datasets.polygons import polygon_triangles, strip_triangles
from image2point.datasets.text import as_bytes, is_number
from image2point.errors import InputError, one_line

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip

ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
LONGEST_HEADER = 64 * 2**10
CORNERS = ("vertex_indices", "vertex_index")


@dataclass(frozen=True)
class Lists:
    """A list of each of R rows: the values of all, one after the other, and sizes int64 [R]."""

    values: np.ndarray
    sizes: np.ndarray

    def rows(self) -> list[np.ndarray]:
        return np.split(self.values, np.cumsum(self.sizes)[:-1])


@dataclass(frozen=True)
class Property:
    """kind: of the values, as numpy writes it; count: of the length of a list, or empty."""

    name: str
    kind: str
    count: str = ""


@dataclass
class Element:
    """One kind of row in the file (`vertex`, `face`), and how many there are."""

    name: str
    rows: int
    properties: list[Property]


def read_ply(path: Path) -> Cloud | Mesh:
    """A mesh where there are faces or triangle strips, else points; with the colours of the vertices, and the normals
    of points, where there are any.

    Polygons are cut into triangles. Elements besides `vertex`, `face` and `tristrips` are passed over.

    Raises InputError with the path for a damaged header, and for fewer values than it promises.
    """
    vertices, polygons, strips = _contents(path)
    cloud = cloud_of_columns(vertices, str(path))
    cut = [polygon_triangles(cloud.points, each.values, each.sizes, str(path)) for each in polygons]
    triangles = np.concatenate([*cut, strip_triangles(strips)])
    return Mesh(cloud.points, triangles, cloud.colours) if len(triangles) else cloud


def ply_columns(path: Path) -> dict[str, np.ndarray]:
    """The properties [P] of the vertices, by the names that the file gives them; of a mesh too.

    Raises InputError as `read_ply` does.
    """
    return _contents(path)[0]


def _contents(path: Path) -> tuple[dict[str, np.ndarray], list[Lists], list[np.ndarray]]:
    """The properties of the vertices, the corners of faces, and triangle strips."""
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    order, elements, start = header_of(path, content)
    body: _Text | _Binary = _Binary(path, content, start, order) if order else _Text(path, content, start)
    vertices: dict[str, np.ndarray] = {}
    polygons, strips = list[Lists](), list[np.ndarray]()
    for element in elements:
        columns, lists = body.read(element)
        corners = next((values for name, values in lists.items() if name.lower() in CORNERS), None)
        if element.name == "vertex":
            vertices = {p.name: as_bytes(columns[p.name]) if p.kind == "u1" else columns[p.name]
                        for p in element.properties if not p.count}  # fmt: skip
        elif element.name == "face" and corners is not None:
            polygons.append(corners)
        elif element.name == "tristrips" and corners is not None:
            strips += corners.rows()
    return vertices, polygons, strips


def header_of(path: Path, content: bytes) -> tuple[str, list[Element], int]:
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


def skipped(path: Path, body: bytes, order: str, elements: Sequence[Element]) -> int:
    """How many bytes of a binary body these elements take."""
    reader = _Binary(path, body, 0, order)
    for element in elements:
        reader.read(element)
    return reader.at


def binary_kind(element: Element, order: str) -> np.dtype:
    """The type of a row without lists."""
    return np.dtype([(each.name, order + each.kind) for each in element.properties])


Columns = tuple[dict[str, np.ndarray], dict[str, Lists]]
"""The properties of an element: columns [rows], and lists."""


class _Rows:
    """The properties of an element, collected row by row."""

    def __init__(self, element: Element) -> None:
        self.columns: dict[str, list] = {p.name: [] for p in element.properties if not p.count}
        self.values = {p.name: array("d" if p.kind[0] == "f" else "q") for p in element.properties if p.count}
        self.sizes = {name: array("q") for name in self.values}

    def add_list(self, name: str, values: np.ndarray) -> None:
        self.values[name].extend(values.tolist())
        self.sizes[name].append(len(values))

    def whole(self) -> Columns:
        lists = {name: Lists(np.array(values), np.array(self.sizes[name])) for name, values in self.values.items()}
        return {name: np.array(values) for name, values in self.columns.items()}, lists


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
                lists = {
                    name: Lists(rows[name].reshape(-1), np.full(element.rows, length))
                    for name, length in lengths.items()
                }
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
        read = _Rows(element)
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
                    read.add_list(each.name, values)
                else:
                    read.columns[each.name].append(values[0])
        return read.whole()

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
        read = _Rows(element)
        for row in range(element.rows):
            for each in element.properties:
                value = self._take(element, row, 1)[0]
                if not each.count:
                    read.columns[each.name].append(value)
                    continue
                if not (0 <= value < 2**31 and value == int(value)):
                    raise InputError(f"{self.path}: {element.name} row {row}: a list of length {value:g}")
                values = self._take(element, row, int(value))
                if each.kind[0] != "f":
                    if not (np.abs(values) < 2**62).all() or (values != np.floor(values)).any():  # true for NaN too
                        raise InputError(
                            f"{self.path}: {element.name} row {row}: expected whole numbers in {each.name}"
                        )
                    values = values.astype(np.int64)
                read.add_list(each.name, values)
        return read.whole()

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
            bad = next(number for number, word in enumerate(words) if not is_number(word))
            row += bad // max(len(element.properties), 1)
            wrong = one_line(words[bad][:40].decode("latin-1"))
            raise InputError(f"{self.path}: {element.name} row {row}: expected a number, found {wrong!r}") from None
