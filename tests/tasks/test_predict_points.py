"""A finished segmentation on files: a label for every point, in its order, into the format that came."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from buckets import bucket
from rooms import CLASSES, Rooms, furnish, segmenting
from tiny_runs import run_transfer, tiny
from typer.testing import CliRunner, Result

import image2point as i2p
from image2point.cli import app
from image2point.datasets import Cloud, las
from image2point.datasets.label_table import LabelTable
from image2point.datasets.parts import CloudParts, open_parts
from image2point.datasets.ply import ply_columns
from image2point.datasets.recipe import Recipe, prepare, to_voxels_and_rows
from image2point.datasets.relabel import PointLabels, write_again
from image2point.datasets.scene_files import SceneFields, read_scene
from image2point.errors import InputError
from image2point.inference.scene import label_scene, scene_voxels
from image2point.jobs.ingredients import make_recipe
from image2point.jobs.label_files import label_files, label_points
from image2point.objects import put
from image2point.storage import fetched

__all__ = ["bucket"]

MAP = np.array([869400, 6524300, 50])
IDS = ("data.name=scenes", "data.root=elsewhere", "data.labels={2: floor, 6: wall, 9: ball, 1: ignore}")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw ids: floor 2, wall 6, ball 9."""
    with pytest.MonkeyPatch.context() as patch:
        furnish(patch)
        settings = ("name=rooms", "training.epochs=4", "training.lr=0.1", *IDS)
        made = run_transfer(segmenting(*settings), tmp_path_factory.mktemp("runs")).path
    return made


@pytest.fixture(scope="module")
def room() -> np.ndarray:
    """Points float32 [310, 3], their smallest coordinates in 0..1 as those of files."""
    points = Rooms("test", 4, 1)[0].points
    return np.random.default_rng(0).permutation(points - np.floor(points.min(0)))


@pytest.fixture(scope="module")
def truth(run: Path, room: np.ndarray) -> np.ndarray:
    """Class numbers straight from the network."""
    features = np.c_[room, room[:, 2] - room[:, 2].min()]
    voxels, index = i2p.voxelize([room], 0.15, [features], return_index=True)
    with torch.no_grad():
        labels = i2p.load(run)(voxels).features.argmax(1)[index[0]].numpy()
    assert len(np.unique(labels)) == 3
    return labels


RAW = np.array([2, 6, 9])


def predicted(run: Path, file: Path, *options: object) -> Path:
    out = file.parent / "out"
    result = call("predict", run, file, "--out", out, *options)
    assert result.exit_code == 0, result.output
    return out / file.name


def test_labels_of_clouds_in_memory(run: Path, room: np.ndarray, truth: np.ndarray) -> None:
    one, other = label_points(run, [room.astype(np.float64) + MAP, Cloud(room[::-1])])
    np.testing.assert_array_equal(one.labels, truth)
    np.testing.assert_array_equal(other.labels, truth[::-1])
    shares = np.stack([one.probabilities(number)[:] for number in range(3)], axis=1)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(shares.argmax(1), truth)


def test_npz_keeps_its_other_arrays(run: Path, room: np.ndarray, truth: np.ndarray, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(310, 2))
    arrays = {"points": room, "segment": np.full((310, 1), 77, np.int16), "noise": noise}
    np.savez(tmp_path / "a.npz", **arrays)
    new = np.load(predicted(run, tmp_path / "a.npz", "--probabilities"))
    assert sorted(new.files) == ["noise", "points", "probabilities", "segment"]
    np.testing.assert_array_equal(new["segment"][:, 0], RAW[truth])
    assert new["segment"].dtype == np.int16
    np.testing.assert_array_equal(new["probabilities"].argmax(1), truth)
    with zipfile.ZipFile(tmp_path / "a.npz") as old, zipfile.ZipFile(tmp_path / "out/a.npz") as written:
        assert all(old.read(f"{name}.npy") == written.read(f"{name}.npy") for name in ("points", "noise"))


def test_files_at_a_url(run: Path, room: np.ndarray, truth: np.ndarray, tmp_path: Path, bucket: str) -> None:
    np.save(tmp_path / "a.npy", room)
    here = predicted(run, tmp_path / "a.npy").read_bytes()
    put(tmp_path / "a.npy", f"{bucket}/in/a.npy")
    command = ("predict", run, f"{bucket}/in/a.npy", f"{bucket}/in/b.npy", "--out", f"{bucket}/out")
    result = call(*command)
    assert result.exit_code == 2 and f"{bucket}/in/b.npy: nothing lies there" in result.output
    assert fetched(f"{bucket}/out/a.npy").read_bytes() == here
    assert "gs://bucket/out/a.npy exists; remove it, give --overwrite" in " ".join(call(*command).output.split())
    assert f"{bucket}/in/b.npy" in call(*command, "--overwrite").output


