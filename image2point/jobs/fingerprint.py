"""What a run was begun with, so that a resumed one notices what changed: data, and what rounds in other ways."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image2point import files
from image2point.datasets import Splits
from image2point.datasets.listed import is_litter
from image2point.datasets.prepared import INDEX
from image2point.errors import InputError
from image2point.jobs.lifecycle import environment
from image2point.objects import url_of
from image2point.runs import Run
from image2point.storage import home

if TYPE_CHECKING:
    from lightning.fabric import Fabric

READ_WHOLE = 2 * 2**30
"""Bytes of a dataset up to which its content counts; beyond, sizes and times of change of its files."""

OF_COPY = "copy "
"""What `stat` begins with where the data are at a URL."""

DECIDES = ("image2point", "commit", "torch", "device", "processes", "threads")
"""What of the environment results depend on: on the code wholly, on the rest in the last digits."""


def take_fingerprint(splits: Splits, root: str | Path | None, fabric: Fabric) -> dict[str, Any]:
    """Digests of the clouds' classes and labels and of the files below `root`, and the environment.

    `stat` covers names, sizes and times of change, or names the copy of what is at a URL; `content` what the files
    hold, None where they are larger than `READ_WHOLE` together; `index` the index of prepared data, which has the
    digests of all files. Where these come from a URL one by one there is no `content`. All are None without a root.
    """
    found: dict[str, Any] = dict.fromkeys(("stat", "content", "index"))
    found |= {"samples": _digest_of_samples(splits), "environment": environment(fabric)}
    if root is not None and (folder := home(root)).is_dir():
        paths = _files_below(folder)
        found["stat"] = f"{OF_COPY}{folder.name}" if url_of(root) else _digest_of_stat(folder, paths)
        if (folder / INDEX).is_file():
            found["index"] = files.sha256(folder / INDEX)
        partly = url_of(root) and found["index"]
        if not partly and sum(path.stat().st_size for path in paths) <= READ_WHOLE:
            found["content"] = _digest_of_content(folder, paths)
    return found


def store_fingerprint(run: Run, fingerprint: Mapping[str, Any]) -> None:
    files.write_text(run.fingerprint, json.dumps(fingerprint, indent=1))


def compare_fingerprint(run: Run, now: Mapping[str, Any]) -> list[str]:
    """Compare with what the run was begun with; returns warnings about what of the environment may change results.

    Raises InputError where the data changed. A run that stored nothing, as earlier versions did, is not compared.
    """
    if not run.fingerprint.is_file():
        return []
    before = run.read_fingerprint()
    if not {"samples", "stat", "content", "environment"} <= before.keys():
        raise InputError(f"{run.fingerprint} is damaged; start again with --overwrite")
    comes = any(str(each["stat"]).startswith(OF_COPY) for each in (before, now))
    same_files = before["stat"] == now["stat"] or any(
        before.get(what) is not None and before.get(what) == now[what]
        for what in ("content", *(["index"] if comes else []))
    )
    if before["samples"] != now["samples"] or not same_files:
        what = "classes, labels or numbers of clouds" if before["samples"] != now["samples"] else "files"
        raise InputError(
            f"the data of {run.path} changed since it was begun: its {what} are not the same, so it cannot be resumed "
            "to the same result; restore the data, or start again with --overwrite"
        )
    began, goes_on = before["environment"], now["environment"]
    return [
        f"{name} changed since the run was begun, {began[name]} -> {goes_on[name]}: results may differ"
        for name in DECIDES
        if name in began and began[name] != goes_on[name]
    ]


def other_samples(run: Run, splits: Splits) -> str:
    """A line where the clouds are not those that the run was begun with, by their numbers, labels and classes; else
    empty, as for runs of earlier versions, which stored nothing."""
    stored = run.read_fingerprint().get("samples") if run.fingerprint.is_file() else None
    if stored is None or stored == _digest_of_samples(splits):
        return ""
    return (
        f"the data has other clouds, labels or classes than {run.path} was begun with, so that it may score or measure "
        "clouds that it was trained on"
    )


def _digest_of_samples(splits: Splits) -> str:
    digest = hashlib.sha256()
    for part in (splits.train, splits.validation, splits.test):
        if part is not None:
            digest.update(json.dumps([part.name, len(part), list(part.classes)]).encode())
            digest.update(part.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _files_below(root: Path) -> list[Path]:
    return sorted(
        path for path in files.files_below(root) if not any(is_litter(part) for part in path.relative_to(root).parts)
    )


def _digest_of_stat(root: Path, paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        state = path.stat()
        digest.update(f"{path.relative_to(root)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _digest_of_content(root: Path, paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(root)}\0".encode())
        with open(path, "rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()
