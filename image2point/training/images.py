"""Images → batches for a 2D network: what `batches.Recipe` is for clouds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from image2point.datasets.images import ImageAugmentation, augmented, check_image, normalised, resized
from image2point.datasets.transforms import rng_for


@dataclass(frozen=True)
class ImageRecipe:
    """How an image becomes the network's input.

    size: edge of the square, in pixels; mean, std: per channel, of values 0..1; augmentation: for training only.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: ImageAugmentation | None = None
    seed: int = 0

    def prepare(self, sample: np.ndarray, where: str, epoch: int | None = None, index: int = 0) -> np.ndarray:
        """float32 [3, size, size]; augmented where an epoch is given."""
        image = resized(check_image(sample, where), self.size)
        if epoch is not None and self.augmentation:
            image = augmented(image, self.augmentation, rng_for(self.seed, epoch, index))
        return normalised(image, self.mean, self.std)

    noun = "image"
    repeats = 1

    @property
    def still(self) -> ImageRecipe:
        return replace(self, augmentation=None)

    def partner(self, epoch: int | None, index: int, count: int) -> None:
        """Images are not mixed."""

    def batch(self, samples: Sequence[np.ndarray], where: Sequence[str] | None = None) -> tuple[torch.Tensor, None]:
        """The same as `join`, without rows of points."""
        return self.join(samples, where), None

    def join(self, samples: Sequence[np.ndarray], where: Sequence[str] | None = None) -> torch.Tensor:
        """A batch [n, 3, size, size]."""
        return torch.from_numpy(np.stack(samples))
