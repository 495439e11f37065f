"""The `cpu` engine against the reference: every kind of kernel, window, group count, type and thread count."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from voxel_samples import full_grid, random_voxels, relative, tie

from image2point.config.lifting import Network
from image2point.voxels import Sites, VoxelConv, VoxelError, VoxelTensor, Window, lookup, neighbour_table
from image2point.voxels.conv import cpu, engines, native, reference
from image2point.voxels.conv.autograd import convolve
from image2point.voxels.conv.pack import pack
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.remember import Forms

WINDOWS = {
    "submanifold": Window((3, 3, 3), 1, (1, 1, 1)),
    "strided": Window((3, 3, 3), 2, (1, 1, 1)),
    "even": Window((4, 2, 4), 2, (1, 0, 1)),
    "dilated": Window((3, 3, 3), 1, (2, 2, 2), 2),
    "even, dilated": Window((2, 2, 2), 1, (1, 1, 1), 2),
    "off centre": Window((3, 3, 3), 1, (0, 1, 2)),
    "point, strided": Window((1, 1, 1), 2, (0, 0, 0)),
    "wide": Window((5, 5, 5), 3, (2, 2, 2)),
    "flat": Window((3, 3, 1), 1, (1, 1, 0)),
}
GROUPS = {"one": (6, 4, 1), "two": (6, 4, 2), "depthwise": (6, 6, 6), "multiplier": (4, 8, 4)}


@pytest.fixture(autouse=True, params=["compiled", "torch"])
def several_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of the engine, in blocks of 64 rows, so that small clouds have several."""
    if request.param == "compiled" and native.library() is None:
        pytest.skip("there is no C++ compiler")
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "HEIGHT", 64)
    monkeypatch.setitem(cpu._BLOCK_BYTES, "cpu", 1)


