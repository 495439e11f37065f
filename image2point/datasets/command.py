"""`image2point data`: which datasets there are, and getting, preparing and verifying them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from image2point.datasets.command_output import facts, print_report, progress, text, write_json
from image2point.errors import InputError, printable

if TYPE_CHECKING:
    from image2point.datasets.catalogue import Options

app = typer.Typer(
    help="List, get, prepare and verify datasets.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)

Name = Annotated[str, typer.Argument(help="Name of a dataset, see `image2point data list`.")]
Root = Annotated[Path, typer.Argument(help="The folder that holds the dataset, or its URL.")]
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
Seed = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=0, help="Seed of the sampling, together with the name of each file; 0 without it."),
]
Normalise = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option("--normalise/--as-is", help="Into the unit sphere or not; without it what `data info` says."),
]
Columns = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="What the columns of .xyz and .pts are, such as 'x y z red green blue'; _ leaves one out."),
]
Config = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--config", metavar="FILE",
        help="Read the files as the data section of this config says: scenes need its labels and names of fields.",
    ),
]  # fmt: skip
NanPoints = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="drop (as without it) leaves out points that a camera did not see (NaN), refuse refuses their file."
    ),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read.")]


@app.command("list")
def list_(json_file: Json = None) -> None:
    """Every dataset that can be read, by name.

    Example:

        image2point data list
    """
    from image2point.datasets.registry import DATASETS

    if not write_json(json_file, {name: facts(dataset) for name, dataset in DATASETS.items()}):
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
    if write_json(json_file, facts(dataset)):
        return
    print(dataset.title)
    for key, value in facts(dataset).items():
        if key not in ("name", "title") and value:
            print(f"  {key}: {value if isinstance(value, str) else text(value)}")


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
    with progress("bytes", "fetching") as bar:
        task = bar.add_task("fetching", total=None)
        place = fetch_archive(source, into, lambda done, total: bar.update(task, completed=done, total=total))
    if not write_json(json_file, {"dataset": name, "url": source.url, "root": str(place)}):
        print(f"unpacked to {place}; check it with: image2point data verify {name} {place}")


@app.command()
def prepare(
    name: Name,
    root: Root,
    out: Annotated[Path, typer.Argument(help="The folder to write, or its URL.")],
    variant: Variant = None,
    classes: Classes = None,
    points: Points = None,
    seed: Seed = None,
    normalise: Normalise = None,
    columns: Columns = None,
    nan_points: NanPoints = None,
    config: Config = None,
    encoding: Annotated[
        str,
        typer.Option(help="exact: bit for bit; int16: 6 bytes a point, with the largest error stated."),
    ] = "exact",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip and list what cannot be read instead of stopping.")
    ] = False,
    workers: Workers = 0,
    executor: Annotated[
        str, typer.Option(help="Whose processes they are: local, or ray (the extra `ray`; all machines see ROOT).")
    ] = "local",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace prepared data that are there.")] = False,
    json_file: Json = None,
) -> None:
    """Turn a dataset into memory-mapped shards, which load at once (`data.name=prepared data.root=OUT`).

    Examples:

        image2point data prepare modelnet data/modelnet40_ply_hdf5_2048 data/modelnet40

        image2point data prepare modelnet_off data/ModelNet40 data/modelnet40_2048 --points 2048 --workers 4

        image2point data prepare scenes data/town data/town_prepared --config town.yaml

        image2point data prepare folder data/parts s3://bucket/parts
    """
    from image2point.datasets.prepare import prepare_dataset
    from image2point.datasets.registry import load_dataset
    from image2point.files import shown

    options = _options(
        config, [] if skip_bad else None, variant=variant, classes=classes, points=points, seed=seed,
        normalise=normalise, columns=columns, nan_points=nan_points,
    )  # fmt: skip
    splits = load_dataset(name, root, options)
    parts = (splits.train, splits.validation, splits.test)
    settings = {key: value for key, value in asdict(options).items() if key != "skipped"}
    with progress("clouds", "preparing") as bar:
        task = bar.add_task("preparing", total=sum(len(part) for part in parts if part is not None))
        summary = prepare_dataset(
            splits, out, name, settings, encoding, skip_bad, workers, overwrite=overwrite,
            progress=lambda count: bar.advance(task, count), executor=executor,
        )  # fmt: skip
    skipped = [*(options.skipped or []), *summary.skipped]
    result = {**asdict(summary), "skipped": skipped, "out": shown(out), "encoding": encoding}
    if write_json(json_file, result):
        return
    print(f"{shown(out)}: {', '.join(f'{count:,} {split}' for split, count in summary.clouds.items())} clouds, "
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
    seed: Seed = None,
    normalise: Normalise = None,
    columns: Columns = None,
    nan_points: NanPoints = None,
    config: Config = None,
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
    from image2point.storage import fetched

    root = fetched(root)
    options = _options(
        config, None, variant=variant, classes=classes, points=points, seed=seed, normalise=normalise, columns=columns,
        nan_points=nan_points,
    )  # fmt: skip
    with progress("clouds", "reading") as bar:
        task = bar.add_task("reading", total=None)
        report = verify_dataset(find_dataset(name), root, options, workers, lambda count: bar.advance(task, count))
    if not write_json(json_file, asdict(report)):
        print_report(report)
    wrong = report.problems + (report.notes if strict else [])
    if wrong:
        raise InputError(f"{root}: {len(wrong)} problems, the first: {wrong[0]}")


def _options(config: Path | None, skipped: list[str] | None, **given: Any) -> Options:
    """The options of a config, or the usual ones, with those that are given on top."""
    from image2point.config.reading import load_config
    from image2point.datasets.catalogue import Options
    from image2point.datasets.registry import options_of

    if given["nan_points"] not in (None, "drop", "refuse"):
        raise InputError(f"--nan-points must be drop or refuse, found {given['nan_points']!r}")
    base = Options() if config is None else options_of(load_config(config).data)
    return replace(base, skipped=skipped, **{name: value for name, value in given.items() if value is not None})
