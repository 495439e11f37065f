"""A folder of image files: ROOT/train/CLASS/… and ROOT/test/CLASS/… (or val), one folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from image2point.datasets.images import check_image
from image2point.datasets.listed import entries_of, existing_folder, is_litter
from image2point.errors import InputError
from image2point.files import files_below
from image2point.storage import fetched

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
LAYOUT = "ROOT/train/CLASS/*.jpg (or .png …) and the same classes in ROOT/test or ROOT/val"


class ImageFolder:
    """An `ImageSet` of files, read when asked for; classes and files in alphabetical order.

    Raises InputError for a class without an image, and on reading for a file that is no image.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...], name: str) -> None:
        self.name, self.classes = name, classes
        self.files: list[Path] = []
        labels = []
        for label, each in enumerate(classes):
            files = sorted(
                p for p in files_below(folder / each) if p.suffix.lower() in SUFFIXES and not is_litter(p.name)
            )
            if not files:
                raise InputError(f"{folder / each} holds no image ({', '.join(SUFFIXES)}): expected {LAYOUT}")
            self.files += files
            labels += [label] * len(files)
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        from PIL import Image, UnidentifiedImageError

        path = self.files[index]
        try:
            with Image.open(path) as image:
                return check_image(np.asarray(image.convert("RGB")), str(path))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{path} cannot be read as an image: {error}") from None


def load_image_folder(root: str | Path) -> tuple[ImageFolder, ImageFolder]:
    """The train and the test set of an image folder; the classes are the folders in `train`.

    Raises InputError for a folder without train, test or val, and fewer than two classes.
    """
    root = existing_folder(fetched(root), "image-folder", LAYOUT)
    train = root / "train"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if not train.is_dir() or test is None:
        raise InputError(f"no image folder at {root}: expected {LAYOUT}")
    classes = tuple(path.name for path in entries_of(train) if path.is_dir())
    if len(classes) < 2:
        raise InputError(f"{train} has {len(classes)} class folders, expected two or more: expected {LAYOUT}")
    return ImageFolder(train, classes, f"{root.name}/train"), ImageFolder(test, classes, f"{root.name}/{test.name}")
