"""Each step of the augmentation takes place as often as its probability says."""

from __future__ import annotations

import numpy as np
import pytest

from image2point.datasets.cloud import Cloud
from image2point.datasets.transforms import Augmentation, augment, rng_for

POINTS = np.random.default_rng(0).uniform(-1, 1, (8, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "step", [{"scale": (0.5, 0.9)}, {"shift": 0.3}, {"jitter": 0.1}], ids=lambda step: next(iter(step))
)
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_steps_are_taken_as_often_as_they_should(step: dict[str, float], probability: float) -> None:
    (name,) = step
    spec = Augmentation(**step, **{f"{name}_probability": probability})  # type: ignore[arg-type]
    changed = [not np.array_equal(augment(Cloud(POINTS), spec, rng_for(1, 1, i)).points, POINTS) for i in range(400)]
    assert abs(np.mean(changed) - probability) < 3 * np.sqrt(probability * (1 - probability) / 400) + 1e-9
