"""The command `image2point sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from image2point.errors import InputError
from image2point.files import shown, tried_target, user_path


def sweep(
    config: Annotated[Path, typer.Argument(help="A config file with a section `sweep` (configs/ablations/...).")],
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[KEY=VALUE]", help="Settings for every run, e.g. data.shots=10."),
    ] = None,
    runs: Annotated[
        Path, typer.Option("--runs", help="Folder in which the sweep gets a folder.", callback=user_path)
    ] = Path("runs"),
    plan: Annotated[bool, typer.Option("--plan", help="Only show the runs and what they will cost.")] = False,
    executor: Annotated[
        str, typer.Option(help="local (processes of this machine), inline (this process), ray, or slurm.")
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of each run; 0 shares the processors.")] = 0,
    devices: Annotated[str, typer.Option(help="GPUs of this machine, one run on each: 0,1,2.")] = "",
    gpus: Annotated[float, typer.Option(min=0, help="GPUs per run that Ray is asked for.")] = 0,
    address: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A Ray cluster that is there already, such as auto; else one is started here."),
    ] = None,
    slurm: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="KEY=VALUE for submitit, e.g. timeout_min=60 gpus_per_node=1 slurm_partition=gpu."),
    ] = None,
) -> None:
    """Do all runs that a config describes: every combination of the values in its section `sweep`.

    Finished runs are skipped, broken ones go on, a failed one is tried once more. Ctrl-C lets running runs write their
    checkpoints; the same command goes on from there.

    Examples:

        image2point sweep configs/ablations/inflation.yaml --plan

        image2point sweep configs/ablations/inflation.yaml --workers 2

        image2point sweep configs/ablations/inflation.yaml --executor slurm --workers 20 --slurm slurm_partition=gpu
    """
    from rich.console import Console

    from image2point.config.idle import idle_in_all
    from image2point.report.numbers import duration
    from image2point.sweeps import executors, schedule
    from image2point.sweeps.plan import read_sweep

    console, names = Console(), tuple(name for name in devices.split(",") if name)
    executors.check_executor(executor, workers, names, gpus, address, _settings(slurm or []))
    found = read_sweep(config, overrides or ())
    folder = runs / found.name
    if plan:
        progress = schedule.standings(found, folder)
        for item in progress:
            console.print(f"{item.planned.name}: {item.state}", highlight=False, markup=False, soft_wrap=True)
        for line in idle_in_all([item.planned.config for item in progress]):
            print(f"note: in every run {line}")
        left = sum(item.state != "finished" for item in progress)
        seconds = schedule.estimate(progress, len(names) or workers)
        cost = f"about {duration(seconds)}" if seconds is not None else "unknown until one of them is finished"
        print(f"{len(progress)} runs in {folder}, {left} left to do; time: {cost if left else 'none'}")
        return
    chosen = executors.make_executor(
        executor,
        (folder / ".sweep" / "slurm").absolute(),
        workers,
        threads,
        names,
        gpus,
        address,
        _settings(slurm or []),
    )
    progress = schedule.run_sweep(found, folder, chosen, console)
    failed = [item for item in progress if item.state == "failed"]
    for item in failed:
        said = f" (all it said: {item.job.log})" if item.job and item.job.log.is_file() else ""
        print(f"failed: {item.planned.name}: {item.reason}{said}")
    print(f"{len(progress) - len(failed)} of {len(progress)} runs are finished, in {folder}")
    if failed:
        raise typer.Exit(1)


def _settings(texts: list[str]) -> dict[str, Any]:
    import yaml

    from image2point.config.reading import parse_yaml

    result = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--slurm {text!r} should be key=value, for example slurm_partition=gpu")
        try:
            result[key] = parse_yaml(value)
        except yaml.YAMLError as error:
            raise InputError(f"--slurm {text!r}: the value is no YAML ({error}); give key=value") from None
    return result


def table(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Finished runs, or folders such as that of a sweep.")
    ],
    rows: Annotated[str, typer.Option(help="Settings that tell the rows apart: network.rule,network.variance.")],
    cols: Annotated[str, typer.Option(help="Settings that tell the columns apart; none for a single column.")] = "",
    value: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A number of summary.json by its dotted name; else the test score that counts in the task."),
    ] = None,
    where: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Only runs with this setting: finetune.policy=io+norm."),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="terminal, markdown, latex, or csv (one line per run).")] = (
        "terminal"
    ),
    spread: Annotated[str, typer.Option(help="sd, or interval for half the 95 % interval of the mean.")] = "sd",
    best: Annotated[str, typer.Option(help="max, min or none: which cell is the best.")] = "max",
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Draw it too, to a file .svg, .pdf or .png: rows along the axis, a curve for each column."),
    ] = None,
) -> None:
    """Put any value of many runs into a table by their settings, mean and spread over seeds.

    The best cell is bold; † marks what a paired t-test over the seeds, corrected by Holm, does not tell from
    it. Below stands each effect with its 95 % interval.

    Examples:

        image2point table runs/inflation --rows network.rule --cols network.variance

        image2point table runs/inflation --rows network.rule --value collapse.test.nc1 --best min --format markdown

        image2point table runs/shots --rows data.shots --cols arm --spread interval --plot shots.svg
    """
    from image2point.report import plots
    from image2point.report.read import read_runs
    from image2point.sweeps import table as tables
    from image2point.sweeps.pivot import BEST, pivot
    from image2point.sweeps.selection import run_folders, select
    from image2point.tasks.display import DISPLAYS

    choices = {"--format": (form, tables.FORMATS), "--spread": (spread, tables.SPREADS), "--best": (best, BEST)}
    for option, (given, valid) in choices.items():
        if given not in valid:
            raise InputError(f"{option}: expected one of {', '.join(valid)}, found {given!r}")
    if plot:
        plots.check_suffix(plot)
        plot = tried_target(plot)
    records = select(read_runs(run_folders(runs)), where or [])
    tasks = sorted({record.summary.task for record in records})
    if not value and len(tasks) > 1:
        raise InputError(f"the runs are of the tasks {' and '.join(tasks)}: give --value or runs of one task")
    value = value or f"final.{DISPLAYS[tasks[0]].scores[0].key}"
    found = pivot(records, _names(rows), _names(cols), value, best)
    if plot:
        from image2point.sweeps.plot import table_figure

        plots.save_figure(table_figure(found, spread), plot)
    written = tables.format_pivot(found, form, spread)
    if isinstance(written, str):
        print(written, end="")
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(written)
    for line in (tables.note(found, spread), *tables.comparison_lines(found)):
        console.print(line, soft_wrap=True, markup=False)
    if plot:
        print(f"figure: {shown(plot)}")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]