@pytest.mark.parametrize("channels", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_equals_the_reference_with_all_gradients(window: Window, channels: tuple[int, int, int]) -> None:
    inputs, outputs, groups = channels
    x = random_voxels(channels=inputs)
    table = neighbour_table(x.sites, window)
    for tied in ("", "z", "x", "yz", "xyz"):
        shape = [1 if "xyz"[axis] in tied else window.kernel[axis] for axis in range(3)]
        weight = torch.randn(outputs, inputs // groups, *shape, dtype=torch.float64, requires_grad=True)
        features = x.features.clone().requires_grad_()
        found, expected = (convolve(features, weight, table, groups, engine) for engine in ("cpu", "reference"))
        assert relative(found, expected) < 1e-10
        gradient = torch.randn_like(expected)
        pairs = (torch.autograd.grad(y, (features, weight), gradient) for y in (found, expected))
        for ours, theirs in zip(*pairs, strict=True):
            assert relative(ours, theirs) < 1e-10


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_lower_precision(dtype: torch.dtype, bound: float) -> None:
    x = random_voxels(channels=16)
    for groups, window in itertools.product((1, 16), (WINDOWS["submanifold"], WINDOWS["strided"])):
        table = neighbour_table(x.sites, window)
        weight = torch.randn(16, 16 // groups, 3, 3, 1, dtype=torch.float64)
        exact = reference.convolve(x.features, weight.expand(-1, -1, 3, 3, 3), table, groups)
        found = cpu.multiply(x.features.to(dtype), weight.to(dtype), table, groups)
        assert found.dtype == dtype and relative(found.double(), exact) < bound
        back = reference_gradient(exact, weight, table, groups)
        ours = cpu.weight_gradient(x.features.to(dtype), exact.to(dtype), table, (3, 3, 1), groups)
        assert relative(ours.double(), back(x.features)) < 2 * bound


def reference_gradient(gradient: torch.Tensor, weight: torch.Tensor, table: NeighbourTable, groups: int):  # type: ignore[no-untyped-def]
    def of(features: torch.Tensor) -> torch.Tensor:
        leaf = weight.clone().requires_grad_()
        y = reference.convolve(features, leaf.expand(-1, -1, *table.kernel), table, groups)
        return torch.autograd.grad(y, leaf, gradient)[0]

    return of


def test_rows_that_read_nothing_are_zero() -> None:
    sites = Sites.of(torch.tensor([[0, 0, 0, 0], [0, 9, 9, 9]], dtype=torch.int32))
    table = neighbour_table(sites, Window((2, 2, 2), 1, (-1, -1, -1)))  # reads the next voxel only, and there is none
    weight = torch.randn(3, 2, 2, 2, 2)
    assert not cpu.multiply(torch.randn(2, 2), weight, table).any()
    assert not cpu.multiply(torch.randn(2, 3), weight.transpose(0, 1), table, backward=True).any()
    assert not cpu.weight_gradient(torch.randn(2, 2), torch.randn(2, 3), table, (2, 2, 2)).any()


def test_one_voxel() -> None:
    sites = Sites.of(torch.zeros(1, 4, dtype=torch.int32))
    weight = torch.randn(3, 2, 3, 3, 3)
    x = torch.randn(1, 2)
    found = cpu.multiply(x, weight, neighbour_table(sites, WINDOWS["submanifold"]))
    torch.testing.assert_close(found, x @ weight[:, :, 1, 1, 1].T)


@pytest.mark.parametrize(
    ("numbers", "repeats"), [((1, 2), 2), pytest.param((1, 2, 4), 100, marks=pytest.mark.slow)], ids=["quick", "long"]
)
def test_the_same_bits_at_each_number_of_threads(
    numbers: tuple[int, ...], repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cpu._BLOCK_BYTES, "cpu", 1 << 18)
    x = random_voxels(channels=32, clouds=8, points=400).to(torch.float32)
    table = neighbour_table(x.sites, WINDOWS["submanifold"])
    weight, depthwise = torch.randn(32, 32, 3, 3, 1), torch.randn(32, 1, 3, 3, 3)

    def results() -> list[torch.Tensor]:
        y = cpu.multiply(x.features, weight, table)
        kernel = cpu.weight_gradient(x.features, y, table, (3, 3, 1))
        return [y, kernel, cpu.multiply(x.features, depthwise, table, 32)]

    threads, outcomes = torch.get_num_threads(), []
    try:
        for number in numbers:
            torch.set_num_threads(number)
            outcomes.append(results())
            for _ in range(repeats - 1):
                assert all(torch.equal(a, b) for a, b in zip(results(), outcomes[-1], strict=True))
    finally:
        torch.set_num_threads(threads)
    for other in outcomes[1:]:
        assert all(relative(a, b) < 1e-5 for a, b in zip(other, outcomes[0], strict=True))


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("shift", [0, -7])
def test_all_ways_to_look_up_agree(window: Window, shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = random_voxels().sites
    sites = Sites.of(sites.coordinates + torch.tensor([0, shift, shift, shift], dtype=torch.int32))
    targets = sites.coarsen(window.stride)
    walked = lookup.look_up(sites, targets, window)
    backward = lookup.read_by(walked, len(sites))
    monkeypatch.setattr(lookup, "library", lambda: None)
    assert torch.equal(lookup.read_by(walked, len(sites)), backward)
    tap, target = (walked >= 0).nonzero(as_tuple=True)
    assert torch.equal(backward[tap, walked[tap, target]].long(), target) and int((backward >= 0).sum()) == len(tap)
    direct = lookup.look_up(sites, targets, window)
    monkeypatch.setattr(lookup, "_DIRECT_CELLS", 0)
    assert torch.equal(lookup.look_up(sites, targets, window), direct) and torch.equal(walked, direct)
    row = {tuple(site): number for number, site in enumerate(sites.coordinates.tolist())}
    start = torch.tensor(window.padding)
    for number, (batch, *place) in enumerate(targets.coordinates.tolist()):
        taps = torch.cartesian_prod(*[torch.arange(k) for k in window.kernel]) * window.dilation
        wanted = torch.tensor(place) * window.stride - start + taps
        assert walked[:, number].tolist() == [row.get((batch, *tap), -1) for tap in wanted.tolist()]


def test_a_walk_begins_anew_in_every_part() -> None:
    clouds = torch.cartesian_prod(torch.arange(3), torch.arange(40), torch.arange(40), torch.arange(3)).to(torch.int32)
    sites = Sites.of(clouds)  # more than two parts of lookup.cpp
    reads = lookup.look_up(sites, sites, Window((3, 3, 3), 1, (1, 1, 1)))
    assert torch.equal(reads[13], torch.arange(len(sites), dtype=torch.int32))
    assert int((reads >= 0).sum()) == 3 * (3 * 40 - 2) ** 2 * (3 * 3 - 2)


def test_coordinates_from_minus_to_plus_two_to_the_twenty() -> None:
    near = random_voxels(clouds=1)
    corner = near.coordinates.clone()
    corner[:, 1:] += 2**20 - int(corner[:, 1:].max())
    other = near.coordinates.clone()
    other[:, 1:] -= 2**20
    both = Sites.of(torch.cat([other, corner]))  # one cloud whose box has more than 2⁶² cells
    assert int(both.keys.diff().min()) > 0
    for window in (WINDOWS["submanifold"], WINDOWS["strided"]):
        layer = VoxelConv(4, 8, window.kernel, window.stride, window.padding).double()
        expected = layer(near).features
        found = layer(VoxelTensor(near.features.repeat(2, 1), both)).features
        shift = (2**20 - int(near.coordinates[:, 1:].max())) % window.stride
        assert relative(found[: len(expected)], expected) < 1e-12
        if not shift:
            assert relative(found[len(expected) :], expected) < 1e-12


def test_parents_and_coarse_sites_belong_together() -> None:
    sites = random_voxels().sites
    coarse, parents = sites.coarsen(2), sites.parents(2)
    assert torch.equal(coarse.coordinates[parents, 1:], sites.coordinates[:, 1:] // 2)
    assert torch.equal(Sites.of(coarse.coordinates).coordinates, coarse.coordinates)


def test_too_large_a_table_is_refused_by_name() -> None:
    class Many(Sites):
        def __len__(self) -> int:
            return 1 << 28

    with pytest.raises(VoxelError, match="2³¹ entries"):
        neighbour_table(Many(torch.zeros(1, 4, dtype=torch.int32), 1), WINDOWS["submanifold"])


def test_a_frozen_kernel_is_cut_to_what_counts() -> None:
    layer = VoxelConv(4, 8, (3, 3, 3), 1, (1, 1, 1)).double().requires_grad_(False)
    x = random_voxels()
    layer.weight[..., 0] = layer.weight[..., 2] = 0.0  # centre inflation
    assert layer.structure().window == WINDOWS["flat"] and layer.structure().tied == frozenset()
    assert relative(layer(x).features, layer(x.dense()).rows) < 1e-10
    layer.weight.copy_(tie(torch.randn_like(layer.weight), "y"))
    assert layer.structure().tied == {1} and layer.structure().window == WINDOWS["submanifold"]
    assert relative(layer(x).features, layer(x.dense()).rows) < 1e-10


@pytest.mark.parametrize("tied", ["z", "x", "xy", "xyz"])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_frozen_inflated_kernels_on_grids(window: Window, tied: str) -> None:
    layer = VoxelConv(4, 8, window.kernel, window.stride, window.padding, window.dilation, groups=2).double()
    with torch.no_grad():
        layer.weight.copy_(tie(layer.weight, tied))
    grid = full_grid().requires_grad_()
    expected = layer(grid)  # a trainable kernel: tap by tap
    found = layer.requires_grad_(False)(grid)
    assert relative(found, expected) < 1e-10
    gradient = torch.randn_like(expected)
    assert relative(*(torch.autograd.grad(y, grid, gradient)[0] for y in (found, expected))) < 1e-10


def test_a_kernel_is_packed_once_for_both_directions() -> None:
    weight = torch.randn(4, 4, 3, 3, 1)
    forms = Forms(weight)
    packed = pack(weight, 1, forms)
    assert pack(weight, 1, forms) is packed
    assert pack(weight.transpose(0, 1), 1, forms).data_ptr() == packed.data_ptr()
    assert torch.equal(pack(weight.transpose(0, 1), 1), packed.transpose(2, 3))


def test_an_engine_that_cannot_run_is_refused_and_auto_says_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    x = random_voxels()
    table = neighbour_table(x.sites, WINDOWS["submanifold"])
    weight = torch.randn(4, 4, 3, 3, 3, dtype=torch.float64)
    with pytest.raises(VoxelError, match="engine spconv cannot run"):
        convolve(x.features, weight, table, engine="spconv")
    with pytest.raises(VoxelError, match="expected one of auto, reference, cpu"):
        VoxelConv(4, 4, (3, 3, 3), engine="fastest")
    engines._log_once.cache_clear()
    with caplog.at_level("INFO", logger="image2point"):
        convolve(x.features, weight, table)
        convolve(x.features, weight, table)
    assert caplog.messages == ["sparse convolutions on cpu: engine cpu"]


def test_the_config_knows_every_engine() -> None:
    assert set(get_args(Network.model_fields["engine"].annotation)) == set(engines.ENGINES)
