"""Who runs the runs of a sweep: this process, several on this machine, a Ray cluster, or Slurm.

All but the first do the same with a run: start `image2point transfer` for it in a process of its own, whose output goes
to a log file. What a run does is thus the same everywhere, and no crash of one takes another with it.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from image2point import config as configuration
from image2point.errors import InputError, one_line
from image2point.units import started_ray

EXECUTORS = ("local", "inline", "ray", "slurm")


@dataclass(frozen=True)
class Job:
    """A run to be done, by one call of `image2point sweep` alone. Every path is absolute.

    `place` is the folder to which relative paths in the config refer; `config` and `log` are this call's own, so that
    two sweeps at once do not read each other's.
    """

    name: str
    place: Path
    config: Path
    folder: Path
    log: Path


class RunFailed(Exception):
    """A run ended without a result.

    `reason`: the last thing it said; `again`: whether another attempt may help; `elsewhere`: whether another process
    has its directory.
    """

    def __init__(self, reason: str, again: bool = True, elsewhere: bool = False) -> None:
        super().__init__(reason, again, elsewhere)
        self.reason, self.again, self.elsewhere = reason, again, elsewhere


class Executor(Protocol):
    """Runs `workers` jobs at a time: `run` is called by as many threads, and returns when its job is finished.

    `run` raises RunFailed where the job fails; after `stop` it lets running jobs write their checkpoints, and raises.
    """

    workers: int

    def run(self, job: Job) -> None: ...

    def stop(self) -> None: ...


def start_job(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """`image2point transfer` in a process of its own, out of reach of the terminal's Ctrl-C."""
    command = [sys.executable, "-m", "image2point", "transfer", str(job.config), "--runs", str(job.folder)]
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "ab") as log:
        return subprocess.Popen(
            [*command, "--resume"],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=job.place,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def finish_job(job: Job, process: subprocess.Popen[bytes]) -> None:
    """Wait for the process of a job. Raises RunFailed with what it said last."""
    try:
        code = process.wait()
    except BaseException:  # this process is asked to stop: so is the job, which then writes a checkpoint
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if code:
        lines = [line for line in job.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        died = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        last = one_line(lines[-1], 1000) if lines else "no output"
        raise RunFailed(f"{died}: {last}", again=code not in (2, 130), elsewhere="another process " in last)


def execute_job(job: Job, environment: Mapping[str, str]) -> None:
    """Do a job, wherever this is called."""
    finish_job(job, start_job(job, environment))


@dataclass
class Inline:
    """One run after the other in this process; their output is this program's."""

    workers: int = 1

    def run(self, job: Job) -> None:
        from image2point.jobs.transfer import run_transfer

        run_transfer(configuration.load_config(job.config), job.folder, resume=True)

    def stop(self) -> None:
        pass


@dataclass
class Local:
    """`workers` processes on this machine, with `threads` CPU threads each, or one to each of the GPUs `devices`."""

    workers: int
    threads: int
    devices: Sequence[str] = ()
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, repr=False)
    _free: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue, repr=False)

    def __post_init__(self) -> None:
        for device in self.devices:
            self._free.put(device)

    def run(self, job: Job) -> None:
        environment = {"OMP_NUM_THREADS": str(self.threads)}
        device = self._free.get() if self.devices else None
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        process = start_job(job, environment)
        self._running.add(process)
        try:
            finish_job(job, process)
        finally:
            self._running.discard(process)
            if device is not None:
                self._free.put(device)

    def stop(self) -> None:
        for process in list(self._running):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)


@dataclass
class Ray:
    """Tasks of a Ray cluster: an existing one (`address`), or one that is started on this machine.

    All machines must see the same folders.
    """

    workers: int
    threads: int
    gpus: float = 0
    address: str | None = None

    def __post_init__(self) -> None:
        self._ray, self._tasks = started_ray(self.workers * self.threads, self.address), set[Any]()
        self._execute = self._ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(execute_job)

    def run(self, job: Job) -> None:
        task = self._execute.remote(job, {"OMP_NUM_THREADS": str(self.threads)})
        self._tasks.add(task)
        try:
            self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, RunFailed) else RunFailed(str(error)) from None
        except self._ray.exceptions.RayError as error:
            raise RunFailed(" ".join(str(error).split())) from None
        finally:
            self._tasks.discard(task)

    def stop(self) -> None:
        for task in list(self._tasks):
            self._ray.cancel(task)


