"""Reuse of what was trained: predictions for clouds in files, and the 2D network of a pre-training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image2point import config as configuration
from image2point import runs
from image2point.errors import InputError
from image2point.files import shown

if TYPE_CHECKING:
    from image2point.networks.image_network import ImageNetwork
    from image2point.runs import Run
    from image2point.tasks.classification import ClassPrediction

USUAL_POINTS = 1024


def load_image_network(run: str | Path) -> ImageNetwork:
    """The 2D network of a finished pre-training with its chosen weights, in eval mode, on the CPU."""
    from image2point.jobs.image_ingredients import make_image_network
    from image2point.networks.weights import read_file

    opened = runs.open_run(run)
    classes = opened.read_classes("images")
    config = configuration.load_config_as(configuration.Pretrain, opened.config)
    network = make_image_network(config, len(classes), weights="random")
    network.network.load_state_dict(read_file(opened.weights).tensors)
    return network.eval()


def predict(run: str | Path, paths: Sequence[str | Path], **settings: Any) -> list[ClassPrediction]:
    """As `predict_each`, for files that are all good: raises InputError naming the first bad one."""
    predictions = []
    for prediction in predict_each(run, paths, **settings):
        if prediction.problem:
            raise InputError(prediction.problem)
        predictions.append(prediction)
    return predictions


def predict_each(
    run: str | Path,
    paths: Sequence[str | Path],
    top: int = 5,
    points: int | None = None,
    normalise: bool | None = None,
    seed: int = 0,
) -> Iterator[ClassPrediction]:
    """Classify clouds and meshes in files (.ply .pcd .xyz .pts .off .obj .stl .npy .npz).

    run: a finished run, a folder that `net.save` wrote, or `hf:OWNER/NAME`. points: how many are taken from each cloud
    or sampled from each mesh, by `seed`; None takes as many as each training cloud of the run had, or as the saved
    network says; where that is open, all of a cloud and 2048 of a mesh. normalise: move and scale each cloud into the
    unit sphere; None does what was done to the clouds of the run. No cloud is turned: the axes of a file should be
    those of the dataset.

    A file that is bad, or lacks what the input features need, gets a `problem` in place of classes. Raises InputError
    where the run is not finished, or either is damaged.
    """
    import torch

    from image2point.datasets.files import read_cloud
    from image2point.datasets.recipe import prepare, to_voxels
    from image2point.inference.clouds import cloud_of
    from image2point.inference.scene import fitted
    from image2point.jobs.sources import open_source, task_of
    from image2point.tasks.classification import Classification, ClassPrediction

    if (task := task_of(run)).of_points:
        raise InputError(f"{run} is of the task {task.name}: `label_files` and `label_points` use it")
    source = open_source(run)
    usage, network, data = source.usage, source.network, source.data
    recipe = usage.recipe(network.lifting.options.substrate)
    points = points or usage.points or (None if source.run is None else _usual_points(source.run))
    normalise = usage.normalise if normalise is None else normalise
    ready = usage.changed({"normalise": False})
    for path in map(shown, paths):
        try:
            cloud = read_cloud(path, points, seed, normalise, data.columns, data.nan_points)
            voxels = to_voxels([prepare(cloud_of(cloud, ready, path), path, recipe)], recipe, [path])
        except InputError as error:
            yield ClassPrediction(path, problem=str(error))
            continue
        with torch.no_grad():
            scores = network(fitted(voxels, network))[0]
        yield Classification().prediction(path, scores, source.classes, top)


def _usual_points(run: Run) -> int | None:
    """How many points each training cloud of a run had; None where they differ. Runs of earlier versions kept no
    numbers: of those the stored test clouds say it, which were cut to the smallest of them."""
    from image2point.datasets.arrays import read_arrays

    data = run.read_summary().get("data")
    if isinstance(data, dict) and isinstance(counts := data.get("points"), list):
        return int(counts[0]) if len(set(counts)) == 1 else None
    if not run.examples.is_file():
        return USUAL_POINTS
    points = read_arrays(run.examples, ("points",)).get("points")
    return (points.shape[1] if points is not None and points.ndim == 3 else 0) or USUAL_POINTS
