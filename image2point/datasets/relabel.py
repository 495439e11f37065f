"""Files of points written again with a label for each point: their order and all else in them stay as they are."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from image2point.datasets import las
from image2point.datasets.arrays import npy_array, npz_arrays
from image2point.datasets.columns import parse_columns
from image2point.datasets.ply_labels import write_ply
from image2point.datasets.scene_files import LABELS
from image2point.datasets.semantickitti import prediction_file
from image2point.datasets.text_labels import write_lines
from image2point.errors import InputError
from image2point.files import write_bytes, writing

ROWS = 1_000_000
"""Rows of an array that are written at a time."""


@dataclass(frozen=True)
class PointLabels:
    """What is written of each of P points.

    labels: whole numbers [P]. name: of the field, array or column that gets them; None for the file's own field of
    labels: the `usual` one, or one of `scene_files.LABELS`; where there is none, `label`. columns: what the columns of
    text and of .npy arrays are. extra: float32 columns by name, of which the length and slices are used.
    """

    labels: np.ndarray
    name: str | None = None
    usual: str | None = None
    columns: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def field_of(self, present: Sequence[str]) -> str:
        """The name of the field for the labels, as the file writes it, of those that it has.

        >>> PointLabels(np.zeros(1)).field_of(["x", "Classification"]), PointLabels(np.zeros(1)).field_of(["x"])
        ('Classification', 'label')
        """
        known = {name.lower(): name for name in present}
        if self.name is not None:
            return known.get(self.name.lower(), self.name)
        return next((known[name] for name in (str(self.usual).lower(), *LABELS) if name in known), "label")


def target_of(source: Path, out: Path) -> Path:
    """The file in the folder `out` that gets the labels of `source`: of its name, or for a .bin the benchmark's.

    >>> target_of(Path("a/tile.laz"), Path("out")).as_posix()
    'out/tile.laz'
    """
    return out / (prediction_file(source) if source.suffix.lower() == ".bin" else source.name)


def write_again(source: Path, target: Path, content: PointLabels) -> None:
    """Write `source` again to `target` (`target_of`), with labels for its points.

    Written: .las and .laz, in the classification (see `las.write_labels`); .ply, as a property of the vertices; .npz,
    as an array beside the others; .npy, as a column or a field; .txt, .xyz and .pts, as a column. A field that the
    file has gets the new values and keeps its type; otherwise one is added at the end. Of a .bin the labels alone are
    written, as SemanticKITTI's benchmark wants them.

    Raises InputError with the path for another suffix, another number of labels than points, and labels that the
    type of the field does not hold.
    """
    writer = WRITERS.get(source.suffix.lower())
    if writer is None:
        raise InputError(
            f"{source}: labels are written to {' '.join(WRITERS)}, not to {source.suffix}; convert it first"
        )
    writer(source, target, content)


def _write_las(source: Path, target: Path, content: PointLabels) -> None:
    usual = content.usual if content.usual and las.has_field(source, content.usual) else "classification"
    las.write_labels(source, content.labels, target, content.extra, content.name or usual)


def _write_npz(source: Path, target: Path, content: PointLabels) -> None:
    """All other members keep their bytes; probabilities are one array (P, C)."""
    with zipfile.ZipFile(source) as archive:
        members = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        name = content.field_of(list(members))
        old = npz_arrays(source, lambda _: {name: name})[0][name] if name in members else None
        arrays = {name: held(content.labels, old, source, name)}
        if content.extra:
            arrays["probabilities"] = np.stack([values[:] for values in content.extra.values()], axis=1)
        with writing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as written:
            for entry in members.values():
                if entry.filename.removesuffix(".npy") not in arrays:
                    with archive.open(entry) as old_bytes, written.open(entry, "w", force_zip64=True) as new_bytes:
                        shutil.copyfileobj(old_bytes, new_bytes)
            for each, array in arrays.items():
                with written.open(f"{each}.npy", "w", force_zip64=True) as new_bytes:
                    np.lib.format.write_array(new_bytes, np.ascontiguousarray(array), allow_pickle=False)


def _write_npy(source: Path, target: Path, content: PointLabels) -> None:
    array = npy_array(source)
    records = array.dtype.names is not None
    present = array.dtype.names or (parse_columns(content.columns, any_name=True) if content.columns else ())
    name = content.field_of([each for each in present if each != "_"])
    at = list(present).index(name) if name in present else None
    old = None if at is None else (array[name] if records else array[:, at])
    if records:
        new = held(content.labels, old, source, name)
        columns = {**({name: new} if at is None else {}), **content.extra}
        kind = np.dtype([*((n, array.dtype[n]) for n in present), *((n, v.dtype) for n, v in columns.items())])
        shape: tuple[int, ...] = array.shape
    else:
        kind, new = array.dtype, held(content.labels, array[:, 0] if old is None else old, source, name)
        if content.extra and kind.kind != "f":
            raise InputError(f"{source}: an array of {kind} holds no probabilities; write a .npz")
        shape = (len(array), array.shape[1] + (at is None) + len(content.extra))
    with writing(target) as temporary:
        written = np.lib.format.open_memmap(
            temporary, "w+", kind, shape, fortran_order=not records and np.isfortran(array)
        )
        for rows in _slices(len(array)):
            if records:
                for each in present:
                    written[each][rows] = array[each][rows]
                written[name][rows] = new[rows]
                for each, values in content.extra.items():
                    written[each][rows] = values[rows]
                continue
            written[rows, : array.shape[1]] = array[rows]
            written[rows, array.shape[1] if at is None else at] = new[rows]
            for number, values in enumerate(content.extra.values(), start=array.shape[1] + (at is None)):
                written[rows, number] = values[rows]
        written.flush()
        del written


def _write_ply(source: Path, target: Path, content: PointLabels) -> None:
    write_ply(source, target, content.labels, content.field_of, content.extra)


def _write_text(source: Path, target: Path, content: PointLabels) -> None:
    write_lines(source, target, content.labels, content.columns, content.field_of, content.extra)


def _write_scan(source: Path, target: Path, content: PointLabels) -> None:
    if content.extra or content.name is not None:
        raise InputError(f"{source}: a .label file has the classes alone; leave out --probabilities and --field")
    write_bytes(target, content.labels.astype("<u4").tobytes())


def held(labels: np.ndarray, old: np.ndarray | None, path: Path, name: str) -> np.ndarray:
    """Labels [P] in the type and shape of the values that they replace; without such, in the smallest integer type.

    Raises InputError where the type does not hold them, and for another number.

    >>> held(np.array([3, 250]), np.zeros((2, 1), dtype=np.float32), Path("a.npz"), "label").shape
    (2, 1)
    """
    if old is None:
        return labels.astype(smallest_type(labels))
    if len(old) != len(labels) or old.size != len(labels):
        raise InputError(
            f"{path}: `{name}` has the shape {old.shape}, expected a value for each of {len(labels):,} points"
        )
    new = labels.astype(old.dtype)
    if (new.astype(np.int64) != labels).any():
        raise InputError(
            f"{path}: `{name}` is {old.dtype}, which does not hold labels up to {labels.max()}; choose another field"
        )
    return new.reshape(old.shape)


def smallest_type(values: np.ndarray) -> np.dtype:
    """The smallest integer type that holds whole numbers.

    >>> smallest_type(np.array([0, 255])), smallest_type(np.array([-1, 255]))
    (dtype('uint8'), dtype('int16'))
    """
    low, high = (np.min_scalar_type(each(initial=0)) for each in (values.min, values.max))
    return np.promote_types(low, high)


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS))


WRITERS: dict[str, Callable[[Path, Path, PointLabels], None]] = {
    ".las": _write_las,
    ".laz": _write_las,
    ".ply": _write_ply,
    ".npz": _write_npz,
    ".npy": _write_npy,
    ".txt": _write_text,
    ".xyz": _write_text,
    ".pts": _write_text,
    ".bin": _write_scan,
}
"""By suffix."""
