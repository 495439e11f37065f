"""Clouds of PyTorch Geometric and Open3D are taken where clouds are given in Python, with what they know of points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pyg import Batch, Data

import image2point as i2p
from image2point.datasets import Cloud
from image2point.datasets.files import import_open3d
from image2point.datasets.in_memory import cloud_in_memory, clouds_of

DRAW = torch.Generator().manual_seed(0)
COUNTS = (60, 90, 75)


def pyg(points: int) -> Any:
    pos, normal = (torch.rand(points, 3, generator=DRAW) for _ in range(2))
    normal = torch.nn.functional.normalize(normal)
    return Data(pos=pos, normal=normal, intensity=torch.rand(points, 1, generator=DRAW), x=pos @ torch.ones(3, 2))


CLOUDS = [pyg(points) for points in COUNTS]
EXPECTED = [Cloud(c.pos.numpy(), c.normal.numpy(), attributes={"intensity": c.intensity[:, 0].numpy()}) for c in CLOUDS]


def open3d_cloud(cloud: Any) -> Any:
    open3d = import_open3d()
    made = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(cloud.pos.numpy()))
    made.normals = open3d.utility.Vector3dVector(cloud.normal.numpy())
    return made


def open3d_tensors(cloud: Any) -> Any:
    made = import_open3d().t.geometry.PointCloud(cloud.pos.numpy())
    made.point["normals"], made.point["intensity"] = cloud.normal.numpy(), cloud.intensity.numpy()
    return made


FORMS: dict[str, Callable[[], Any]] = {
    "a Batch": lambda: Batch.from_data_list(CLOUDS),
    "a list of Data": lambda: CLOUDS,
    "Open3D's clouds": lambda: [open3d_cloud(cloud) for cloud in CLOUDS],
    "Open3D's tensors": lambda: [open3d_tensors(cloud) for cloud in CLOUDS],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_voxels_are_those_of_the_arrays(form: Callable[[], Any]) -> None:
    expected, found = i2p.voxelize([cloud.pos for cloud in CLOUDS], 0.25), i2p.voxelize(form(), 0.25)
    assert torch.equal(found.coordinates, expected.coordinates)
    torch.testing.assert_close(found.features.float(), expected.features)


def test_features_of_a_batch_and_of_one_cloud() -> None:
    batch = Batch.from_data_list(CLOUDS)
    expected = i2p.voxelize([cloud.pos for cloud in CLOUDS], 0.25, [cloud.x for cloud in CLOUDS])
    torch.testing.assert_close(i2p.voxelize(batch, 0.25, batch.x).features, expected.features)
    one = i2p.voxelize(CLOUDS[0], 0.25, CLOUDS[0].x)
    torch.testing.assert_close(one.features, expected.features[expected.coordinates[:, 0] == 0])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_predictions_are_those_of_the_clouds(form: Callable[[], Any]) -> None:
    net = i2p.lift("test_resnet", weights="random", num_classes=3, in_channels=6)
    net.use(voxel_size=0.25, features=("xyz", "normals"))
    for found, expected in zip(net.predict(form()), net.predict(EXPECTED), strict=True):
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)


def test_all_that_is_known_of_points_comes_along() -> None:
    mixed = torch.randperm(sum(COUNTS), generator=DRAW)
    batch = Batch.from_data_list(CLOUDS)
    shuffled = Data(
        pos=batch.pos[mixed], normal=batch.normal[mixed], intensity=batch.intensity[mixed], batch=batch.batch[mixed]
    )
    for found, expected in zip(clouds_of(shuffled), EXPECTED, strict=True):
        order, wanted = (np.lexsort(cloud.points.T) for cloud in (found, expected))
        np.testing.assert_array_equal(found.points[order], expected.points[wanted])
        np.testing.assert_array_equal(found.normals[order], expected.normals[wanted])
        np.testing.assert_array_equal(found.attributes["intensity"][order], expected.attributes["intensity"][wanted])
    tensors = cloud_in_memory(open3d_tensors(CLOUDS[1]), "cloud")
    np.testing.assert_array_equal(tensors.attributes["intensity"], EXPECTED[1].attributes["intensity"])
    red = open3d_tensors(CLOUDS[0])
    red.point["colors"] = np.tile(np.array([255, 0, 51], np.uint8), (COUNTS[0], 1))
    np.testing.assert_allclose(cloud_in_memory(red, "cloud").colours[3], [1, 0, 0.2])
    legacy = open3d_cloud(CLOUDS[0])
    assert cloud_in_memory(legacy, "cloud").colours is None and len(clouds_of(legacy)) == len(clouds_of(CLOUDS[0:1]))
    assert clouds_of(CLOUDS[0]) == [CLOUDS[0]]
    learning = Data(pos=CLOUDS[0].pos.clone().requires_grad_())
    np.testing.assert_array_equal(cloud_in_memory(learning, "cloud").points, EXPECTED[0].points)


def test_what_is_no_cloud_is_named() -> None:
    batch, empty = Batch.from_data_list(CLOUDS), pyg(0)
    open3d = import_open3d()
    mesh = open3d.geometry.TriangleMesh.create_sphere()
    for given, message in (
        ([batch, batch], "cloud 0: expected one cloud, found a PyG Batch of 3; give the Batch itself"),
        ([CLOUDS[0], Data(x=torch.rand(3, 3))], r"cloud 1: expected PyG data with the coordinates \[N, 3\] in `pos`"),
        (Batch.from_data_list([*CLOUDS, empty]), "cloud 3: .*at least one point"),
        ([open3d.t.geometry.PointCloud()], "cloud 0: expected at least one point"),
        ([open3d.geometry.PointCloud()], "cloud 0: .*at least one point"),
        ([mesh], "cloud 0: expected .*found TriangleMesh"),
        (mesh, "clouds: expected .*found TriangleMesh"),
    ):
        net = i2p.lift("test_resnet", weights="random", num_classes=3)
        net.use(voxel_size=0.25)
        for taken in (lambda given: i2p.voxelize(given, 0.25), net.predict):
            with pytest.raises(i2p.InputError, match=message):
                taken(given)
    short = Data(pos=batch.pos, normal=batch.normal[1:], batch=batch.batch)
    with pytest.raises(i2p.InputError, match="clouds: expected 225 rows, one for each point, under normals"):
        clouds_of(short)
    with pytest.raises(i2p.InputError, match="colour"):  # what a feature needs, a cloud of PyG may lack
        coloured = i2p.lift("test_resnet", weights="random", num_classes=3)
        coloured.use(voxel_size=0.25, features="colour")
        coloured.predict(batch)
