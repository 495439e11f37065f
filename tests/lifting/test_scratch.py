"""The control `scratch` leaves no weight of the 2D network, in linear layers on sites too."""

from __future__ import annotations

import pytest
import torch

import image2point as i2p
from image2point.lifting.layers import SiteLinear


def test_linear_layers_on_sites_are_drawn_anew() -> None:
    trained, scratch = (
        i2p.lift("test_convnext", weights="random", num_classes=3, control=control, seed=1)
        for control in ("none", "scratch")
    )
    found = [name for name, module in scratch.named_modules() if isinstance(module, SiteLinear)]
    assert len(found) > 3
    for name in found:
        before, after = (net.get_submodule(name).weight.detach() for net in (trained, scratch))
        assert not torch.equal(before, after)
        assert float(after.var()) == pytest.approx(2 / after.shape[0], rel=0.2)  # Kaiming by fan-out
