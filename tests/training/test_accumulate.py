"""Batches in parts: the gradient is that of the batch for any number of parts, and runs resume to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import interrupt_at, rows, run_transfer, tiny

from image2point.config import Config
from image2point.errors import InputError
from image2point.training.interrupt import Interrupted

STILL = (
    "training.precision=64", "training.batch_size=8", "data.validation=0", "collapse.every=0", "data.voxel_size=0.15",
    "training.momentum=0.5", "training.gradient_clip=0.3",
)  # fmt: skip


def config(*overrides: str) -> Config:
    return tiny(*STILL, *overrides)


def frozen_norms(patch: pytest.MonkeyPatch) -> None:
    """Let no norm follow its batch, so that a batch in parts and in one piece are the same function."""
    usual = torch.nn.Module.train

    def train(module: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
        found = usual(module, mode)
        for each in module.modules():
            if "Norm" in type(each).__name__:
                each.training = False
        return found

    patch.setattr(torch.nn.Module, "train", train)


@pytest.mark.parametrize("settings", [(), ("training.feature_penalty=0.1",), ("training.label_smoothing=0.1",)])
def test_the_gradient_of_parts_is_that_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    frozen_norms(monkeypatch)
    found = {
        parts: rows(run_transfer(config(*settings, f"training.accumulate={parts}"), tmp_path / str(parts)).path)
        for parts in (1, 2, 4)
    }
    for parts in (2, 4):
        for ours, whole in zip(found[parts], found[1], strict=True):
            for name in ("step", "train_loss", "train_accuracy", "test_loss", "train_penalty"):
                if whole.get(name):
                    assert float(ours[name]) == pytest.approx(float(whole[name]), rel=1e-9), name
    assert float(found[1][-1]["train_loss"]) != float(found[1][1]["train_loss"])


def test_norms_follow_the_parts(tmp_path: Path) -> None:
    whole, parts = (
        rows(run_transfer(config(f"training.accumulate={parts}"), tmp_path / str(parts)).path) for parts in (1, 2)
    )
    assert whole[1]["train_loss"] != parts[1]["train_loss"] and whole[-1]["step"] == parts[-1]["step"]


def test_it_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = config("training.accumulate=2", "training.precision=32")
    whole = run_transfer(given, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(patch, "step 4")
        run_transfer(given, tmp_path / "parts")
    parts = run_transfer(given, tmp_path / "parts", resume=True)
    assert parts.weights.read_bytes() == whole.weights.read_bytes()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("training.accumulate=9",), "9 parts of training.batch_size = 8"),
        (("training.accumulate=2", "training.batch_voxels=100"), "lower batch_voxels, or leave it out"),
        (("training.accumulate=0",), "accumulate"),
        (("training.accumulate=2", "training.collapse_penalty=0.1"), "is no sum over clouds"),
    ],
)
def test_what_cannot_be_divided_is_refused(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        config(*settings)


def test_a_short_batch_is_not_divided_into_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="makes parts of one sample of a batch of 7"):
        run_transfer(config("training.accumulate=7", "network.head=batchnorm"), tmp_path / "alone")
    with pytest.raises(InputError, match="a batch of 7 clouds cannot be divided into 8 parts"):
        run_transfer(config("training.accumulate=8"), tmp_path)
