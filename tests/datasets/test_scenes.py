"""Scenes of one's own: files of each format by the names of their fields, splits, tables of labels, and bad input."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from image2point import config
from image2point.config.reading import from_values
from image2point.datasets.catalogue import Options
from image2point.datasets.label_table import LabelTable
from image2point.datasets.prepare import prepare_dataset
from image2point.datasets.registry import load_dataset
from image2point.datasets.scene_files import SceneFields, read_scene
from image2point.datasets.splits import Splits
from image2point.errors import InputError
from image2point.jobs.ingredients import check_features, load_splits, make_recipe

PLACE = np.array([869400.0, 6524300.0, 210.0])
NAMES = {1: "ignore", 2: "ground", 3: "vegetation", 5: "vegetation", 6: "building"}
TABLE = LabelTable(NAMES)
RAW = np.array([2, 6, 5, 1, 3])
LABELS = [0, 2, 1, -1, 1]
XYZ = PLACE + np.arange(15).reshape(5, 3) / 100


def write_npz(path: Path) -> dict[str, object]:
    np.savez(path, xyz_cm=np.round(100 * XYZ).astype(np.int64), label=RAW[:, None], intensity=np.arange(5))
    return {"points": "xyz_cm", "unit": 0.01}


def write_npy(path: Path) -> dict[str, object]:
    np.save(path, np.column_stack([XYZ, np.arange(5), RAW]))
    return {"columns": "x y z intensity classification"}


def write_records(path: Path) -> dict[str, object]:
    kind = [("X", "f8"), ("Y", "f8"), ("Z", "f8"), ("Intensity", "u2"), ("segment", "i4")]
    np.save(path, np.array([(*xyz, i, raw) for i, (xyz, raw) in enumerate(zip(XYZ, RAW, strict=True))], dtype=kind))
    return {}


def write_text(path: Path) -> dict[str, object]:
    rows = (f"{x:.2f} {y:.2f} {z:.2f} {i} {raw}" for i, ((x, y, z), raw) in enumerate(zip(XYZ, RAW, strict=True)))
    path.write_text("\n".join(rows))
    return {"columns": "x y z intensity class"}


def write_ply(path: Path) -> dict[str, object]:
    names = "".join(f"property double {name}\n" for name in ("x", "y", "z", "scalar_Intensity", "scalar_Class"))
    rows = (struct.pack("<5d", *xyz, i, raw) for i, (xyz, raw) in enumerate(zip(XYZ, RAW, strict=True)))
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex 5\n{names}end_header\n".encode()
    path.write_bytes(head + b"".join(rows))
    return {"label": "scalar_Class", "attributes": {"intensity": "scalar_Intensity"}}


def write_pcd(path: Path) -> dict[str, object]:
    head = "FIELDS x y z intensity label\nSIZE 8 8 8 4 4\nTYPE F F F F U\nWIDTH 5\nHEIGHT 1\nPOINTS 5\nDATA binary\n"
    rows = (struct.pack("<3dfI", *xyz, i, raw) for i, (xyz, raw) in enumerate(zip(XYZ, RAW, strict=True)))
    path.write_bytes(head.encode() + b"".join(rows))
    return {}


WRITERS = {
    "a.npz": write_npz, "a.npy": write_npy, "r.npy": write_records, "a.txt": write_text, "a.xyz": write_text,
    "a.ply": write_ply, "a.pcd": write_pcd,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_scene(tmp_path: Path, name: str) -> None:
    said = WRITERS[name](tmp_path / name)
    columns = said.pop("columns", None)
    cloud = read_scene(tmp_path / name, TABLE, SceneFields(**said), columns)  # type: ignore[arg-type]
    assert cloud.labels is not None and cloud.labels.tolist() == LABELS
    assert cloud.points.dtype == np.float32 and cloud.attributes["intensity"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(cloud.origin, PLACE)
    np.testing.assert_allclose(cloud.points + cloud.origin, XYZ, rtol=0, atol=1e-6)
    assert read_scene(tmp_path / name, None, SceneFields(**said), columns).labels is None  # type: ignore[arg-type]


def test_colours_normals_and_returns(tmp_path: Path) -> None:
    up = np.tile([0.0, 0, 2], (5, 1))
    np.savez(
        tmp_path / "a.npz", coord=XYZ, color=np.full((5, 3), 51, np.uint8), normal=up, segment=RAW.astype(np.int16),
        return_number=np.uint8([1, 2, 3, 4, 0]), number_of_returns=np.uint8([1, 4, 4, 3, 0]),
    )  # fmt: skip
    cloud = read_scene(tmp_path / "a.npz", TABLE)
    np.testing.assert_allclose(cloud.colours, 0.2)  # type: ignore[arg-type]
    np.testing.assert_array_equal(cloud.normals, up / 2)  # type: ignore[arg-type]
    assert cloud.attributes["return_share"].tolist() == [1, 0.5, 0.75, 1, 0]


def test_points_that_nothing_saw_are_left_out_with_their_labels(tmp_path: Path) -> None:
    points = XYZ - PLACE
    points[1] = np.nan
    np.savez(tmp_path / "a.npz", points=points, label=RAW)
    notes: list[str] = []
    cloud = read_scene(tmp_path / "a.npz", TABLE, note=notes.append)
    assert cloud.labels is not None and cloud.labels.tolist() == [0, 1, -1, 1] and "1 of 5 points are NaN" in notes[0]
    with pytest.raises(InputError, match="1 of 5 points are not finite"):
        read_scene(tmp_path / "a.npz", TABLE, nan_points="refuse")


def test_a_table_goes_by_name() -> None:
    assert TABLE.classes == ("ground", "vegetation", "building")
    assert TABLE.decode(np.array([0, 1, 2, -1]), ignored=1).tolist() == [2, 3, 6, 1]
    other = LabelTable(NAMES, order=("building", "vegetation", "ground"), raw={"vegetation": 5})
    assert other.encode(RAW, "a").tolist() == [2, 0, 1, -1, 1] and other.decode(np.array([0, 1, 2])).tolist() == [
        6,
        5,
        2,
    ]
    assert LabelTable(dict(reversed(NAMES.items()))).classes == TABLE.classes  # a file may order its keys as it likes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelTable({1: "ignore"}), "needs classes .* found none"),
        (lambda: LabelTable({1: "a\x1b[2J"}), "names that can be printed"),
        (lambda: LabelTable({1: "a"}, order=("b",)), "the classes b are not those of the table: a"),
        (lambda: LabelTable({1: "a"}, raw={"a": 2}), "the id 2 is not called 'a'"),
        (
            lambda: TABLE.encode(np.array([2, 9, 9, 255]), "a.las"),
            r"a\.las: 3 of 4 .* not name: 9 \(2 points\), 255 \(1",
        ),
        (lambda: TABLE.encode(np.array([2, 2.5]), "a.npy"), r"a\.npy: expected whole numbers as labels, found 2\.5 at"),
        (lambda: TABLE.encode(np.array([2, np.nan]), "a.npy"), "found nan at point 1"),
        (lambda: TABLE.encode(np.zeros((2, 3)), "a.npy"), r"a label for each point, found float64 \(2, 3\)"),
        (lambda: TABLE.decode(np.array([3])), r"expected labels -1\.\.2, found 3\.\.3"),
    ],
)
def test_bad_tables(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def save(path: Path, seed: int = 0, **changes: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    xyz = np.random.default_rng(seed).integers(0, 3000, (40, 3))
    arrays = {"xyz_cm": xyz, "label": RAW[np.arange(40) % 5], "intensity": np.arange(40)} | changes
    np.savez(path, **{name: values for name, values in arrays.items() if len(values)})
    return path


FIELDS = SceneFields(points="xyz_cm", unit=0.01)


def folders(root: Path) -> Path:
    for number in range(4):
        save(root / "train" / "town" / f"{number}.npz", number)
        save(root / "test" / f"{number}.npz", 10 + number)
    return root


def test_splits_by_folders_and_by_patterns(tmp_path: Path) -> None:
    splits = load_dataset("scenes", folders(tmp_path / "a"), Options(labels=NAMES, scenes=FIELDS))
    assert (len(splits.train), len(splits.test), splits.validation) == (4, 4, None)
    assert splits.train.classes == TABLE.classes and splits.train.labels.tolist() == [0] * 4
    for name in ("north_0", "north_1", "south_0", "west_0"):
        save(tmp_path / "b" / f"{name}.npz")
    patterns = SceneFields(("north_*",), ("west_0.npz",), ("south_*",), "xyz_cm", 0.01)
    splits = load_dataset("scenes", tmp_path / "b", Options(labels=NAMES, scenes=patterns))
    names = [[path.stem for path in part.paths] for part in (splits.train, splits.validation, splits.test)]  # type: ignore[union-attr]
    assert names == [["north_0", "north_1"], ["west_0"], ["south_0"]]


def test_patterns_find_scenes_in_linked_folders(tmp_path: Path) -> None:
    for name in ("north_0", "south_0"):
        save(tmp_path / "store" / f"{name}.npz")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "town").symlink_to(tmp_path / "store")
    patterns = SceneFields(("**/north_*",), (), ("**/south_*",), "xyz_cm", 0.01)
    splits = load_dataset("scenes", tmp_path / "data", Options(labels=NAMES, scenes=patterns))
    assert (len(splits.train), len(splits.test)) == (1, 1)


def test_from_a_config_and_back_and_through_shards(tmp_path: Path) -> None:
    values = {
        "data": {
            "name": "scenes", "root": str(folders(tmp_path / "a")), "labels": NAMES, "up": "z", "validation": 0,
            "scenes": {"points": "xyz_cm", "unit": 0.01}, "features": ["ground_height", "intensity"],
        }
    }  # fmt: skip
    chosen = from_values(values)
    assert isinstance(chosen, config.Config)
    assert from_values(yaml.safe_load(chosen.to_yaml())) == chosen
    splits = load_splits(chosen.data)
    check_features(splits, make_recipe(chosen))
    prepare_dataset(splits, tmp_path / "out", "scenes")
    shards = load_dataset("prepared", tmp_path / "out")
    assert shards.train.classes == TABLE.classes
    for index in range(4):
        one, other = splits.train[index], shards.train[index]
        assert list(one.columns()) == list(other.columns()) == ["points", "labels", "attributes.intensity"]
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.points, other.points)
    missing = from_values({"data": {**values["data"], "features": ["return_share"]}})
    with pytest.raises(InputError, match=r"the input feature return_share needs .* and this has intensity"):
        check_features(load_splits(missing.data), make_recipe(missing))  # type: ignore[union-attr,arg-type]


def load(root: Path, fields: SceneFields = FIELDS, labels: dict[int, str] | None = NAMES) -> Splits:
    return load_dataset("scenes", root, Options(labels=labels, scenes=fields))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: load(root / "nowhere"), "no scenes data at .*nowhere"),
        (lambda root: load(root / "train"), "train has no folder train: expected a folder with .las"),
        (
            lambda root: (save(root / "val" / "x.npz"), save(root / "valid" / "x.npz"), load(root)),
            "several folders for val",
        ),
        (lambda root: ((root / "test" / "notes.doc").touch(), load(root)), r"notes\.doc: unsupported suffix '\.doc'"),
        (
            lambda root: (write_text(root / "test" / "2.txt"), load(root)),
            r"two files of one name: .*2\.npz and 2\.txt; keep one",
        ),
        (lambda root: load(root, labels=None), r"data\.labels is empty.* has 5, .*labels=\{1: class_1, 2: "),
        (lambda root: load(root, SceneFields(train=("x*",), test=("test/*",))), "'x\\*' finds 0 files.*, 'test/0.npz'"),
        (lambda root: load(root, SceneFields(train=("test/0",), test=("test/*",))), "finds 0 files.*mean 'test/0.npz'"),
        (lambda root: load(root, SceneFields(train=("train**",), test=("test/*",))), r"'train\*\*' is no pattern"),
        (lambda root: load(root, SceneFields(train=("train/**/*",))), r"data\.scenes\.test is empty"),
        (lambda root: load(root, SceneFields(train=("../*",), test=("test/*",))), "expected names or patterns under"),
        (lambda root: load(root, SceneFields(("**/0.npz",), (), ("test/*",))), r"test.0\.npz is in two splits"),
        (lambda root: load(root, SceneFields(points="xyz")).train[0], r"there is no field 'xyz'; there are xyz_cm,"),
        (lambda root: load(root, SceneFields(points="label")).train[0], r"expected `label` \(P, 3\), found \(40,\)"),
        (lambda root: load(root, SceneFields(points="xyz_cm", label="class")).train[0], "there is no field 'class'"),
        (
            lambda root: load(root, SceneFields(points="xyz_cm", attributes={"red": "nir"})).train[0],
            "there is no field 'nir'",
        ),
        (
            lambda root: (save(root / "test" / "0.npz", label=RAW), load(root).test[0]),
            r"0\.npz: expected a label for each of 40 points, found 5 labels",
        ),
        (
            lambda root: (save(root / "test" / "0.npz", label=np.full(40, 77)), load(root).test[0]),
            r"0\.npz: 40 of 40 points have labels that the table does not name: 77 \(40 points\)",
        ),
        (
            lambda root: (save(root / "test" / "0.npz", intensity=np.arange(3)), load(root).test[0]),
            r"expected the attribute intensity to be numbers \(40,\), found int64 \(3,\)",
        ),
        (
            lambda root: (save(root / "test" / "0.npz", label=np.empty(0)), load(root).test[0]),
            r"0\.npz: no field holds labels; say which in data\.scenes\.label",
        ),
    ],
)  # fmt: skip
def test_bad_input(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    folders(tmp_path)
    with pytest.raises(InputError, match=message):
        make(tmp_path)


def test_a_scene_may_be_one_point(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", points=XYZ[:1], label=RAW[:1])
    cloud = read_scene(tmp_path / "a.npz", TABLE)
    assert len(cloud) == 1 and cloud.origin.tolist() == PLACE.tolist()
