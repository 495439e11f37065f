"""The compiled convolution: sizes that fill its tiles, panels and chunks or do not, and machines without a compiler."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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
@pytest.mark.parametrize("channels", [2, 7, 24, 67, 150])
@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 1, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_group_per_channel(channels: int, shape: tuple[int, int, int], stride: int) -> None:
    """More rows than a block has, and channels that fill wide vectors, narrow ones, and none."""
    x = random_voxels(channels=channels, clouds=2, points=1000, edge=0.7)
    table = neighbour_table(x.sites, Window((3, 3, 3), stride, (1, 1, 1)))
    weight = torch.randn(channels, 1, *shape, dtype=torch.float64, requires_grad=True)
    x.features.requires_grad_()
    expected = reference.convolve(x.features, weight.expand(-1, -1, 3, 3, 3), table, channels)
    gradient = torch.randn_like(expected)
    assert native.takes(x.features, weight, channels, channels) and len(gradient) > 256
    data, kernel = torch.autograd.grad(expected, (x.features, weight), gradient)
    assert relative(native.multiply(x.features, weight, table, channels, False), expected) < 1e-12
    assert relative(native.multiply(gradient, weight, table, channels, True), data) < 1e-12
    assert relative(native.weight_gradient(x.features, gradient, table, shape, channels, False), kernel) < 1e-12


@needs_compiler
def test_more_blocks_than_sums_of_a_depthwise_kernel() -> None:
    lattice = torch.cartesian_prod(torch.arange(1), *(torch.arange(n) for n in (26, 26, 26))).to(torch.int32)
    sites = type(random_voxels().sites).of(lattice)
    x, gradient = torch.randn(2, len(sites), 3, dtype=torch.float64)
    table = neighbour_table(sites, WINDOW)
    weight = torch.randn(3, 1, 3, 3, 1, dtype=torch.float64, requires_grad=True)
    expected = reference.convolve(x, weight.expand(-1, -1, 3, 3, 3), table, 3)
    (wanted,) = torch.autograd.grad(expected, weight, gradient)
    assert relative(native.weight_gradient(x, gradient, table, (3, 3, 1), 3, False), wanted) < 1e-12


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


def plant(file: Path) -> bytes:
    """A library that says that it was loaded."""
    source = file.with_name("planted.cpp")
    mark = file.parent / "loaded"
    source.write_text(
        f'#include <cstdio>\n__attribute__((constructor)) static void f() {{ fclose(fopen("{mark}", "w")); }}\n'
    )
    subprocess.run(["c++", "-shared", "-fPIC", "-o", file, source], check=True)
    return file.read_bytes()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size * 7 // 10]),
    "empty": lambda file: file.write_bytes(b""),
    "one bit": lambda file: file.write_bytes(bytes([*file.read_bytes()[:-1], file.read_bytes()[-1] ^ 1])),
    "planted": plant,
    "foreign": lambda file: os.chown(file, 65534, 65534),
    "writable by all": lambda file: file.chmod(0o666),
    "a link": lambda file: file.symlink_to(file.rename(file.with_suffix(".other"))),
    "no checksum": lambda file: file.with_suffix(".sha256").unlink(),
    "half a checksum": lambda file: file.with_suffix(".sha256").write_text("0123"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with a library."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        assert compiled.library.__wrapped__() is not None
    return folder


@pytest.fixture
def cache_folder(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which compiling again copies the library of before: that takes seconds otherwise."""
    shutil.copytree(built, tmp_path / "cache")
    (whole,) = (built / "image2point").glob("*.so")
    copy = tmp_path / "copy"
    copy.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp {whole} "$2"\n')
    copy.chmod(0o700)
    run = SimpleNamespace(
        run=lambda command, **options: subprocess.run([copy, *command[1:]], **options),
        SubprocessError=subprocess.SubprocessError,
    )
    monkeypatch.setattr(compiled, "subprocess", run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "image2point"


@needs_compiler
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_not_to_be_trusted_is_compiled_again(
    damage: Callable[[Path], object], cache_folder: Path, caplog: pytest.LogCaptureFixture, built: Path
) -> None:
    (file,) = cache_folder.glob("*.so")
    whole = file.read_bytes()
    try:
        damage(file)
    except PermissionError:
        pytest.skip("only root can give a file to somebody else")
    library = compiled.library.__wrapped__()
    assert library is not None and library.look_up
    assert file.read_bytes() == whole and not file.is_symlink() and file.stat().st_uid == os.getuid()
    assert not (cache_folder / "loaded").exists()
    assert caplog.text.count("it is compiled again") == 1
    caplog.clear()
    assert compiled.library.__wrapped__() is not None and not caplog.text


@needs_compiler
def test_what_a_killed_compiler_left_is_cleared_away(cache_folder: Path) -> None:
    (file,) = cache_folder.glob("*.so")
    own, old, young = (cache_folder / f".{name}.part" for name in (f"{file.name}.a", "native-1.so.a", "native-2.so.a"))
    for part in (own, old, young):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    file.unlink()
    assert compiled.library.__wrapped__() is not None
    assert not own.exists() and not old.exists() and file.exists()
    assert young.exists()  # of other sources, and perhaps another process is at it


@needs_compiler
def test_a_folder_of_somebody_else_is_not_used(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = cache_folder.glob("*.so")
    plant(file)
    monkeypatch.setattr(compiled, "_is_private", lambda path: path != cache_folder)
    assert compiled.library.__wrapped__() is not None
    assert str(cache_folder) in caplog.text and "every process compiles it" in caplog.text
    assert not (cache_folder / "loaded").exists()


@needs_compiler
def test_a_folder_that_others_could_write_to_is_closed_to_them(cache_folder: Path) -> None:
    cache_folder.chmod(0o777)
    assert compiled.library.__wrapped__() is not None
    assert cache_folder.stat().st_mode & 0o777 == 0o755
