"""Labelled images: what an image set is, and how an image becomes what a 2D network sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from image2point.datasets.class_split import Labelled
from image2point.errors import InputError


class ImageSet(Labelled, Protocol):
    """Images with labels, held in memory or read on demand: `labels` int64 [n], `self[i]` uint8 RGB [H, W, 3]."""

    def __getitem__(self, index: int) -> np.ndarray: ...


@dataclass(frozen=True)
class StoredImages:
    """Equally large images in one array: pixels uint8 [n, H, W, 3], labels int64 [n]."""

    name: str
    classes: tuple[str, ...]
    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pixels[index]


@dataclass(frozen=True)
class ImageAugmentation:
    """Random changes of a training image.

    flip: probability of a mirror image. shift: largest shift along each axis, as a share of the size; what comes in
    from outside repeats the border.
    """

    flip: float = 0.5
    shift: float = 0.125


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """The middle square of an image, `size` pixels wide: its shorter side scaled to `size` (bicubic), the rest cut.

    >>> resized(np.zeros((20, 40, 3), np.uint8), 10).shape
    (10, 10, 3)
    """
    from PIL import Image

    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    scale = size / min(height, width)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    scaled = np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC))
    top, left = (high - size) // 2, (wide - size) // 2
    return scaled[top : top + size, left : left + size]


def augmented(image: np.ndarray, changes: ImageAugmentation, rng: np.random.Generator) -> np.ndarray:
    """A randomly changed copy of an image [S, S, 3]."""
    if rng.random() < changes.flip:
        image = image[:, ::-1]
    reach = int(changes.shift * len(image))
    if reach:
        padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
        top, left = rng.integers(0, 2 * reach + 1, 2)
        image = padded[top : top + len(image), left : left + image.shape[1]]
    return image


def normalised(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """float32 [3, S, S], (value/255 − mean) / std by channel.

    >>> normalised(np.full((1, 1, 3), 255, np.uint8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).ravel()
    array([1., 1., 1.], dtype=float32)
    """
    scaled = (image.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def check_image(image: np.ndarray, where: str) -> np.ndarray:
    """The image, if it is uint8 [H, W, 3] and not empty; InputError beginning with `where` otherwise.

    >>> check_image(np.zeros((4, 4, 3), np.uint8), "image").shape
    (4, 4, 3)
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"{where}: expected RGB pixels uint8 [H, W, 3], found {image.dtype} {list(image.shape)}")
    return image
