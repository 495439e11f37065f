"""The prepared form: the same clouds, the errors that it states, and damage that is noticed."""

from __future__ import annotations

import json
import os
import pickle
import signal
from pathlib import Path

import layouts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import real_data

from image2point.datasets import registry
from image2point.datasets.catalogue import Options
from image2point.datasets.cloud import Cloud
from image2point.datasets.prepare import prepare_dataset, to_grid
from image2point.datasets.prepared import decode
from image2point.datasets.splits import CloudSet, Splits, StoredClouds, origin
from image2point.datasets.verify import verify_dataset
from image2point.errors import InputError


class Ragged:
    """Clouds of different sizes with everything that a cloud can have."""

    name, classes = "ragged", ("a", "b")

    def __init__(self, count: int, bad: tuple[int, ...] = ()) -> None:
        self.labels, self.bad = np.arange(count) % 2, bad

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Cloud:
        rng = np.random.default_rng(index)
        size = int(rng.integers(1, 40))
        points = rng.normal(size=(size, 3)).astype(np.float32)
        if index in self.bad:
            points[0, 0] = np.nan
        normals = rng.normal(size=(size, 3)).astype(np.float32)
        colours = rng.integers(0, 256, (size, 3)).astype(np.float32) / np.float32(255)
        attributes = {"intensity": rng.uniform(0, 900, size).astype(np.float32)}
        origin = np.array([869400.25, 6524300.5, index % 3])
        return Cloud(points, normals, colours, rng.integers(-1, 300, size), attributes, origin)


class Deadly(Ragged):
    """The process that is the first to read cloud 40 is killed."""

    def __init__(self, count: int, marker: Path) -> None:
        super().__init__(count)
        self.marker = marker

    def __getitem__(self, index: int) -> Cloud:
        if index == 40 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def assert_same(one: CloudSet, other: CloudSet, atol: float = 0.0) -> None:
    assert len(one) == len(other) and one.classes == other.classes
    np.testing.assert_array_equal(one.labels, other.labels)
    for index in range(len(one)):
        expected, found = one[index].columns(), other[index].columns()
        assert list(expected) == list(found)
        np.testing.assert_array_equal(one[index].origin, other[index].origin)
        for name, a in expected.items():
            b = found[name]
            assert name not in ("labels", "attributes.intensity") or np.array_equal(a, b)
            if name == "normals":
                np.testing.assert_allclose(a / np.linalg.norm(a, axis=1, keepdims=True), b, atol=1e-6 + 4 * atol)
            else:
                np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("workers", [0, 2])
def test_exact_is_exact_over_many_shards(tmp_path: Path, workers: int) -> None:
    whole = Splits(Ragged(50), Ragged(9), Ragged(20))
    summary = prepare_dataset(whole, tmp_path / "out", "ragged", shard_bytes=2000, workers=workers)
    assert summary.clouds == {"train": 50, "validation": 9, "test": 20} and summary.largest_error == 0
    assert len(list((tmp_path / "out" / "train").glob("*.points.npy"))) > 3
    read = registry.load_dataset("prepared", tmp_path / "out")
    assert_same(whole.train, read.train)
    assert read.validation is not None
    assert_same(whole.validation, read.validation)  # type: ignore[arg-type]
    assert_same(whole.test, read.test)
    read.train[0].points[:] = 5
    assert (read.train[0].points != 5).any()  # the caller's own
    assert_same(whole.train, pickle.loads(pickle.dumps(read.train)))


def test_a_killed_reader_changes_nothing(tmp_path: Path) -> None:
    deadly = Deadly(90, tmp_path / "killed")
    prepare_dataset(Splits(deadly, None, Ragged(4)), tmp_path / "two", "ragged", shard_bytes=2000, workers=2)
    assert deadly.marker.exists()
    prepare_dataset(Splits(deadly, None, Ragged(4)), tmp_path / "one", "ragged", shard_bytes=2000)
    one, two = ((tmp_path / name / "prepared.json").read_text() for name in ("one", "two"))
    assert one == two and one.count("sha256") > 20


