"""ModelNet's h5 folder: what is read from it, and how each kind of damage is reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from real_data import real_data

from image2point.datasets import modelnet
from image2point.errors import InputError

FIXTURE = Path(__file__).resolve().parents[2] / "data" / "fixtures" / "modelnet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the fixture that a test may damage."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "modelnet"))


def rewrite(path: Path, data: object = None, label: object = None) -> None:
    with h5py.File(path, "r+") as file:
        for name, value in (("data", data), ("label", label)):
            if value is not None:
                del file[name]
                file[name] = value


def arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        return file["data"][...], file["label"][...]


def test_fixture() -> None:
    train, test = modelnet.load_modelnet(FIXTURE, classes=None)
    assert train.classes == test.classes == ("chair", "mug", "table", "torus")
    assert (len(train), len(test)) == (24, 12)
    assert train.points.dtype == np.float32 and train.labels.dtype == np.int64
    first, labels = arrays(FIXTURE / "ply_data_train0.h5")
    second, _ = arrays(FIXTURE / "ply_data_train1.h5")
    np.testing.assert_array_equal(train.points, np.concatenate([first, second]))
    np.testing.assert_array_equal(train.labels[:12], labels[:, 0])


def test_a_cloud_belongs_to_the_caller() -> None:
    train, _ = modelnet.load_modelnet(FIXTURE, classes=None)
    before = train[3].points.copy()
    train[3].points[:] = 7
    np.testing.assert_array_equal(train[3].points, before)


def test_normals_where_all_files_have_them(root: Path) -> None:
    rng = np.random.default_rng(0)
    written = {}
    for path in sorted(root.glob("ply_data_train*.h5")):
        written[path.name] = rng.normal(size=arrays(path)[0].shape).astype(np.float32)
        with h5py.File(path, "r+") as file:
            file["normal"] = written[path.name]
    train, test = modelnet.load_modelnet(root, classes=None)
    assert train.normals is not None and test.normals is None
    np.testing.assert_array_equal(train.normals, np.concatenate(list(written.values())))
    np.testing.assert_array_equal(train[2].normals, train.normals[2])
    with h5py.File(root / "ply_data_train1.h5", "r+") as file:
        del file["normal"]
    with pytest.raises(InputError, match=r"1 of the 2 files of .*/train have normals; all or none"):
        modelnet.load_modelnet(root, classes=None)


@pytest.mark.parametrize(
    ("normal", "message"),
    [
        (np.zeros((12, 32, 3), "f4"), r"expected `normal` floating \(12, 64, 3\), found float32 \(12, 32, 3\)"),
        (np.full((12, 64, 3), np.nan, "f4"), r"ply_data_train0.h5 row 0: NaN or infinite normals \(12 such rows\)"),
    ],
)
def test_wrong_normals(root: Path, normal: np.ndarray, message: str) -> None:
    with h5py.File(root / "ply_data_train0.h5", "r+") as file:
        file["normal"] = normal
    with pytest.raises(InputError, match=message):
        modelnet.load_modelnet(root, classes=None)


def test_modelnet10_is_a_renumbered_subset(root: Path) -> None:
    listed = [f"other{index}" for index in range(30)] + list(modelnet.MODELNET10[::-1])
    (root / "shape_names.txt").write_text("\n".join(listed))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 40, (12, 1)).astype(np.uint8)
    labels[0], labels[1] = 0, 30 + 9 - modelnet.MODELNET10.index("bed")
    for path in root.glob("*.h5"):
        rewrite(path, label=labels)
    train, _ = modelnet.load_modelnet(root, classes=10)
    everything, _ = modelnet.load_modelnet(root, classes=40)
    kept = [index for index, label in enumerate(everything.labels) if listed[label] in modelnet.MODELNET10]
    assert train.classes == modelnet.MODELNET10 and 0 < len(train) < len(everything)
    assert [train.classes[label] for label in train.labels] == [listed[everything.labels[index]] for index in kept]
    np.testing.assert_array_equal(train.points, everything.points[kept])


def test_missing_root_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no ModelNet data at .*nowhere: expected a folder with shape_names.txt.*data fetch modelnet"
    ):
        modelnet.load_modelnet(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["shape_names.txt", "train_files.txt", "test_files.txt", "ply_data_train1.h5"])
def test_missing_file(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(InputError, match=f"{name}.* is missing in"):
        modelnet.load_modelnet(root, classes=None)


@pytest.mark.parametrize("name", ["shape_names.txt", "train_files.txt"])
def test_empty_list(root: Path, name: str) -> None:
    (root / name).write_text("\n")
    with pytest.raises(InputError, match=f"{name} is empty"):
        modelnet.load_modelnet(root, classes=None)


@pytest.mark.parametrize("keep", [0, 100, 5000, 9000])
def test_truncated_h5(root: Path, keep: int) -> None:
    path = root / "ply_data_train1.h5"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"ply_data_train1.h5 is not a readable h5 file"):
        modelnet.load_modelnet(root, classes=None)


def test_damaged_chunk(root: Path) -> None:
    path = root / "ply_data_train0.h5"
    with h5py.File(path) as file:
        chunk = file["data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"ply_data_train0.h5 is not a readable h5 file"):
        modelnet.load_modelnet(root, classes=None)


def test_label_outside_the_class_list(root: Path) -> None:
    _, labels = arrays(root / "ply_data_train1.h5")
    labels[7] = 57
    rewrite(root / "ply_data_train1.h5", label=labels)
    message = "shape_names.txt lists 4 classes but label 57 occurs in ply_data_train1.h5 row 7"
    with pytest.raises(InputError, match=message):
        modelnet.load_modelnet(root, classes=None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_points_that_are_not_finite(root: Path, value: float) -> None:
    data, _ = arrays(root / "ply_data_test0.h5")
    data[5, 3, 1] = value
    rewrite(root / "ply_data_test0.h5", data=data)
    with pytest.raises(InputError, match=r"ply_data_test0.h5 row 5: NaN or infinite"):
        modelnet.load_modelnet(root, classes=None)


@pytest.mark.parametrize(
    ("data", "label", "message"),
    [
        (np.zeros((12, 64, 4), "f4"), None, r"expected `data` floating \(N, P, 3\), found float32 \(12, 64, 4\)"),
        (np.zeros((12, 64), "f4"), None, r"found float32 \(12, 64\)"),
        (np.zeros((12, 64, 3), "i4"), None, r"found int32 \(12, 64, 3\)"),
        (np.zeros((0, 64, 3), "f4"), np.zeros((0, 1), "u1"), r"found float32 \(0, 64, 3\)"),
        (None, np.zeros((12, 2), "u1"), r"expected `label` integer \(N, 1\), found uint8 \(12, 2\)"),
        (None, np.zeros((12, 1), "f4"), r"expected `label` integer \(N, 1\), found float32"),
        (None, np.zeros((11, 1), "u1"), "`data` has 12 rows but `label` has 11"),
        (np.zeros((12, 32, 3), "f4"), None, "ply_data_train1.h5 has 32 points per cloud but ply_data_train0.h5 has 64"),
    ],
)
def test_wrong_arrays(root: Path, data: np.ndarray | None, label: np.ndarray | None, message: str) -> None:
    rewrite(root / "ply_data_train1.h5", data, label)
    with pytest.raises(InputError, match=rf"ply_data_train1.h5.*{message}|{message}"):
        modelnet.load_modelnet(root, classes=None)


def test_missing_array(root: Path) -> None:
    with h5py.File(root / "ply_data_train1.h5", "r+") as file:
        del file["label"]
    with pytest.raises(InputError, match=r"expected the arrays `data` and `label`, found \['data'\]"):
        modelnet.load_modelnet(root, classes=None)


def test_a_file_listed_twice(root: Path) -> None:
    (root / "test_files.txt").write_text("ply_data_train0.h5\n")
    with pytest.raises(InputError, match=r"ply_data_train0.h5 is listed in both"):
        modelnet.load_modelnet(root, classes=None)
    (root / "test_files.txt").write_text("ply_data_test0.h5\na/ply_data_test0.h5\n")
    with pytest.raises(InputError, match=r"ply_data_test0.h5 is listed twice"):
        modelnet.load_modelnet(root, classes=None)


@pytest.mark.parametrize(
    ("classes", "message"),
    [(40, "lists 4 classes, expected the 40"), (10, "lacks the ModelNet10 classes bathtub, bed"), (7, "found 7")],
)
def test_wrong_number_of_classes(classes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        modelnet.load_modelnet(FIXTURE, classes=classes)


def test_real_modelnet() -> None:
    root = real_data("modelnet40_ply_hdf5_*")
    train, test = modelnet.load_modelnet(root, classes=40)
    assert (len(train), len(test), len(train.classes)) == (9843, 2468, 40)
    assert train.points.shape[1:] == test.points.shape[1:] == (int(root.name.rpartition("_")[2]), 3)
    assert np.abs(train.points).max() < 1.001
    for part, total in zip(modelnet.load_modelnet(root, classes=10), (3991, 908), strict=True):
        assert len(part) == total and set(part.labels) == set(range(10))
