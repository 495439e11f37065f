"""What is kept of a weight is made anew after every change of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from voxel_samples import random_voxels, relative

from image2point.voxels import VoxelConv
from image2point.voxels.remember import Remembered


def fused_step(weight: nn.Parameter) -> None:
    """Torch does not count what fused optimizers write."""
    weight.grad = torch.randn_like(weight)
    torch.optim.SGD([weight], lr=0.1, fused=True).step()


CHANGES: dict[str, Callable[[nn.Parameter], object]] = {
    "in place": lambda weight: weight.detach().add_(1),
    "a step": lambda weight: (weight.square().sum().backward(), torch.optim.SGD([weight], lr=0.1).step()),
    "a fused step": fused_step,
    "other memory": lambda weight: setattr(weight, "data", weight.detach() + 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_noticed(change: Callable[[nn.Parameter], object]) -> None:
    weight, kept = nn.Parameter(torch.randn(8, 8)), Remembered[torch.Tensor]()

    def double() -> torch.Tensor:
        return kept.of(weight, None, lambda: 2 * weight)

    assert double() is double()
    for _ in range(5):  # memory that became free may be used again
        change(weight)
        assert torch.equal(double(), 2 * weight)
    assert not double().requires_grad


def test_another_weight_in_its_place_is_noticed() -> None:
    kept = Remembered[float]()
    for value in range(10):
        assert kept.of(torch.full((4,), float(value)), None, lambda value=value: value) == value


def test_another_key_is_noticed_and_copies_begin_anew() -> None:
    weight, kept = torch.zeros(2), Remembered[str]()
    assert kept.of(weight, "a", lambda: "first") == kept.of(weight, "a", lambda: "again") == "first"
    assert kept.of(weight, "b", lambda: "second") == "second"
    for other in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert other.of(weight, "b", lambda: "third") == "third"


def test_a_kernel_that_training_has_untied_is_applied_whole() -> None:
    layer, x = VoxelConv(4, 8, (3, 3, 3), 1, (1, 1, 1)), random_voxels()
    layer.double().weight.data[:] = layer.weight.data[..., :1]
    reference = VoxelConv(4, 8, (3, 3, 3), 1, (1, 1, 1), engine="reference").double()
    with torch.no_grad():
        layer(x)
    assert layer.structure().tied == {2}
    fused_step(layer.weight)
    reference.load_state_dict(layer.state_dict())
    with torch.no_grad():
        assert relative(layer(x).features, reference(x).features) < 1e-12
    assert not layer.structure().tied
    layer.requires_grad_(False)
    assert not layer.structure().tied
