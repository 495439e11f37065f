"""Collapse in Lightning's Trainer: the numbers of the features that the classifier saw, and nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import image2point as i2p
from image2point.collapse import CollapseCallback, Statistics, StatisticsError, metrics
from image2point.networks.timm_import import load_timm

load_timm()  # Lightning imports torchvision, which beside a CPU-only torch needs some help

from lightning.pytorch import LightningModule, Trainer  # noqa: E402


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = i2p.lift("test_resnet", weights="random", num_classes=3)
        i2p.freeze(self.net, "io")

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.net(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-3)


def batches() -> list[tuple[Any, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    made = []
    for size in (6, 5):
        labels = torch.arange(size) % 3
        clouds = [torch.rand(100 + 10 * int(k), 3, generator=draw) for k in labels]
        made.append((i2p.voxelize(clouds, 0.2), labels))
    return made


def fit(tmp_path: Path, callback: CollapseCallback, epochs: int = 1) -> tuple[Trainer, Module]:
    module = Module()
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    loader = DataLoader(batches(), batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader, loader)
    return trainer, module


def test_what_is_logged_is_that_of_the_features(tmp_path: Path) -> None:
    trainer, module = fit(tmp_path, CollapseCallback("net.fc"))
    S = Statistics(3, module.net.fc.in_features)
    module.net.eval()
    with torch.no_grad():
        for voxels, labels in batches():
            S.update(module.net.embed(voxels)[0], labels)
    expected = metrics(S, module.net.linear_classifier())
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for name in ("nc1", "cdnv", "nc3"):
        assert logged[f"collapse/{name}"] == pytest.approx(expected[name], rel=1e-4)
    assert not module.net.fc._forward_pre_hooks


class Rare(CollapseCallback):
    measured: list[bool]

    def on_validation_epoch_end(self, *given: Any) -> None:
        self.measured.append(self._metric is not None)
        super().on_validation_epoch_end(*given)


def test_measurements_may_be_rare(tmp_path: Path) -> None:
    callback = Rare("net.fc", ask=["nc1"], every=2)
    callback.measured = []
    trainer, _ = fit(tmp_path, callback, epochs=3)
    assert callback.measured[-3:] == [True, False, True]
    assert [name for name in trainer.callback_metrics if "/" in name] == ["collapse/nc1"]


def test_a_layer_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match=r"'net\.head', which is nothing"):
        fit(tmp_path, CollapseCallback("net.head"))
    with pytest.raises(StatisticsError, match=r"saw 6 rows of features in a validation step of 2 labels"):
        fit(tmp_path, CollapseCallback("net.fc", labels=lambda batch: batch[1][:2]))
