"""Damaged files at random: a cloud or a one-line error, never anything else. scripts/fuzz_readers.py does thousands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fuzzing import damage, read_damaged, targets

KINDS = (
    ".ply", ".pcd", ".xyz", ".pts", ".off", ".obj", ".stl", ".npy", ".npz", "scene .las", "scene .laz", "scene .ply",
    "scene .npz", "scene .npy", "scene .txt", "saved network.json", "saved weights.safetensors", "modelnet h5",
    "modelnet list", "modelnet_text", "scanobjectnn h5", "shapenet csv", "shapenet h5", "shapenet json", "part text",
    "part json", "part h5", "s3dis text", "s3dis array", "kitti scan", "kitti labels", "scannet points",
    "scannet labels", "prepared json", "prepared points", "prepared starts",
)  # fmt: skip


def test_every_reader_is_fuzzed() -> None:
    assert tuple(targets()) == KINDS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    target = targets()[kind]
    assert read_damaged(target, target.contents[0], tmp_path) == "cloud"
    found = {"cloud": 0, "refused": 0}
    for number in range(200 if kind.startswith(".") else 60):
        rng = np.random.default_rng((1, number))
        outcome = read_damaged(target, damage(target.contents[rng.integers(len(target.contents))], rng), tmp_path)
        assert outcome in found, f"file {number}: {outcome}"
        found[outcome] += 1
    assert found["refused"] > 0
