"""Where `training.trackers` sends each row of metrics.csv: MLflow and W&B by Lightning's loggers, Trackio by itself.

`trackers.json` of a run keeps under which id each tracker knows the run, and the last epoch that it was given. So a run
that is resumed goes on there, and an epoch that is done again is not told twice.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from image2point import files
from image2point.config import Config, Pretrain
from image2point.errors import InputError, one_line
from image2point.runs import Run

PROJECT = "image2point"
"""Of W&B and Trackio, and the experiment of MLflow; `WANDB_PROJECT` and `MLFLOW_EXPERIMENT_NAME` name another."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise InputError where the package of a tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise InputError(
                f"training.trackers names {name}, and the package {name} is not installed: "
                f"pip install 'image2point[{name}]'"
            )


class Trackers:
    """All trackers of a run. A tracker that fails on the way is told of and left out: the run itself goes on."""

    def __init__(self, run: Run, config: Config | Pretrain, say: Callable[[str], None]) -> None:
        self.run, self.config, self.say = run, config, say
        self._open: dict[str, Any] = {}
        self._known: dict[str, dict[str, Any]] = {}

    def begin(self) -> None:
        """Open what the config names; InputError where one cannot be opened."""
        names = self.config.training.trackers
        self._known = self._remembered() if names else {}
        for name in names:
            try:
                logger = _OPEN[name](self.config, self._known.get(name, {}).get("id"))
            except Exception as error:  # whatever such a package raises: not logged in, no server, a deleted run
                self.close(finished=False)
                raise InputError(
                    f"training.trackers: {name} cannot be opened: {one_line(error, 300)}; leave it out, or mend that "
                    "and give the command again with --resume"
                ) from None
            self._open[name] = logger
            self._known.setdefault(name, {"id": logger.version, "epoch": -1})
        if names:
            self._remember()

    def log(self, row: dict[str, Any]) -> None:
        """Give the numbers of a finished epoch to each tracker that has not had them."""
        values = {name: value for name, value in row.items() if name != "epoch" and value is not None}
        for name, logger in list(self._open.items()):
            known = self._known[name]
            if row["epoch"] > known["epoch"]:
                try:
                    logger.log_metrics(values, step=row["epoch"])
                except Exception as error:
                    del self._open[name]
                    self.say(f"warning: {name} takes no more ({one_line(error, 200)}); metrics.csv has every row")
                else:
                    known["epoch"] = row["epoch"]
        if self._open:
            self._remember()

    def close(self, finished: bool) -> None:
        """Let the trackers go; `finished`: the training came to its end."""
        for name, logger in self._open.items():
            try:
                logger.finalize("success" if finished else "failed")
            except Exception as error:  # such as a server that is gone; the run itself is over
                self.say(f"warning: {name} did not close ({one_line(error, 200)}); metrics.csv has every row")
        self._open = {}

    def _remembered(self) -> dict[str, dict[str, Any]]:
        path = self.run.trackers
        if not path.is_file():
            return {}
        try:
            known = json.loads(path.read_text("utf-8"))
            return {name: {"id": str(each["id"]), "epoch": int(each["epoch"])} for name, each in known.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(
                f"{path}: expected an id and an epoch for each tracker, found something else; remove the file, and the "
                "trackers begin the run anew"
            ) from None

    def _remember(self) -> None:
        files.write_text(self.run.trackers, json.dumps(self._known, indent=1))


def _mlflow(config: Config | Pretrain, known: str | None) -> Any:
    import mlflow
    from lightning.pytorch.loggers import MLFlowLogger

    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    logger = MLFlowLogger(experiment, run_name=config.name, tracking_uri=mlflow.get_tracking_uri(), run_id=known)
    logger.experiment.update_run(logger.version, status="RUNNING")
    logger.log_hyperparams(config.model_dump(mode="json"))
    return logger


def _wandb(config: Config | Pretrain, known: str | None) -> Any:
    from lightning.pytorch.loggers import WandbLogger

    class Finishing(WandbLogger):
        """Ends its run, so that the next run of this process begins one of its own."""

        def finalize(self, status: str) -> None:
            self.experiment.finish(exit_code=int(status != "success"))

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    logger = Finishing(name=config.name, project=project, id=known or uuid.uuid4().hex[:8])
    logger.log_hyperparams(config.model_dump(mode="json"))
    return logger


class _Trackio:
    """Trackio knows a run by its name, so the name has a part of its own."""

    def __init__(self, config: Config | Pretrain, known: str | None) -> None:
        import trackio

        self.version = known or f"{config.name}-{uuid.uuid4().hex[:8]}"
        settings = config.model_dump(mode="json")
        self._run = trackio.init(PROJECT, self.version, resume="allow", embed=False, config=settings)

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self._run.log({name: value for name, value in values.items() if name != "step"}, step=step)  # a name of its own

    def finalize(self, status: str) -> None:
        import trackio

        trackio.finish()


_OPEN: dict[str, Callable[[Config | Pretrain, str | None], Any]] = {
    "mlflow": _mlflow,
    "trackio": _Trackio,
    "wandb": _wandb,
}
