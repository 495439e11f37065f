"""Feed every reader thousands of damaged files: each must end in a cloud or in a one-line InputError.

    python scripts/fuzz_readers.py --files 10000 [--only .ply .h5 ...] [--seed 0]

Every reader works in a process of its own with a limit on memory and on time per file, so a crash, a hang or an
allocation without bound of the libraries below is seen and named, with the file kept. Exit code 1 if there was any.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "datasets"))
from fuzzing import Target, damage, read_damaged, targets

SECONDS = 20.0
"""After which a file counts as a hang."""
MEMORY = 2 * 2**30
"""Bytes that reading one file of a few kilobytes may add to the process."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", default=list(targets()))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    failures = sum(_reader(kind, arguments.files, arguments.seed) for kind in arguments.only)
    print("no crash, no hang, no unbounded allocation" if not failures else f"{failures} FAILURES")
    return int(failures > 0)


def _reader(kind: str, files: int, seed: int) -> int:
    """Feed one reader, starting a new process after each that died; the number of failures."""
    kept = Path(tempfile.mkdtemp(prefix="fuzz-"))
    number, failures, clouds, refused, peak, started = 0, 0, 0, 0, 0.0, time.monotonic()
    while number < files:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_feed, args=(theirs, kind, number, files, seed))
        process.start()
        theirs.close()
        problem = ""
        while not problem and number < files:
            try:
                if not ours.poll(SECONDS + (60 if number == 0 else 30)):
                    problem = "HANG"
                    process.kill()
                    break
                outcome, peak_now = ours.recv()
            except EOFError:
                process.join()
                problem = f"CRASH, exit code {process.exitcode}"
                break
            peak = max(peak, peak_now)
            if outcome == "cloud":
                clouds += 1
            elif outcome == "refused":
                refused += 1
            else:
                failures += 1
                _keep(kept, kind, number, seed, outcome)
            number += 1
        if problem:
            failures += 1
            _keep(kept, kind, number, seed, problem)
            number += 1
        process.join()
    seconds = time.monotonic() - started
    print(f"{kind:16} {files:6} files: {clouds:6} read, {refused:6} refused in one line, {failures} failures; "
          f"{peak / 2**20:.0f} MB at most, {seconds:.0f} s", flush=True)  # fmt: skip
    return failures


def _feed(pipe: Connection, kind: str, first: int, files: int, seed: int) -> None:
    """In the child: read file after file and tell the outcome of each."""
    sys.stderr = sys.stdout  # nothing may be printed anyway
    target = targets()[kind]
    with tempfile.TemporaryDirectory() as folder:
        read_damaged(target, target.contents[0], Path(folder))  # loads the libraries
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, virtual + MEMORY))
        for number in range(first, files):
            outcome = read_damaged(target, _content(target, seed, number), Path(folder))
            pipe.send((outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base))


def _content(target: Target, seed: int, number: int) -> bytes:
    rng = np.random.default_rng((seed, number))
    return damage(target.contents[rng.integers(len(target.contents))], rng)


def _keep(folder: Path, kind: str, number: int, seed: int, problem: str) -> None:
    target = targets()[kind]
    path = folder / f"{number}-{Path(target.name).name}"
    path.write_bytes(_content(target, seed, number))
    print(f"{kind} file {number}: {problem}: kept as {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
