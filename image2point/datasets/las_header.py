"""What the header of a LAS or LAZ file promises, held against the size of the file before a library allocates it.

ASPRS, "LAS Specification 1.4 - R15", 2019; Isenburg, "LASzip: lossless compression of LiDAR data", 2013.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from image2point.errors import InputError

_COMPRESSED = 0xC0
"""Bits of the point format by which LASzip says that points are compressed."""
_EXTENDED = struct.Struct("<2x16sHQ32s")
"""The header of an extended record of variable length; its third number is how many bytes follow."""
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
"""Layers of a chunk by the kind of item in LASzip's record: points, colours, colours with infrared, waveforms. Further
bytes (14) have one each. Older kinds have no layers."""
_LARGEST_CHUNK = 2**24
"""Points of a chunk that may be missing from the file, as where a short file has one chunk of the usual size."""


def check_header(path: Path) -> None:
    """Refuse a file whose header, records or table of chunks promise more bytes than it has.

    Raises InputError, which says what is promised. A file that passes may be damaged still.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(247)
        if head[:4] != b"LASF" or len(head) < 227:
            raise InputError(f"{path}: damaged, truncated or not a LAS file: no header that begins with LASF")
        (start,) = struct.unpack_from("<I", head, 96)
        if start > size:
            raise _promised(path, f"points from byte {start:,} on", size)
        _check_count(path, head, 100, 54, size)
        if (head[24], head[25]) >= (1, 4) and len(head) == 247:
            _check_count(path, head, 243, 60, size)
            first, count = struct.unpack_from("<QI", head, 235)
            _check_extended(path, file, first, count, size)
        if head[104] & _COMPRESSED:
            _check_table(path, file, start, size)


def _check_count(path: Path, head: bytes, at: int, smallest: int, size: int) -> None:
    """laspy would look for each of a billion records."""
    (count,) = struct.unpack_from("<I", head, at)
    if count * smallest > size:
        raise _promised(path, f"{count:,} records", size)


def _check_extended(path: Path, file: BinaryIO, at: int, count: int, size: int) -> None:
    for _ in range(count):
        file.seek(min(at, size))
        found = file.read(_EXTENDED.size)
        if len(found) < _EXTENDED.size:
            raise _promised(path, f"a record at byte {at:,}", size)
        length = _EXTENDED.unpack(found)[2]
        at += _EXTENDED.size + length
        if at > size:
            raise _promised(path, f"a record of {length:,} bytes", size)


def _check_table(path: Path, file: BinaryIO, start: int, size: int) -> None:
    """The table of chunks lies where the first eight bytes of the points say, or the last eight of the file if these
    are -1; it begins with a version and the number of chunks, of which each takes some bytes."""
    for place in (start, size - 8):
        file.seek(max(place, 0))
        found = file.read(8)
        at = int.from_bytes(found, "little", signed=True)
        if at != -1:
            break
    if not 0 <= at <= size - 8:
        raise _promised(path, f"a table of chunks at byte {at:,}", size)
    file.seek(at + 4)
    count = int.from_bytes(file.read(4), "little")
    if count > size:
        raise _promised(path, f"{count:,} chunks", size)


def check_chunks(
    path: Path, file: BinaryIO, table: Sequence[tuple[int, int]], record: bytes, chunk: int, header: Any
) -> None:
    """Refuse chunks that promise more points or bytes than there are, or layers larger than the chunk.

    table: points and bytes of each chunk. record: LASzip's. chunk: points of all chunks but the last; 0: they vary.
    Raises InputError, which says what is promised.
    """
    size, promised = path.stat().st_size, int(header.point_count)
    if sum(each[1] for each in table) > size:
        raise _promised(path, f"chunks of {sum(each[1] for each in table):,} bytes", size)
    points = max(chunk if chunk > _LARGEST_CHUNK else 0, sum(each[0] for each in table[:-1]))
    if points > promised:
        raise InputError(f"{path}: damaged or truncated: its chunks promise {points:,} points, the header {promised:,}")
    items = [struct.unpack_from("<HH", record, 34 + 6 * at) for at in range(struct.unpack_from("<H", record, 32)[0])]
    layers = sum(length if kind == 14 else _LAYERS.get(kind, 0) for kind, length in items)
    if not layers:
        return
    at, first = header.offset_to_point_data + 8, sum(length for _, length in items)  # a chunk begins with a whole point
    for _, length in table:
        file.seek(at + first + 4)  # and the number of points
        found = file.read(4 * layers)
        told = sum(struct.unpack(f"<{len(found) // 4}I", found[: len(found) // 4 * 4]))
        if told > length:
            raise _promised(path, f"layers of {told:,} bytes in a chunk of {length:,}", size)
        at += length


def _promised(path: Path, what: str, size: int) -> InputError:
    return InputError(f"{path}: damaged or truncated: the header promises {what}, the file has {size:,} bytes")
