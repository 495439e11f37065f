"""Put deliberate bugs into copies of the project, one at a time, and see whether the everyday tests notice.

    python scripts/mutants.py                     # all that are listed in tests/mutants.yaml
    python scripts/mutants.py --only 'cosine*'    # by name or file, as in the shell

A mutant has a name that says what it breaks, a file, what stands there once, what is put in its place, and the tests
that have to fail. Those tests are run without a bug first, each file once. What is known is kept
in build/mutants.json under a digest of all that it depends on, so that an interrupted call goes on where it stopped.
Exit code: 0 if every mutant was noticed, 1 if some survived, 2 if the list does not fit the code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from image2point import files

ROOT = Path(__file__).resolve().parent.parent
LIST, RESULTS = ROOT / "tests" / "mutants.yaml", ROOT / "build" / "mutants.json"
SLOWEST = 900  # seconds that an unbroken test file may take
PRELOADED = (
    "h5py", "hypothesis", "lightning.fabric", "open3d", "pydantic", "rich.table", "safetensors.torch", "scipy.stats",
    "torch.utils.tensorboard", "torch.utils.data", "trimesh", "typer.testing",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One bug: `old`, which occurs once in `file`, replaced by `new`; `tests` are files relative to the root."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def read_mutants(path: Path, patterns: Sequence[str] = ()) -> list[Mutant]:
    """Those whose name or file matches a pattern, or all; ValueError names everything that does not fit the code."""
    mutants = []
    for file, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for name, (old, new, *own) in entry["mutants"].items():
            mutants.append(Mutant(name, file, old, new, tuple((own[0] if own else entry["tests"]).split())))
    names = [mutant.name for mutant in mutants]
    if patterns:
        mutants = [m for m in mutants if any(fnmatchcase(m.name, p) or fnmatchcase(m.file, p) for p in patterns)]
        if not mutants:
            raise ValueError(f"no mutant matches {' or '.join(patterns)}")
    wrong = [f"{name}: the name occurs twice" for name in sorted({n for n in names if names.count(n) > 1})]
    for mutant in mutants:
        if not (isinstance(mutant.old, str) and isinstance(mutant.new, str)):
            wrong.append(f"{mutant.name}: old and new are texts; put quotes around them")
            continue
        source = ROOT / mutant.file
        count = source.read_text(encoding="utf-8").count(mutant.old) if source.is_file() else 0
        if count != 1:
            wrong.append(f"{mutant.name}: the old text should occur once in {mutant.file}, found {count} times")
        if mutant.old == mutant.new:
            wrong.append(f"{mutant.name}: old and new are the same")
        wrong += [f"{mutant.name}: {test} does not exist" for test in mutant.tests if not (ROOT / test).exists()]
    if wrong:
        raise ValueError("\n".join(wrong))
    return mutants


def project_files() -> list[str]:
    """What a copy consists of: all files but those that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = ((name, ROOT / name) for name in listed.stdout.split("\0") if name)
    return [name for name, path in paths if path.is_file() or path.is_symlink()]


def digest(names: Iterable[str], *more: str) -> str:
    """Of the contents of files and of further texts."""
    total = hashlib.sha256()
    for name in sorted(set(names)):
        path = ROOT / name
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        total.update(f"{name}\0".encode() + hashlib.sha256(content).digest())
    for text in more:
        total.update(f"{text}\0".encode())
    return total.hexdigest()[:24]


class Key:
    """What a result depends on: the package, the tests that are run, the helpers that these name, the bug."""

    def __init__(self) -> None:
        names = project_files()
        self.package = [name for name in names if name.startswith(("image2point/", "pyproject.toml"))]
        self.tests = [name for name in names if name.startswith("tests/") and name.endswith(".py")]

    def of(self, tests: Sequence[str], *bug: str) -> str:
        own = [name for name in self.tests if name.startswith(tuple(tests))]
        text = "conftest " + " ".join((ROOT / name).read_text(encoding="utf-8") for name in own)
        helpers = [n for n in self.tests if not Path(n).name.startswith("test_") and Path(n).stem in text]
        return digest([*self.package, *own, *helpers], *tests, *bug)


