"""Sweeps that are done, fail, stop, go on, and do not get into each other's way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from tiny_runs import VALUES, rows
from typer.testing import CliRunner

from image2point import InputError, runs
from image2point.cli import app
from image2point.config import Config
from image2point.jobs.transfer import run_transfer
from image2point.sweeps import executors, schedule
from image2point.sweeps.executors import Job, RunFailed
from image2point.sweeps.plan import Planned, Sweep, read_sweep
from image2point.training.interrupt import Interrupted

QUIET = Console(quiet=True)


def write(folder: Path, seeds: list[int], **training: object) -> Path:
    values = {**VALUES, "name": "grid", "training": {**VALUES["training"], "epochs": 1, **training}}
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**values, "sweep": [{"seed": seeds}]}))
    return path


def planned(*names: str) -> Sweep:
    return Sweep("names", tuple(Planned(Config.model_validate({"name": n, "arm": n}), {}) for n in names))


@dataclass
class Scripted:
    """Does what `script` says for each run, attempt by attempt: None to finish it, or what is raised."""

    script: dict[str, list[BaseException | None]]
    workers: int = 2
    done: list[str] = field(default_factory=list)
    stopped: bool = False

    def run(self, job: Job) -> None:
        self.done.append(job.name)
        outcome = self.script[job.name].pop(0)
        if outcome is not None:
            raise outcome
        runs.create(job.folder / job.name, job.config.read_text())
        (job.folder / job.name / "summary.json").write_text(
            json.dumps({"final": {"test_accuracy": 0.5}, "seconds": {"total": 60}})
        )

    def stop(self) -> None:
        self.stopped = True


def test_a_failed_run_is_tried_once_more_and_bad_input_is_not(tmp_path: Path) -> None:
    executor = Scripted({"good": [None], "flaky": [RunFailed("boom"), None], "bad": [RunFailed("x"), RunFailed("y")],
                         "wrong": [RunFailed("no such folder", again=False)]})  # fmt: skip
    progress = schedule.run_sweep(planned("good", "flaky", "bad", "wrong"), tmp_path, executor, QUIET)
    assert [(p.state, p.attempts, p.reason) for p in progress] == [
        ("finished", 1, ""), ("finished", 2, ""), ("failed", 2, "y"), ("failed", 1, "no such folder")
    ]  # fmt: skip


def test_finished_runs_are_skipped_and_tell_what_the_others_will_cost(tmp_path: Path) -> None:
    schedule.run_sweep(planned("a", "b"), tmp_path, Scripted({"a": [None], "b": [None]}), QUIET)
    executor = Scripted({"c": [None], "d": [None], "e": [None]})
    sweep = planned("a", "b", "c", "d", "e")
    assert schedule.estimate(schedule.standings(sweep, tmp_path), workers=2) == 90
    assert schedule.estimate(schedule.standings(planned("c"), tmp_path), workers=2) is None
    schedule.run_sweep(sweep, tmp_path, executor, QUIET)
    assert sorted(executor.done) == ["c", "d", "e"]


def test_a_finished_run_loses_the_checkpoint_that_a_kill_left(tmp_path: Path) -> None:
    schedule.run_sweep(planned("a"), tmp_path, Scripted({"a": [None]}), QUIET)
    (tmp_path / "a" / "checkpoint" / "epoch-00001-step-000000").mkdir(parents=True)
    schedule.run_sweep(planned("a"), tmp_path, Scripted({}), QUIET)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.yaml", "summary.json"]


def test_a_run_of_another_config_is_not_taken_for_this_one(tmp_path: Path) -> None:
    schedule.run_sweep(planned("a"), tmp_path, Scripted({"a": [None]}), QUIET)
    other = Sweep("names", (Planned(Config.model_validate({"name": "a", "arm": "a", "seed": 5}), {}),))
    with pytest.raises(InputError, match=r"another config .* seed: 777 -> 5"):
        schedule.run_sweep(other, tmp_path, Scripted({}), QUIET)


def test_stopping_stops_the_executor_and_says_what_is_left(tmp_path: Path) -> None:
    executor = Scripted({"a": [None], "b": [KeyboardInterrupt()], "c": [None]}, workers=1)
    with pytest.raises(Interrupted, match="2 runs left"):
        schedule.run_sweep(planned("a", "b", "c"), tmp_path, executor, QUIET)
    assert executor.stopped and executor.done == ["a", "b"]


def test_a_run_that_another_process_does_is_left_to_it(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from image2point import runs\n"
        "with runs.claimed(Path(sys.argv[1])): print('held', flush=True); time.sleep(6)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, str(tmp_path / "a")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(runs.Claimed, match="another process is at work"), runs.claimed(tmp_path / "a"):
            pass
        executor = Scripted({"a": [None], "b": [None]})
        progress = schedule.run_sweep(planned("a", "b"), tmp_path, executor, QUIET)
        assert process.wait() == 0  # it was waited for
    assert executor.done == ["b", "a"] and {p.state for p in progress} == {"finished"}


def test_a_run_that_another_process_takes_meanwhile_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "PATIENCE", 0.1)
    taken = [RunFailed("exit code 2: another process is at work on a", False, elsewhere=True), runs.Claimed("held")]
    progress = schedule.run_sweep(planned("a"), tmp_path, Scripted({"a": [*taken, None]}, workers=1), QUIET)
    assert [(item.state, item.attempts) for item in progress] == [("finished", 1)]


def test_two_sweeps_at_once_keep_configs_and_output_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []

    @dataclass
    class Both(Scripted):
        def run(self, job: Job) -> None:
            jobs.append(job)
            if len(jobs) == 1:  # a second sweep of the same name, with other settings, comes in between
                second = Sweep("names", (Planned(Config.model_validate({"name": "a", "arm": "other"}), {}),))
                monkeypatch.setattr(os, "getpid", lambda: -1)
                schedule.run_sweep(second, tmp_path, Both({"a": [RunFailed("second", again=False)]}), QUIET)
            super().run(job)

    (item,) = schedule.run_sweep(planned("a"), tmp_path, Both({"a": [None]}), QUIET)
    assert item.state == "finished" and "arm: a\n" in item.run.config.read_text()
    first, second = jobs
    assert first.log != second.log and {job.folder for job in jobs} == {tmp_path}
    assert "arm: a\n" in first.config.read_text() and "arm: other\n" in second.config.read_text()


def test_a_job_says_what_its_own_process_said_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    job = Job("a", tmp_path, tmp_path / "a.yaml", tmp_path, tmp_path / "logs" / "a.txt")
    for said, elsewhere in (("boom \x1b[2J", False), ("another process is at work on runs/a; wait for it", True)):
        job.log.parent.mkdir(exist_ok=True)
        job.log.write_text(f"begin\n{said}\n\n")
        with pytest.raises(RunFailed) as failure:
            executors.execute_job(job, {})
        assert failure.value.elsewhere == elsewhere and "\x1b" not in failure.value.reason
        assert failure.value.reason.startswith(f"exit code 1: {said[:4]}")


def test_local_processes_give_what_this_process_gives(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, [1, 2]))
    local = executors.make_executor("local", tmp_path, workers=2, threads=1)
    assert {p.state for p in schedule.run_sweep(sweep, tmp_path / "local", local, QUIET)} == {"finished"}
    for run in sweep.runs:
        run_transfer(run.config, tmp_path / "here")
        assert rows(tmp_path / "local" / run.name) == rows(tmp_path / "here" / run.name)


def test_a_run_that_fails_tells_why(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path, [1], accelerator="cuda"))
    (item,) = schedule.run_sweep(sweep, tmp_path / "runs", executors.make_executor("local", tmp_path), QUIET)
    assert (item.state, item.attempts) == ("failed", 1)
    assert "training.accelerator = cuda, but torch finds no GPU" in item.reason


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_sweep_that_is_killed_goes_on_to_the_same_result(tmp_path: Path, how: signal.Signals) -> None:
    path = write(tmp_path, [1, 2, 3], epochs=40)
    program = [sys.executable, "-m", "image2point"]
    command = [*program, "sweep", str(path), "--workers", "2", "--threads", "1", "--runs"]
    with subprocess.Popen([*command, str(tmp_path / "killed")], cwd=Path.cwd(), start_new_session=True) as process:
        begun = [tmp_path / "killed/grid" / f"seed={s}" / "log.txt" for s in (1, 2)]
        while not all(log.is_file() and "epoch 3/40" in log.read_text() for log in begun):
            assert process.poll() is None
            time.sleep(0.05)
        if how == signal.SIGKILL:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        assert process.wait() == (130 if how != signal.SIGKILL else -9)
    assert not (tmp_path / "killed/grid/seed=3").exists()
    subprocess.run([*command, str(tmp_path / "killed")], check=True)
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    for seed in (1, 2, 3):
        killed, whole = (tmp_path / kind / "grid" / f"seed={seed}" for kind in ("killed", "whole"))
        assert rows(killed) == rows(whole)
        assert (killed / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ray", "slurm"])
def test_clusters_give_what_this_process_gives(tmp_path: Path, kind: str) -> None:
    pytest.importorskip(
        {"ray": "ray", "slurm": "submitit"}[kind], reason=f"pip install 'image2point[{kind}]' brings it"
    )
    sweep = read_sweep(write(tmp_path, [1, 2]))
    bad = read_sweep(write(tmp_path, [3], accelerator="cuda"))
    executor = executors.make_executor(
        kind, tmp_path / "submitit", workers=2, threads=1, settings={"cluster": "local"} if kind == "slurm" else None
    )
    states = schedule.run_sweep(Sweep("all", (*sweep.runs, *bad.runs)), tmp_path / kind, executor, QUIET)
    assert [p.state for p in states] == ["finished", "finished", "failed"]
    assert "torch finds no GPU" in states[2].reason
    for run in sweep.runs:
        run_transfer(run.config, tmp_path / "here")
        assert rows(tmp_path / kind / run.name) == rows(tmp_path / "here" / run.name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "slrum"}, "expected one of local, inline, ray, slurm, found 'slrum'"),
        ({"kind": "ray", "devices": ("0",)}, "--devices has no meaning with --executor ray"),
        ({"kind": "local", "address": "auto"}, "--address has no meaning"),
        ({"kind": "local", "settings": {"timeout_min": 1}}, "--slurm has no meaning"),
        ({"kind": "inline", "workers": 2}, "one run after the other"),
    ],
)
def test_executors_refuse_what_does_not_go_together(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        executors.make_executor(folder=tmp_path, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--executor", "slrum"], "expected one of local, inline, ray, slurm, found 'slrum'"),
        (["--executor", "ray", "--devices", "0"], "--devices has no meaning with --executor ray"),
        (["--slurm", "timeout"], "--slurm 'timeout' should be key=value"),
    ],
)
def test_a_plan_refuses_them_too(tmp_path: Path, options: list[str], message: str) -> None:
    found = CliRunner().invoke(app, ["sweep", "ablations/inflation", "--plan", "--runs", str(tmp_path), *options])
    assert found.exit_code == 2 and message in " ".join(found.output.split())
