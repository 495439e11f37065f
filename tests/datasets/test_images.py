"""Image sets: what is read is what was written, bad files are named, and an image becomes the network's input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_files import write_cifar, write_folder

from image2point.datasets import cifar10, image_folder
from image2point.datasets.images import ImageAugmentation, augmented, check_image, normalised, resized
from image2point.datasets.rendered import RenderedImages, render
from image2point.datasets.transforms import rng_for
from image2point.errors import InputError
from image2point.training.images import ImageRecipe


def test_cifar_records_become_pixels_and_labels(tmp_path: Path) -> None:
    pixels = write_cifar(tmp_path)
    train, test = cifar10.load_cifar10(tmp_path)
    assert (train.classes, len(train), len(test)) == (("cat", "dog"), 20, 4)
    assert np.array_equal(train.pixels, pixels) and train.labels.tolist() == [0, 1] * 10
    assert train[3].dtype == np.uint8 and train[3].shape == (32, 32, 3)


def test_cifar_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no CIFAR-10 data at"):
        cifar10.load_cifar10(tmp_path / "nowhere")
    write_cifar(tmp_path)
    content = (tmp_path / "data_batch_3.bin").read_bytes()
    (tmp_path / "data_batch_3.bin").write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"data_batch_3\.bin has 12,291 bytes.*3,073"):
        cifar10.load_cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(b"\x07" + content[1:])
    with pytest.raises(InputError, match=r"data_batch_3\.bin: label 7 in record 0, but there are 2"):
        cifar10.load_cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"data_batch_3\.bin cannot be read"):
        cifar10.load_cifar10(tmp_path)


def test_image_folder_reads_classes_in_order(tmp_path: Path) -> None:
    write_folder(tmp_path)
    train, test = image_folder.load_image_folder(tmp_path)
    assert (train.classes, train.labels.tolist(), len(test)) == (("blue", "red"), [0, 0, 1, 1], 4)
    assert train[0].shape == (20, 30, 3) and train[0][..., 2].min() >= 180 > 60 > train[0][..., 0].max()
    (tmp_path / "train" / "red" / "0.png").write_text("no image")
    with pytest.raises(InputError, match=r"0\.png cannot be read as an image"):
        train[2]
    for path in (tmp_path / "val" / "red").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="red holds no image"):
        image_folder.load_image_folder(tmp_path)
    with pytest.raises(InputError, match="no image folder at"):
        image_folder.load_image_folder(tmp_path / "train")


def test_rendered_images_follow_from_seed_class_and_number() -> None:
    few = RenderedImages("train", 2, size=16, classes=("box", "torus"))
    more = RenderedImages("train", 3, size=16, classes=("torus", "box"))
    test = RenderedImages("test", 2, size=16, classes=("box", "torus"))
    assert len(few) == 4 and few[0].shape == (16, 16, 3) and few.labels.tolist() == [0, 1, 0, 1]
    assert np.array_equal(few[0], more[1]) and np.array_equal(few[3], more[2])
    assert not np.array_equal(few[0], test[0])
    assert len(np.unique(few[0].reshape(-1, 3), axis=0)) > 20  # something is on it
    with pytest.raises(InputError, match="classes must be one or more of"):
        RenderedImages("train", 1, classes=("boxx",))
    with pytest.raises(InputError, match="a size of at least 8"):
        RenderedImages("train", 1, size=4)


def test_a_nearer_surface_hides_a_farther_one() -> None:
    """Two plates, one behind the other, of which the nearer is the smaller: both shades are seen, once each."""
    from image2point.datasets.meshes import Mesh

    square = np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], dtype=float)
    tilt = np.array([[-0.5, -0.5, -0.5], [0.5, -0.5, -0.5], [0.5, -1.5, 0.5], [-0.5, -1.5, 0.5]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    behind = render(Mesh(square, faces), 32, np.random.default_rng(0))
    both = render(Mesh(np.concatenate([square, tilt]), np.concatenate([faces, faces + 4])), 32,
                           np.random.default_rng(0))  # fmt: skip
    middle = (slice(15, 18), slice(14, 18))
    spread = np.abs(both[middle].astype(float) - both[middle].mean((0, 1))).max()
    assert spread < 25  # one surface alone, no holes through which the other shows
    assert not np.array_equal(behind, both)


def test_an_image_is_scaled_cut_and_normalised() -> None:
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    image[:, 10:30] = (255, 0, 127)
    cut = resized(image, 10)
    assert cut.shape == (10, 10, 3) and (cut == (255, 0, 127)).all(-1).mean() > 0.5
    assert resized(cut, 10) is cut
    ready = normalised(cut, (0.5, 0.5, 0.5), (0.5, 0.25, 1.0))
    assert ready.shape == (3, 10, 10) and ready.dtype == np.float32
    assert ready[:, 5, 5].tolist() == pytest.approx([1.0, -2.0, 127 / 255 - 0.5])
    with pytest.raises(InputError, match=r"x\.png: expected RGB pixels uint8 \[H, W, 3\], found float64"):
        check_image(np.zeros((4, 4, 3)), "x.png")


def test_augmentation_mirrors_and_shifts_by_seed_epoch_and_index() -> None:
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    assert np.array_equal(augmented(image, ImageAugmentation(flip=1, shift=0), rng_for(0, 1, 2)), image[:, ::-1])
    seen = {augmented(image, ImageAugmentation(0, 0.25), rng_for(0, 1, k)).tobytes() for k in range(20)}
    assert len(seen) > 10
    recipe = ImageRecipe(8, (0, 0, 0), (1, 1, 1), ImageAugmentation(), seed=3)
    assert np.array_equal(recipe.prepare(image, "x", 1, 5), recipe.prepare(image, "x", 1, 5))
    assert np.array_equal(recipe.prepare(image, "x"), normalised(image, (0, 0, 0), (1, 1, 1)))
    assert recipe.join([recipe.prepare(image, "x")] * 3).shape == (3, 3, 8, 8)
