"""`image2point data`: which datasets there are, and getting, preparing and verifying them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from image2point.errors import InputError, printable
from image2point.files import user_path, write_text

if TYPE_CHECKING:
    from rich.progress import Progress

    from image2point.datasets.catalogue import Dataset, Options
    from image2point.datasets.verify import Report

app = typer.Typer(
    help="List, get, prepare and verify datasets.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)

Name = Annotated[str, typer.Argument(help="Name of a dataset, see `image2point data list`.")]
Root = Annotated[Path, typer.Argument(help="The folder that holds the dataset.")]
Json = Annotated[
    Optional[Path],  # noqa: UP045  # typer reads it at run time, on Python 3.10 too
    typer.Option("--json", metavar="FILE", help="Write the result as JSON too; - prints it instead of the text."),
]
Variant = Annotated[Optional[str], typer.Option(help="Which variant of the dataset, by name.")]  # noqa: UP045
Classes = Annotated[Optional[int], typer.Option(help="ModelNet: 40 or 10 classes; without it all there are.")]  # noqa: UP045
Points = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="Points sampled from each mesh (2048 without it), or drawn from each longer cloud."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the sampling, together with the name of each file.")]
Normalise = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option("--normalise/--as-is", help="Into the unit sphere or not; without it what `data info` says."),
]
Columns = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="What the columns of .xyz and .pts are, such as 'x y z red green blue'; _ leaves one out."),
]
NanPoints = Annotated[
    str, typer.Option(help="drop leaves out points that a camera did not see (NaN), refuse refuses their file.")
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read.")]


@app.command("list")
def list_(json_file: Json = None) -> None:
    """Every dataset that can be read, by name.

    Example:

        image2point data list
    """
    from image2point.datasets.registry import DATASETS

    if not _write_json(json_file, {name: _facts(dataset) for name, dataset in DATASETS.items()}):
        width = max(map(len, DATASETS))
        for name, dataset in DATASETS.items():
            print(f"{name:{width}}  {dataset.title}")


@app.command()
def info(name: Name, json_file: Json = None) -> None:
    """Layout, splits, classes, axes, normalisation, terms and citation of a dataset.

    Example:

        image2point data info scanobjectnn
    """
    from image2point.datasets.registry import find_dataset

    dataset = find_dataset(name)
    if _write_json(json_file, _facts(dataset)):
        return
    print(dataset.title)
    for key, value in _facts(dataset).items():
        if key not in ("name", "title") and value:
            print(f"  {key}: {value if isinstance(value, str) else _text(value)}")


@app.command()
def fetch(
    name: Name,
    into: Annotated[Path, typer.Option(help="The folder to unpack to.")] = Path("data"),
    folder: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Which of the dataset's downloads, by the folder that it makes; without it the first."),
    ] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="Say that you have read the terms, and agree to them.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Show the terms of a dataset, and get it from its official source once they are accepted.

    The same command resumes an interrupted download.

    Example:

        image2point data fetch modelnet --accept-terms
    """
    from image2point.datasets.download import fetch_archive
    from image2point.datasets.registry import find_dataset

    dataset = find_dataset(name)
    if not dataset.downloads:
        how = dataset.get or "it is made or brought by you"
        raise InputError(f"{name} cannot be fetched: {how}. Terms: {dataset.terms}")
    folders = [each.folder for each in dataset.downloads]
    if folder is not None and folder not in folders:
        raise InputError(f"{name} has the downloads {', '.join(folders)}; found {folder!r}")
    source = dataset.downloads[folders.index(folder) if folder else 0]
    if json_file is None or str(json_file) != "-":
        print(f"{dataset.title}\nfrom: {source.url}\nterms: {dataset.terms}\ncite: {dataset.citation}")
        print(f"sha256: {source.sha256 or 'none is published for this file'}")
    if not accept_terms:
        raise InputError("nothing was fetched: read the terms above and add --accept-terms")
    with _progress("bytes", "fetching") as bar:
        task = bar.add_task("fetching", total=None)
        place = fetch_archive(source, into, lambda done, total: bar.update(task, completed=done, total=total))
    if not _write_json(json_file, {"dataset": name, "url": source.url, "root": str(place)}):
        print(f"unpacked to {place}; check it with: image2point data verify {name} {place}")


