"""What a run tells people while it goes on: the screen, log.txt, TensorBoard and other trackers."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from image2point.config import Config, Pretrain
from image2point.runs import Run
from image2point.training.trackers import Trackers


class Journal:
    """Speaks on the first process, is silent on the others.

    On a terminal there is a progress bar with the time left; elsewhere each epoch is one line, with the score
    `headline` of each split.
    """

    def __init__(self, run: Run, config: Config | Pretrain, headline: str, speaks: bool) -> None:
        self.run, self.headline, self.speaks = run, headline, speaks
        self.console = Console(quiet=not speaks, soft_wrap=True, highlight=False)
        self._writer: Any = None
        self._trackers = Trackers(run, config, self.say)
        self._bar: Progress | None = None
        self._started, self._first, self._done, self._total = time.monotonic(), 0, 0, 0

    def say(self, text: str) -> None:
        """One line on the screen and in log.txt."""
        with _as_long_as_it_is_open():
            self.console.print(text, markup=False)
        if self.speaks:
            with open(self.run.log, "a", encoding="utf-8") as log:
                log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")

    def open_trackers(self) -> None:
        """For the process that speaks. Raises InputError where one cannot be opened."""
        self._trackers.begin()

    def begin(self, total: int, done: int) -> None:
        """Training begins, or goes on after `done` of `total` steps."""
        self._started, self._first, self._done, self._total = time.monotonic(), done, done, total
        if self.speaks and self.console.is_terminal and total > done:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[eta]}"),
                console=self.console,
                transient=True,
            )
            self._bar.add_task("training", total=total, completed=done, eta="")
            self._bar.start()

    def step(self, epoch: int, loss: float) -> None:
        """One more step was made; `loss` is its training loss."""
        self._done += 1
        if self._bar:
            self._bar.update(
                self._bar.task_ids[0],
                completed=self._done,
                description=f"epoch {epoch}  loss {loss:.3f}",
                eta=f"ETA {self.eta()}",
            )

    def eta(self) -> str:
        """Time left, from the pace so far (measuring included)."""
        made = self._done - self._first
        if not made:
            return "?"
        left = (time.monotonic() - self._started) / made * (self._total - self._done)
        return str(timedelta(seconds=round(left)))

    def row(self, row: dict[str, Any], epochs: int) -> None:
        """The row of metrics.csv of a finished epoch: one line, TensorBoard and the trackers."""
        if not self.speaks:
            return
        parts = [f"epoch {row['epoch']}/{epochs}"]
        if row.get("train_loss") is not None:
            parts.append(f"loss {row['train_loss']:.4f}")
        for split in ("train", "validation", "test"):
            share = row.get(f"{split}_{self.headline}")
            if share is not None:
                parts.append(f"{split} {100 * share:.1f} %")
        if "collapse_train/nc1" in row:
            nc1 = row["collapse_train/nc1"]
            null = row.get("collapse_train/nc1_null")
            beside = "" if null is None else f" (null {null:.3g})"
            parts.append("NC1 undefined" if nc1 is None else f"NC1 {nc1:.3g}{beside}")
        parts.append(f"{row['seconds']:.0f} s")
        if row["epoch"] < epochs:
            parts.append(f"ETA {self.eta()}")
        self.say("  ".join(parts))
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier, interrupted part of the run wrote from here on is done again.
            self._writer = SummaryWriter(str(self.run.tensorboard), purge_step=row["epoch"])
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()
        self._trackers.log(row)

    def close(self, finished: bool) -> None:
        """Nothing follows; `finished`: the training came to its end."""
        self._trackers.close(finished)
        if self._bar:
            with _as_long_as_it_is_open():
                self._bar.stop()
            self._bar = None
        if self._writer:
            self._writer.close()
            self._writer = None


@contextmanager
def _as_long_as_it_is_open() -> Iterator[None]:
    """Let nothing hang on a terminal that was closed, to which no more can be written."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
