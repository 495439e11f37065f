"""Clouds in .pcd files: text, binary and compressed.

Read here and not by Open3D, which fills missing lines with zeros without a word, and ends the process on headers that
name some of the fields of a normal.
"""

from __future__ import annotations

import codecs
import re
import struct
from pathlib import Path

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.columns import cloud_of_columns
from image2point.datasets.text import as_bytes, is_number
from image2point.errors import InputError, one_line

LONGEST_HEADER = 64 * 2**10
KINDS = {"F": "f", "I": "i", "U": "u"}
SIZES = {"f": (4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}
PACKED = ("rgb", "rgba")
"""Fields that hold a colour in three bytes of one number."""
LARGEST_RATIO = 300
"""Bytes per compressed byte; LZF gives at most 264 from 3."""


def read_pcd(path: Path) -> Cloud:
    """The points, with `normal_x` ... and `rgb`, or `red` ..., where there are such fields, in capitals or not; other
    fields are passed over. NaN, which depth cameras write where they saw nothing, is left in.

    Raises InputError with the path for a header that lacks a line or contradicts itself, and for more or fewer points
    than it promises.
    """
    with np.errstate(invalid="ignore"):  # what is not finite is seen to later
        return cloud_of_columns(pcd_columns(path), str(path))


def pcd_columns(path: Path) -> dict[str, np.ndarray]:
    """The fields [P] by the names that the file gives them; of fields with several numbers the first.

    A packed colour becomes red, green and blue. Raises InputError as `read_pcd` does.
    """
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    end = re.search(rb"^DATA[ \t]+(\w+)[ \t]*(\r\n|\n)", content[:LONGEST_HEADER], re.MULTILINE | re.IGNORECASE)
    if end is None:
        raise InputError(f"{path}: damaged, or not a .pcd file: its header has no line DATA")
    fields, kind, points = _header(path, content[: end.start()].decode("latin-1"))
    body, form = content[end.end() :], end[1].lower()
    if form == b"ascii":
        columns = _text(path, body, fields, kind, points)
    elif form == b"binary":
        if len(body) < points * kind.itemsize:
            raise InputError(f"{path}: the header promises {points} points, {len(body) // kind.itemsize} are there")
        rows = np.frombuffer(body, kind, points)
        columns = {name: rows[key].reshape(points, -1)[:, 0] for key, name in fields.items()}
    elif form == b"binary_compressed":
        columns = _compressed(path, body, fields, kind, points)
    else:
        raise InputError(f"{path}: expected DATA ascii, binary or binary_compressed, found {form.decode('latin-1')}")
    packed = next((columns[name] for name in columns if name.lower() in PACKED), None)
    if packed is not None:
        columns |= dict(zip(("red", "green", "blue"), _bytes_of_colours(packed), strict=True))
    return columns


def _header(path: Path, text: str) -> tuple[dict[str, str], np.dtype, int]:
    """Key of numpy's field → the file's own name of it, the type of a point, and the number of points."""
    lines = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words:
            lines[words[0].upper()] = words[1:]
    if "COLUMNS" in lines:  # so up to version 0.5
        lines.setdefault("FIELDS", lines["COLUMNS"])
    if "POINTS" in lines and not {"WIDTH", "HEIGHT"} & set(lines):  # so up to version 0.6
        lines |= {"WIDTH": lines["POINTS"], "HEIGHT": ["1"]}
    if lines.get("WIDTH") and lines.get("HEIGHT") and "POINTS" not in lines:
        width, height = _numbers(path, "WIDTH", lines)[0], _numbers(path, "HEIGHT", lines)[0]
        lines["POINTS"] = [str(width * height)]
    for key in ("FIELDS", "SIZE", "TYPE", "WIDTH", "HEIGHT", "POINTS"):
        if not lines.get(key):
            raise InputError(f"{path}: damaged, or not a .pcd file: its header has no line {key}")
    names, types = lines["FIELDS"], lines["TYPE"]
    sizes, counts = _numbers(path, "SIZE", lines), _numbers(path, "COUNT", {"COUNT": ["1"] * len(names), **lines})
    width, height, points = (_numbers(path, key, lines)[0] for key in ("WIDTH", "HEIGHT", "POINTS"))
    if not len(names) == len(sizes) == len(counts) == len(types):
        raise InputError(f"{path}: FIELDS, SIZE, TYPE and COUNT of the header have different lengths")
    if points != width * height:
        raise InputError(f"{path}: the header promises {points} points, but WIDTH times HEIGHT is {width * height}")
    kinds = []
    for number, (size, letter, count) in enumerate(zip(sizes, types, counts, strict=True)):
        short = KINDS.get(letter.upper(), "")
        if size not in SIZES.get(short, ()) or not 1 <= count <= 4096:
            raise InputError(f"{path}: the header has a field {names[number]!r} of {count} times {letter}{size}")
        kinds.append((f"{number}", f"<{short}{size}", (count,)))
    # Padding has one name, `_`, however often it occurs.
    return {str(number): name for number, name in enumerate(names)}, np.dtype(kinds), points


def _numbers(path: Path, key: str, lines: dict[str, list[str]]) -> list[int]:
    if not all(re.fullmatch(r"\d{1,15}", word) for word in lines[key]):
        found = " ".join(lines[key])[:60]
        raise InputError(f"{path}: expected whole numbers in the line {key} of the header, found {found!r}")
    return [int(word) for word in lines[key]]


def _text(path: Path, body: bytes, fields: dict[str, str], kind: np.dtype, points: int) -> dict[str, np.ndarray]:
    width = sum(kind[key].shape[0] for key in fields)
    rows = [line.replace(b",", b" ").split() for line in body.splitlines() if line.strip()]
    complete = sum(len(row) >= width for row in rows)
    if len(rows) != points or complete != points:
        raise InputError(f"{path}: the header promises {points} points, found {complete} complete lines")
    columns, at = {}, 0
    for key, name in fields.items():
        base = kind[key].base
        try:
            values = np.array([row[at] for row in rows], dtype=np.float64)
        except ValueError:
            row = next(number for number, row in enumerate(rows) if not is_number(row[at]))
            wrong = one_line(rows[row][at][:40].decode("latin-1"))
            raise InputError(f"{path} point {row}: expected a number, found {wrong!r}") from None
        with np.errstate(invalid="ignore", over="ignore"):
            columns[name] = values.astype(base) if name.lower() in PACKED else values
        if base == np.uint8:
            columns[name] = as_bytes(values)
        at += kind[key].shape[0]
    return columns


def _compressed(path: Path, body: bytes, fields: dict[str, str], kind: np.dtype, points: int) -> dict[str, np.ndarray]:
    """All values of the first field, then all of the second: that is what is compressed."""
    packed, unpacked = struct.unpack("<II", body[:8]) if len(body) >= 8 else (0, 0)
    wanted = points * kind.itemsize
    if unpacked != wanted or packed > len(body) - 8 or unpacked > LARGEST_RATIO * packed:
        raise InputError(
            f"{path}: the header promises {points} points, {wanted:,} bytes; found {unpacked:,} bytes from {packed:,} "
            f"compressed ones, of which {max(len(body) - 8, 0):,} are there"
        )
    content = _lzf(body[8 : 8 + packed], unpacked)
    if len(content) != unpacked:
        raise InputError(f"{path}: damaged: {len(content):,} of {unpacked:,} bytes could be decompressed")
    columns, at = {}, 0
    for key, name in fields.items():
        values = np.frombuffer(content, kind[key].base, points * kind[key].shape[0], at)
        columns[name] = values.reshape(points, -1)[:, 0]
        at += values.nbytes
    return columns


def _lzf(packed: bytes, size: int) -> bytes:
    """Marc Lehmann's LZF, undone; what could be undone of damaged input, and at most `size` bytes."""
    out, at = bytearray(), 0
    while at < len(packed) and len(out) < size:
        control = packed[at]
        at += 1
        if control < 32:  # a run of control + 1 bytes
            out += packed[at : at + control + 1]
            at += control + 1
            continue
        length, back = control >> 5, (control & 31) << 8
        if length == 7:
            length += packed[at] if at < len(packed) else 0
            at += 1
        if at >= len(packed):
            break
        start = len(out) - back - packed[at] - 1
        at += 1
        if start < 0:
            break
        chunk = bytes(out[start : start + length + 2])
        out += (chunk * (length + 2))[: length + 2]  # it may overlap what it makes: a pattern that repeats
    return bytes(out[:size])


def _bytes_of_colours(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Red, green and blue, uint8 [P] each: the three low bytes of each value, of floats those of their bits."""
    bits = packed.astype(np.float32).view(np.uint32) if packed.dtype.kind == "f" else packed.astype(np.uint32)
    red, green, blue = ((bits >> shift & 255).astype(np.uint8) for shift in (16, 8, 0))
    return red, green, blue
