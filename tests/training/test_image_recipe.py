"""Images on their way into a network: augmented in training alone, each in its own way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tiny_runs import ImageRecipe

from image2point.datasets.images import ImageAugmentation

PLAIN = ImageRecipe(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), seed=3)
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def test_augmentation_is_for_training_alone() -> None:
    recipe = replace(PLAIN, augmentation=ImageAugmentation(flip=0.5, shift=0.25))
    expected = (IMAGE.transpose(2, 0, 1) / 255 - np.reshape(PLAIN.mean, (3, 1, 1))) / np.reshape(PLAIN.std, (3, 1, 1))
    for index in range(8):
        np.testing.assert_allclose(recipe.prepare(IMAGE, "image", None, index), expected, rtol=1e-5, atol=1e-5)
    seen = {recipe.prepare(IMAGE, "image", 1, index).tobytes() for index in range(8)}
    assert len(seen) > 5  # each image in its own way
    assert len(seen | {recipe.prepare(IMAGE, "image", 2, index).tobytes() for index in range(8)}) > len(seen)
    assert len(seen | {replace(recipe, seed=4).prepare(IMAGE, "image", 1, i).tobytes() for i in range(8)}) > len(seen)
