"""What the optional engine spconv says where it cannot run; its numbers are checked on a GPU."""

from __future__ import annotations

import pytest
import torch
from voxel_samples import random_voxels

from image2point.voxels import VoxelConv, VoxelError
from image2point.voxels.conv import spconv_engine


def test_missing_package_or_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spconv_engine, "find_spec", lambda name: None if name == "spconv_triton" else object())
    assert "spconv-triton is not installed" in str(spconv_engine.unavailable(torch.device("cuda")))
    monkeypatch.setattr(spconv_engine, "find_spec", lambda name: object())
    assert "CUDA" in str(spconv_engine.unavailable(torch.device("cpu")))
    assert spconv_engine.unavailable(torch.device("cuda")) is None


def test_a_named_engine_never_falls_back() -> None:
    layer = VoxelConv(4, 4, (3, 3, 3), 1, (1, 1, 1), engine="spconv").double()
    with pytest.raises(VoxelError, match="engine spconv cannot run"):
        layer(random_voxels(4))


def test_groups_and_float64_are_refused() -> None:
    features, weight = torch.empty(1, 4), torch.empty(4, 1, 3, 3, 3)
    assert "groups" in str(spconv_engine.unsupported(features, weight, None, 4))
    assert "float64" in str(spconv_engine.unsupported(features.double(), weight, None, 1))
    assert spconv_engine.unsupported(features, weight, None, 1) is None