class Copies:
    """A copy of the project for each worker, and beside it a process that runs tests in it (see `serve`)."""

    def __init__(self, folder: Path, count: int) -> None:
        self.free: queue.Queue[tuple[Path, subprocess.Popen[str]]] = queue.Queue()
        self.servers: list[subprocess.Popen[str]] = []
        for number in range(count):
            copy = folder / f"worker{number}" / "tree"
            for name in project_files():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
            environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
            server = subprocess.Popen(
                [sys.executable, str(copy / "scripts" / "mutants.py"), "--serve"],
                cwd=copy, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                start_new_session=True,
            )  # fmt: skip
            self.servers.append(server)
            self.free.put((copy, server))

    def test(self, tests: Sequence[str], timeout: float, mutant: Mutant | None = None) -> dict[str, Any]:
        """Run tests in a free copy, with a bug in it or without: what came out, by which test, and the seconds."""
        copy, server = self.free.get()
        try:
            if mutant is None:
                return self._ask(server, tests, timeout)
            source = copy / mutant.file
            text = source.read_text(encoding="utf-8")
            try:
                self._write(source, text.replace(mutant.old, mutant.new))
                return self._ask(server, tests, timeout)
            finally:
                self._write(source, text)
        finally:
            self.free.put((copy, server))

    @staticmethod
    def _write(source: Path, text: str) -> None:
        source.write_text(text, encoding="utf-8")
        # Compiled files are told from stale ones by second and size, which a bug may leave the same.
        for stale in (source.parent / "__pycache__").glob(f"{source.stem}.*.pyc"):
            stale.unlink()

    @staticmethod
    def _ask(server: subprocess.Popen[str], tests: Sequence[str], timeout: float) -> dict[str, Any]:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps({"tests": list(tests), "timeout": timeout}) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that runs {' '.join(tests)} is gone")
        return json.loads(answer)

    def stop(self) -> None:
        for server in self.servers:
            server.terminate()


def serve() -> None:
    """Run tests as asked on standard input, in the current folder, each time in a fork of this process.

    What takes long to import and is no part of the project is imported once, before.
    """
    from importlib import import_module

    import pytest
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # as tests/conftest.py has it
    import_module("image2point.networks.timm_import").load_timm()
    for name in PRELOADED:
        with suppress(ImportError, OSError):
            import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "image2point"]:
        del sys.modules[name]
    child = 0

    def stop(*_: object) -> None:
        _kill(child)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    for line in sys.stdin:
        asked, started = json.loads(line), time.monotonic()
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            child = os.fork()
            if not child:
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
                os.setsid()
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                for stream in (1, 2):
                    os.dup2(output.fileno(), stream)
                code = 70
                try:
                    code = int(pytest.main(["-x", "-q", "-rfE", "-p", "no:cacheprovider", "--tb=no", *asked["tests"]]))
                    sys.stdout.flush()
                finally:
                    os._exit(code)
            status, left, last = None, asked["timeout"], time.monotonic()
            while status is None and left > 0:
                time.sleep(0.05)
                # While this process is stopped, or the machine sleeps, so do the tests.
                left, last = left - min(1.0, time.monotonic() - last), time.monotonic()
                done, how = os.waitpid(child, os.WNOHANG)
                status = os.waitstatus_to_exitcode(how) if done else None
            _kill(child)  # and what its tests may have left
            if status is None:
                os.waitpid(child, 0)
            output.seek(0)
            said = output.read()
        by = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
        # 0: all passed, 1: some failed, None: too slow, an abort or a segmentation fault: the process died of the bug.
        # Anything else, such as a file that cannot be imported, is no answer.
        killed = dict.fromkeys((1, None, -signal.SIGABRT, -signal.SIGSEGV), "killed")
        outcome = {0: "survived", **killed}.get(status, f"pytest ended with {status}")
        answer = {
            "outcome": outcome,
            "by": by[-1] if by else f"stopping after {asked['timeout']:.0f} s" if status is None else "",
            "seconds": time.monotonic() - started,
            "output": "" if outcome in ("survived", "killed") else said[-2000:],
        }
        print(json.dumps(answer), flush=True)


