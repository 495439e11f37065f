"""Kernels of even size at stride 1, as HGNetV2 has them: their windows lie off the centre, one way or the other."""

from __future__ import annotations

import pytest
import torch
from voxel_samples import random_voxels, relative

from image2point.voxels import VoxelConv, Window, neighbour_table

SHAPES = [(2, 1, 0), (4, 1, 1), (2, 1, 1), (4, 1, 2)]  # kernel, stride, near padding


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sparse_equals_masked_dense_with_all_gradients(shape: tuple[int, int, int], groups: int) -> None:
    kernel, stride, padding = shape
    layer = VoxelConv(4, 4, (kernel,) * 3, stride, (padding,) * 3, groups=groups).double()
    x = random_voxels()
    x = x.replace(x.features.requires_grad_())
    sparse, dense = layer(x), layer(x.dense())
    assert relative(sparse.features, dense.rows) < 1e-10
    gradient = torch.randn_like(sparse.features)
    pairs = (torch.autograd.grad(y, (x.features, layer.weight), gradient) for y in (sparse.features, dense.rows))
    for found, expected in zip(*pairs, strict=True):
        assert relative(found, expected) < 1e-10


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_window_off_the_centre_is_no_submanifold_one(shape: tuple[int, int, int]) -> None:
    kernel, stride, padding = shape
    table = neighbour_table(random_voxels().sites, Window((kernel,) * 3, stride, (padding,) * 3))
    assert not table.submanifold
    back = table.entries(backward=True)
    for tap, reads in enumerate(table.entries()):
        for target in (reads >= 0).nonzero().flatten()[:20].tolist():
            assert back[tap, reads[target]] == target
