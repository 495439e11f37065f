"""What every network offers, by what all of them use for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from image2point.networks.interface import features_before


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
