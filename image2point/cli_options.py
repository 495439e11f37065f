"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from image2point.files import tried_target, user_path
from image2point.storage import fetched

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the run directories.", callback=user_path)]
RunPath = Annotated[Path, typer.Argument(help="Directory of a finished run, or its URL.", callback=fetched)]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045  # typer reads it at run time, on Python 3.10 too
    typer.Argument(metavar="[KEY=VALUE]", help="Settings in place of the config's, e.g. data.shots=10 seed=1."),
]
Json = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--json", help="Write everything to this file too, as JSON.", callback=tried_target),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, to the same result.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing run of this name.")]
