"""Convolutions whose depth trains: the compiled engine against the expanded kernel, every kind of window."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from voxel_samples import full_grid, random_voxels, relative

from image2point.voxels import DepthConv, VoxelConv, VoxelTensor, Window, neighbour_table
from image2point.voxels.compiled import library
from image2point.voxels.conv import autograd, depth, native, reference
from image2point.voxels.conv.depth import convolve_along, expand
from image2point.voxels.depth_conv import plain

needs_compiler = pytest.mark.skipif(library() is None, reason="there is no C++ compiler")


def case(size: int, stride: int, dilation: int, axis: int, groups: int, inputs: int, outputs: int) -> tuple:
    """Features, a kernel of size 1 along the axis, its depth, and a table."""
    draw = torch.Generator().manual_seed(size + 10 * stride + 100 * axis)
    x = random_voxels(channels=inputs, clouds=2, points=60, edge=0.3)
    padding = dilation * (size - 1) // 2
    table = neighbour_table(x.sites, Window((size,) * 3, stride, (padding,) * 3, dilation))
    shape = [size] * 3
    shape[axis] = 1
    weight = torch.randn(outputs, inputs // groups, *shape, generator=draw, dtype=torch.float64)
    numbers = torch.randn(size, generator=draw, dtype=torch.float64).requires_grad_()
    return x.features.requires_grad_(), weight, numbers, table


@contextmanager
def compiled_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where anything is done with the expanded kernel, the test fails."""

    def refuse(*given: object) -> Tensor:
        raise AssertionError("the expanded kernel was used")

    with monkeypatch.context() as patch:
        patch.setattr(depth, "expand", refuse)
        yield


