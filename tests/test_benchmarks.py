"""Benchmarks measure what they say; how fast anything is, is no test."""

from __future__ import annotations

import pytest
import torch

from image2point.benchmarks import conv, kernels, network
from image2point.benchmarks.clouds import street_scan, surface
from image2point.lifting.costs import costs
from image2point.voxels import VoxelTensor, voxelize


@pytest.fixture(scope="module")
def voxels() -> VoxelTensor:
    generator = torch.Generator().manual_seed(0)
    return voxelize([torch.rand(100, 3, generator=generator) for _ in range(2)], 0.1)


def test_one_convolution() -> None:
    rows = list(conv.measure_convolution(surface(500), 8, torch.float32, "auto", ["plain", "dense"], 1e9, 1))
    assert [row["engine"] for row in rows] == ["image2point", "plain", "dense"]
    assert all(row["forward_ms"] > 0 for row in rows)


@pytest.mark.parametrize("depthwise", [False, True])
def test_kinds_of_kernels(depthwise: bool) -> None:
    kinds = ["depth", "depth:channels", "general"]
    rows = list(kernels.measure_kernels(surface(300), 8, torch.float32, "auto", kinds, 1, depthwise))
    assert [row["kernel"] for row in rows] == kinds
    assert all(row["groups"] == (8 if depthwise else 1) and row["fwd_bwd_ms"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("policy", "contenders", "trains"),
    [("io+norm", ["auto", "plain"], True), ("none", ["auto", "apart"], False)],
)
def test_a_step_or_a_pass(
    policy: str, contenders: list[str], trains: bool, voxels: VoxelTensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward = []
    monkeypatch.setattr(network, "peak_of_step", lambda *given: 1 << 20)
    real = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: backward.append(loss) or real(loss))
    cannot, *rows = network.measure_network("resnet10t", voxels, [*contenders, "spconv"], policy, 1)
    assert cannot["engine"] == "spconv" and "cannot run" in cannot["remark"]
    assert [row["engine"] for row in rows] == contenders
    assert bool(backward) == trains
    assert all(row["step_ms"] > 0 and row["peak_mib"] == 1 for row in rows)


def test_the_peak_of_a_step_is_taken_in_a_process_of_its_own(voxels: VoxelTensor) -> None:
    peak = network.peak_of_step("resnet10t", "auto", "io", "", voxels, torch.arange(2))
    assert peak is None or peak > 1 << 20


def test_a_segmenter_scores_every_voxel_of_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "peak_of_step", lambda *given: None)
    scan = street_scan(500, 0.5)
    (trained,) = network.measure_network("resnet10t", scan, ["auto"], "io+norm", 1, decoder="light")
    (scored,) = network.measure_network("resnet10t", scan, ["auto"], "none", 1, decoder="light", ceiling=1e9)
    assert trained["voxels"] == len(scan.sites) and "gemm_share" not in trained
    operations = scored["gemm_share"] * 1e9 * scored["step_ms"] / 1e3
    made = network.build_network("resnet10t", "auto", "none", "light")
    assert operations == pytest.approx(2 * sum(cost.summed for cost in costs(made, [scan]).values()))