def test_version_1_called_labels_of_points_parts(tmp_path: Path) -> None:
    points = layouts.points(0, 4, 30).astype(np.float32)
    clouds = StoredClouds("old", ("a",), points, np.zeros(4, int), point_labels=np.arange(120).reshape(4, 30))
    prepare_dataset(Splits(clouds, None, clouds), tmp_path / "old", "old")
    for split in ("train", "test"):
        (tmp_path / "old" / split / "00000.labels.npy").rename(tmp_path / "old" / split / "00000.parts.npy")
    text = (tmp_path / "old" / "prepared.json").read_text()
    text = text.replace('"version": 2', '"version": 1').replace("00000.labels.npy", "00000.parts.npy")
    (tmp_path / "old" / "prepared.json").write_text(text.replace('"field": "labels"', '"field": "parts"'))
    assert '"field": "parts"' in (tmp_path / "old" / "prepared.json").read_text()
    assert_same(clouds, registry.load_dataset("prepared", tmp_path / "old").test)


def test_int16_states_its_error(tmp_path: Path) -> None:
    whole = Splits(Ragged(30), None, Ragged(10))
    summary = prepare_dataset(whole, tmp_path / "out", "ragged", encoding="int16")
    read = registry.load_dataset("prepared", tmp_path / "out")
    sides = [np.ptp(part[i].points, axis=0).max() for part in (whole.train, whole.test) for i in range(len(part))]
    assert 0 < summary.largest_error <= max(sides) / 65535
    found = max(np.abs(read.train[i].points - whole.train[i].points).max() for i in range(30))
    assert found <= summary.largest_error
    assert_same(whole.train, read.train, atol=2e-4)
    assert json.loads((tmp_path / "out" / "prepared.json").read_text())["largest_error"] == summary.largest_error


def test_clouds_on_a_binary_grid_take_half_the_room_and_lose_nothing(tmp_path: Path) -> None:
    points = np.round(layouts.points(0, 20, 300) * 1024) / 1024
    clouds = StoredClouds("grid", ("a",), points.astype(np.float32), np.zeros(20, dtype=np.int64))
    prepare_dataset(Splits(clouds, None, clouds), tmp_path / "out", "grid")
    assert np.load(tmp_path / "out" / "train" / "00000.points.npy").dtype == np.int16
    assert_same(clouds, registry.load_dataset("prepared", tmp_path / "out").train)


