"""Work in units over processes: the same results in order, whatever dies on the way."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from image2point import units
from image2point.errors import InputError
from image2point.units import ATTEMPTS, in_units


def square(place: Path, deaths: int, fatal: int = 5) -> Callable[[int], int]:
    """Squares; the process that is given `fatal` dies the first few times. Every beginning is written down."""

    def do(number: int) -> int:
        begun = len(list(place.glob(f"{number}.*")))
        (place / f"{number}.{begun}").touch()
        if number == fatal and begun < deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if number < 0:
            raise InputError(f"{number} is negative")
        return number * number

    return do


@pytest.mark.parametrize("kind, workers", [("local", 0), ("local", 2), ("ray", 2)])
def test_a_killed_worker_costs_its_unit(
    tmp_path: Path, kind: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "ray":
        pytest.importorskip("ray", reason="ray is not installed (the extra `ray`)")
        here, others = str(Path(__file__).parent), os.environ.get("PYTHONPATH")  # Ray's processes import this file
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, others] if others else [here]))
    deaths = 1 if workers else 0
    assert list(in_units(partial(square, tmp_path, deaths), range(12), workers, kind)) == [n * n for n in range(12)]
    begun = {number: len(list(tmp_path.glob(f"{number}.*"))) for number in range(12)}
    assert begun[5] == 1 + deaths
    # With a process of `local` its pool dies: what it had done ahead, and what ran beside it, is done again.
    allowed = {0: 0, 2: 8}[workers] if kind == "local" else 1
    assert sum(begun.values()) - 12 <= allowed and all(begun[number] == 1 for number in range(4) if kind == "ray")


SCRIPT = """
import sys
from image2point.units import in_units

class Doubles:
    def __call__(self):
        return lambda number: 2 * number

if __name__ == "__main__":
    print(list(in_units(Doubles(), range(3), 2, sys.argv[1])))
"""


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_a_class_of_a_script_may_do_the_units(tmp_path: Path, kind: str) -> None:
    if kind == "ray":
        pytest.importorskip("ray", reason="ray is not installed (the extra `ray`)")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py", kind], capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 2, 4]\n"


class OneProcess:
    """Has of Ray's interface what units need, and does every task at once, with what Ray would send."""

    class exceptions:
        WorkerCrashedError = RayTaskError = RuntimeError

    cloudpickle = pickle

    def is_initialized(self) -> bool:
        return True

    def put(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def get(self, reference: bytes) -> Any:
        return pickle.loads(reference)

    def remote(self, **_: object) -> Callable[[Callable[..., Any]], Any]:
        return lambda do: SimpleNamespace(remote=lambda *given: self.put(do(*pickle.loads(pickle.dumps(given)))))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (None, "^Ray does not start on this machine: no. 1; see why with `ray status`, or take"),
        ("far:1", "^Ray is not to be reached at far:1: no. 1; see why with `ray status`, or take"),
    ],
)
def test_a_ray_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, address: str | None, words: str
) -> None:
    class Ray(OneProcess):
        def is_initialized(self) -> bool:
            return False

        def init(self, **_: object) -> None:
            raise Exception("no.\n1")

    monkeypatch.setattr(units, "import_module", lambda _: Ray())
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=words):
        list(in_units(partial(getattr, str, "upper"), ["a"], 2, "ray"))


def test_tasks_get_and_give_what_processes_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray is not installed, too."""
    ray = OneProcess()
    monkeypatch.setattr(units, "import_module", lambda _: ray)
    for _ in range(2):  # processes of Ray live on, and get other work
        assert list(in_units(partial(square, tmp_path, 0), range(12), 2, "ray")) == [n * n for n in range(12)]
    assert list(in_units(partial(getattr, str, "upper"), ["a"], 2, "ray")) == ["A"]


def test_one_that_dies_each_time_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"unit 6 of 12 died {ATTEMPTS} times"):
        list(in_units(partial(square, tmp_path, ATTEMPTS), range(12), 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_its_errors_are_told(tmp_path: Path, workers: int) -> None:
    with pytest.raises(InputError, match="-3 is negative"):
        list(in_units(partial(square, tmp_path, 0), [1, -3, 2], workers))


def many_tensors() -> Callable[[int], list[torch.Tensor]]:
    return lambda number: [torch.full((4,), number) for _ in range(20)]


def test_results_that_are_kept_keep_no_files_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        kept = list(in_units(many_tensors, range(20), 1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [int(tensors[-1][0]) for tensors in kept] == list(range(20))


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected one of local, ray, found 'slurm'"):
        in_units(partial(square, tmp_path, 0), [1], 2, "slurm")
