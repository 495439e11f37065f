"""The HTML page: one file that holds its data, its figures and the script that draws them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from image2point.errors import InputError
from image2point.files import finite, target_path, write_text
from image2point.report import charts
from image2point.report.arms import Arm, group
from image2point.report.read import Record, read_runs
from image2point.report.sections import Sections
from image2point.report.statement import statement, title
from image2point.report.style import SCRIPT, STYLE

HINT = "Drag in a figure to zoom, double-click to go back."
HINT_ARMS = "Click an arm in a legend to hide it in every figure."


def build(runs: Iterable[str | Path], out: str | Path) -> Path:
    """Write the report of one run, or of several side by side, as a page that needs no network; return its path.

    Runs that differ only in their seed are one arm, shown as mean ± sample standard deviation.
    Raises InputError naming the file where a run directory is missing, unfinished or damaged, and where `out` cannot
    be written.
    """
    return write_page(read_runs(runs), out)


def write_page(records: Iterable[Record], out: str | Path) -> Path:
    """The same, of runs as they were read."""
    path = target_path(out)
    page = render(group(records))
    try:
        write_text(path, page)
    except OSError as error:
        raise InputError(f"cannot write the report {path}: {error.strerror or error}") from None
    return path


def render(arms: Sequence[Arm]) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    heading = title(arms)
    page = Sections(arms)
    sections = [
        page.results(),
        page.learning(),
        page.collapse(),
        page.depth(),
        page.geometry(),
        page.per_class(),
        page.confusion(),
        page.clouds(),
        page.moved(),
        page.filled(),
        page.provenance(),
    ]
    body = "\n".join(
        [
            f"<h1>{escape(heading)}</h1>",
            f'<p class="lead">{escape(statement(arms))}</p>',
            page.warnings(),
            page.contents(),
            f'<p class="hint">{HINT if len(arms) == 1 else f"{HINT} {HINT_ARMS}"}</p>',
            *sections,
        ]
    )
    colours = "".join(f"--arm-{index}: {charts.colour(index)}; " for index in range(len(arms)))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(heading)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}:root {{ {colours}}}</style>
</head>
<body>
<main>
{body}
</main>
<script>{get_plotlyjs()}</script>
<script type="application/json" id="figures">{_embed(page.figures)}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _embed(value: Any) -> str:
    """JSON that may stand inside a script element: no '<', and null where a number is not finite."""
    text = json.dumps(finite(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
