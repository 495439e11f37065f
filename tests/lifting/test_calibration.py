"""Calibration scales kernels, and leaves everything else of the network as it was."""

from __future__ import annotations

import torch
from lifting_samples import clouds, small_resnet

import image2point as i2p


def test_calibration_leaves_statistics_and_modes() -> None:
    flat = small_resnet("BasicBlock")
    plain, scaled = (
        i2p.lift(flat, **options).state_dict() for options in ({}, {"variance": "occupancy", "calibration": clouds()})
    )
    changed = {name for name in plain if not torch.equal(plain[name], scaled[name])}
    assert changed and all(plain[name].ndim == 5 for name in changed)
