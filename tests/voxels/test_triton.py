"""The Triton engine against the reference in float64: in Triton's interpreter, or on a GPU where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from voxel_samples import random_voxels, relative

from image2point.voxels import Sites, VoxelConv, VoxelError, VoxelTensor, Window, neighbour_table
from image2point.voxels.conv import reference
from image2point.voxels.conv.autograd import convolve
from image2point.voxels.plan import NeighbourTable

pytest.importorskip("triton", reason="triton is not installed (it comes with the extra `test` on Linux)")

from image2point.voxels.conv import triton_engine, triton_forward, triton_tune, triton_weight
from image2point.voxels.conv.epilogue import Epilogue
from image2point.voxels.conv.fused import convolve_and_finish
from image2point.voxels.conv.pack import pack
from image2point.voxels.conv.triton_table import column_rows, sorted_table
from image2point.voxels.conv.triton_tune import Config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Largest error relative to the largest value. The interpreter cuts bits off where a GPU rounds to bfloat16.
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}

KINDS = [  # kernel, stride, near padding, dilation, groups, tied axes, channels in and out
    (3, 1, 1, 1, 1, "z", 20, 24),
    (3, 1, 1, 1, 1, "", 20, 24),
    (3, 2, 1, 1, 1, "x", 4, 8),
    (3, 1, 1, 2, 2, "y", 8, 4),
    (2, 2, 0, 1, 1, "xyz", 20, 4),
    (4, 2, 1, 1, 1, "y", 8, 8),
    (5, 2, 2, 1, 2, "xy", 8, 8),
    (1, 2, 0, 1, 1, "", 4, 4),
    (5, 3, 2, 1, 1, "z", 1, 6),
    (3, 1, 1, 1, 8, "z", 8, 8),
    (3, 2, 1, 1, 4, "", 4, 8),
]


@pytest.fixture(autouse=True)
def first_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search for tile sizes on a GPU: it compiles every kernel eight times."""
    monkeypatch.setenv("IMAGE2POINT_TUNE", "0")


def case(
    kind: tuple, dtype: torch.dtype = torch.float32, points: int = 30
) -> tuple[NeighbourTable, Tensor, Tensor, Tensor]:
    """Table, features, weight and gradient of the result, the last three leaves in `dtype`."""
    kernel, stride, near, dilation, groups, tied, inputs, outputs = kind
    x = random_voxels(inputs, clouds=2, points=points, edge=0.3).to(DEVICE)
    table = neighbour_table(x.sites, Window((kernel,) * 3, stride, (near,) * 3, dilation))
    shape = [1 if axis in tied else kernel for axis in "xyz"]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(outputs, inputs // groups, *shape, generator=generator)
    gradient = torch.randn(table.targets, outputs, generator=generator)
    features, weight, gradient = (t.to(DEVICE, dtype) for t in (x.features, weight, gradient))
    return table, features.requires_grad_(), weight.requires_grad_(), gradient


def expected(table: NeighbourTable, features: Tensor, weight: Tensor, gradient: Tensor, groups: int) -> list[Tensor]:
    """Result, data gradient and weight gradient of the reference, in float64."""
    features, weight = (t.detach().double().requires_grad_() for t in (features, weight))
    y = reference.convolve(features, weight.expand(-1, -1, *table.kernel), table, groups)
    return [y, *torch.autograd.grad(y, (features, weight), gradient.double())]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_equals_the_reference(kind: tuple) -> None:
    table, features, weight, gradient = case(kind)
    y = convolve(features, weight, table, kind[4], engine="triton")
    found = [y, *torch.autograd.grad(y, (features, weight), gradient)]
    for value, truth in zip(found, expected(table, features, weight, gradient, kind[4]), strict=True):
        assert relative(value.double(), truth) < BOUNDS[torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3], KINDS[9]], ids=str)
def test_half_precision(kind: tuple, dtype: torch.dtype) -> None:
    table, features, weight, gradient = case(kind, dtype)
    y = convolve(features, weight, table, kind[4], engine="triton")
    found = [y, *torch.autograd.grad(y, (features, weight), gradient)]
    for value, truth in zip(found, expected(table, features, weight, gradient, kind[4]), strict=True):
        assert value.dtype == dtype
        assert relative(value.double(), truth) < BOUNDS[dtype]


