"""Every reader on small files in the layout of the real dataset: counts, classes, order, units, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import layouts
import numpy as np
import pytest

from image2point.datasets import registry
from image2point.datasets.catalogue import Options
from image2point.datasets.splits import Splits, origin
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.validation or ()), len(splits.test)


def radius(points: np.ndarray) -> float:
    return float(np.sqrt((points**2).sum(axis=1).max()))


CASES = {
    # dataset, layout, variant → clouds, points of the first, has normals and parts, classes
    "modelnet": ("modelnet", layouts.modelnet_h5, None, (12, 0, 12), 16, "", layouts.CLASSES),
    "modelnet_off": ("modelnet_off", layouts.modelnet_off, None, (6, 0, 4), 2048, "normals", layouts.CLASSES),
    "modelnet_text": ("modelnet_text", layouts.modelnet_text, None, (6, 0, 2), 40, "normals", layouts.CLASSES),
    "shapenet v2": ("shapenet", layouts.shapenet_meshes, None, (4, 2, 2), 2048, "normals", 55),
    "shapenet v1": ("shapenet", lambda r: layouts.shapenet_meshes(r, 1), "meshes", (4, 2, 2), 2048, "normals", 55),
    "shapenet h5": ("shapenet", layouts.shapenet_h5, None, (6, 3, 3), 2048, "", ("airplane", "bag")),
    "shapenet55": ("shapenet", layouts.shapenet55, None, (6, 0, 4), 8192, "", 55),
    "shapenet pc15k": ("shapenet", layouts.shapenet_pc15k, None, (4, 4, 4), 15000, "", ("airplane", "chair")),
    "part text": ("shapenet_part", layouts.shapenet_part_text, None, (4, 2, 2), 30, "normals parts", 16),
    "part h5": ("shapenet_part", layouts.shapenet_part_h5, None, (6, 3, 3), 32, "parts", 16),
    "scanobjectnn": ("scanobjectnn", layouts.scanobjectnn, None, (4, 0, 3), 2048, "parts", 15),
    "scan obj_only": ("scanobjectnn", layouts.scanobjectnn, "obj_only", (4, 0, 3), 2048, "parts", 15),
    "folder": ("folder", layouts.folder, None, (6, 0, 6), 25, "", ("table", "椅子")),
}


@pytest.mark.parametrize("case", CASES)
def test_every_layout(tmp_path: Path, case: str) -> None:
    name, make, variant, expected, points, has, classes = CASES[case]
    options = Options(variant=variant)
    splits = registry.load_dataset(name, make(tmp_path / "data"), options)
    assert sizes(splits) == expected
    known = splits.train.classes
    assert known == classes if isinstance(classes, tuple) else len(known) == classes
    for part in (splits.train, splits.validation, splits.test):
        if part is not None:
            assert part.classes == known and part.labels.dtype == np.int64
            for index in range(len(part)):
                cloud = part[index]
                assert check_cloud(cloud, "").points.dtype == np.float32
                assert (cloud.normals is not None) == ("normals" in has)
                assert (cloud.labels is not None) == ("parts" in has)
                assert str(tmp_path) in origin(part, index)
                cloud.points[:] = 7  # it belongs to the caller ...
            assert (part[0].points != 7).any()  # ... who changes nothing in the set
    counts = sorted(len(splits.train[index]) for index in range(len(splits.train)))
    assert counts == [20, 25, 30, 30, 2048, 2048] if name == "folder" else counts[0] == points
    if case not in ("modelnet", "shapenet h5"):  # those come normalised
        assert radius(splits.test[0].points) == pytest.approx(1, abs=1e-5)
        raw = registry.load_dataset(name, tmp_path / "data", replace(options, normalise=False))
        assert radius(raw.test[0].points) != pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["modelnet_off", "folder"])
def test_sampling_depends_on_the_file_and_the_seed_alone(tmp_path: Path, name: str) -> None:
    root = layouts.modelnet_off(tmp_path / "a") if name == "modelnet_off" else layouts.folder(tmp_path / "a")
    options = Options(points=64, normalise=False)
    train = registry.load_dataset(name, root, options).train
    again = registry.load_dataset(name, root, options).train
    other = registry.load_dataset(name, root, replace(options, seed=1)).train
    same = [np.array_equal(train[i].points, again[i].points) for i in range(len(train))]
    meshes = [i for i in range(len(train)) if len(train[i]) == 64]
    assert all(same) and meshes and not any(np.array_equal(train[i].points, other[i].points) for i in meshes)
    elsewhere = root.rename(tmp_path / "b")
    paths = [i for i, path in enumerate(train.paths) if path.suffix == ".off"]  # type: ignore[attr-defined]
    removed = train.paths[paths[0]].relative_to(tmp_path / "a")  # type: ignore[attr-defined]
    (elsewhere / removed).unlink()
    moved = registry.load_dataset(name, elsewhere, options).train
    assert len(moved) == len(train) - 1
    for index, path in enumerate(moved.paths):  # type: ignore[attr-defined]
        old = train.paths.index(tmp_path / "a" / path.relative_to(elsewhere)) if index >= 0 else 0  # type: ignore[attr-defined]
        assert train.labels[old] == moved.labels[index]


def test_modelnet10_of_forty_folders(tmp_path: Path) -> None:
    from image2point.datasets.modelnet import MODELNET10

    for number in range(30):
        layouts.write(tmp_path / f"class{number}" / "train" / f"class{number}_0001.off", layouts.off())
        layouts.write(tmp_path / f"class{number}" / "test" / f"class{number}_0002.off", layouts.off())
    for name in MODELNET10:
        layouts.write(tmp_path / name / "train" / f"{name}_0001.off", layouts.off())
        layouts.write(tmp_path / name / "test" / f"{name}_0002.off", layouts.off())
    assert registry.load_dataset("modelnet_off", tmp_path, Options(classes=10)).train.classes == MODELNET10
    assert len(registry.load_dataset("modelnet_off", tmp_path, Options(classes=40)).train.classes) == 40
    with pytest.raises(InputError, match="has 2 class folders, expected the 40"):
        registry.load_dataset("modelnet_off", layouts.modelnet_off(tmp_path / "two"), Options(classes=40))


def test_labels_and_parts_are_those_of_the_files(tmp_path: Path) -> None:
    scans = registry.load_dataset("scanobjectnn", layouts.scanobjectnn(tmp_path / "s"))
    assert [scans.train.classes[label] for label in scans.train.labels] == ["bag", "door", "toilet", "chair"]
    parts = scans.train[1].labels
    assert parts is not None and np.array_equal(parts, np.arange(2048) % 3 != 0)
    h5 = registry.load_dataset("shapenet_part", layouts.shapenet_part_h5(tmp_path / "h"))
    assert [h5.train.classes[label] for label in h5.train.labels] == ["airplane", "chair", "table"] * 2
    assert [int(h5.train[index].labels[0]) for index in range(3)] == [3, 12, 49]  # type: ignore[index]
    text = registry.load_dataset("shapenet_part", layouts.shapenet_part_text(tmp_path / "t"))
    for index in range(len(text.train)):
        low, high = (0, 4) if text.train.labels[index] == 0 else (12, 16)
        found = text.train[index].labels
        assert found is not None and low <= found.min() and found.max() < high
    shapes = registry.load_dataset("shapenet", layouts.shapenet_meshes(tmp_path / "m"))
    assert {shapes.train.classes[label] for label in shapes.train.labels} == {"airplane", "chair"}


def test_h5_order_is_the_order_of_numbers(tmp_path: Path) -> None:
    root = layouts.shapenet_h5(tmp_path, size=4)
    for kind in (".h5", "_id2name.json"):
        (root / f"train1{kind}").rename(root / f"train10{kind}")
        (root / f"train2{kind}").write_bytes((root / f"train0{kind}").read_bytes())
    train = registry.load_dataset("shapenet", root).train
    assert [Path(origin(train, index).split(" row ")[0]).name for index in (0, 3, 6)] == [
        "train0.h5", "train2.h5", "train10.h5"]  # fmt: skip


def test_a_folder_is_cut_by_seed(tmp_path: Path) -> None:
    for name, count in (("a", 10), ("b", 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            np.save(tmp_path / name / f"{number}.npy", layouts.points(number, 5))
    splits = registry.load_dataset("folder", tmp_path)
    assert np.bincount(splits.train.labels).tolist() == [8, 1]
    assert np.bincount(splits.test.labels).tolist() == [2, 1]
    names = lambda part: {origin(part, index) for index in range(len(part))}  # noqa: E731
    assert not names(splits.train) & names(splits.test) and len(names(splits.train) | names(splits.test)) == 12
    assert names(splits.test) == names(registry.load_dataset("folder", tmp_path).test)
    assert any(
        names(splits.test) != names(registry.load_dataset("folder", tmp_path, Options(seed=s)).test)
        for s in range(1, 5)
    )


def test_what_is_skipped_is_listed(tmp_path: Path) -> None:
    root = layouts.shapenet_meshes(tmp_path)
    (root / "03001627" / "0a04e3eab45ca15dd86060f189eb133" / "models" / "model_normalized.obj").unlink()
    with pytest.raises(InputError, match=r"03001627/0a04e3.*model.obj, listed in all.csv row 2, does not exist"):
        registry.load_dataset("shapenet", root)
    skipped: list[str] = []
    assert sizes(registry.load_dataset("shapenet", root, Options(skipped=skipped))) == (3, 2, 2)
    assert len(skipped) == 1 and "0a04e3" in skipped[0]


def test_a_config_reads_any_of_them(tmp_path: Path) -> None:
    from image2point import config as configuration
    from image2point.jobs.ingredients import load_splits

    def load(**values: object) -> Splits:
        return load_splits(configuration.from_values({"data": values}).data)

    parts = str(layouts.shapenet_part_h5(tmp_path / "parts"))
    own = load(name="shapenet_part", root=parts)
    assert sizes(own) == (6, 3, 3)  # the dataset's own validation split
    assert sizes(load(name="shapenet_part", root=parts, validation=0)) == (6, 0, 3)
    assert sizes(load(name="shapenet_part", root=parts, validation=0.5)) == (3, 3, 3)
    scans = str(layouts.scanobjectnn(tmp_path / "scans"))
    assert sizes(load(name="scanobjectnn", root=scans, variant="obj_only", validation=0)) == (4, 0, 3)
    with pytest.raises(InputError, match=r"has the variants pb_t50_rs, .*; found 'hard'"):
        load(name="scanobjectnn", root=scans, variant="hard")
    few = load(name="folder", root=str(layouts.folder(tmp_path / "f")), sample=16, validation=0).train
    assert {len(few[index]) for index in range(6)} == {16}


def test_entries_are_complete() -> None:
    for name, dataset in registry.DATASETS.items():
        assert dataset.name == name
        for key in ("title", "layout", "splits", "classes", "axes", "normalisation", "terms"):
            assert getattr(dataset, key), (name, key)
        assert dataset.citation or name in ("folder", "prepared", "scenes")
    with pytest.raises(InputError, match="there is no dataset 'modelnet41'; there are modelnet, "):
        registry.find_dataset("modelnet41")


def test_the_config_knows_every_dataset() -> None:
    from typing import get_args

    from image2point.config.data import Data

    assert set(get_args(Data.model_fields["name"].annotation)) == {*registry.DATASETS, "synthetic", "synthetic_scenes"}
