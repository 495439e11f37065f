"""The compiled convolution: sizes that fill its tiles, panels and chunks or do not, and machines without a compiler."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from voxel_samples import random_voxels, relative

from image2point.voxels import Window, compiled, lookup, neighbour_table
from image2point.voxels.conv import cpu, native, reference

needs_compiler = pytest.mark.skipif(compiled.library() is None, reason="there is no C++ compiler")
WINDOW = Window((3, 3, 3), 1, (1, 1, 1))


@needs_compiler
@pytest.mark.parametrize("outputs", [1, 16, 31, 70])
@pytest.mark.parametrize("inputs", [1, 5, 64])
def test_any_number_of_channels(inputs: int, outputs: int) -> None:
    x = random_voxels(channels=inputs)
    table = neighbour_table(x.sites, WINDOW)
    weight = torch.randn(outputs, inputs, 3, 3, 1, dtype=torch.float64)
    assert native.takes(x.features, weight, outputs, 1)
    found = native.multiply(x.features, weight, table, 1, False)
    weight.requires_grad_()
    expected = reference.convolve(x.features, weight.expand(-1, -1, 3, 3, 3), table, 1)
    assert relative(found, expected) < 1e-12
    gradient = torch.randn_like(expected)
    ours = native.weight_gradient(x.features, gradient, table, (3, 3, 1), 1, False)
    assert relative(ours, torch.autograd.grad(expected, weight, gradient)[0]) < 1e-12


@needs_compiler
def test_many_bags_in_a_column_and_few_rows_for_many_threads() -> None:
    grid = torch.cartesian_prod(torch.arange(1), *(torch.arange(n) for n in (12, 10, 5))).to(torch.int32)
    x = random_voxels(channels=7)
    for coordinates in (grid, grid[:9]):
        sites = type(x.sites).of(coordinates)
        features = torch.randn(len(sites), 7, dtype=torch.float64)
        table = neighbour_table(sites, WINDOW)
        weight = torch.randn(50, 7, 3, 3, 1, dtype=torch.float64)
        expected = reference.convolve(features, weight.expand(-1, -1, 3, 3, 3), table, 1)
        results = []
        for threads in (1, 2, 4):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                y = native.multiply(features, weight, table, 1, False)
                kernel = native.weight_gradient(features, y, table, (3, 3, 1), 1, False)
                results.append((y, kernel))
            finally:
                torch.set_num_threads(before)
        assert relative(results[0][0], expected) < 1e-12
        for other in results[1:]:
            assert all(map(torch.equal, results[0], other))


@needs_compiler
def test_features_that_are_not_contiguous() -> None:
    x = random_voxels(channels=6)
    table = neighbour_table(x.sites, WINDOW)
    strided = x.features.T.contiguous().T
    for weight, groups in ((torch.randn(4, 6, 3, 3, 1), 1), (torch.randn(6, 1, 3, 3, 1), 6)):
        weight = weight.double()
        found = native.multiply(strided, weight, table, groups, False)
        assert torch.equal(found, native.multiply(x.features, weight, table, groups, False))


def test_what_is_left_to_torch() -> None:
    x = random_voxels(channels=6).features
    assert not native.takes(x.half(), torch.randn(6, 6, 3, 3, 1).half(), 6, 1)
    assert not native.takes(x, torch.randn(6, 3, 3, 3, 1).double(), 6, 2)


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_without_a_working_compiler_torch_does_it(
    compiler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("IMAGE2POINT_NATIVE", raising=False)
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.INFO, "image2point"):
        assert compiled.library.__wrapped__() is None
    assert "plain torch" in caplog.text and compiler in caplog.text
    assert not list(tmp_path.rglob("*.so")) and not list(tmp_path.rglob("*.part"))
    for module in (native, lookup):
        monkeypatch.setattr(module, "library", lambda: None)
    x = random_voxels(channels=6)
    weight = torch.randn(4, 6, 3, 3, 1, dtype=torch.float64)
    table = neighbour_table(x.sites, WINDOW)
    expected = reference.convolve(x.features, weight.expand(-1, -1, 3, 3, 3), table, 1)
    assert relative(cpu.multiply(x.features, weight, table), expected) < 1e-12


@needs_compiler
def test_compiled_once_and_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.library.__wrapped__() is not None
    (file,) = tmp_path.rglob("*.so")
    made = file.stat().st_mtime_ns
    assert compiled.library.__wrapped__() is not None and file.stat().st_mtime_ns == made
    monkeypatch.setenv("IMAGE2POINT_NATIVE", "0")
    assert compiled.library.__wrapped__() is None
