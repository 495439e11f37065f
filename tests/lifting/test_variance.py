"""How lifted kernels are scaled: checked against sums written out here."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from lifting_samples import clouds, small_resnet
from torch import Tensor, nn

import image2point as i2p
from image2point import InputError
from image2point.lifting import LiftedNetwork
from image2point.voxels import DenseVoxels, VoxelConv, VoxelTensor

FLAT = {block: small_resnet(block) for block in ("BasicBlock", "Bottleneck")}


def convolutions(network: nn.Module) -> dict[str, VoxelConv]:
    return {name: module for name, module in network.named_modules() if isinstance(module, VoxelConv)}


def kernels(**options: object) -> dict[str, Tensor]:
    options = {"calibration": clouds(), **options} if options.get("variance") == "occupancy" else options
    network = i2p.lift(FLAT["Bottleneck"], **options)  # type: ignore[arg-type]
    return {name: conv.kernel().detach() for name, conv in convolutions(network).items()}


def inputs_of(network: LiftedNetwork, voxels: VoxelTensor) -> dict[str, VoxelTensor]:
    """What each convolution gets to see."""
    seen: dict[str, VoxelTensor] = {}
    for name, conv in convolutions(network).items():
        conv.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
    network.eval()(voxels)
    return seen


def share_of_neighbours(conv: VoxelConv, x: VoxelTensor) -> Tensor:
    """Share of output voxels that find a voxel through each tap, looked up one by one; [Kx, Ky, Kz]."""
    window, occupied = conv.window, {tuple(c) for c in x.coordinates.tolist()}
    targets = x.sites.coarsen(window.stride).coordinates.tolist()
    share = torch.zeros(window.kernel, dtype=torch.float64)
    for tap in product(*(range(k) for k in window.kernel)):
        for cloud, *site in targets:
            read = (
                s * window.stride - p + t * window.dilation for s, p, t in zip(site, window.padding, tap, strict=True)
            )
            share[tap] += (cloud, *read) in occupied
    return share / len(targets)


@pytest.mark.parametrize("rule", ["repeat", "mean", "center", "rotate", "tied"])
def test_occupancy_keeps_what_a_2d_kernel_does_to_independent_inputs(rule: str) -> None:
    flat, network = (
        FLAT["BasicBlock"],
        i2p.lift(FLAT["BasicBlock"], rule=rule, variance="occupancy", calibration=clouds()),
    )
    seen = inputs_of(network, clouds())
    for name, conv in convolutions(network).items():
        if name == "conv1":
            continue  # fresh
        in_2d = flat.get_submodule(name).weight.square().sum()
        in_3d = (conv.kernel().square().sum((0, 1)) * share_of_neighbours(conv, seen[name])).sum()
        torch.testing.assert_close(in_3d, in_2d, rtol=1e-10, atol=0)


def test_occupancy_does_not_ask_how_the_kernel_was_scaled_before() -> None:
    repeat = kernels(rule="repeat", variance="occupancy")
    for rule in ("mean", "tied"):
        other = kernels(rule=rule, variance="occupancy")
        for name, kernel in repeat.items():
            torch.testing.assert_close(other[name], kernel, rtol=1e-12, atol=0)


def test_one_over_the_copies_makes_repeat_the_mean() -> None:
    divided, mean, repeat = kernels(variance="1/K"), kernels(rule="mean"), kernels()
    for name, kernel in divided.items():
        if "downsample" in name and kernel[0, 0].numel() > 1:
            torch.testing.assert_close(kernel * 8, repeat[name])  # the shortcut is copied into 2 × 2 × 2 voxels
        else:
            torch.testing.assert_close(kernel, mean[name])
    assert any("downsample" in name and kernel[0, 0].numel() == 8 for name, kernel in divided.items())


@pytest.mark.parametrize("rule", ["mean", "center", "rotate"])
def test_rules_without_copies_have_nothing_to_divide(rule: str) -> None:
    plain, divided = kernels(rule=rule, downsample="exact"), kernels(rule=rule, downsample="exact", variance="1/K")
    for name, kernel in plain.items():
        assert torch.equal(kernel, divided[name])


def test_grids_and_voxels_calibrate_alike() -> None:
    sparse = kernels(variance="occupancy")
    dense = kernels(variance="occupancy", substrate="dense")
    grid = kernels(variance="occupancy", substrate="dense", calibration=clouds().dense())
    for name, kernel in sparse.items():
        torch.testing.assert_close(dense[name], kernel, rtol=1e-12, atol=0)
        torch.testing.assert_close(grid[name], kernel, rtol=1e-12, atol=0)


def test_fresh_kernels_are_left_alone() -> None:
    assert torch.equal(kernels(variance="occupancy")["conv1"], kernels()["conv1"])
    scaled, plain = kernels(variance="occupancy", control="scratch"), kernels(control="scratch")
    assert all(torch.equal(scaled[name], kernel) for name, kernel in plain.items())


@pytest.mark.parametrize("batch", [None, torch.zeros(1, 3, 4, 4, 4)])
def test_occupancy_needs_voxels(batch: object) -> None:
    with pytest.raises(InputError, match="needs calibration=, a batch of voxels"):
        i2p.lift(FLAT["BasicBlock"], variance="occupancy", calibration=batch)  # type: ignore[arg-type]


def test_occupancy_needs_a_voxel() -> None:
    empty = DenseVoxels(torch.zeros(1, 3, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8, dtype=torch.bool))
    with pytest.raises(InputError, match="without a voxel"):
        i2p.lift(FLAT["BasicBlock"], variance="occupancy", calibration=empty)
