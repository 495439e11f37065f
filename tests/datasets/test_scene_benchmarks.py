"""S3DIS, SemanticKITTI, ScanNet and ShapeNetPart's parts, on small files in the layouts of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
from scene_layouts import INVERSE, KITTI, LAYOUTS, RGB, XYZ, kitti_folder, raw_room, s3dis_folder, scannet_folder

from image2point.config import Data
from image2point.datasets import s3dis, scannet, semantickitti, shapenet_parts
from image2point.datasets.catalogue import Options
from image2point.datasets.prepare import prepare_dataset
from image2point.datasets.registry import find_dataset, load_dataset, raw_ids
from image2point.datasets.splits import Subset
from image2point.datasets.verify import verify_dataset
from image2point.errors import InputError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_s3dis_in_each_layout(tmp_path: Path, layout: str) -> None:
    splits = load_dataset("s3dis", s3dis_folder(tmp_path / "a", LAYOUTS[layout]))
    assert (len(splits.train), splits.validation, len(splits.test)) == (3, None, 1)
    assert splits.train.classes == s3dis.CLASSES and splits.train.classes.index("clutter") == 12
    cloud = splits.test[0]
    order = np.argsort(cloud.points[:, 2])  # raw rooms come thing by thing
    assert cloud.labels[order].tolist() == [12, 0, 8]  # stairs are clutter
    np.testing.assert_allclose((cloud.points + cloud.origin)[order], XYZ, rtol=0, atol=1e-6)
    np.testing.assert_allclose(cloud.colours[order], RGB / 255, atol=1e-6)
    assert (cloud.normals is not None) == (layout == "pointcept")
    other = load_dataset("s3dis", tmp_path / "a", Options(variant="area_1"))
    assert (len(other.train), len(other.test)) == (2, 2)


def test_s3dis_mends_control_characters(tmp_path: Path) -> None:
    room = tmp_path / "Area_5" / "hallway_6"
    raw_room(room)
    path = room / "Annotations" / "ceiling_1.txt"
    path.write_bytes(b"1 2 3 10 20 30\n1.5 2.5 3.5 1\x100 20 30\n4 5 6\x1010 20 30\n")
    notes: list[str] = []
    cloud = s3dis.read_raw(room, notes.append)
    found = (cloud.points + cloud.origin)[cloud.labels == 0]
    np.testing.assert_allclose(found, [[1, 2, 3], [1.5, 2.5, 3.5], [4, 5, 6]], atol=1e-5)
    np.testing.assert_allclose(cloud.colours[cloud.labels == 0] * 255, [[10, 20, 30]] * 3, atol=1e-4)  # type: ignore[index]
    assert [note.split("row ")[1] for note in notes] == ["2 were replaced", "3 were replaced"]
    path.write_bytes(b"1 2 3\x10 4\n")
    with pytest.raises(InputError, match=r"ceiling_1\.txt row 1: expected six numbers, found '1 2 3\\x10 4'"):
        s3dis.read_raw(room)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda notes: layouts.write(notes / "wall_1.txt", "1 2 3 4\n"), "row 1: expected 6 numbers, found 4"),
        (lambda notes: layouts.write(notes / "wall_1.txt", "1 2 3 4 5 x\n"), "row 1: expected numbers, found 'x'"),
        (lambda notes: layouts.write(notes / "wall_1.txt", "1 2 3 4 5 300\n"), r"expected colours in 0\.\.1"),
        (lambda notes: [path.unlink() for path in notes.glob("*.txt")], r"Annotations has no files CLASS_K\.txt"),
    ],
)  # fmt: skip
def test_s3dis_damage(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(s3dis_folder(tmp_path) / "Area_5" / "hallway_6" / "Annotations")
    with pytest.raises(InputError, match=message):
        load_dataset("s3dis", tmp_path).test[0]


def test_s3dis_coordinates_of_another_width(tmp_path: Path) -> None:
    root = s3dis_folder(tmp_path, LAYOUTS["pointcept"])
    np.save(root / "Area_5" / "hallway_6" / "coord.npy", XYZ[:, :2])
    with pytest.raises(InputError, match=r"hallway_6.*expected .*3.*, found .*\(3, 2\)"):
        load_dataset("s3dis", root).test[0]


def test_s3dis_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "Area_1").mkdir()
    with pytest.raises(InputError, match="none of the layouts of S3DIS"):
        load_dataset("s3dis", tmp_path)
    raw_room(tmp_path / "Area_1" / "office_1")
    with pytest.raises(InputError, match="no room for test with area_5 held out; found area_1"):
        load_dataset("s3dis", tmp_path)
    with pytest.raises(InputError, match=r"s3dis has the variants area_5, area_1, .* found '5'"):
        load_dataset("s3dis", tmp_path, Options(variant="5"))


def test_semantickitti_by_the_benchmarks_map(tmp_path: Path) -> None:
    splits = load_dataset("semantickitti", kitti_folder(tmp_path))
    assert (len(splits.train), len(splits.test), len(splits.train.classes)) == (2, 2, 19)
    assert splits.train.classes[:5] == ("car", "bicycle", "motorcycle", "truck", "other-vehicle")
    cloud = splits.test[1]
    assert cloud.labels.tolist() == [each - 1 for each in KITTI.values()]
    np.testing.assert_allclose(cloud.attributes["intensity"], np.linspace(0, 1, len(KITTI)), atol=1e-6)
    assert not cloud.origin.any()
    raw = raw_ids(Data(name="semantickitti"), splits.test.classes)
    assert [raw[name] for name in splits.test.classes] == INVERSE
    assert semantickitti.read_scan(Path(splits.test.paths[0]), labelled=False).labels is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda scan: scan.write_bytes(scan.read_bytes()[:-3]), r"000000\.bin: 541 bytes are no whole"),
        (lambda scan: scan.write_bytes(scan.read_bytes()[:-16]), "expected a label for each of 33 points, found 34"),
        (lambda scan: semantickitti.label_file(scan).unlink(), r"000000\.label is missing, and 0 others"),
        (
            lambda scan: np.full(34, 65536 * 7 + 100, "<u4").tofile(semantickitti.label_file(scan)),
            r"34 of 34 points have labels that the table does not name: 100 \(34 points\)",
        ),
    ],
)  # fmt: skip
def test_semantickitti_damage(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    kitti_folder(tmp_path)
    damage(tmp_path / "sequences" / "08" / "velodyne" / "000000.bin")
    with pytest.raises(InputError, match=message):
        load_dataset("semantickitti", tmp_path).test[0]


def test_semantickitti_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scans of the sequences 00, 01"):
        load_dataset("semantickitti", tmp_path)


def test_scannet(tmp_path: Path) -> None:
    splits = load_dataset("scannet", scannet_folder(tmp_path))
    assert (len(splits.train), len(splits.test), len(splits.train.classes)) == (2, 1, 20)
    assert splits.train.classes[0] == "wall" and splits.train.classes[-1] == "otherfurniture"
    cloud = splits.train[1]
    assert cloud.labels.tolist() == [0, 19, -1, -1] and len(cloud) == 4  # a mesh, of which the vertices count
    np.testing.assert_allclose(cloud.colours[0], [1, 0, 0.2], atol=1e-6)
    ids = [number for number, name in scannet.TABLE.names.items() if name != "ignore"]
    assert ids == [*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39]


def test_scannet_damage(tmp_path: Path) -> None:
    scannet_folder(tmp_path / "a", (1, 2, 3))
    with pytest.raises(InputError, match=r"labels\.ply: expected a label for each of 4 vertices, found 3"):
        load_dataset("scannet", tmp_path / "a").train[0]
    scannet_folder(tmp_path / "b", (1, 2, 3, 95))
    with pytest.raises(InputError, match=r"does not name: 95 \(1 points\)"):
        load_dataset("scannet", tmp_path / "b").train[0]
    (tmp_path / "b" / "scans" / "scene0001_00" / "scene0001_00_vh_clean_2.labels.ply").unlink()
    with pytest.raises(
        InputError, match=r"scene0001_00_vh_clean_2\.labels\.ply, listed in .*train\.txt row 1, does not"
    ):
        load_dataset("scannet", tmp_path / "b")
    skipped = Options(skipped=[])
    assert len(load_dataset("scannet", tmp_path / "b", skipped).train) == 1 and len(skipped.skipped or ()) == 1


@pytest.mark.parametrize("make", [layouts.shapenet_part_text, layouts.shapenet_part_h5])
def test_parts_are_classes(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    splits = load_dataset("shapenet_parts", make(tmp_path))
    assert len(splits.train.classes) == 50 and splits.train.classes[12] == "chair 0"
    assert splits.validation is not None and set(splits.train.labels.tolist()) <= {0, 4, 15}
    parts = Subset(splits.train, np.array([1, 0])).parts_of
    assert [len(each) for each in parts] == [4, 2, 2, 4, 4, 3, 3, 2, 4, 2, 6, 2, 3, 3, 3, 3]
    for index in range(len(splits.train)):
        cloud, own = splits.train[index], parts[splits.train.labels[index]]
        assert set(cloud.labels.tolist()) <= set(own)


def test_parts_of_another_category_are_refused(tmp_path: Path) -> None:
    layouts.shapenet_part_text(tmp_path)
    path = tmp_path / layouts.SYNSETS[1] / "0a04e3eab45ca15dd.txt"
    path.write_text(path.read_text() + "0 0 0 0 0 1 3.000000\n")
    splits = load_dataset("shapenet_parts", tmp_path)
    where = next(i for i in range(len(splits.train)) if str(path) in splits.train.origin(i))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"a04e3eab45ca15dd\.txt: expected the parts 12\.\.15 of chair, found 3\.\.1"):
        splits.train[where]
    assert shapenet_parts.PARTS_OF[4] == (12, 13, 14, 15)


@pytest.mark.parametrize(("name", "make"), [("shapenet_parts", layouts.shapenet_part_text), ("s3dis", s3dis_folder)])
def test_scenes_through_shards_and_verification(tmp_path: Path, name: str, make: Callable[[Path], Path]) -> None:
    splits = load_dataset(name, make(tmp_path / "a"))
    prepare_dataset(splits, tmp_path / "out", name)
    shards = load_dataset("prepared", tmp_path / "out").train
    assert shards.of_points and shards.parts_of == getattr(splits.train, "parts_of", ())  # type: ignore[attr-defined]
    reports = [
        verify_dataset(find_dataset(each), tmp_path / place, Options())
        for each, place in ((name, "a"), ("prepared", "out"))
    ]
    points = sum(len(splits.train[index]) for index in range(len(splits.train)))
    for report in reports:
        assert report.of_points and sum(report.splits["train"].per_class.values()) == points
    assert reports[0].splits["train"].content == reports[1].splits["train"].content
    if name == "s3dis":
        assert "s3dis/test: the class 'wall' has no points" in reports[0].notes


def test_a_split_of_ignored_points_is_a_problem(tmp_path: Path) -> None:
    scannet_folder(tmp_path, (0, 13, 13, 40))
    report = verify_dataset(find_dataset("scannet"), tmp_path, Options())
    assert "scannet/test: all points of its 1 clouds are ignored" in report.problems
