"""What `image2point data` prints: facts of datasets, reports, JSON, and progress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image2point.errors import printable
from image2point.files import write_text

if TYPE_CHECKING:
    from rich.progress import Progress

    from image2point.datasets.catalogue import Dataset
    from image2point.datasets.verify import Report


def facts(dataset: Dataset) -> dict[str, Any]:
    """All that is known of a dataset, by the names of its entry."""
    return {key: value for key, value in asdict(dataset).items() if key != "load"}


def text(value: Any) -> str:
    """A nested value in one line."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {text(each)}".strip() for key, each in value.items() if each not in (None, ""))
    if isinstance(value, (list, tuple)):
        return ", ".join(text(each) for each in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_report(report: Report) -> None:
    """A table of counts, then notes and problems."""
    print(f"{report.dataset}: {len(report.files)} files, {report.bytes:,} bytes")
    names = list(dict.fromkeys(name for split in report.splits.values() for name in split.per_class))
    width = max(map(len, names), default=0)
    unit = "points of" if report.of_points else "class"
    width = max(width, len(unit))
    print(f"{unit:{width}}  " + "  ".join(f"{split:>10}" for split in report.splits))
    for name in names:
        counts = (split.per_class.get(name, 0) for split in report.splits.values())
        print(f"{name:{width}}  " + "  ".join(f"{count:10,}" for count in counts))
    print(
        f"{'clouds' if report.of_points else 'all':{width}}  "
        + "  ".join(f"{split.clouds:10,}" for split in report.splits.values())
    )
    for name, split in report.splits.items():
        low, high = split.points
        size = f"{low}" if low == high else f"{low} to {high}"
        print(f"{name}: {size} points a cloud, content {split.content}")
    for title, messages in (("notes", report.notes), ("problems", report.problems)):
        print(f"{title}: {len(messages)}")
        for message in messages:
            print(f"  {printable(message)}")


def write_json(path: Path | None, value: Any) -> bool:
    """Write JSON where asked for; True where it went to the terminal, and nothing else should."""
    if path is None:
        return False
    text = json.dumps(value, indent=1)
    if str(path) == "-":
        print(text)
        return True
    write_text(path, text + "\n")
    return False


@contextmanager
def progress(unit: str, what: str) -> Iterator[Progress]:
    """A progress bar on stderr; none if stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn(what), BarColumn(), count, TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        yield bar
