"""What every network offers, by what all of them use for it."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

import image2point as i2p
from image2point.networks.interface import features_before, modes_kept


def test_features_before_a_classifier_leave_no_hook() -> None:
    layer, x = nn.Linear(2, 3), torch.randn(4, 2)

    def broken() -> Tensor:
        layer(x)
        raise RuntimeError("broken")

    features, scores = features_before(layer, lambda: layer(x) + 1)
    assert torch.equal(features, x) and torch.equal(scores, layer(x) + 1)
    with pytest.raises(RuntimeError, match="broken"):
        features_before(layer, broken)
    assert not layer._forward_pre_hooks


def test_every_module_keeps_its_mode() -> None:
    """Also one that the caller set apart from the others, and after an error."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
    with pytest.raises(RuntimeError, match="broken"), modes_kept(net):
        net.eval()
        raise RuntimeError("broken")
    assert [module.training for module in net.modules()] == [True, True, False]


def test_what_is_lifted_from_a_network_in_eval_mode_trains() -> None:
    net = i2p.lift(timm.create_model("test_resnet").eval(), num_classes=3)
    assert all(module.training for module in net.modules())