def test_npz_without_labels_gets_some(run: Path, room: np.ndarray, truth: np.ndarray, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", points=room)
    new = np.load(predicted(run, tmp_path / "a.npz", "--field", "mine", "--id", "ball=40"))
    assert sorted(new.files) == ["mine", "points"] and new["mine"].dtype == np.uint8
    np.testing.assert_array_equal(new["mine"], np.array([2, 6, 40])[truth])


@pytest.mark.parametrize("kind", ["columns", "records"])
def test_npy_gets_a_column(run: Path, room: np.ndarray, truth: np.ndarray, tmp_path: Path, kind: str) -> None:
    if kind == "columns":
        np.save(tmp_path / "a.npy", np.asfortranarray(room))
        new = np.load(predicted(run, tmp_path / "a.npy"))
        assert new.shape == (310, 4) and new.dtype == np.float32
        np.testing.assert_array_equal(new, np.c_[room, RAW[truth]])
        return
    old = np.zeros(310, [("x", "f4"), ("noise", "i8"), ("y", "f4"), ("z", "f4"), ("label", "u1")])
    old["x"], old["y"], old["z"] = room.T
    old["noise"] = np.arange(310)
    np.save(tmp_path / "a.npy", old)
    new = np.load(predicted(run, tmp_path / "a.npy", "--probabilities"))
    old["label"] = RAW[truth]
    for name in old.dtype.names:
        np.testing.assert_array_equal(new[name], old[name])
    assert new.dtype.names[5:] == ("probability_floor", "probability_wall", "probability_ball")


def test_scans_go_where_the_benchmark_wants_them(
    run: Path, room: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    scans = [tmp_path / f"sequences/{number}/velodyne/000003.bin" for number in (11, 12)]
    for scan, order in zip(scans, (slice(None), slice(None, None, -1)), strict=True):
        scan.parent.mkdir(parents=True)
        np.c_[np.add(room, [40, -20, 3]), np.ones(len(room))].astype("<f4")[order].tofile(scan)  # moved, as scenes are
    assert call("predict", run, *scans, "--out", tmp_path / "out").exit_code == 0
    labels = [np.fromfile(tmp_path / f"out/sequences/{number}/predictions/000003.label", "<u4") for number in (11, 12)]
    np.testing.assert_array_equal(labels[0], RAW[truth])
    np.testing.assert_array_equal(labels[1], RAW[truth][::-1])
    (whole,) = open_parts(scans[0], SceneFields(unit=0.5))
    np.testing.assert_allclose(whole.points + whole.origin, 0.5 * np.add(room, [40, -20, 3]), atol=1e-5)
    found = call("predict", run, scans[0], "--out", tmp_path / "again", "--probabilities")
    assert found.exit_code != 0 and "a .label file has the classes alone; leave out" in found.output.replace("\n", " ")
    alone = tmp_path / "000003.bin"
    alone.write_bytes(scans[0].read_bytes()[:-2])
    found = call("predict", run, alone, tmp_path / "none.bin", "--out", tmp_path / "out")
    assert "are no whole number of points" in found.output.replace("\n", " ") and "no such file" in found.output


def test_text_keeps_its_lines(run: Path, room: np.ndarray, truth: np.ndarray, tmp_path: Path) -> None:
    lines = [f"{x:.6f}, {y:.6f}, {z:.6f}; 77{' # note' if not i % 7 else ''}\r\n" for i, (x, y, z) in enumerate(room)]
    start = b"# surveyed in M\xfcnchen\r\n// X Y Z kind\r\n\r\n"
    (tmp_path / "a.txt").write_bytes(start + "".join(lines).encode())
    new = predicted(run, tmp_path / "a.txt").read_bytes().decode("latin-1").splitlines(keepends=True)
    assert new[:3] == ["# surveyed in München\r\n", "// X Y Z kind label\r\n", "\r\n"]
    expected = [line.replace("; 77", f"; 77; {RAW[label]}") for line, label in zip(lines, truth, strict=True)]
    assert new[3:] == expected


def test_text_with_a_column_of_labels(run: Path, room: np.ndarray, truth: np.ndarray, tmp_path: Path) -> None:
    rows = [f"{x:.6f} {y:.6f} 255 {z:.6f}" for x, y, z in room]
    (tmp_path / "a.xyz").write_text("x y label z\n" + "\n".join(rows))
    new = predicted(run, tmp_path / "a.xyz").read_text()
    assert new == "x y label z\n" + "\n".join(
        row.replace(" 255 ", f" {RAW[label]} ") for row, label in zip(rows, truth, strict=True)
    )


def ply(room: np.ndarray, order: str, label: bool) -> bytes:
    """A mesh of one triangle, with an element before the vertices and a property that nobody knows."""
    header = f"ply\nformat {order} 1.0\nelement camera 1\nproperty float at\nelement vertex 310\nproperty float x\n"
    header += "property float y\nproperty float z\nproperty ushort class_of\n" + (
        "property uchar label\n" if label else ""
    )
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    if order == "ascii":
        rows = [f"{x:.6f} {y:.6f} {z:.6f} {i}" + (" 7" if label else "") for i, (x, y, z) in enumerate(room)]
        return (header + "0.5\n" + "\n".join(rows) + "\n3 0 1 2\n").encode()
    sign = "<" if "little" in order else ">"
    rows = np.zeros(
        310, [(n, sign + "f4") for n in "xyz"] + [("c", sign + "u2")] + ([("label", "u1")] if label else [])
    )
    rows["x"], rows["y"], rows["z"] = room.T
    rows["c"] = np.arange(310)
    face = np.array([0, 1, 2], sign + "i4").tobytes()
    return header.encode() + np.array([0.5], sign + "f4").tobytes() + rows.tobytes() + b"\x03" + face


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("order", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_keeps_its_properties_and_elements(
    run: Path, room: np.ndarray, truth: np.ndarray, tmp_path: Path, order: str, label: bool
) -> None:
    (tmp_path / "a.ply").write_bytes(ply(room, order, label))
    target = predicted(run, tmp_path / "a.ply", *(["--probabilities"] if label else []))
    old, new = ply_columns(tmp_path / "a.ply"), ply_columns(target)
    assert list(new)[: len(old)] == list(old) and len(new) == len(old) + (3 if label else 1)
    np.testing.assert_array_equal(new["label"], RAW[truth])
    for name in set(old) - {"label"}:
        np.testing.assert_array_equal(new[name], old[name])
    end = b"\n3 0 1 2\n" if order == "ascii" else (tmp_path / "a.ply").read_bytes()[-13:]
    assert target.read_bytes().endswith(end)
    if label:
        np.testing.assert_array_equal(np.argmax([new[f"probability_{name}"] for name in CLASSES], 0), truth)


def las_file(path: Path, points: np.ndarray) -> Path:
    import laspy

    header = laspy.LasHeader(version="1.4", point_format=8)
    header.offsets, header.scales = np.array([869400.0, 6524300.0, 0.0]), np.full(3, 1e-4)
    header.add_extra_dim(laspy.ExtraBytesParams("Reflectance", np.float32))
    data = laspy.LasData(header)
    data.x, data.y, data.z = (points.astype(np.float64) + MAP).T
    data.intensity, data.gps_time = np.arange(len(points)), np.arange(len(points)) / 7
    data.classification, data.withheld = np.full(len(points), 5), np.arange(len(points)) % 2
    data.user_data = np.arange(len(points)) % 250
    data["Reflectance"] = np.random.default_rng(0).normal(size=len(points))
    data.write(path)
    return path


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las_in_chunks_keeps_every_other_field(
    run: Path, room: np.ndarray, truth: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    laspy = pytest.importorskip("laspy", reason="pip install 'image2point[las]' brings it")
    monkeypatch.setattr(las, "CHUNK", 64)
    source = las_file(tmp_path / f"a{suffix}", room)
    target = predicted(run, source, "--probabilities")
    old, new = laspy.read(source), laspy.read(target)
    agree = new.classification == RAW[truth]  # coordinates are rounded to 0.1 mm
    assert agree.mean() > 0.98 and len(agree) == 310
    for name in old.points.array.dtype.names:
        if name != "classification":
            assert old.points.array[name].tobytes() == new.points.array[name].tobytes(), name
    shares = np.stack([new[f"probability_{name}"] for name in CLASSES], axis=1)
    np.testing.assert_array_equal(RAW[shares.argmax(1)], new.classification)
    aside = predicted(run, source, "--field", "guess", "--overwrite")
    np.testing.assert_array_equal(laspy.read(aside)["guess"], new.classification)
    np.testing.assert_array_equal(laspy.read(aside).classification, old.classification)


RECIPE = Recipe(
    0.15,
    ("xyz", "height", "ground_height", "intensity", "colour"),
    {"xyz": 0.5},
    up="z",
    ground_cell=1.0,
    intensity="scene",
)


def test_voxels_of_parts_are_those_of_the_whole(room: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    cloud = Cloud(room, colours=rng.random((310, 3)), attributes={"intensity": rng.random(310) * 900})
    whole, (index,) = to_voxels_and_rows([prepare(cloud, "whole", RECIPE)], RECIPE)
    parts, rows = scene_voxels(CloudParts(cloud, 41), RECIPE, "parts")
    assert torch.equal(parts.coordinates, whole.coordinates) and torch.equal(parts.sites.origin, whole.sites.origin)
    torch.testing.assert_close(parts.features, whole.features, atol=1e-6, rtol=1e-5)
    np.testing.assert_array_equal(rows, index)


def test_a_las_file_in_parts_is_the_file(room: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("laspy", reason="pip install 'image2point[las]' brings it")
    source = las_file(tmp_path / "a.laz", room)
    recipe = replace(RECIPE, features=RECIPE.features[:4])
    cloud = prepare(read_scene(source, None), "whole", recipe)
    whole, (index,) = to_voxels_and_rows([cloud], recipe)
    monkeypatch.setattr(las, "CHUNK", 50)
    voxels, rows = scene_voxels(open_parts(source, SceneFields(points="xyz_cm", unit=0.01)), recipe, "parts")
    assert torch.equal(voxels.coordinates, whole.coordinates)
    torch.testing.assert_close(voxels.features, whole.features, atol=1e-6, rtol=1e-5)
    np.testing.assert_array_equal(rows, index)


@pytest.mark.parametrize("whole", [False, True])
def test_the_unit_of_a_las_file_is_that_of_the_run(room: np.ndarray, tmp_path: Path, whole: bool) -> None:
    pytest.importorskip("laspy", reason="pip install 'image2point[las]' brings it")
    source, feet = las_file(tmp_path / "a.las", room), SceneFields(unit=0.3048)
    trained = read_scene(source, None, feet)
    labelled = np.concatenate([part.points + part.origin for part in open_parts(source, feet, whole=whole)])
    np.testing.assert_allclose(labelled, (room.astype(np.float64) + MAP) * 0.3048, rtol=0, atol=1e-3)
    np.testing.assert_allclose(labelled, trained.points + trained.origin, rtol=0, atol=1e-3)
    parts = open_parts(source, feet, whole=whole)
    np.testing.assert_allclose(parts.low, trained.points.min(0), atol=1e-9)


def test_codes_that_mean_other_classes_are_told(
    run: Path, room: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of floor 2, wall 6 and ball 9, nothing is ground, a building or water."""
    pytest.importorskip("laspy", reason="pip install 'image2point[las]' brings it")
    source = las_file(tmp_path / "a.las", room)
    list(label_files(run, [source], tmp_path / "out", ids={"ball": 64}))
    assert "floor as 2 (there ground), wall as 6 (there building);" in caplog.text and "ball" not in caplog.text
    caplog.clear()
    list(label_files(run, [source], tmp_path / "other", name="mine"))
    np.save(tmp_path / "a.npy", room)
    list(label_files(run, [tmp_path / "a.npy"], tmp_path / "out"))
    list(label_files(run, [source]))
    assert not caplog.text


def test_tiles_agree_with_the_whole(run: Path, room: np.ndarray) -> None:
    big = np.concatenate([room + np.array([4 * x, 4 * y, 0]) for x in range(3) for y in range(3)]).astype(np.float32)
    labeller, parts = i2p.load(run), CloudParts(Cloud(big), 1000)
    recipe, seen = make_recipe(segmenting()), list[tuple[str, int, int]]()
    whole = label_scene(labeller, parts, recipe, "big")
    tiled = label_scene(labeller, parts, recipe, "big", 2500, 24, lambda *each: seen.append(each))
    assert (whole.labels == tiled.labels).mean() > 0.99
    np.testing.assert_allclose(tiled.shares, whole.shares, atol=0.1)
    assert seen[-1] == ("labelling", len(whole.shares), len(whole.shares)) and ("reading", 2790, 2790) in seen
    with pytest.raises(InputError, match="too few for one tile"):
        label_scene(labeller, parts, recipe, "big", 100, 24)


def test_without_out_the_points_of_each_class_are_told(
    run: Path, room: np.ndarray, truth: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", room)
    (tmp_path / "bad.txt").write_text("no numbers\n")
    result = call("predict", run, tmp_path / "bad.txt", tmp_path / "a.npy", tmp_path / "c.laz", "--json")
    assert result.exit_code == 2
    counts = dict(zip(CLASSES, np.bincount(truth).tolist(), strict=True))
    assert json.loads(result.stdout) == [{"file": str(tmp_path / "a.npy"), "points": counts, "written": None}]
    assert "bad.txt" in result.stderr and "c.laz" in result.stderr and len(result.stderr.splitlines()) == 2
    table = call("predict", run, tmp_path / "a.npy").stdout
    assert all(f"{name}" in table and f"{count}" in table for name, count in counts.items())


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2 and all(word in result.stderr for word in words), result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_what_would_be_lost_is_refused_before_anything_is_written(run: Path, room: np.ndarray, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", room)
    one, two = tmp_path / "one/a.npy", tmp_path / "two/A.npy"
    (tmp_path / "two/a.npy").rename(two)
    refused(call("predict", run, one, two, "--out", tmp_path / "out"), "have one name")
    assert not (tmp_path / "out").exists()
    before = one.read_bytes()
    refused(call("predict", run, one, "--out", tmp_path / "one"), "over itself")
    predicted(run, one)
    refused(call("predict", run, one, "--out", tmp_path / "one/out"), "exists", "--overwrite")
    assert one.read_bytes() == before


def test_files_that_cannot_be_labelled(
    run: Path, room: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hole = room.copy()
    hole[7] = np.nan
    np.save(tmp_path / "hole.npy", hole)
    refused(call("predict", run, tmp_path / "hole.npy"), "hole.npy", "not finite", "point 7")
    np.savez(tmp_path / "narrow.npz", points=room, label=np.zeros(310, np.int8))
    refused(call("predict", run, tmp_path / "narrow.npz", "--out", tmp_path / "out", "--id", "wall=200"), "int8", "200")
    (tmp_path / "a.pcd").write_text(
        "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
        "WIDTH 1\nHEIGHT 1\nPOINTS 1\nDATA ascii\n1 2 3\n"
    )
    refused(call("predict", run, tmp_path / "a.pcd", "--out", tmp_path / "out"), "a.pcd", "convert it")
    assert not list((tmp_path / "out").glob("*"))
    (tmp_path / "b.laz").write_bytes(b"LASF" + bytes(400))
    monkeypatch.setitem(sys.modules, "lazrs", None)
    refused(call("predict", run, tmp_path / "b.laz"), "b.laz", "pip install 'image2point[las]'")


def test_a_file_without_what_the_run_reads(tmp_path: Path, room: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(monkeypatch, *(WithIntensity(name, count, seed) for name, count, seed in (("train", 4, 0), ("test", 2, 1))))
    config = segmenting("training.epochs=1", "data.features=[intensity, occupancy]", *IDS)
    run = run_transfer(config, tmp_path).path
    np.save(tmp_path / "bare.npy", room)
    refused(call("predict", run, tmp_path / "bare.npy"), "bare.npy", "intensity needs a cloud with that attribute")
    np.savez(tmp_path / "full.npz", points=room, intensity=np.ones(310))
    assert call("predict", run, tmp_path / "full.npz").exit_code == 0


class WithIntensity(Rooms):
    def __getitem__(self, index: int) -> Cloud:
        return replace(super().__getitem__(index), attributes={"intensity": np.ones(310)})


def test_options_of_the_other_task(run: Path, tmp_path: Path) -> None:
    refused(call("predict", run, "a.npy", "--top", 2), "is a segmentation", "--top")
    refused(call("predict", run, "a.npy", "--probabilities"), "give --out too")
    refused(call("predict", run, "a.npy", "--out", tmp_path, "--id", "ball"), "expected CLASS=ID", "'ball'")
    refused(
        call("predict", run, "a.npy", "--out", tmp_path, "--id", "tree=3"), "'tree' is no class", "floor, wall, ball"
    )
    plain = run_transfer(tiny("training.epochs=0", "finetune.policy=none"), tmp_path).path
    refused(call("predict", plain, "a.npy", "--out", tmp_path), "is a classification", "leave out --out")
    with pytest.raises(InputError, match="is of the task classification"):
        list(label_files(plain, ["a.npy"]))


def test_a_file_that_fails_leaves_nothing(run: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("0 0 0\n1 1 1\n")
    with pytest.raises(InputError, match="has 2 points, found 3 labels"):
        write_again(source, tmp_path / "b.txt", PointLabels(np.zeros(3, np.uint8)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_table_gives_the_ids_back() -> None:
    from image2point.config import Data
    from image2point.datasets.registry import raw_ids

    assert raw_ids(Data(name="semantickitti"), ("car", "road"))["road"] == 40
    assert raw_ids(Data(name="synthetic_scenes"), ("floor", "wall")) == {"floor": 0, "wall": 1}
    assert LabelTable({40: "road"}).raw_ids.tolist() == [40]
