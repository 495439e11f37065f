"""Norm, pooling and elementwise layers: sparse = masked dense, and = torch on a full grid."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from voxel_samples import full_grid, random_voxels, relative

from image2point.voxels import (
    AvgPool,
    BatchNorm,
    DenseVoxels,
    GlobalPool,
    MaxPool,
    Pointwise,
    VoxelError,
    Window,
    functional,
    neighbour_table,
    pool,
)

POOLS = [
    layer(Window((size,) * 3, stride, (padding,) * 3))
    for layer, size, stride, padding in [
        (MaxPool, 3, 2, 1),
        (MaxPool, 2, 2, 0),
        (AvgPool, 2, 2, 0),
        (AvgPool, 3, 2, 1),
        (AvgPool, 3, 1, 1),
    ]
]
THREES = Window((3, 3, 3), 2, (1, 1, 1))


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pooling_sparse_equals_dense(pool: nn.Module) -> None:
    x = random_voxels()
    x = x.replace(x.features.requires_grad_())
    sparse, dense = pool(x), pool(x.dense())
    assert torch.equal(sparse.coordinates, dense.sparse().coordinates)
    assert relative(sparse.features, dense.rows) < 1e-12
    gradient = torch.randn_like(sparse.features)
    assert relative(*(torch.autograd.grad(y, x.features, gradient)[0] for y in (sparse.features, dense.rows))) < 1e-12
    grid = full_grid()
    full = DenseVoxels(grid, torch.ones(2, 1, 5, 6, 7, dtype=torch.bool))
    torch.testing.assert_close(pool(full.sparse()).dense().grid, pool(grid))


def test_pooling_of_an_even_grid_is_torchs() -> None:
    grid = full_grid(size=(6, 6, 8))
    torch.testing.assert_close(MaxPool(THREES)(grid), nn.MaxPool3d(3, 2, 1)(grid))
    torch.testing.assert_close(AvgPool(THREES)(grid), nn.AvgPool3d(3, 2, 1, count_include_pad=False)(grid))


@pytest.mark.parametrize("kind", ["avg", "max", "avgmax", "catavgmax"])
def test_global_pooling(kind: str) -> None:
    x = random_voxels()
    pool = GlobalPool(kind)  # type: ignore[arg-type]
    by_cloud = [x.features[x.sites.batch == b] for b in range(3)]
    mean, top = torch.stack([f.mean(0) for f in by_cloud]), torch.stack([f.amax(0) for f in by_cloud])
    expected = {"avg": mean, "max": top, "avgmax": (mean + top) / 2, "catavgmax": torch.cat([mean, top], 1)}[kind]
    torch.testing.assert_close(pool(x), expected)
    torch.testing.assert_close(pool(x.dense()), expected)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_sparse_equals_dense_and_torch(training: bool) -> None:
    x = random_voxels()
    x = x.replace(x.features.requires_grad_())
    layers = [BatchNorm(4).double() for _ in range(2)] + [nn.BatchNorm1d(4).double()]
    state = {
        "weight": torch.randn(4),
        "bias": torch.randn(4),
        "running_mean": torch.randn(4),
        "running_var": torch.rand(4) + 0.5,
    }
    for layer in layers:
        layer.load_state_dict({**state, "num_batches_tracked": torch.tensor(3)})
        layer.train(training)
    outputs = [layers[0](x).features, layers[1](x.dense()).rows, layers[2](x.features)]
    gradient = torch.randn_like(outputs[0])
    results = [
        (
            y,
            *torch.autograd.grad(y, [x.features, layer.weight, layer.bias], gradient),
            layer.running_mean,
            layer.running_var,
        )
        for y, layer in zip(outputs, layers, strict=True)
    ]
    for other in results[1:]:
        for found, expected in zip(results[0], other, strict=True):
            assert relative(found.detach(), expected.detach()) < 1e-10


def test_frozen_norm_keeps_no_input() -> None:
    x = random_voxels()
    x = x.replace(x.features.requires_grad_())
    layer = BatchNorm(4).double().eval().requires_grad_(False)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    assert all(t.numel() <= 4 for t in kept)


def test_norm_of_one_voxel_is_refused_by_name() -> None:
    x = random_voxels(clouds=1, points=1)
    with pytest.raises(VoxelError, match="at least two voxels"):
        BatchNorm(4).double()(x)
    BatchNorm(4).double().eval()(x)


def test_pointwise_keeps_empty_cells_empty() -> None:
    x = random_voxels()
    layer = Pointwise(nn.Sigmoid())
    dense = layer(x.dense())
    assert torch.equal(dense.rows, layer(x).features)
    assert not dense.grid[~dense.mask.expand_as(dense.grid)].any()


def test_combining_needs_the_same_sites() -> None:
    x, other = random_voxels(), random_voxels(seed=5)
    torch.testing.assert_close(functional.add(x, x).features, 2 * x.features)
    torch.testing.assert_close(functional.cat([x, x]).features, torch.cat([x.features, x.features], 1))
    assert torch.equal(functional.multiply(x.dense(), x.dense()).rows, functional.multiply(x, x).features)
    with pytest.raises(VoxelError, match="different sites"):
        functional.add(x, other)
    with pytest.raises(VoxelError, match="cannot combine VoxelTensor with DenseVoxels"):
        functional.add(x, x.dense())


def _normalise_a_share(rank: int, port: int, results: dict) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    x = random_voxels()
    mine = slice(0, 100) if rank == 0 else slice(100, None)
    rows = x.features[mine].clone().requires_grad_()
    layer = BatchNorm(4).double()
    output = layer._normalise(rows)
    (output * torch.arange(4) * rows.detach()).sum().backward()
    results[rank] = (output.detach(), rows.grad, layer.running_mean, layer.running_var)
    torch.distributed.destroy_process_group()


def test_two_processes_normalise_as_one() -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_normalise_a_share, (port, results), nprocs=2)
        shares = [results[0], results[1]]
    x = random_voxels()
    rows = x.features.clone().requires_grad_()
    layer = BatchNorm(4).double()
    output = layer._normalise(rows)
    (output * torch.arange(4) * rows.detach()).sum().backward()
    assert relative(torch.cat([s[0] for s in shares]), output.detach()) < 1e-10
    assert relative(torch.cat([s[1] for s in shares]), rows.grad) < 1e-10
    for share in shares:
        assert relative(share[2], layer.running_mean) < 1e-10
        assert relative(share[3], layer.running_var) < 1e-10


@pytest.mark.parametrize("window", [Window((3, 3, 3), 2, (1, 1, 1)), Window((1, 1, 1), 2), Window((2, 2, 2), 2)])
def test_both_ways_to_find_a_maximum_agree(window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_voxels(3)
    features = x.features.round()  # so that many are equal
    table = neighbour_table(x.sites, window)
    monkeypatch.setattr(pool, "_AT_ONCE", 1000)  # several blocks of rows
    assert torch.equal(pool._winner_at_once(features, table), pool._winner_by_pairs(features, table))
