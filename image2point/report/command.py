"""The command that draws finished runs: a page, a table, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from image2point.errors import InputError


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of finished runs.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The page to write; RUN/report.html for one run, report.html beside them for several."),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown and write no page.")
    ] = False,
    vector: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--figures", help="Write the figures there as well, as SVG and PDF; needs matplotlib."),
    ] = None,
) -> None:
    """Rebuild the page of a run, or compare several on one page and in a table. Seeds of one arm are put together.

    Examples:

        image2point report runs/demo/imagenet runs/demo/random runs/demo/scratch --out demo.html

        image2point report runs/resnet50_io_norm --figures figures
    """
    from image2point import report as page

    if markdown and out:
        raise InputError("--out names a page and --markdown writes none: give one of them")
    if markdown and vector:
        raise InputError("--figures goes with a page and --markdown writes none: give one of them")
    if markdown:
        print(page.markdown(runs), end="")
        return
    target = out or ((runs[0] if len(runs) == 1 else runs[0].parent) / "report.html")
    page.build(runs, target)
    page.print_table(runs)
    print(f"report: {target}")
    if vector:
        print("figures: " + ", ".join(map(str, page.write_figures(runs, vector))))