def _kill(group: int) -> None:
    if group:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


class Results:
    """What is known so far, on disk after each step."""

    def __init__(self, again: bool) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        if RESULTS.is_file() and not again:
            self.known = json.loads(RESULTS.read_text(encoding="utf-8"))

    def put(self, key: str, result: dict[str, Any]) -> None:
        self.known[key] = result
        self._write()

    def forget(self, key: str) -> None:
        del self.known[key]
        self._write()

    def _write(self) -> None:
        files.write_text(RESULTS, json.dumps(self.known, indent=1))


def judge(mutants: Sequence[Mutant], copies: Copies, results: Results, workers: int) -> dict[str, dict[str, Any]]:
    """The result of each mutant by name, those known already included. Raises ValueError where tests fail unbroken."""
    key = Key()
    pool = ThreadPoolExecutor(workers)

    def all_of(work: dict[Any, tuple[str, Any]], say: Any) -> None:
        futures = {pool.submit(*call): (item, name) for item, (name, call) in work.items() if name not in results.known}
        for done, future in enumerate(as_completed(futures), start=1):
            item, name = futures[future]
            results.put(name, future.result())
            say(item, results.known[name], f"{done}/{len(futures)}")

    try:
        plain = {
            test: (key.of([test]), (copies.test, [test], SLOWEST))
            for test in dict.fromkeys(test for mutant in mutants for test in mutant.tests)
        }
        all_of(plain, lambda test, found, at: print(f"{at} unbroken: {test} ({found['seconds']:.0f} s)", flush=True))
        failing = []
        for test, (name, _) in plain.items():
            found = results.known[name]
            if found["outcome"] != "survived":
                results.forget(name)
                failing.append(f"{test} fails without a bug: {found['by'] or found['output']}")
        if failing:
            raise ValueError("\n".join(failing))
        seconds = {test: results.known[name]["seconds"] for test, (name, _) in plain.items()}
        broken = {
            mutant.name: (
                key.of(mutant.tests, mutant.file, mutant.old, mutant.new),
                (copies.test, mutant.tests, 120 + 5 * sum(seconds[test] for test in mutant.tests), mutant),
            )
            for mutant in mutants
        }
        all_of(broken, lambda name, found, at: print(f"{at} {described(name, found)}", flush=True))
        return {name: results.known[where] for name, (where, _) in broken.items()}
    except KeyboardInterrupt:
        copies.stop()  # so that no thread of the pool waits for an answer
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def described(name: str, found: dict[str, Any]) -> str:
    by = f" by {found['by']}" if found["by"] else ""
    return f"{found['outcome']:8} {name}{by} ({found['seconds']:.0f} s)"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="mutants whose name or file matches this pattern; repeatable")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="forget what is known from earlier calls")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve()
        return 0
    started = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell has the former ignored by what it starts in the background
        signal.signal(number, _interrupt)
    try:
        mutants = read_mutants(LIST, asked.only or ())
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            results = Results(asked.again)
            copies = Copies(Path(folder), asked.workers)
            try:
                found = judge(mutants, copies, results, asked.workers)
            finally:
                copies.stop()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    left = {name: result for name, result in found.items() if result["outcome"] != "killed"}
    for name, result in left.items():
        print(described(name, result), result["output"], sep="\n", end="")
    minutes = (time.monotonic() - started) / 60
    print(f"{len(found)} mutants: {len(found) - len(left)} killed, {len(left)} survived ({minutes:.1f} min)")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
