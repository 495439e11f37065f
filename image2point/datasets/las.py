"""LAS and LAZ files of laser scans, read and written back; laspy and lazrs do it (`pip install 'image2point[las]'`)."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from image2point.datasets.las_header import check_chunks, check_header
from image2point.errors import InputError, one_line
from image2point.files import writing

CODES = {
    0: "never classified", 1: "unclassified", 2: "ground", 3: "low vegetation", 4: "medium vegetation",
    5: "high vegetation", 6: "building", 7: "low noise", 8: "model key point", 9: "water", 10: "rail",
    11: "road surface", 12: "overlap", 13: "wire guard", 14: "wire conductor", 15: "transmission tower",
    16: "wire connector", 17: "bridge deck", 18: "high noise", 19: "overhead structure", 20: "ignored ground",
    21: "snow", 22: "temporal exclusion",
}  # fmt: skip
"""Classification codes of ASPRS' LAS 1.4 R15; from 64 on they are the user's own."""


def misnamed(codes: Mapping[str, int]) -> dict[str, str]:
    """What LAS files mean by the code of a class, where that shares no word with the name of the class.

    >>> misnamed({"ground": 2, "high_vegetation": 5, "vegetation": 2, "my trees": 70})
    {'vegetation': 'ground'}
    """
    known = {name: CODES.get(code, "") for name, code in codes.items()}
    return {name: meaning for name, meaning in known.items() if meaning and not _words(name) & _words(meaning)}


def _words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.split(r"[^a-z]+", text.lower()) if word}


CHUNK = 1_000_000
"""Points that are in memory at a time while a file is decoded or written."""

COLOURS = ("red", "green", "blue")


def read_las(path: Path, wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """`x`, `y`, `z` float64 [P] by the file's scale and offset, and its other fields [P] by their names, extra
    dimensions included. wanted: the names of the others that are read; None for all.

    Colours that are all 0 are left out: formats with colour are in use for scans without it.

    Raises InputError with the path for what is no LAS or LAZ file, for fewer points than the header promises, and where
    laspy, or for LAZ lazrs, is not installed.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for chunk in las_chunks(path, wanted):
        for name, values in chunk.items():
            columns.setdefault(name, []).append(values)
    joined = {name: np.concatenate(columns.pop(name)) for name in list(columns)}
    if all(name in joined and not joined[name].any() for name in COLOURS):
        joined = {name: values for name, values in joined.items() if name not in COLOURS}
    return joined


