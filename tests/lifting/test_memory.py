"""What a lifted network holds: of a pass nothing but what comes next, for gradients the inputs of norms and bits."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from lifting_samples import clouds, small_resnet
from torch import Tensor, nn
from torch.nn import functional as F

import image2point as i2p
from image2point.voxels import BatchNorm, Pointwise, VoxelTensor


def test_a_pass_holds_no_map_that_no_layer_needs() -> None:
    net = i2p.lift(small_resnet(), num_classes=4).eval()
    maps: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, VoxelTensor):
            maps.append(weakref.ref(output.features))

    def count(module: nn.Module, inputs: Any) -> None:
        alive.append(sum(seen() is not None for seen in maps))

    for module in net.modules():
        module.register_forward_hook(note)
    net.get_submodule("fc").register_forward_pre_hook(count)
    with torch.no_grad():
        scores = net(clouds())
        net.embed(clouds())
    assert len(maps) > 20 and alive == [0, 0]
    torch.testing.assert_close(net._run(clouds())["logits"], scores)


def test_frozen_kernels_leave_the_inputs_of_norms_and_bits() -> None:
    net = i2p.lift(small_resnet(), num_classes=4).train()
    i2p.freeze(net, "io+norm")
    owned = {t.data_ptr() for t in (*net.parameters(), *net.buffers())}
    elements = dict.fromkeys((BatchNorm, Pointwise), 0)
    kept: dict[int, Tensor] = {}  # by address, which no other tensor takes while it is held here

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        elements[type(module)] += output.features.numel()

    def pack(saved: Tensor) -> Tensor:
        if saved.untyped_storage().data_ptr() not in owned and saved.dtype in (torch.float64, torch.uint8):
            kept[saved.untyped_storage().data_ptr()] = saved
        return saved

    for module in net.modules():
        if type(module) in elements:
            module.register_forward_hook(note)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        F.cross_entropy(net(clouds()), torch.tensor([0, 1])).backward()
    sizes = {dtype: sum(t.untyped_storage().nbytes() for t in kept.values() if t.dtype == dtype) for dtype in
             (torch.float64, torch.uint8)}  # fmt: skip
    assert sizes[torch.uint8] == elements[Pointwise] // 8  # all widths are multiples of 8
    small = 40_000  # means and deviations of norms, the input, the stem's and the head's, views of frozen kernels
    assert 8 * elements[BatchNorm] <= sizes[torch.float64] <= 8 * elements[BatchNorm] + small
    assert small < 8 * elements[Pointwise] / 4  # so kept outputs would show
