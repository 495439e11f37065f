"""Checkpoints exist whole or not at all, and a failure to write one spares the last."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from image2point.errors import InputError
from image2point.training import checkpoint

TENSORS = {"network/a": torch.arange(6.0).reshape(2, 3).T, "optimizer/0.step": torch.tensor(3.0)}


def test_it_reads_back_what_was_written(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoint", "epoch-00001-step-000002", TENSORS, {"loss": 0.1 + 0.2})
    path = checkpoint.latest(tmp_path / "checkpoint")
    assert path is not None
    tensors, rest = checkpoint.load(path)
    assert rest == {"loss": 0.1 + 0.2}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_only_the_newest_stays(tmp_path: Path) -> None:
    for name in ("epoch-00001-step-000009", "epoch-00002-step-000000", "epoch-00010-step-000000"):
        checkpoint.save(tmp_path, name, TENSORS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00010-step-000000"]


@pytest.mark.parametrize("failing", ["save_file", "_flush"])
def test_a_full_disk_spares_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    checkpoint.save(tmp_path, "epoch-00001-step-000000", TENSORS, {"seed": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, failing, full)
    with pytest.raises(InputError, match="No space left on device; the checkpoint epoch-00001-step-000000 is intact"):
        checkpoint.save(tmp_path, "epoch-00002-step-000000", TENSORS, {"seed": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001-step-000000"]
    assert checkpoint.load(tmp_path / "epoch-00001-step-000000")[1] == {"seed": 1}


def test_a_half_written_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".epoch-00003-step-000000.part").mkdir()
    assert checkpoint.latest(tmp_path) is None
    checkpoint.save(tmp_path, "epoch-00001-step-000000", TENSORS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001-step-000000"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "epoch-00001-step-000000", TENSORS, {})
    tensors = tmp_path / "epoch-00001-step-000000" / checkpoint.TENSORS
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(InputError, match="epoch-00001-step-000000 cannot be read"):
        checkpoint.load(tensors.parent)


@pytest.mark.parametrize("kind", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, 0.1)])
def test_an_optimizer_goes_on_with_the_same_bits(tmp_path: Path, kind: Any) -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        return layer, kind(layer.parameters())

    def train(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            layer(torch.full((1, 3), float(step))).square().sum().backward()
            optimizer.step()

    whole, optimizer = make()
    train(whole, optimizer, range(5))
    first, optimizer = make()
    train(first, optimizer, range(3))
    checkpoint.save(tmp_path, "epoch-00001-step-000000", checkpoint.optimizer_tensors(optimizer), {})
    second, fresh = make()
    second.load_state_dict(first.state_dict())
    checkpoint.restore_optimizer(fresh, checkpoint.load(tmp_path / "epoch-00001-step-000000")[0])
    train(second, fresh, range(3, 5))
    assert torch.equal(whole.weight, second.weight)
