"""Reuse of a finished run: its network, and predictions for clouds in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from image2point import config as configuration
from image2point import runs
from image2point.errors import InputError

if TYPE_CHECKING:
    from image2point.lifting import LiftedNetwork


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one file, best first."""

    file: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def load(run: str | Path) -> LiftedNetwork:
    """The network of a finished run with its chosen weights, in eval mode, on the CPU.

    Only the run directory is read: neither the 2D weights nor the dataset are needed. Raises InputError where it is
    no finished run or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from image2point.experiments.block_choice import resolved, with_policy
    from image2point.experiments.ingredients import make_blank_network

    place = runs.open_run(run)
    classes = place.read_summary()["data"]["classes"]
    config = configuration.load_config(place.config)
    network = with_policy(make_blank_network(config, len(classes)), resolved(config, place))
    try:
        state = load_file(place.weights)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{place.weights} cannot be read: {error}") from None
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{place.weights} does not fit the network of {place.config}: {error}") from None
    return network.eval()


def predict(
    run: str | Path,
    paths: Sequence[str | Path],
    top: int = 5,
    points: int = 1024,
    normalise: bool = True,
    seed: int = 0,
) -> list[Prediction]:
    """Classify clouds and meshes in files (.ply .pcd .xyz .pts .off .obj .stl .npy .npz) with a finished run.

    points: how many are taken from each cloud or sampled from each mesh, by `seed`. normalise: move and scale each
    cloud into the unit sphere, as the clouds of the datasets here are. No cloud is turned: the axes of a file should be
    those of the dataset. Raises InputError naming the first file that is bad, or lacks what the run's input features
    need.
    """
    import torch

    from image2point.datasets.files import read_cloud
    from image2point.experiments.ingredients import make_recipe
    from image2point.training.batches import prepare, to_voxels

    place = runs.open_run(run)
    config = configuration.load_config(place.config)
    classes = place.read_summary()["data"]["classes"]
    recipe = make_recipe(config)
    clouds = []
    for path in paths:
        cloud = read_cloud(path, points=points, seed=seed, normalise=normalise)
        clouds.append(prepare(cloud, str(path), recipe))
    network = load(run)
    dtype = next(network.parameters()).dtype
    predictions = []
    for path, cloud in zip(paths, clouds, strict=True):
        with torch.no_grad():
            share = network(to_voxels([cloud], recipe, [str(path)]).to(dtype))[0].double().softmax(0)
        best = share.argsort(descending=True)[:top].tolist()
        predictions.append(Prediction(str(path), tuple(classes[i] for i in best), tuple(float(share[i]) for i in best)))
    return predictions
