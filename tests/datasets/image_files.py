"""Tiny image sets in the real layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_cifar(folder: Path, per_file: int = 4, classes: tuple[str, ...] = ("cat", "dog")) -> np.ndarray:
    """CIFAR-10's binary files with few records; returns the pixels [n, 32, 32, 3] of the training files in order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "batches.meta.txt").write_text("\n".join(classes) + "\n\n")
    rng, kept = np.random.default_rng(0), []
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        labels = np.arange(per_file, dtype=np.uint8) % len(classes)
        pixels = rng.integers(0, 256, (per_file, 3, 32, 32), dtype=np.uint8)
        np.concatenate([labels[:, None], pixels.reshape(per_file, -1)], axis=1).tofile(folder / name)
        kept.append(pixels.transpose(0, 2, 3, 1))
    return np.concatenate(kept[:5])


def write_folder(root: Path, count: int = 2, size: tuple[int, int] = (20, 30)) -> None:
    """A folder of PNG files of two classes, told apart by their colour; `size` is (height, width)."""
    from PIL import Image

    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for channel, name in enumerate(("blue", "red")):
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
                pixels[..., 2 - 2 * channel] += 180
                Image.fromarray(pixels).save(root / split / name / f"{k}.png")
