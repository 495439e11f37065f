"""Clouds in .ply files written again with a label for each vertex; all other properties and elements stay."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image2point.datasets.ply import TYPES, Element, binary_kind, header_of, skipped
from image2point.datasets.text_labels import with_words
from image2point.errors import InputError
from image2point.files import write_bytes

NAMES = {kind: name for name, kind in reversed(TYPES.items())}
"""What a header calls a type."""


def write_ply(
    source: Path,
    target: Path,
    labels: np.ndarray,
    field_of: Callable[[Sequence[str]], str],
    extra: Mapping[str, Any],
) -> None:
    """Write a .ply file again with `labels` [P] as a property of its vertices, and `extra` properties float [P].

    field_of: the name of that property, among those that there are; one that the vertices have keeps its type.

    Raises InputError as reading does, for another number of labels, labels that do not fit the type, vertices
    with lists, and text of which a vertex is no line.
    """
    content = source.read_bytes()
    mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    content = content[len(mark) :]
    order, elements, start = header_of(source, content)
    at = next((number for number, each in enumerate(elements) if each.name == "vertex"), None)
    if at is None or any(each.count for each in elements[at].properties):
        raise InputError(f"{source}: expected vertices without lists, to write a label to each")
    vertices = elements[at]
    if vertices.rows != len(labels):
        raise InputError(f"{source} has {vertices.rows:,} vertices, found {len(labels):,} labels to write")
    name = field_of([each.name for each in vertices.properties])
    old = next((each for each in vertices.properties if each.name == name), None)
    kind = old.kind if old else "u1" if labels.max(initial=0) < 256 and labels.min(initial=0) >= 0 else "i4"
    if (labels.astype(kind).astype(np.int64) != labels).any():
        raise InputError(
            f"{source}: the property {name} is {NAMES[kind]}, which does not hold labels up to {labels.max()}"
        )
    added = {} if old else {name: kind}
    added |= dict.fromkeys(extra, "f4")
    before = content[:start]
    head = _with_properties(before, [f"property {NAMES[kind]} {each}" for each, kind in added.items()])
    values = {name: labels, **{each: column[:] for each, column in extra.items()}}
    body = _Body(source, content[start:], elements[:at], vertices, added, values)
    write_bytes(target, mark + head + (body.binary(order) if order else body.text()))


def _with_properties(head: bytes, lines: Sequence[str]) -> bytes:
    """The header with further properties of the vertices behind those that they have."""
    found = list(re.finditer(rb"[^\r\n]*(\r\n|\n|\r)", head))
    at = next(number for number, each in enumerate(found) if each[0].split()[:2] == [b"element", b"vertex"])
    last = at + 1
    while found[last][0].split()[:1] in ([b"property"], [b"comment"]):
        last += 1
    place = found[last].start()
    return head[:place] + b"".join(line.encode("latin-1") + found[at][1] for line in lines) + head[place:]


@dataclass(frozen=True)
class _Body:
    """What stands behind a header: `before`, then the vertices that get `values` by name, of which `added` are new
    properties with their types; what follows them stays."""

    path: Path
    content: bytes
    before: Sequence[Element]
    vertices: Element
    added: Mapping[str, str]
    values: Mapping[str, Any]

    def binary(self, order: str) -> bytes:
        start = skipped(self.path, self.content, order, self.before)
        kind = binary_kind(self.vertices, order)
        rows = np.frombuffer(self.content, kind, self.vertices.rows, start)
        names = kind.names or ()
        new = np.empty(len(rows), [*((n, kind[n]) for n in names), *((n, order + k) for n, k in self.added.items())])
        for name in names:
            new[name] = rows[name]
        for name, column in self.values.items():
            new[name] = column
        return self.content[:start] + new.tobytes() + self.content[start + rows.nbytes :]

    def text(self) -> bytes:
        lines = self.content.decode("latin-1").splitlines(keepends=True)
        filled = [number for number, line in enumerate(lines) if line.strip()]
        first = sum(each.rows for each in self.before)
        names = [each.name for each in self.vertices.properties]
        labels, *more = self.values.items()
        at = None if labels[0] in self.added else names.index(labels[0])
        for row, number in enumerate(filled[first : first + self.vertices.rows]):
            if len(lines[number].split()) != len(names):
                raise InputError(
                    f"{self.path}: vertex {row}: expected a line of {len(names)} numbers, to write a label behind them"
                )
            words = [f"{column[row]:.6g}" for _, column in more]
            lines[number] = with_words(lines[number], str(labels[1][row]), at, words, comments=False)
        return "".join(lines).encode("latin-1")