def las_chunks(path: Path, wanted: Collection[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
    """The same columns of at most `CHUNK` points at a time, in order; colours as they are. A file without points gives
    one chunk of none.

    Raises InputError as `read_las` does; that points are missing at the end is only known there.
    """
    with _opened(path) as reader:
        names = [n for n in reader.header.point_format.dimension_names if n not in ("X", "Y", "Z")]
        names = ["x", "y", "z", *(n for n in names if wanted is None or n.lower() in wanted)]
        if not reader.header.point_count:
            yield {name: np.empty(0) for name in names}
        for points in _chunks(reader, path):
            yield {name: np.array(points[name]) for name in names}


def write_labels(
    source: str | Path,
    labels: np.ndarray | None,
    target: str | Path,
    extra: Mapping[str, Any] | None = None,
    field: str = "classification",
) -> None:
    """Write `source` again to `target`, with `labels` [P] in the place of a `field` of it, and `extra` dimensions [P].

    Points keep their order, and every other field its bytes; scale, offset, version, point format and records of
    the header stay. target: .las or .laz, whichever `source` is. labels: codes that fit the field (of the
    classification 0..31 in point formats 0 to 5, else 0..255); None leaves all fields. field: one that the file has, or
    the name of an extra dimension that it gets. extra: further dimensions by name, such as a probability as float32;
    of an array, the length, the type and slices are used. At most `CHUNK` points are in memory besides what is given.

    Raises InputError as `read_las` does, and for another number of labels than points, codes that do not fit the point
    format, names of extra dimensions that the file has, and waveforms inside the file, which would be lost.
    """
    source, target = Path(source), Path(target)
    if target.suffix.lower() not in (".las", ".laz"):
        raise InputError(f"{target}: labels of LAS files are written to .las or .laz, found {target.suffix!r}")
    laspy = _laspy(target)
    columns = dict(extra or {})
    with _opened(source) as reader, writing(target) as temporary:
        header = deepcopy(reader.header)
        if labels is not None and field not in header.point_format.dimension_names:
            columns, labels = {field: labels.astype(np.min_scalar_type(labels.max(initial=0))), **columns}, None
        _check(source, header, labels, columns, field)
        for name, values in columns.items():
            header.add_extra_dim(laspy.ExtraBytesParams(name=name, type=values.dtype))
        at = 0
        with laspy.open(temporary, "w", header=header, do_compress=target.suffix.lower() == ".laz") as writer:
            for points in _chunks(reader, source):
                rows = slice(at, at + len(points))
                at += len(points)
                if columns:
                    wider = laspy.ScaleAwarePointRecord.zeros(len(points), header=header)
                    for name in points.array.dtype.names:
                        wider.array[name] = points.array[name]
                    points = wider
                if labels is not None:
                    points[field] = labels[rows]
                for name, values in columns.items():
                    points[name] = values[rows]
                writer.write_points(points)
            if reader.evlrs:
                writer.write_evlrs(reader.evlrs)


def has_field(path: Path, name: str) -> bool:
    """Whether the points of a file have a field of this name."""
    with _opened(path) as reader:
        return name in reader.header.point_format.dimension_names


def _check(path: Path, header: Any, labels: np.ndarray | None, extra: Mapping[str, Any], field: str) -> None:
    given = {"labels": labels} if labels is not None else {}
    for name, values in {**given, **extra}.items():
        if len(values) != header.point_count:
            raise InputError(f"{path} has {header.point_count:,} points, found {len(values):,} {name} to write")
    if labels is not None and len(labels):
        lowest, top = _range(header.point_format.dimension_by_name(field))
        if not lowest <= labels.min() <= labels.max() <= top:
            what = "classification codes" if field == "classification" else f"{field}s"
            raise InputError(
                f"{path}: point format {header.point_format.id} holds {what} {lowest}..{top}, found "
                f"{labels.min()}..{labels.max()}; write them as an extra dimension, under another name"
            )
    twice = [name for name in extra if name in header.point_format.dimension_names]
    if twice:
        raise InputError(f"{path} has a field {twice[0]!r} already; choose another name for the extra dimension")
    if header.global_encoding.waveform_data_packets_internal:
        raise InputError(f"{path} holds waveforms, which would be lost; write labels to a file of another format")


def _range(dimension: Any) -> tuple[int, int]:
    """The smallest and the largest whole number that a field holds."""
    if dimension.kind.name == "BitField":
        return 0, 2**dimension.num_bits - 1
    if dimension.dtype.kind == "f":
        return -(2**24), 2**24
    return int(np.iinfo(dimension.dtype).min), int(np.iinfo(dimension.dtype).max)


def _chunks(reader: Any, path: Path) -> Iterator[Any]:
    """The points of an open file in order, some at a time; InputError where there are fewer than promised."""
    found, promised = 0, int(reader.header.point_count)
    chunks = reader.chunk_iterator(CHUNK)
    while True:
        with _damage(path):
            points = next(chunks, None)
        if points is None:
            break
        found += len(points)
        yield points
    if found != promised:
        raise InputError(f"{path}: the header promises {promised:,} points, the file ends after {found:,} (truncated?)")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file in laspy's reader, whose header is the file's own."""
    laspy = _laspy(path)
    check_header(path)
    with _damage(path):
        reader = laspy.open(path)
    with reader:
        header = reader.header
        size = header.point_format.size * int(header.point_count)
        if not header.are_points_compressed and header.offset_to_point_data + size > path.stat().st_size:
            raise InputError(
                f"{path}: the header promises {header.point_count:,} points, {size:,} bytes; the file has only "
                f"{path.stat().st_size:,} bytes (truncated?)"
            )
        if header.are_points_compressed:
            _check_chunks(path, header)
        yield reader


def _check_chunks(path: Path, header: Any) -> None:
    """Refuse compressed chunks that promise more than there is, which lazrs would allocate."""
    import lazrs

    known = next((each for each in header.vlrs if type(each).__name__ == "LasZipVlr"), None)
    with _damage(path), path.open("rb") as file:
        if known is None:
            raise ValueError("no record of LASzip")
        record = lazrs.LazVlr(known.record_data)
        file.seek(header.offset_to_point_data)
        table = [] if header.point_count == 0 else lazrs.read_chunk_table(file, record)
        varies = record.uses_variable_size_chunks()
        check_chunks(path, file, table, known.record_data, 0 if varies else record.chunk_size(), header)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What laspy and lazrs raise for damage, in one line."""
    try:
        yield
    except BaseException as error:  # lazrs is written in Rust, and its panics are no `Exception`
        if (isinstance(error, OSError) and error.errno is not None) or not _of_damage(error):
            raise
        raise InputError(f"{path}: damaged, truncated or not a LAS file: {one_line(error)}") from None


def _of_damage(error: BaseException) -> bool:
    known = (ValueError, TypeError, OverflowError, EOFError, RuntimeError, KeyError, IndexError, struct.error)
    ours = type(error).__module__.split(".")[0] in ("laspy", "lazrs")
    return isinstance(error, known) or ours or type(error).__name__ == "PanicException"


def _laspy(path: Path) -> ModuleType:
    """laspy, with lazrs where `path` is compressed; InputError with what to install."""
    try:
        import laspy

        if path.suffix.lower() == ".laz":
            import lazrs  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{path}: {error.name or 'laspy'} is not installed, which reads and writes LAS and LAZ files; install it "
            "with: pip install 'image2point[las]'"
        ) from None
    return laspy