@app.command()
def prepare(
    name: Name,
    root: Root,
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    variant: Variant = None,
    classes: Classes = None,
    points: Points = None,
    seed: Seed = 0,
    normalise: Normalise = None,
    columns: Columns = None,
    nan_points: NanPoints = "drop",
    encoding: Annotated[
        str,
        typer.Option(help="exact: bit for bit; int16: 6 bytes a point, with the largest error stated."),
    ] = "exact",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip and list what cannot be read instead of stopping.")
    ] = False,
    workers: Workers = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace prepared data that are there.")] = False,
    json_file: Json = None,
) -> None:
    """Turn a dataset into memory-mapped shards, which load at once (`data.name=prepared data.root=OUT`).

    Examples:

        image2point data prepare modelnet data/modelnet40_ply_hdf5_2048 data/modelnet40

        image2point data prepare modelnet_off data/ModelNet40 data/modelnet40_2048 --points 2048 --workers 4
    """
    from image2point.datasets.prepare import prepare_dataset
    from image2point.datasets.registry import load_dataset

    options = _options(variant, classes, points, seed, normalise, columns, nan_points, [] if skip_bad else None)
    splits = load_dataset(name, root, options)
    parts = (splits.train, splits.validation, splits.test)
    settings = {key: value for key, value in asdict(options).items() if key != "skipped"}
    with _progress("clouds", "preparing") as bar:
        task = bar.add_task("preparing", total=sum(len(part) for part in parts if part is not None))
        summary = prepare_dataset(
            splits, out, name, settings, encoding, skip_bad, workers, overwrite=overwrite,
            progress=lambda count: bar.advance(task, count),
        )  # fmt: skip
    skipped = [*(options.skipped or []), *summary.skipped]
    facts = {**asdict(summary), "skipped": skipped, "out": str(out), "encoding": encoding}
    if _write_json(json_file, facts):
        return
    print(f"{out}: {', '.join(f'{count:,} {split}' for split, count in summary.clouds.items())} clouds, "
          f"{summary.bytes:,} bytes, largest error of a coordinate {summary.largest_error:g}")  # fmt: skip
    if skip_bad:
        print(f"skipped: {len(skipped)}")
        for message in skipped:
            print(f"  {printable(message)}")


@app.command()
def verify(
    name: Name,
    root: Root,
    variant: Variant = None,
    classes: Classes = None,
    points: Points = None,
    seed: Seed = 0,
    normalise: Normalise = None,
    columns: Columns = None,
    nan_points: NanPoints = "drop",
    workers: Workers = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Count notes (duplicates, sizes) as problems.")] = False,
    json_file: Json = None,
) -> None:
    """Read every cloud of a dataset, count, hash and compare; list what is wrong, row by row.

    The exit code is 2 where there are problems. Notes (the same cloud twice, another size than the official split) are
    listed too.

    Example:

        image2point data verify modelnet data/modelnet40_ply_hdf5_2048 --json report.json
    """
    from image2point.datasets.registry import find_dataset
    from image2point.datasets.verify import verify_dataset

    root = user_path(root)
    options = _options(variant, classes, points, seed, normalise, columns, nan_points, None)
    with _progress("clouds", "reading") as bar:
        task = bar.add_task("reading", total=None)
        report = verify_dataset(find_dataset(name), root, options, workers, lambda count: bar.advance(task, count))
    if not _write_json(json_file, asdict(report)):
        _print_report(report)
    wrong = report.problems + (report.notes if strict else [])
    if wrong:
        raise InputError(f"{root}: {len(wrong)} problems, the first: {wrong[0]}")


def _options(
    variant: str | None,
    classes: int | None,
    points: int | None,
    seed: int,
    normalise: bool | None,
    columns: str | None,
    nan_points: str,
    skipped: list[str] | None,
) -> Options:
    from image2point.datasets.catalogue import Options

    if nan_points not in ("drop", "refuse"):
        raise InputError(f"--nan-points must be drop or refuse, found {nan_points!r}")
    kind: Any = nan_points
    return Options(variant, classes, points, seed, normalise, skipped, columns, kind)


def _facts(dataset: Dataset) -> dict[str, Any]:
    return {key: value for key, value in asdict(dataset).items() if key != "load"}


def _text(value: Any) -> str:
    """A nested value in one line."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {_text(each)}".strip() for key, each in value.items() if each not in (None, ""))
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(each) for each in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _print_report(report: Report) -> None:
    print(f"{report.dataset}: {len(report.files)} files, {report.bytes:,} bytes")
    names = list(dict.fromkeys(name for split in report.splits.values() for name in split.per_class))
    width = max(map(len, names), default=0)
    print(f"{'class':{width}}  " + "  ".join(f"{split:>10}" for split in report.splits))
    for name in names:
        counts = (split.per_class.get(name, 0) for split in report.splits.values())
        print(f"{name:{width}}  " + "  ".join(f"{count:10,}" for count in counts))
    print(f"{'all':{width}}  " + "  ".join(f"{split.clouds:10,}" for split in report.splits.values()))
    for name, split in report.splits.items():
        low, high = split.points
        size = f"{low}" if low == high else f"{low} to {high}"
        print(f"{name}: {size} points a cloud, content {split.content}")
    for title, messages in (("notes", report.notes), ("problems", report.problems)):
        print(f"{title}: {len(messages)}")
        for message in messages:
            print(f"  {printable(message)}")


def _write_json(path: Path | None, value: Any) -> bool:
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
def _progress(unit: str, what: str) -> Iterator[Progress]:
    """A progress bar on stderr; none if stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn(what), BarColumn(), count, TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        yield bar
