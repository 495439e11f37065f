"""Do the runs of a sweep that are not done yet, and show how they come along."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from image2point import files, runs
from image2point.errors import InputError
from image2point.jobs import lifecycle
from image2point.report.numbers import duration
from image2point.runs import Run
from image2point.sweeps.executors import Executor, Inline, Job, RunFailed
from image2point.sweeps.plan import Planned, Sweep
from image2point.tasks.display import DISPLAYS
from image2point.training.interrupt import Interrupted, asked_to_stop

ATTEMPTS = 2
ELSEWHERE = "elsewhere"  # another process is at work on it
PATIENCE = 5.0  # seconds between two looks at a run that is elsewhere


@dataclass
class Progress:
    """Where a run stands: waiting, running, elsewhere, finished or failed. It has a job where there is one to do."""

    planned: Planned
    run: Run
    state: str = "waiting"
    attempts: int = 0
    reason: str = ""
    since: float = field(default_factory=time.monotonic)
    job: Job | None = None

    def turn(self, state: str, reason: str = "") -> None:
        self.state, self.reason, self.since = state, reason, time.monotonic()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The result of a finished run."""
        return self.run.read_summary()


def standings(sweep: Sweep, folder: Path) -> list[Progress]:
    """Every run of a sweep, `finished` or `waiting`.

    Raises:
        InputError: where a run directory holds a run of another config.
    """
    result = []
    for planned in sweep.runs:
        run = Run(folder / planned.name)
        standing = lifecycle.standing(run, planned.config, resume=True, overwrite=False)
        result.append(Progress(planned, run, "finished" if standing == "finished" else "waiting"))
    return result


def estimate(progress: list[Progress], workers: int) -> float | None:
    """Seconds that the unfinished runs will take, from the finished ones; None as long as there is none.

    A run is expected to take as long as the median of the finished ones with its network, policy and epochs, or of
    all finished ones.
    """

    def kind(item: Progress) -> tuple[Any, ...]:
        config = item.planned.config
        return config.network.arch, config.finetune.policy, config.training.epochs, config.data.shots

    taken: dict[tuple[Any, ...], list[float]] = {}
    for item in progress:
        if item.state == "finished":
            taken.setdefault(kind(item), []).append(float(item.summary["seconds"]["total"]))
    everything = [seconds for group in taken.values() for seconds in group]
    if not everything:
        return None
    left = [item for item in progress if item.state not in ("finished", "failed")]
    return sum(median(taken.get(kind(item), everything)) for item in left) / max(1, min(workers, len(left)))


def run_sweep(sweep: Sweep, folder: Path, executor: Executor, console: Console | None = None) -> list[Progress]:
    """Do every run of a sweep that is not finished, in `folder`; one that fails is tried once more.

    A run that another process is at work on is left to it, and waited for at the end. Each call keeps the configs and
    the output of its runs in a folder of its own below `folder/.sweep`.

    Raises:
        InputError: where a run directory holds a run of another config.
        Interrupted: when it was asked to stop; running runs have written their checkpoints, and the same call goes on.
    """
    folder = folder.absolute()
    progress = standings(sweep, folder)
    own = folder / ".sweep" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{socket.gethostname()}_{os.getpid()}"
    for item in progress:
        if item.state == "finished":
            lifecycle.tidy(item.run)
        else:
            name = item.planned.name
            item.job = Job(name, Path.cwd(), own / "configs" / f"{name}.yaml", folder, own / "logs" / f"{name}.txt")
            files.write_text(item.job.config, item.planned.config.to_yaml())
    view = _View(progress, console or Console(), executor.workers)
    try:
        with _signals_stop(), view.shown(live=not isinstance(executor, Inline)):
            _do_all(progress, executor, view)
    except (KeyboardInterrupt, Interrupted):
        left = sum(item.state != "finished" for item in progress)
        raise Interrupted(f"the sweep {sweep.name} stopped with {left} runs left; the same command goes on") from None
    return progress