@pytest.mark.parametrize("kind", [KINDS[0], (2, 2, 0, 1, 2, "z", 40, 8)], ids=str)
def test_any_cut_of_the_work_gives_the_same(kind: tuple) -> None:
    table, features, weight, gradient = case(kind, points=15)
    groups, shape = kind[4], tuple(weight.shape[2:])
    truth = expected(table, features, weight, gradient, groups)
    for config in (Config(16, 16, 16), Config(16, 32, 16, parts=3), Config(64, 16, 32, parts=2)):
        rows = sorted_table(table, shape, False)
        y = triton_forward.multiply(features.detach(), pack(weight, groups), rows, config=config)
        kernel = triton_weight.weight_gradient(
            features.detach(), gradient, column_rows(table, shape, False), groups, config
        )
        assert relative(y.double(), truth[0]) < BOUNDS[torch.float32]
        kernel = kernel.permute(1, 3, 2, 0).reshape(weight.shape)
        assert relative(kernel.double(), truth[2]) < BOUNDS[torch.float32]


def test_second_derivatives() -> None:
    table, features, weight, gradient = case((3, 2, 1, 1, 1, "z", 2, 3), points=12)
    outcomes = []
    for engine, dtype in (("triton", torch.float32), ("cpu", torch.float64)):
        x, w = (t.detach().to(dtype).requires_grad_() for t in (features, weight))
        y = convolve(x, w, table, engine=engine)
        first = torch.autograd.grad(y, (x, w), gradient.to(dtype), create_graph=True)
        outcomes.append(torch.autograd.grad(sum(g.square().sum() for g in first), (x, w)))
    for value, truth in zip(*outcomes, strict=True):
        assert relative(value.double(), truth) < 1e-5


def test_one_voxel_and_rows_without_neighbours() -> None:
    features = torch.randn(1, 4, device=DEVICE)
    one = VoxelTensor(features, Sites.of(torch.zeros(1, 4, dtype=torch.int32, device=DEVICE)))
    layer = VoxelConv(4, 8, (3, 3, 3), 1, (1, 1, 1), engine="triton").to(DEVICE).requires_grad_(False)
    assert relative(layer(one).features, features @ layer.weight[:, :, 1, 1, 1].T) < 1e-6

    far = torch.tensor([[0, 1, 1, 1], [0, 3, 2, 2]], dtype=torch.int32, device=DEVICE)
    two = VoxelTensor(torch.randn(2, 4, device=DEVICE), Sites.of(far))
    strided = VoxelConv(4, 8, (1, 1, 1), 2, engine="triton").to(DEVICE)
    assert not strided(two).features.any()  # neither site lies on the coarse grid's first corner


def test_no_rows() -> None:
    table, features, weight, _ = case(KINDS[0])
    empty = NeighbourTable(table.kernel, table.reads[:, :0], table.sources)
    assert triton_engine.multiply(features, weight, empty).shape == (0, 24)
    assert not triton_engine.weight_gradient(features, features.new_empty(0, 24), empty, (3, 3, 1)).any()


def test_a_sorted_tile_visits_few_columns() -> None:
    table = neighbour_table(Sites.of(surface().to(DEVICE)), Window((3, 3, 3), 1, (1, 1, 1)))
    tiles = sorted_table(table, (3, 3, 1), False).tiles(16)
    here = torch.sort(tiles.rows[tiles.rows >= 0]).values.cpu()
    assert torch.equal(here, torch.arange(table.targets, dtype=torch.int32))
    mean = tiles.count.double().mean()
    plain = (table.index().view(-1, 9, 3) >= 0).any(2)
    needed = plain.sum(1).double().mean()
    unsorted = F.pad(plain, (0, 0, 0, -len(plain) % 16)).view(-1, 16, 9).any(1).sum(1).double().mean()
    assert needed <= mean < needed + 0.25 * (unsorted - needed)


def surface() -> Tensor:
    """Sorted sites within half a voxel of a sphere, int32 [N, 4]."""
    grid = torch.cartesian_prod(*[torch.arange(25)] * 3)
    near = ((grid - 12).double().norm(dim=1) - 10.5).abs() < 0.5
    return F.pad(grid[near], (1, 0)).to(torch.int32)