@needs_compiler
@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(1, 5, 37), (1, 70, 3), (6, 6, 6), (33, 33, 33)])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("by_channel", [False, True])
def test_it_is_the_expanded_kernel_at_one_product_per_column(
    size: int,
    stride: int,
    dilation: int,
    groups: int,
    inputs: int,
    outputs: int,
    by_channel: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for axis in range(3):
        x, weight, numbers, table = case(size, stride, dilation, axis, groups, inputs, outputs)
        if by_channel:
            numbers = torch.randn(inputs, size, dtype=torch.float64).requires_grad_()
        expected = reference.convolve(x, expand(weight, numbers, table.kernel), table, groups)
        gradient = torch.randn_like(expected)
        wanted = torch.autograd.grad(expected, (x, numbers), gradient)
        with compiled_alone(monkeypatch):
            found = convolve_along(x, weight, numbers, table, groups)
            ours = torch.autograd.grad(found, (x, numbers), gradient)
            still = convolve_along(x, weight, numbers.detach(), table, groups)
            if groups > 1 or not by_channel:
                (data,) = torch.autograd.grad(still, x, gradient)
        if groups == 1 and by_channel:
            (data,) = torch.autograd.grad(still, x, gradient)
        assert relative(found, expected) < 1e-12 and relative(data, wanted[0]) < 1e-12
        assert relative(ours[0], wanted[0]) < 1e-12 and relative(ours[1], wanted[1]) < 1e-12


@pytest.mark.parametrize(("size", "stride", "groups"), [(1, 1, 1), (7, 1, 1), (3, 2, 2)])
def test_what_is_not_compiled_is_the_expanded_kernel(size: int, stride: int, groups: int) -> None:
    x, weight, numbers, table = case(size, stride, 1, 2, groups, 4, 6)
    expected = reference.convolve(x, expand(weight, numbers, table.kernel), table, groups)
    wanted = torch.autograd.grad(expected.square().sum(), (x, numbers))
    for engine in ("auto", "cpu", "reference"):
        found = convolve_along(x, weight, numbers, table, groups, engine)
        ours = torch.autograd.grad(found.square().sum(), (x, numbers))
        assert relative(found, expected) < 1e-12
        assert all(relative(a, b) < 1e-12 for a, b in zip(ours, wanted, strict=True))


@pytest.mark.parametrize(("groups", "channels"), [(1, 3), (2, 2), (2, 4)])
@pytest.mark.parametrize("by_channel", [False, True])
def test_derivatives_and_theirs(groups: int, channels: int, by_channel: bool) -> None:
    x = random_voxels(channels=channels, clouds=1, points=12, edge=0.15)
    table = neighbour_table(x.sites, Window((3, 3, 3), 2, (1, 1, 1)))
    weight = torch.randn(channels, channels // groups, 3, 1, 3, dtype=torch.float64)
    numbers = torch.randn((channels, 3) if by_channel else 3, dtype=torch.float64).requires_grad_()

    def function(features: Tensor, numbers: Tensor) -> Tensor:
        return convolve_along(features, weight, numbers, table, groups)

    assert torch.autograd.gradcheck(function, (x.features.requires_grad_(), numbers))
    assert torch.autograd.gradgradcheck(function, (x.features, numbers))
    assert torch.autograd.gradgradcheck(lambda f: function(f, numbers.detach()), (x.features,))


@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(1, 3, 2), (2, 4, 6), (4, 4, 8)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_input_channel_may_have_its_own_numbers(groups: int, inputs: int, outputs: int, axis: int) -> None:
    """By definition: the sum over input channels of convolutions of one channel each, with its numbers."""
    x, weight, numbers, table = case(3, 1, 1, axis, groups, inputs, outputs)
    each = torch.randn(inputs, len(numbers), dtype=torch.float64).requires_grad_()
    share = inputs // groups
    expected = torch.zeros(table.targets, outputs, dtype=torch.float64)
    for channel in range(inputs):
        group, place = divmod(channel, share)
        reads = slice(group * outputs // groups, (group + 1) * outputs // groups)
        kernel = expand(weight[reads, place : place + 1], each[channel], table.kernel)
        part = reference.convolve(x[:, channel : channel + 1], kernel, table)
        expected = expected + torch.nn.functional.pad(part, (reads.start, outputs - reads.stop))
    wanted = torch.autograd.grad(expected.square().sum(), (x, each))
    for engine in ("auto", "reference"):
        found = convolve_along(x, weight, each, table, groups, engine)
        ours = torch.autograd.grad(found.square().sum(), (x, each))
        assert relative(found, expected) < 1e-12
        assert all(relative(a, b) < 1e-12 for a, b in zip(ours, wanted, strict=True))


@needs_compiler
@pytest.mark.parametrize("groups", [1, 40])
@pytest.mark.parametrize("by_channel", [False, True])
def test_no_bit_depends_on_the_number_of_threads(groups: int, by_channel: bool) -> None:
    x, weight, numbers, table = case(3, 1, 1, 0, groups, 40, 40)
    numbers = numbers.expand(40, 3).contiguous() if by_channel else numbers
    x, gradient = x.detach().float(), torch.randn(table.targets, 40)
    results = []
    for threads in (1, 2, 5):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            table._forms.clear()
            results.append(native.depth_gradients(x, gradient, weight.float(), numbers.float(), table, groups))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@needs_compiler
def test_a_bag_is_multiplied_once_within_a_block() -> None:
    """A column of nine sites along z, in one block: with spread bags as many products as targets that read."""
    coordinates = torch.tensor([[0, 0, 0, z] for z in range(9)], dtype=torch.int32)
    table = neighbour_table(random_voxels().sites.of(coordinates), Window((3, 3, 3), 1, (1, 1, 1)))
    spread = native._spread(table, (3, 3, 1))
    edges = spread.offsets.tolist()
    bags = {
        row: list(zip(spread.members[a:b].tolist(), spread.places[a:b].tolist(), strict=True))
        for row, a, b in zip(spread.rows.tolist(), edges, edges[1:], strict=False)
    }
    inside = {row: [(row - 1, 0), (row, 1), (row + 1, 2)] for row in range(1, 8)}
    assert len(spread.rows) == 9 and bags == {0: [(0, 1), (1, 2)], **inside, 8: [(7, 0), (8, 1)]}


# ------------------------------------------------------------------------------------------------------- the module


def lifted(
    axis: str = "y", groups: int = 1, engine: str = "auto", by_channel: bool = False
) -> tuple[VoxelConv, DepthConv]:
    """A convolution with a general kernel, and the one of its first slice with a depth."""
    draw = torch.Generator().manual_seed(1)
    conv = VoxelConv(4, 6, (3, 3, 3), 1, (1, 1, 1), groups=groups, bias=True, axis=axis, engine=engine).double()
    flat = torch.randn(6, 4 // groups, 3, 3, generator=draw, dtype=torch.float64)
    numbers = torch.randn(4, 3, generator=draw).double() if by_channel else torch.tensor([0.5, -1.0, 2.0]).double()
    made = DepthConv.of(conv, flat, numbers)
    torch.nn.init.normal_(made.bias)
    return conv, made


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("axis", "xyz")
@pytest.mark.parametrize("by_channel", [False, True])
def test_it_is_a_convolution_of_every_form_of_voxels(axis: str, engine: str, by_channel: bool) -> None:
    _, made = lifted(axis, 2 if by_channel else 1, engine, by_channel)
    made.weight.requires_grad_(False)
    flat, x, grid = plain(made), random_voxels(), full_grid()
    assert type(flat) is VoxelConv and set(dict(flat.named_parameters())) == {"weight", "bias"}
    assert relative(made(x).features, flat(x).features) < 1e-12
    assert relative(made(grid), flat(grid)) < 1e-12
    dense = x.dense()
    assert relative(made(dense).grid, flat(dense).grid) < 1e-12
    loss = made(grid).square().sum()
    (ours,) = torch.autograd.grad(loss, made.depth)
    kernel = made.kernel()
    assert relative(ours, torch.autograd.grad(plain_loss(made, kernel, grid), made.depth)[0]) < 1e-12


def plain_loss(made: DepthConv, kernel: Tensor, grid: Tensor) -> Tensor:
    result = torch.nn.functional.conv3d(grid, kernel, made.bias, padding=1, groups=made.groups)
    return result.square().sum()


def test_what_is_remembered_of_the_kernel_does_not_outlast_its_depth() -> None:
    _, made = lifted()
    made.weight.requires_grad_(False)
    x = random_voxels()
    for engine, type_ in (("auto", torch.float64), ("cpu", torch.bfloat16)):
        made.engine = engine
        y = x if type_ == torch.float64 else x.to(torch.float32)
        net = made.to(y.features.dtype)
        with torch.no_grad(), torch.autocast("cpu", type_, enabled=type_ == torch.bfloat16):
            before = net(y).features - net.bias
            net.depth.mul_(2)
            assert relative(net(y).features - net.bias, 2 * before) < (1e-12 if type_ == torch.float64 else 1e-2)


def test_a_kernel_that_trains_gets_a_gradient() -> None:
    _, made = lifted()
    x: VoxelTensor = random_voxels()
    gradients = torch.autograd.grad(made(x).features.square().sum(), (made.weight, made.depth))
    expected = autograd.convolve(x.features, made.kernel(), neighbour_table(x.sites, made.window)) + made.bias
    wanted = torch.autograd.grad(expected.square().sum(), (made.weight, made.depth))
    assert all(relative(a, b) < 1e-12 for a, b in zip(gradients, wanted, strict=True))


def test_hooks_go_along_and_copies_compute_the_same() -> None:
    conv, _ = lifted()
    seen: list[int] = []
    conv.register_forward_hook(lambda module, given, result: seen.append(1))
    made, x = DepthConv.of(conv, torch.ones(6, 4, 3, 3).double(), torch.ones(3).double()), random_voxels()
    made(x)
    plain(made)(x)
    assert seen == [1, 1]
    _, made = lifted()
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(copied(x).features, made(x).features)
