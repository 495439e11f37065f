"""The command that uses a run or a saved network on files: a class for each cloud, or a label for each point."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer

from image2point.errors import InputError, printable
from image2point.storage import fetched


def predict(
    run: Annotated[
        Path,
        typer.Argument(help="Directory of a finished run, folder of a saved network, or a URL.", callback=fetched),
    ],
    files: Annotated[list[Path], typer.Argument(help="Clouds, meshes or scenes, or their URLs; see below.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Segmentation: folder that gets each file again, with the labels of its points."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Segmentation: write the probability of each class too.")
    ] = False,
    label_field: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--field", help="Segmentation: the field for the labels; the file's own field of labels without."),
    ] = None,
    ids: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--id", metavar="CLASS=ID", help="Segmentation: the raw id of a class, if not that of the run."),
    ] = None,
    voxels: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Segmentation: voxels that the network sees at once; data.tiles.voxels without."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files in --out.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Classification: classes to show per file.")] = 5,
    points: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1, help="Classification: points taken from each cloud or mesh; as many as in training without."
        ),
    ] = None,
    normalise: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--normalise/--no-normalise",
            help="Classification: move and scale each cloud into the unit sphere, or not; as in training without.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Classify point clouds or meshes with a finished run or a saved network, or label every point of scenes.

    A classification takes .ply .pcd .xyz .pts .off .obj .stl .npy .npz and prints the classes of each file. A
    segmentation takes .las .laz .ply .pcd .npz .npy .txt .xyz .pts .bin and prints how many points of each class a
    file has; with --out it writes each file again (.pcd excepted), with its points in their order and all other fields
    as they were, or of a .bin the .label of SemanticKITTI's benchmark. A file that cannot be read is named at the end,
    and does not keep the others from their results.

    Examples:

        image2point predict runs/resnet50_io_norm chair.off scan.ply

        image2point predict runs/lidar tile_1.laz tile_2.laz --out labelled --id ground=2 --id building=6
    """
    from image2point.jobs.sources import task_of

    if not (task := task_of(run)).of_points:
        if out is not None or probabilities or label_field or ids or voxels or overwrite:
            raise InputError(
                f"{run} is a {task.name}: it has a class for each file, which is printed (--json for programs), "
                "and no labels of points; leave out --out, --probabilities, --field, --id, --voxels and --overwrite"
            )
        problems = _classify(run, files, top, points, normalise, as_json)
    else:
        if top != 5 or points is not None or normalise is not None:
            raise InputError(
                f"{run} is a {task.name}: it labels every point of a file as it is; leave out --top, --points and "
                "--[no-]normalise"
            )
        if out is None and (probabilities or label_field or ids or overwrite):
            raise InputError("--probabilities, --field, --id and --overwrite say how files are written: give --out too")
        problems = _label(run, files, out, probabilities, label_field, ids or [], overwrite, voxels, as_json)
    for problem in problems[:-1]:
        print(printable(f"error: {' '.join(problem.split())}"), file=sys.stderr)
    if problems:
        raise InputError(problems[-1])


def _classify(
    run: Path, files: Sequence[Path], top: int, points: int | None, normalise: bool | None, as_json: bool
) -> list[str]:
    """Print the classes of the good files; what is wrong with the others."""
    from image2point.jobs.reuse import predict_each

    predictions = list(predict_each(run, files, top, points, normalise))
    good = [prediction for prediction in predictions if not prediction.problem]
    if as_json:
        print(
            json.dumps([{"file": p.file, "classes": dict(zip(p.classes, p.probabilities, strict=True))} for p in good])
        )
    elif good:
        rows = [
            ("" if rank else prediction.file, name, f"{100 * share:.1f} %")
            for prediction in good
            for rank, (name, share) in enumerate(zip(prediction.classes, prediction.probabilities, strict=True))
        ]
        _show(("file", "class", "probability"), rows)
    return [prediction.problem for prediction in predictions if prediction.problem]


def _label(
    run: Path,
    files: Sequence[Path],
    out: Path | None,
    probabilities: bool,
    name: str | None,
    ids: Sequence[str],
    overwrite: bool,
    voxels: int | None,
    as_json: bool,
) -> list[str]:
    """Label the files, and print how many points of each class the good ones have; what is wrong with the others."""
    from image2point.jobs.label_files import label_files

    with _bar() as progress:
        found = list(
            label_files(run, files, out, probabilities, name, _numbers(ids), overwrite, voxels, progress=progress)
        )
    good = [each for each in found if not each.problem]
    if as_json:
        print(json.dumps([{"file": f.file, "points": dict(f.counts), "written": f.written or None} for f in good]))
    elif good:
        rows = [
            (
                "" if row else each.file,
                name,
                f"{count:,}",
                f"{100 * count / sum(each.counts.values()):.1f} %",
                *([] if out is None else ["" if row else each.written]),
            )
            for each in good
            for row, (name, count) in enumerate(each.counts.items())
        ]
        _show(("file", "class", "points", "share", *([] if out is None else ["written"])), rows)
    return [each.problem for each in found if each.problem]


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr, one task for each file; none if stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as shown:
        task = shown.add_task("loading the network", total=None)

        def progress(what: str, done: int, of: int) -> None:
            if what != shown.tasks[0].description:
                shown.reset(task, description=what, total=of)
            shown.update(task, completed=done)

        yield progress


def _numbers(ids: Sequence[str]) -> dict[str, int]:
    """Raw ids by class, from CLASS=ID."""
    found = {}
    for text in ids:
        name, _, number = text.rpartition("=")
        if not name or not number.strip().lstrip("-").isdecimal():
            raise InputError(f"--id: expected CLASS=ID with a whole number, such as ground=2, found {text!r}")
        found[name] = int(number)
    return found


def _show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    numbers = ("points", "share")
    columns = [Column(each, overflow="fold", justify="right" if each in numbers else "left") for each in headings]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    Console(highlight=False).print(table)
