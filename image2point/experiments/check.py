"""What a lifting does to the signal: the 2D network on images, the lifted one on clouds, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from image2point import config as configuration
from image2point.datasets import modelnet
from image2point.datasets.files import READERS, read_cloud
from image2point.datasets.recipe import Recipe, prepare, to_voxels
from image2point.datasets.splits import CloudSet, Subset
from image2point.datasets.synthetic import SyntheticShapes
from image2point.errors import InputError
from image2point.files import files_below
from image2point.finetune import following
from image2point.jobs.ingredients import make_network, make_recipe
from image2point.lifting import LiftedNetwork
from image2point.lifting.activations import MaskedImages
from image2point.lifting.check import BOUND, Check, check_lifting
from image2point.lifting.matched import image_in_channels, pixels_per_voxel, projection
from image2point.lifting.source import source_network
from image2point.networks.timm_import import load_timm
from image2point.storage import fetched
from image2point.training.batches import batches, in_order
from image2point.voxels import VoxelTensor

BATCH = 8
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")


def run_check(
    config: configuration.Config,
    classes: int,
    clouds: Path | None = None,
    images: Path | None = None,
    policy: str = "none",
    count: int = 16,
    bound: float = BOUND,
) -> tuple[LiftedNetwork, Check]:
    """Lift a network and check it against its 2D network.

    Args:
        config: how to lift, and how clouds become voxels. Where its kernels are scaled by the occupancy of a batch
            (variance), the first of the clouds here are that batch.
        classes: of the new head.
        clouds: a folder of clouds or meshes, or of ModelNet's h5 files (the test set is taken); None for synthetic
            shapes, of a class each.
        images: a folder of images for the 2D network; None for projections of the clouds along the depth axis.
        policy: the batch norms that follow batch statistics when training begins under this policy do so here.
        count: clouds, and images, to take: spread evenly over the folder.
        bound: ratio of the spreads from which on a layer is warned about.

    Raises:
        InputError: on a folder without clouds or images, or a file that cannot be read.
    """
    if bound <= 1:
        raise InputError(f"bound: expected a ratio above 1, found {bound}")
    voxels = read_voxels(clouds, replace(make_recipe(config), substrate="sparse"), count)
    net = make_network(config, classes, voxels[0] if config.network.variance == "occupancy" else None)
    norms = following(net, policy)
    source = source_network(net.lifting)
    pictures: Sequence[Tensor | MaskedImages]
    if images is not None:
        pictures = read_images(images, source, count)
    else:
        axis = net.lifting.options.axis
        scale, channels = pixels_per_voxel(source, net), image_in_channels(source)
        pictures = [projection(batch, axis if axis in ("x", "y") else "z", channels, scale) for batch in voxels]
    return net, check_lifting(source, net, pictures, voxels, bound, norms)


def read_voxels(folder: Path | None, recipe: Recipe, count: int) -> list[VoxelTensor]:
    """Batches of voxels of `count` clouds."""
    shapes: CloudSet
    folder = None if folder is None else fetched(folder)
    if folder is not None and not (folder / "shape_names.txt").is_file():
        files = _some(_files(folder, tuple(READERS), "clouds or meshes"), count)
        clouds = [prepare(read_cloud(path, normalise=True), str(path), recipe) for path in files]
        parts = [slice(start, start + BATCH) for start in range(0, len(files), BATCH)]
        return [_sparse(to_voxels(clouds[part], recipe, list(map(str, files[part])))) for part in parts]
    if folder is None:
        classes = len(SyntheticShapes().classes)
        shapes = SyntheticShapes("test", samples_per_class=-(-count // classes))
        chosen = np.arange(count)
    else:
        shapes = modelnet.load_modelnet(folder, classes=None)[1]
        chosen = np.array(_some(list(range(len(shapes))), count))
    part = Subset(shapes, chosen)
    return [_sparse(batch.voxels) for batch in batches(part, in_order(len(part), BATCH), recipe)]


def read_images(folder: Path, network: nn.Module, count: int) -> list[Tensor]:
    """Batches of `count` images, resized, cropped and normalised as timm does for this network: [B, 3, H, W]."""
    from PIL import Image

    data = load_timm().data
    transform: Any = data.create_transform(**data.resolve_data_config({}, model=network), is_training=False)
    images = []
    for path in _some(_files(fetched(folder), IMAGE_SUFFIXES, "images"), count):
        try:
            with Image.open(path) as image:
                images.append(transform(image.convert("RGB")))
        except OSError as error:
            raise InputError(f"{path} cannot be read as an image: {error}") from None
    return [torch.stack(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]


def _files(folder: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """The files of a folder, and of those in it, that have one of the suffixes."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected one with {what}")
    found = sorted(path for path in files_below(folder) if path.suffix.lower() in suffixes)
    if not found:
        raise InputError(f"{folder} holds no {what}; expected files with the suffixes {' '.join(suffixes)}")
    return found


def _some(items: list[Any], count: int) -> list[Any]:
    """`count` of the items, spread evenly over the list; all where there are fewer."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _sparse(voxels: Any) -> VoxelTensor:
    assert isinstance(voxels, VoxelTensor)  # the recipe asks for it
    return voxels