@given(
    st.integers(1, 30),
    st.floats(1e-6, 1e6),
    st.floats(-1e3, 1e3),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_the_grid_is_as_fine_as_it_says(count: int, size: float, offset: float, seed: int) -> None:
    points = (np.random.default_rng(seed).uniform(-size, size, (count, 3)) + offset).astype(np.float32)
    steps, grid = to_grid(points)
    error = np.abs(decode("points", steps, grid).astype(np.float64) - points).max()
    side = np.ptp(points.astype(np.float64), axis=0).max()
    assert steps.dtype == np.int16
    # Half a step, and what float32 itself rounds so far from the origin.
    assert error <= max(side, 2.0**-20) / 65532 + 4 * np.spacing(np.float32(np.abs(points).max()))


def test_bad_clouds_stop_it_or_are_listed(tmp_path: Path) -> None:
    whole = Splits(Ragged(20, bad=(3, 11)), None, Ragged(4))
    with pytest.raises(InputError, match=r"ragged cloud 3: 1 of .* points are not finite"):
        prepare_dataset(whole, tmp_path / "out", "ragged")
    assert not list(tmp_path.iterdir())  # nothing half-written
    summary = prepare_dataset(whole, tmp_path / "out", "ragged", skip=True)
    assert summary.clouds["train"] == 18 and len(summary.skipped) == 2
    read = registry.load_dataset("prepared", tmp_path / "out").train
    assert origin(read, 3).endswith("(ragged cloud 4)")
    np.testing.assert_array_equal(read[3].points, whole.train[4].points)
    with pytest.raises(InputError, match="no cloud is left"):
        prepare_dataset(Splits(Ragged(2, bad=(0, 1)), None, Ragged(4)), tmp_path / "none", "ragged", skip=True)


def test_what_is_there_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    whole = Splits(Ragged(4), None, Ragged(4))
    (tmp_path / "mine").mkdir()
    for overwrite, message in ((False, "exists already; choose"), (True, "holds no prepared data")):
        with pytest.raises(InputError, match=message):
            prepare_dataset(whole, tmp_path / "mine", "ragged", overwrite=overwrite)
    prepare_dataset(whole, tmp_path / "out", "ragged")
    prepare_dataset(Splits(Ragged(6), None, Ragged(4)), tmp_path / "out", "ragged", overwrite=True)
    assert len(registry.load_dataset("prepared", tmp_path / "out").train) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


@pytest.mark.parametrize("moved", [False, True])
def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, moved: bool) -> None:
    """A folder half written, and the old data that were about to be removed."""
    splits = Splits(Ragged(4), None, Ragged(4))
    prepare_dataset(splits, tmp_path / "out", "ragged")
    if moved:  # it was killed between moving the old data away and the new ones there
        (tmp_path / "out").rename(tmp_path / ".out.old.part")
    (tmp_path / ".out.12345678.part" / "train").mkdir(parents=True)
    prepare_dataset(splits, tmp_path / "out", "ragged", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_over_shards_goes_on_where_it_stopped(tmp_path: Path, workers: int) -> None:
    import torch

    from image2point.datasets.recipe import Recipe
    from image2point.datasets.transforms import PAPER
    from image2point.training.batches import batches, shuffled
    from image2point.voxels import VoxelTensor

    prepare_dataset(Splits(Ragged(40), None, Ragged(4)), tmp_path / "out", "ragged", shard_bytes=2000)
    train = registry.load_dataset("prepared", tmp_path / "out").train
    recipe, plan = Recipe(0.2, augmentation=PAPER, seed=3), shuffled(40, 6, seed=3, epoch=2)
    whole = list(batches(train, plan, recipe, 2))
    rest = list(batches(train, plan[4:], recipe, 2, workers))
    assert sorted(torch.cat([batch.indices for batch in whole]).tolist()) == list(range(40))
    for one, other in zip(whole[4:], rest, strict=True):
        assert isinstance(one.voxels, VoxelTensor) and isinstance(other.voxels, VoxelTensor)
        assert torch.equal(one.indices, other.indices) and torch.equal(one.targets, other.targets)
        assert torch.equal(one.voxels.features, other.voxels.features)
        assert torch.equal(one.voxels.coordinates, other.voxels.coordinates)


def test_a_mixture_is_refused(tmp_path: Path) -> None:
    class Mixed(Ragged):
        def __getitem__(self, index: int) -> Cloud:
            cloud = super().__getitem__(index)
            return Cloud(cloud.points) if index == 2 else cloud

    with pytest.raises(
        InputError, match="ragged cloud 2: has points but the clouds before it in train have points, nor"
    ):
        prepare_dataset(Splits(Mixed(4), None, Ragged(2)), tmp_path / "out", "ragged")


def test_verify_knows_both_forms_to_be_the_same(tmp_path: Path) -> None:
    root = layouts.modelnet_h5(tmp_path / "h5")
    prepare_dataset(registry.load_dataset("modelnet", root), tmp_path / "out", "modelnet")
    one = verify_dataset(registry.find_dataset("modelnet"), root, Options())
    other = verify_dataset(registry.find_dataset("prepared"), tmp_path / "out", Options(), workers=1)
    assert not one.problems and not other.problems
    assert one.splits == other.splits
    assert one.splits["train"].per_class == {"chair": 6, "night_stand": 6}
    assert len(one.files) == 7 and one.bytes == sum(path.stat().st_size for path in root.iterdir())


def test_verify_lists_what_is_wrong(tmp_path: Path) -> None:
    root = layouts.modelnet_h5(tmp_path / "h5")
    data = layouts.points(0, 6, 16)
    data[2, 3, 1] = np.nan
    data[4] = data[0]
    layouts.h5(root / "ply_data_test1.h5", data=data, label=np.array([[0], [1], [0], [7], [1], [0]], dtype=np.uint8))
    report = verify_dataset(registry.find_dataset("modelnet"), root, Options())
    assert len(report.problems) == 2
    assert "ply_data_test1.h5 row 2: NaN" in report.problems[0]
    assert "label 7 occurs in ply_data_test1.h5 row 3" in report.problems[1]
    # The first file of train was made of the same numbers.
    twice = [note for note in report.notes if note.startswith("the same points twice")]
    assert len(twice) == 4 and "ply_data_train0.h5 row 0" in twice[0] and "ply_data_test1.h5 row 0" in twice[0]


@pytest.mark.parametrize("file", ["train/00000.points.npy", "test/labels.npy", "train/starts.npy"])
def test_verify_hashes_the_shards(tmp_path: Path, file: str) -> None:
    prepare_dataset(Splits(Ragged(20), None, Ragged(20)), tmp_path / "out", "ragged")
    path = tmp_path / "out" / file
    content = bytearray(path.read_bytes())
    content[-24] ^= 1
    path.write_bytes(content)
    try:
        problems = verify_dataset(registry.find_dataset("prepared"), tmp_path / "out", Options()).problems
    except InputError as error:  # some damage shows on opening
        problems = [str(error)]
    assert any(file.split("/")[1] in problem for problem in problems)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "prepared.json").unlink(), "no prepared data at"),
        (lambda root: (root / "prepared.json").write_text("{"), "cannot be read"),
        (lambda root: (root / "prepared.json").write_text("{}"), "is not the index"),
        (lambda root: edit(root, lambda index: index.update(version=3)), "has version 3, expected 1 or 2"),
        (lambda root: edit(root, lambda index: index["splits"].pop("test")), "has no split test"),
        (lambda root: edit(root, lambda i: i["splits"]["train"]["shards"].reverse()), "damaged at shard 0 of train"),
        (
            lambda root: edit(root, lambda i: i["splits"]["train"]["shards"][0]["files"][0].update(path="../x")),
            "outside",
        ),
        (
            lambda root: (root / "train/00000.points.npy").unlink(),
            "00000.points.npy, listed in prepared.json, is missing",
        ),
        (lambda root: cut(root / "train/00000.points.npy"), "bytes, expected"),
        (lambda root: resave(root, "train/labels.npy", lambda a: a + 7), "labels.npy row 0: expected 0..1, found 7"),
        (lambda root: resave(root, "train/starts.npy", lambda a: a[::-1]), "starts.npy: expected to rise"),
        (lambda root: resave(root, "train/00000.points.npy", lambda a: a[:-1]), "expected points"),
    ],
)
def test_damage_is_noticed_on_opening(tmp_path: Path, damage: object, message: str) -> None:
    prepare_dataset(Splits(Ragged(20), None, Ragged(4)), tmp_path / "out", "ragged", shard_bytes=2000)
    damage(tmp_path / "out")  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        registry.load_dataset("prepared", tmp_path / "out")


