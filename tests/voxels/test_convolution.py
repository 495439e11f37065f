"""Sparse = masked dense = unmasked dense on a full grid = other people's engines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from voxel_samples import full_grid, random_voxels, relative, tie

from image2point.datasets.files import import_open3d
from image2point.networks.timm_import import load_timm
from image2point.voxels import DenseVoxels, Sites, VoxelConv, VoxelError, VoxelTensor, Window, neighbour_table
from image2point.voxels.conv import reference
from image2point.voxels.conv.autograd import convolve

SHAPES = [  # kernel, stride, near padding, dilation, groups
    (3, 1, 1, 1, 1),
    (3, 2, 1, 1, 1),
    (3, 2, 0, 1, 1),
    (2, 2, 0, 1, 1),
    (4, 2, 1, 1, 1),
    (5, 2, 2, 1, 4),
    (3, 1, 2, 2, 2),
    (1, 2, 0, 1, 1),
    (1, 1, 0, 1, 2),
    (7, 3, 3, 1, 1),
]


def convolution(kernel: int, stride: int, padding: int, dilation: int, groups: int, tied: str = "") -> VoxelConv:
    layer = VoxelConv(4, 8, (kernel,) * 3, stride, (padding,) * 3, dilation, groups, bias=True).double()
    with torch.no_grad():
        layer.weight.copy_(tie(torch.randn_like(layer.weight), tied))
        layer.bias.normal_()
    return layer


@pytest.mark.parametrize("tied", ["", "z", "x", "xyz"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sparse_equals_masked_dense_forward_and_gradients(shape: tuple[int, ...], tied: str) -> None:
    layer = convolution(*shape, tied)
    x = random_voxels()
    x = x.replace(x.features.requires_grad_())
    sparse, dense = layer(x), layer(x.dense())
    assert torch.equal(sparse.coordinates, dense.sparse().coordinates)
    assert relative(sparse.features, dense.rows) < 1e-10
    assert not dense.grid[~dense.mask.expand_as(dense.grid)].any()
    gradient = torch.randn_like(sparse.features)
    inputs = (x.features, layer.weight, layer.bias)
    for found, expected in zip(
        torch.autograd.grad(sparse.features, inputs, gradient),
        torch.autograd.grad(dense.rows, inputs, gradient),
        strict=True,
    ):
        assert relative(found, expected) < 1e-10


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sparse_equals_unmasked_dense_on_a_full_grid(shape: tuple[int, ...]) -> None:
    layer = convolution(*shape)
    grid = full_grid().requires_grad_()
    full = DenseVoxels(grid, torch.ones(2, 1, 5, 6, 7, dtype=torch.bool))
    expected = layer(grid)
    found = layer(full.sparse())
    rows = expected.permute(0, 2, 3, 4, 1).reshape(-1, 8)
    assert relative(found.features, rows) < 1e-10
    gradient = torch.randn_like(rows)
    assert relative(*(torch.autograd.grad(y, grid, gradient)[0] for y in (found.features, rows))) < 1e-10


@pytest.mark.parametrize("tied", ["", "y", "xyz"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gathered_execution_equals_the_reference(shape: tuple[int, ...], tied: str) -> None:
    layer = convolution(*shape, tied)
    x = random_voxels(seed=1)
    expected = layer(x).features
    layer.engine = "reference"
    assert relative(layer(x).features, expected) < 1e-12


def test_depthwise_equals_dense() -> None:
    for tied in ("", "z"):
        layer = VoxelConv(4, 4, (5, 5, 5), 1, (2, 2, 2), groups=4).double()
        with torch.no_grad():
            layer.weight.copy_(tie(layer.weight, tied))
        x = random_voxels()
        assert relative(layer(x).features, layer(x.dense()).rows) < 1e-10


def test_gradcheck_twice() -> None:
    x = random_voxels(channels=2, clouds=1, points=12, edge=0.2)
    for stride, groups in ((1, 1), (2, 2)):
        table = neighbour_table(x.sites, Window((3, 3, 3), stride, (1, 1, 1)))
        weight = torch.randn(4, 2 // groups, 3, 3, 3, dtype=torch.float64, requires_grad=True)
        features = x.features.clone().requires_grad_()

        def call(f: torch.Tensor, w: torch.Tensor, table=table, groups=groups) -> torch.Tensor:
            return convolve(f, w, table, groups=groups)

        assert torch.autograd.gradcheck(call, (features, weight))
        assert torch.autograd.gradgradcheck(call, (features, weight))


def test_only_a_trainable_kernel_keeps_its_input() -> None:
    x = random_voxels(channels=32, points=300)
    for form in ("sparse", "dense"):
        for trainable in (False, True):
            layer = VoxelConv(32, 32, (3, 3, 3), 1, (1, 1, 1)).double().requires_grad_(trainable)
            features = x.features.clone().requires_grad_()
            given = x.replace(features) if form == "sparse" else x.replace(features).dense()
            kept: list[torch.Tensor] = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
                layer(given)
            values = given.features if form == "sparse" else given.grid
            inputs = [
                t
                for t in kept
                if t.is_floating_point() and t.numel() >= values.numel() and t.shape != layer.weight.shape
            ]
            assert bool(inputs) == trainable


def test_tied_axes_follow_the_values() -> None:
    layer = convolution(3, 1, 1, 1, 1, tied="z")
    x = random_voxels()
    assert layer.structure().tied == {2}
    with torch.no_grad():
        layer.weight[0, 0, 0, 0, 0] += 1.0
    assert layer.structure().tied == frozenset()
    assert relative(layer(x).features, layer(x.dense()).rows) < 1e-10
    layer.load_state_dict({**layer.state_dict(), "weight": tie(layer.weight.detach(), "xy")})
    assert layer.structure().tied == {0, 1}


def test_far_and_negative_coordinates() -> None:
    near = random_voxels()
    shift = torch.tensor([0, -(2**20), 2**20 - 40, 1000], dtype=torch.int32)
    far = VoxelTensor(near.features, Sites.of(near.coordinates + shift))
    spread = near.coordinates.clone()
    spread[near.coordinates[:, 0] == 2, 1:] += 2**20  # too many cells for a direct table: binary search
    wide = VoxelTensor(near.features, Sites.of(spread))
    for stride in (1, 2):
        layer = convolution(3, stride, 1, 1, 1)
        expected = layer(near).features
        assert torch.equal(layer(far).features, expected)
        assert torch.equal(layer(wide).features, expected)


def test_too_large_a_box_is_refused_by_name() -> None:
    ends = torch.tensor([[0, -(2**31) + 1] * 2, [0] + [2**31 - 1] * 3], dtype=torch.int32)
    ends[0] = torch.tensor([0] + [-(2**31) + 1] * 3, dtype=torch.int32)
    with pytest.raises(VoxelError, match="64-bit key"):
        Sites.of(ends)


def test_one_voxel() -> None:
    layer = convolution(3, 2, 1, 1, 1)
    x = VoxelTensor(torch.randn(1, 4).double(), Sites.of(torch.zeros(1, 4, dtype=torch.int32)))
    expected = x.features @ layer.weight[:, :, 1, 1, 1].T + layer.bias
    assert relative(layer(x).features, expected) < 1e-12


def test_tables_are_built_once_per_scale() -> None:
    x = random_voxels()
    window = Window((3, 3, 3), 1, (1, 1, 1))
    assert neighbour_table(x.sites, window) is neighbour_table(x.sites, window)
    assert x.sites.coarsen(2) is x.sites.coarsen(2)


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.tuples(*[st.integers(1, 4)] * 3),
    stride=st.integers(1, 3),
    near=st.integers(0, 2),
    dilation=st.integers(1, 2),
    points=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
def test_any_window(
    kernel: tuple[int, int, int], stride: int, near: int, dilation: int, points: int, seed: int
) -> None:
    layer = VoxelConv(2, 3, kernel, stride, (near,) * 3, dilation).double()
    x = random_voxels(channels=2, clouds=2, points=points, edge=0.3, seed=seed)
    found, expected = layer(x), layer(x.dense())
    assert torch.equal(found.coordinates, expected.sparse().coordinates)
    assert torch.allclose(found.features, expected.rows, rtol=1e-10, atol=1e-12)
    table = neighbour_table(x.sites, layer.window)
    assert torch.allclose(reference.convolve(x.features, layer.weight, table), found.features, rtol=1e-10, atol=1e-12)


def test_equals_ocnn() -> None:
    load_timm()  # ocnn imports torchvision, which needs the same help as timm
    ocnn = pytest.importorskip("ocnn", reason="ocnn is not installed: an independent engine to compare with")
    generator = torch.Generator().manual_seed(0)
    depth, size = 4, 16
    grid = torch.unique(torch.randint(0, size, (300, 3), generator=generator), dim=0)
    points = ocnn.octree.Points(((grid + 0.5) / (size / 2) - 1).float())
    tree = ocnn.octree.Octree(depth, full_depth=2)
    tree.build_octree(points)
    tree.construct_all_neigh()
    x, y, z, batch = (t.int() for t in tree.xyzb(depth, nempty=True))
    coordinates = torch.stack([batch, x, y, z], 1)
    order = torch.unique(Sites(coordinates, 1).keys, return_inverse=True)[1].argsort()
    features = torch.randn(len(order), 8, generator=generator)
    ours = VoxelConv(8, 16, (3, 3, 3), 1, (1, 1, 1))
    theirs = ocnn.nn.OctreeConv(8, 16, [3], nempty=True)
    with torch.no_grad():  # theirs: [taps, C_in, C_out], taps in the order of (x, y, z)
        theirs.weights.copy_(ours.weight.flatten(2).permute(2, 1, 0))
        expected = theirs(features, tree, depth)[order]
        found = ours(VoxelTensor(features[order], Sites.of(coordinates[order].contiguous()))).features
    assert relative(found, expected) < 1e-5


def test_equals_open3d() -> None:
    import_open3d()
    try:
        import open3d.ml.torch as ml3d
    except Exception as reason:  # a plain Exception where open3d's operators were built for another torch
        if not isinstance(reason, ImportError) and "version" not in str(reason).lower():
            raise
        pytest.skip(f"open3d.ml.torch cannot be imported: {type(reason).__name__}")
    x = random_voxels(clouds=1)
    theirs = ml3d.layers.SparseConv(4, 8, (3, 3, 3), use_bias=False, normalize=False)
    ours = VoxelConv(4, 8, (3, 3, 3), 1, (1, 1, 1))
    with torch.no_grad():
        theirs.kernel.copy_(ours.weight.permute(4, 3, 2, 1, 0))
        position = x.coordinates[:, 1:].float()
        expected = theirs(x.features.float(), position, position, voxel_size=torch.tensor(1.0))
        found = ours(x.to(torch.float32)).features
    assert relative(found, expected) < 1e-5