@dataclass
class Slurm:
    """Slurm jobs through submitit.

    `settings` are those of its `AutoExecutor` (timeout_min, gpus_per_node, slurm_partition, ...), and `cluster`: slurm,
    or local to try the same with processes of this machine.
    """

    workers: int
    threads: int
    folder: Path
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        try:
            submitit: Any = import_module("submitit")
        except ImportError:
            raise InputError("the package submitit is not installed: pip install 'image2point[slurm]'") from None
        settings = {"cpus_per_task": self.threads, **self.settings}
        cluster = settings.pop("cluster")
        try:
            self._executor = submitit.AutoExecutor(folder=self.folder, cluster=cluster)
            self._executor.update_parameters(**settings)
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise InputError(f"submitit cannot use the cluster {cluster}: {' '.join(str(error).split())}") from None
        self._jobs: set[Any] = set()

    def run(self, job: Job) -> None:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        submitted = self._executor.submit(_report, job, {"OMP_NUM_THREADS": str(self.threads)})
        self._jobs.add(submitted)
        try:
            problem = submitted.result()
        except (FailedJobError, UncompletedJobError) as error:
            raise RunFailed(" ".join(str(error).split())) from None
        finally:
            self._jobs.discard(submitted)
        if problem is not None:
            raise RunFailed(*problem)

    def stop(self) -> None:
        for submitted in list(self._jobs):
            submitted.cancel()


def _report(job: Job, environment: Mapping[str, str]) -> tuple[str, bool, bool] | None:
    """`execute_job`, with the failure as its result: submitit would give a whole traceback as text."""
    try:
        execute_job(job, environment)
    except RunFailed as failure:
        return failure.reason, failure.again, failure.elsewhere
    return None


def check_executor(
    kind: str,
    workers: int = 1,
    devices: Sequence[str] = (),
    gpus: float = 0,
    address: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Raise InputError on an unknown name, and on settings that do not go with it; see `make_executor`."""
    if kind not in EXECUTORS:
        raise InputError(f"executor: expected one of {', '.join(EXECUTORS)}, found {kind!r}")
    for option, given, kinds in (
        ("--devices", devices, ("local",)),
        ("--gpus", gpus, ("ray",)),
        ("--address", address, ("ray",)),
        ("--slurm", settings, ("slurm",)),
    ):
        if given and kind not in kinds:
            raise InputError(f"{option} has no meaning with --executor {kind}; it goes with {', '.join(kinds)}")
    if kind == "inline" and workers > 1:
        raise InputError(f"--executor inline does one run after the other, found --workers {workers}; use local")


def make_executor(
    kind: str,
    folder: Path,
    workers: int = 1,
    threads: int = 0,
    devices: Sequence[str] = (),
    gpus: float = 0,
    address: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Executor:
    """The executor of this name.

    Args:
        folder: absolute folder for what an executor itself writes.
        workers: runs at a time.
        threads: CPU threads of each run; 0 shares this machine's processors among them.
        devices: numbers of the GPUs of this machine to use, one run on each.
        gpus: GPUs that Ray is asked for, for each run.
        address: of a Ray cluster that is there already.
        settings: of submitit's executor, and `cluster`.

    Raises:
        InputError: on an unknown name, settings that do not go with it, or a package that is missing.
    """
    check_executor(kind, workers, devices, gpus, address, settings)
    if devices:
        workers = len(devices)
    threads = threads or max(1, len(os.sched_getaffinity(0)) // workers)
    makers: dict[str, Callable[[], Executor]] = {
        "inline": Inline,
        "local": lambda: Local(workers, threads, devices),
        "ray": lambda: Ray(workers, threads, gpus, address),
        "slurm": lambda: Slurm(workers, threads, folder, {"cluster": "slurm", **(settings or {})}),
    }
    return makers[kind]()