def edit(root: Path, change: object) -> None:
    index = json.loads((root / "prepared.json").read_text())
    change(index)  # type: ignore[operator]
    (root / "prepared.json").write_text(json.dumps(index))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def resave(root: Path, name: str, change: object) -> None:
    """Another array in place of one, and its size in the index, as somebody who edits data would leave it."""
    np.save(root / name, change(np.load(root / name)))  # type: ignore[operator]
    index = json.loads((root / "prepared.json").read_text())
    for split in index["splits"].values():
        for file in [*split["files"], *(file for shard in split["shards"] for file in shard["files"])]:
            if file["path"] == name:
                file["bytes"] = (root / name).stat().st_size
    (root / "prepared.json").write_text(json.dumps(index))


def test_real_modelnet(tmp_path: Path) -> None:
    splits = registry.load_dataset("modelnet", real_data("modelnet40_ply_hdf5_*"))
    few = Splits(
        StoredClouds("m/train", splits.train.classes, splits.train.points[:200], splits.train.labels[:200]),  # type: ignore[attr-defined]
        None,
        StoredClouds("m/test", splits.test.classes, splits.test.points[:50], splits.test.labels[:50]),  # type: ignore[attr-defined]
    )
    summary = prepare_dataset(few, tmp_path / "out", "modelnet")
    assert summary.largest_error == 0
    assert_same(few.train, registry.load_dataset("prepared", tmp_path / "out").train)
