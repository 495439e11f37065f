"""Measurements as a table on the screen and as a JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from image2point import files


def show_rows(machine: dict[str, Any], rows: Iterable[dict[str, Any]], json_file: Path | None) -> None:
    """Print each row when it is there, and at the end write all of them with the machine's ceilings to `json_file`."""
    print("  ".join(f"{key} {_text(value)}" for key, value in machine.items()), flush=True)
    kept, header = [], ""
    for row in rows:
        kept.append(row)
        if row.get("remark"):
            print(f"{row['engine']}: {row['remark']}", flush=True)
        present = {key: value for key, value in row.items() if key != "remark"}
        widths = {key: max(len(key), 10) for key in present}
        titles = "  ".join(key.rjust(widths[key]) for key in present)
        if titles != header:
            print(titles, flush=True)
            header = titles
        print("  ".join(_text(value).rjust(widths[key]) for key, value in present.items()), flush=True)
    if json_file is not None:
        files.write_text(json_file, json.dumps({"machine": machine, "rows": kept}, indent=1))
        print(f"written: {files.shown(json_file)}")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
