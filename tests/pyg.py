"""`Data` and `Batch` of PyTorch Geometric where it is installed; otherwise what of them this project reads."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

try:
    from torch_geometric.data import Batch, Data
except ImportError:

    class Data(SimpleNamespace):  # type: ignore[no-redef]
        pos: Any = None
        batch: Any = None

    class Batch:  # type: ignore[no-redef]
        @staticmethod
        def from_data_list(clouds: list[Any]) -> Any:
            counts = torch.tensor([len(cloud.pos) for cloud in clouds])
            joined = {name: torch.cat([getattr(cloud, name) for cloud in clouds]) for name in vars(clouds[0])}
            ptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
            return Data(**joined, batch=torch.arange(len(clouds)).repeat_interleave(counts), ptr=ptr)


def import_or_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `from torch_geometric.data import Batch, Data` give the two above."""
    if Data.__module__ != __name__:
        return
    home = ModuleType("torch_geometric.data")
    home.Batch, home.Data = Batch, Data  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_geometric", ModuleType("torch_geometric"))
    monkeypatch.setitem(sys.modules, "torch_geometric.data", home)