def test_repeats_are_identical() -> None:
    table, features, weight, gradient = case(KINDS[1])
    config = Config(32, 32, 32, parts=2)
    rows = sorted_table(table, (3, 3, 3), False)
    pairs = column_rows(table, (3, 3, 3), False)
    first, again = (triton_forward.multiply(features, pack(weight, 1), rows, config=config) for _ in range(2))
    assert torch.equal(first, again)
    first, again = (triton_weight.weight_gradient(features, gradient, pairs, 1, config) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("activation", ["identity", "relu", "relu6", "silu", "hardswish"])
def test_what_follows_a_convolution(activation: str) -> None:
    kind = KINDS[9] if activation == "relu6" else (3, 2, 1, 1, 1, "z", 4, 8)
    table, features, weight, _ = case(kind, points=20)
    generator = torch.Generator().manual_seed(2)
    scale, shift, residual = (
        (3 * torch.randn(*shape, generator=generator)).to(DEVICE) for shape in ((8,), (8,), (table.targets, 8))
    )
    steps = Epilogue(scale, shift, residual, activation)
    with torch.no_grad():
        y = convolve_and_finish(features, weight, table, steps, kind[4], "triton")
    linear = reference.convolve(features, weight.expand(-1, -1, *table.kernel), table, kind[4]) * scale + shift
    truth = linear + residual
    assert relative(y, truth if activation == "identity" else getattr(F, activation)(truth)) < 1e-5


def test_fused_tail_in_parts_without_a_residual() -> None:
    table, features, weight, _ = case((3, 1, 1, 1, 1, "z", 16, 16), points=20)
    scale, shift = torch.randn(16, device=DEVICE), torch.randn(16, device=DEVICE)
    rows = sorted_table(table, (3, 3, 1), False)
    steps = Epilogue(scale, shift, None, "relu")
    y = triton_forward.multiply(features.detach(), pack(weight, 1), rows, steps, Config(16, 16, 16, parts=4))
    linear = reference.convolve(features, weight.expand(-1, -1, 3, 3, 3), table)
    assert relative(y, F.relu(linear * scale + shift)) < 1e-5


def test_what_cannot_run_is_refused_with_the_reason() -> None:
    table, features, weight, _ = case(KINDS[0], torch.float64)
    with pytest.raises(VoxelError, match="float64"):
        convolve(features, weight, table, engine="triton")
    with pytest.raises(VoxelError, match="one type"):
        convolve(features.half(), weight.float(), table, engine="triton")


def test_precision_of_float32_products_follows_torch() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        for setting, precision in (("highest", "ieee"), ("high", "tf32")):
            torch.set_float32_matmul_precision(setting)
            assert triton_forward.dot_precision(torch.float32) == precision
            assert triton_forward.dot_precision(torch.bfloat16) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_fastest_cut_is_chosen_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("IMAGE2POINT_TUNE", raising=False)
    monkeypatch.setattr(triton_tune, "_chosen", {})
    slow, quick, huge = Config(16, 16, 16), Config(32, 32, 32), Config(512, 512, 512)
    monkeypatch.setattr(triton_tune, "_time", lambda config, run: {slow: 2.0, quick: 1.0}[config])
    asked = []

    def run(config: Config) -> None:
        asked.append(config)
        if config == huge:
            raise triton_tune.OutOfResources(1 << 20, 1 << 17, "shared memory")

    def find(gpu: str) -> Config:
        triton_tune._saved.cache_clear()
        return triton_tune.search(gpu, ("multiply", 14), lambda: [huge, slow, quick], run)

    assert find("one GPU") == quick
    assert asked == [huge, slow, quick]
    assert find("one GPU") == quick
    assert asked == [huge, slow, quick]  # from the file
    (file,) = (tmp_path / "image2point").iterdir()
    assert list(json.loads(file.read_text()).values()) == [[32, 32, 32, 4, 3, 1]]
    file.write_text("not what was written")
    monkeypatch.setenv("IMAGE2POINT_TUNE", "0")
    assert find("one GPU") == slow  # the first that fits, without a search
    assert find("another GPU") == slow


def test_few_tiles_are_shared_among_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_forward, "processors", lambda device: 132)
    features = torch.empty(0, 256, dtype=torch.bfloat16)

    def cuts(rows: int) -> list[Config]:
        return triton_forward.candidates(features, rows, inputs=256, outputs=40, groups=1, columns=9)

    assert all(cut.parts > 1 for cut in cuts(100))
    assert all(cut.parts == 1 for cut in cuts(1_000_000))
    assert {cut.outputs for cut in cuts(100)} == {64}  # no wider than the problem
