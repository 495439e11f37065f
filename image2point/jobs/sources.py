"""What files are predicted with: the network of a finished run, or one that `net.save` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from image2point import config as configuration
from image2point import runs
from image2point.config.data import Data
from image2point.errors import InputError
from image2point.inference.usage import Usage
from image2point.jobs.artefact import home_of, load
from image2point.lifting import LiftedNetwork
from image2point.lifting.artefact import CONTENT, parsed, read_content
from image2point.tasks.registry import TASKS
from image2point.tasks.task import Task


@dataclass(frozen=True)
class Source:
    """A network, with all that its use on files takes.

    classes: their names, or numbers in words where nobody gave them any. data: how files are read; of a saved network
    the settings that a run has by default. run: None of a saved network.
    """

    network: LiftedNetwork
    usage: Usage
    classes: tuple[str, ...]
    data: Data
    run: runs.Run | None


def task_of(source: str | Path) -> Task:
    """What the network does; InputError where there is neither a finished run nor a saved network.

    >>> task_of("tests/runs/before_tasks").name
    'classification'
    """
    home = home_of(source)
    if (home / CONTENT).exists():
        lifting = parsed(read_content(home / CONTENT), str(home / CONTENT)).lifting
        return next(task for task in TASKS.values() if task.of_points == bool(lifting.decoder))
    opened = runs.open_run(home)
    opened.read_summary()
    return TASKS[configuration.load_config(opened.config).task]


def open_source(source: str | Path) -> Source:
    """Open a run directory, a folder that `net.save` wrote, the URL of either, or `hf:OWNER/NAME[@REVISION]`.

    Raises InputError as `load` does, and where nobody said how points become the network's input.
    """
    home = home_of(source)
    saved = (home / CONTENT).exists()
    network = load(home)
    if network.usage is None:
        raise InputError(
            f"{source} does not say how points become its input; load it and save it again with that: "
            "net.save(FOLDER, voxel_size=..., classes=[...])"
        )
    classes = network.classes or tuple(map(str, range(network.lifting.options.num_classes or 0)))
    if saved:
        return Source(network, network.usage, classes, Data(), None)
    run = runs.open_run(home)
    return Source(network, network.usage, classes, configuration.load_config(run.config).data, run)