class _ThisThread(concurrent.futures.Executor):
    """Does what is submitted at once, where it is submitted."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


def _do_all(progress: list[Progress], executor: Executor, view: _View) -> None:
    waiting = [item for item in progress if item.state == "waiting"]
    doing: dict[Future[None], Progress] = {}
    with _ThisThread() if isinstance(executor, Inline) else ThreadPoolExecutor(executor.workers) as pool:
        try:
            while waiting or doing:
                for item in [item for item in waiting if _is_due(item)][: executor.workers - len(doing)]:
                    waiting.remove(item)
                    if item.state == "waiting":
                        item.turn("running")
                        view.changed(item)
                    doing[pool.submit(_attempt, item, executor)] = item
                for future in wait(doing, timeout=1, return_when=FIRST_COMPLETED).done:
                    item = doing.pop(future)
                    future.result()
                    view.changed(item)
                    if item.state in ("waiting", ELSEWHERE):
                        waiting.append(item)
                view.refresh()
                if not doing and not any(map(_is_due, waiting)):
                    time.sleep(PATIENCE / 10)
        except BaseException:
            for future in doing:
                future.cancel()
            executor.stop()
            raise


def _is_due(item: Progress) -> bool:
    """Whether to try a run now; one that is elsewhere only now and then."""
    return item.state == "waiting" or time.monotonic() - item.since > PATIENCE


def _attempt(item: Progress, executor: Executor) -> None:
    """Do a run, and note how it went."""
    assert item.job is not None
    try:
        with runs.claimed(item.run.path):
            pass  # a run that starts claims its directory itself; this spares it the start
    except runs.Claimed:
        item.turn(ELSEWHERE)
        return
    item.attempts += 1
    item.turn("running")
    try:
        executor.run(item.job)
    except (RunFailed, runs.Claimed) as failure:
        if isinstance(failure, runs.Claimed) or failure.elsewhere:  # another process took it since
            item.attempts -= 1
            item.turn(ELSEWHERE)
            return
        again = failure.again and item.attempts < ATTEMPTS
        item.turn("waiting" if again else "failed", failure.reason)
    except InputError as error:
        item.turn("failed", str(error))
    else:
        item.turn("finished" if item.run.finished else "failed", "" if item.run.finished else "left no summary")


@contextmanager
def _signals_stop() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, and SIGINT too where a shell had it ignored, as for jobs in the
    background."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in asked_to_stop()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _View:
    """A live table on a terminal, a line for each change elsewhere."""

    def __init__(self, progress: list[Progress], console: Console, workers: int) -> None:
        self.progress, self.console, self.workers = progress, console, workers
        self.live: Live | None = None
        self.said: dict[str, str] = {}

    @contextmanager
    def shown(self, live: bool) -> Iterator[None]:
        if not (live and self.console.is_terminal):
            yield
            return
        with Live(self.table(), console=self.console, auto_refresh=False) as self.live:
            yield

    def changed(self, item: Progress) -> None:
        news = self.said.get(item.planned.name) != item.state
        self.said[item.planned.name] = item.state
        if self.live is None and news:
            done = sum(other.state == "finished" for other in self.progress)
            reason = f": {item.reason}" if item.reason else ""
            self.console.print(
                f"{item.planned.name}: {item.state}{_result(item)}{reason}  ({done} of {len(self.progress)} finished)",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip

    def refresh(self) -> None:
        if self.live is not None:
            self.live.update(self.table(), refresh=True)

    def table(self) -> Table:
        table = Table("run", "state", "", box=None, pad_edge=False)
        states = [item.state for item in self.progress]
        for item in self.progress:
            if item.state not in ("waiting", "finished"):
                last = item.reason or duration(time.monotonic() - item.since)
                table.add_row(item.planned.name, item.state, last)
        left = estimate(self.progress, self.workers)
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
        table.add_section()
        table.add_row(f"{len(states)} runs: {counts}", "", f"about {duration(left)} left" if left else "")
        return table


def _result(item: Progress) -> str:
    if item.state != "finished":
        return ""
    display = DISPLAYS[item.summary.get("task", "classification")]
    return f", {display.scored.lower()} {100 * item.summary['final'][display.scores[0].key]:.2f} %"
