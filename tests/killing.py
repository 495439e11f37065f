"""Kill a command of `image2point` with SIGKILL at a given write or moment, a thousand times over.

`Nursery` starts this file as a program that imports everything once and forks for each command, so that a command
costs a fraction of a second. In the forks the clock stands still: what they leave differs in no time of the run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

SAID, WRITES = ".said", ".writes"
STUCK, SECONDS = -1000, 600.0
"""The exit code of a command that takes longer than this."""
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")
"""What Python reports before it changes a folder: os.replace is a rename, os.unlink a remove, shutil.rmtree many."""
LOADED = (
    "lightning.fabric", "matplotlib.pyplot", "plotly.offline", "timm", "torch.utils.tensorboard", "image2point.cli",
    "image2point.datasets.registry", "image2point.jobs.pretrain", "image2point.jobs.transfer", "image2point.report",
    "image2point.sweeps.schedule",
)  # fmt: skip
WRITING = os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Nursery:
    """Context manager around the program that forks, once it has itself done `first` in `folder`, if given."""

    def __init__(self, folder: Path, first: Sequence[str] = ()) -> None:
        command = [sys.executable, "-W", "ignore", __file__, str(folder), *first]
        self.program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.program.communicate()

    def run(self, folder: Path, command: Sequence[str], write: int = 0, moment: float = 0.0) -> int:
        """Run a command in a folder; its exit code, -9 where it was killed. AssertionError where it is stuck.

        write: kill it at this write, counted from 1; moment: kill it so many seconds after its start. What it printed
        goes to `folder / SAID`, what it wrote to `folder / WRITES`.
        """
        assert self.program.stdin is not None and self.program.stdout is not None
        request = {"folder": str(folder), "command": list(command), "write": write, "moment": moment}
        self.program.stdin.write(json.dumps(request) + "\n")
        self.program.stdin.flush()
        code = json.loads(self.program.stdout.readline())
        assert code != STUCK, f"{' '.join(command)} is stuck: {(folder / SAID).read_text()[-500:]}"
        return int(code)


def writes(folder: Path) -> list[str]:
    """Every write of the last command there: what was done, to which file or folder, without numbers in names."""
    notes = folder / WRITES
    return notes.read_text().splitlines() if notes.exists() else []


def _serve(folder: str, *first: str) -> None:
    """Import what commands need, do the first one, so that the rest is loaded too, then fork for each request."""
    for name in LOADED:
        import_module(name)
    answer = os.fdopen(os.dup(1), "w")
    _speak_to(folder)
    if first:
        assert _command(first) == 0
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _do(request)
        print(json.dumps(_wait(child, request["moment"])), file=answer, flush=True)


def _wait(child: int, moment: float) -> int:
    end, killed = time.monotonic() + (moment or SECONDS), False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return STUCK if killed and not moment else os.waitstatus_to_exitcode(status)
        if time.monotonic() > end and not killed:
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.002)


def _do(request: dict[str, Any]) -> None:
    """In the fork: the command, with every write counted; never returns."""
    code = 1
    try:
        _speak_to(request["folder"])
        count_writes(request["write"])
        time.monotonic = lambda: 0.0
        code = _command(request["command"])
    finally:
        sys.stdout.flush()
        os._exit(code)


def _speak_to(folder: str) -> None:
    """Go to a folder, with what is printed from here on in its file SAID."""
    os.chdir(folder)
    said = os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)


def _command(arguments: Sequence[str]) -> int:
    from image2point.cli import main

    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def count_writes(last: int) -> None:
    """Note what changes files and folders here, and die at the `last` change.

    A file that is opened is empty then, one that is flushed half written; everything else has not taken place.
    """
    here, notes, count = os.getcwd(), os.open(WRITES, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 0

    def happens(what: str, path: Any, injure: Callable[..., Any], *arguments: Any) -> None:
        nonlocal count
        count += 1
        name = re.sub(r"\.\w{8}\.part", ".part", os.fsdecode(path).removeprefix(here))
        os.write(notes, re.sub(r"\d+", "0", f"{what} {name}\n").encode())
        if count == last:
            injure(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

    def is_ours(path: Any) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(path)).startswith(here)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if is_ours(path) and flags & WRITING:
                happens(event, path, os.open, path, flags, 0o600)
        elif event in CHANGES and (is_ours(arguments[0]) or arguments[-1] > 2):  # relative to an open folder
            there = arguments[-1] > 2 or os.path.lexists(arguments[0])
            if there == (event != "os.mkdir"):  # else nothing will change
                happens(event, arguments[0], lambda: None)

    def half(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            os.truncate(f"/proc/self/fd/{handle}", os.fstat(handle).st_size // 2)

    def fsync(handle: Any, flush: Any = os.fsync) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        happens("fsync", os.readlink(f"/proc/self/fd/{number}"), half, number)
        flush(number)

    os.fsync = fsync
    sys.addaudithook(hook)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
