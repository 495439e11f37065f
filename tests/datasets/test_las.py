"""LAS and LAZ: what is read, what is written back byte for byte, and damage."""

from __future__ import annotations

import sys
from pathlib import Path

import laspy
import numpy as np
import pytest

from image2point.datasets import las
from image2point.datasets.label_table import LabelTable
from image2point.datasets.las import read_las, write_labels
from image2point.datasets.scene_files import read_scene
from image2point.errors import InputError

COUNT = 5000


def scan(path: Path, version: str = "1.4", form: int = 7) -> Path:
    """A file with every field filled, an extra dimension, a projection record and, from 1.4 on, a record at the end."""
    rng = np.random.default_rng(0)
    header = laspy.LasHeader(version=version, point_format=form)
    header.offsets, header.scales = np.array([869400.0, 6524300.0, 0.0]), np.array([0.001, 0.001, 0.01])
    header.generating_software, header.system_identifier = "by hand", "a drone"
    header.vlrs.append(laspy.VLR("somebody", 7, "notes", b"kept as it is"))
    header.add_extra_dim(laspy.ExtraBytesParams("Reflectance", np.float32))
    data = laspy.LasData(header)
    data.points = laspy.ScaleAwarePointRecord.zeros(COUNT, header=header)
    for name in data.points.array.dtype.names:
        values = np.frombuffer(rng.bytes(COUNT * 16), np.uint8)[: COUNT * data.points.array.dtype[name].itemsize]
        data.points.array[name] = values.view(data.points.array.dtype[name])
    for name in ("X", "Y", "Z"):
        data.points.array[name] = rng.integers(0, 10**6, COUNT)
    data.points.array["Reflectance"] = rng.normal(size=COUNT)
    if form < 6:
        data.points.array["raw_classification"] &= 0xE6  # flags, and codes 0, 2, 4, 6
    else:
        data.points.array["classification"] = rng.choice([2, 3, 6, 200], COUNT)
    if version == "1.4":
        data.evlrs = laspy.vlrs.vlrlist.VLRList()
        data.evlrs.append(laspy.VLR("somebody", 8, "late notes", b"at the end"))
    data.write(path)
    return path


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize(("version", "form"), [("1.2", 3), ("1.4", 7)])
def test_labels_are_replaced_and_all_else_stays(tmp_path: Path, version: str, form: int, suffix: str) -> None:
    source = scan(tmp_path / f"a{suffix}", version, form)
    labels = np.random.default_rng(1).integers(0, 32, COUNT)
    write_labels(source, labels, tmp_path / f"b{suffix}")
    old, new = laspy.read(source), laspy.read(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(new.classification, labels)
    old.classification = labels.astype(np.uint8)
    assert old.points.array.tobytes() == new.points.array.tobytes()  # flags that share the byte of the code included
    for name in ("version", "creation_date", "generating_software", "system_identifier", "uuid", "point_count"):
        assert getattr(old.header, name) == getattr(new.header, name), name
    for name in ("offsets", "scales", "mins", "maxs", "number_of_points_by_return"):
        np.testing.assert_array_equal(getattr(old.header, name), getattr(new.header, name))
    assert [(v.user_id, v.record_id) for v in old.header.vlrs] == [(v.user_id, v.record_id) for v in new.header.vlrs]
    assert [v.record_data_bytes() for v in old.evlrs or ()] == [v.record_data_bytes() for v in new.evlrs or ()]
    if suffix == ".las":  # nothing is compressed: all bytes but the codes themselves
        before, after = source.read_bytes(), (tmp_path / "b.las").read_bytes()
        size, start = old.header.point_format.size, old.header.offset_to_point_data
        assert len(before) == len(after) and before[:start] == after[:start]
        assert before[start + COUNT * size :] == after[start + COUNT * size :]


def test_extra_dimensions_beside_the_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(las, "CHUNK", 700)  # several chunks, the last one not full
    source = scan(tmp_path / "a.laz")
    share = np.random.default_rng(2).uniform(size=COUNT).astype(np.float32)
    number = np.arange(COUNT) % 7
    write_labels(source, None, tmp_path / "b.laz", {"predicted": number.astype(np.uint8), "probability": share})
    old, new = laspy.read(source), laspy.read(tmp_path / "b.laz")
    for name in old.points.array.dtype.names:
        assert old.points.array[name].tobytes() == new.points.array[name].tobytes(), name
    np.testing.assert_array_equal(new["predicted"], number)
    np.testing.assert_array_equal(new["probability"], share)
    assert new.evlrs[0].record_data_bytes() == b"at the end"


def test_a_scene_from_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(las, "CHUNK", 700)
    source = scan(tmp_path / "a.laz")
    expected = laspy.read(source)
    table = LabelTable({2: "ground", 3: "vegetation", 6: "building", 200: "ignore"})
    cloud = read_scene(source, table)
    assert len(cloud) == COUNT
    np.testing.assert_allclose(cloud.points + cloud.origin, expected.xyz, rtol=0, atol=1e-3)
    assert cloud.origin[1] >= 6524300
    np.testing.assert_array_equal(table.decode(cloud.labels, 200), expected.classification)  # type: ignore[arg-type]
    np.testing.assert_array_equal(cloud.attributes["intensity"], expected.intensity)
    share = expected.return_number / np.maximum(expected.number_of_returns, 1)
    np.testing.assert_allclose(cloud.attributes["return_share"], np.clip(share, 0, 1), rtol=1e-6)
    np.testing.assert_allclose(cloud.colours[:, 2], expected.blue / 65535, atol=1e-6)  # type: ignore[index]
    assert "reflectance" not in {name.lower() for name in cloud.attributes}
    assert set(read_las(source, {"reflectance"})) == {"x", "y", "z", "Reflectance"}


def test_colours_of_zero_are_none(tmp_path: Path) -> None:
    data = laspy.read(scan(tmp_path / "a.las"))
    data.red[:] = data.green[:] = data.blue[:] = 0
    data.write(tmp_path / "b.las")
    assert read_scene(tmp_path / "b.las", None).colours is None


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("left", [0, 60, 300, 1500, -200_000, -400, -40])
def test_a_cut_file(tmp_path: Path, suffix: str, left: int) -> None:
    content = scan(tmp_path / f"whole{suffix}", "1.2", 3).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[:left])
    with pytest.raises(InputError, match=rf"cut\{suffix}: (damaged|the header promises)"):
        read_scene(path, None)
    with pytest.raises(InputError, match=rf"cut\{suffix}: "):
        write_labels(path, np.zeros(COUNT, np.uint8), tmp_path / "out.laz")
    assert not list(tmp_path.glob("*out*"))


def test_fewer_points_than_promised_at_the_end_of_a_chunk(tmp_path: Path) -> None:
    content = bytearray(scan(tmp_path / "a.laz", "1.2", 3).read_bytes())
    content[107:111] = (COUNT + 1).to_bytes(4, "little")
    (tmp_path / "b.laz").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.laz: "):
        read_scene(tmp_path / "b.laz", None)


@pytest.mark.parametrize(
    "what", ["chunks", "a record of", "points from byte", "a table of chunks at byte", "layers of"]
)
def test_what_is_not_there_is_not_allocated(tmp_path: Path, what: str) -> None:
    content = bytearray(scan(tmp_path / "a.laz", "1.4", 7).read_bytes())
    start = int.from_bytes(content[96:100], "little")
    table = int.from_bytes(content[start : start + 8], "little")
    if what == "chunks":
        content[table + 4 : table + 8] = b"\xff\xff\xff\x7f"
    elif what == "a record of":
        content[235:247] = (327).to_bytes(8, "little") + (1).to_bytes(4, "little")
    elif what == "points from byte":
        content[96:100] = b"\xff\xff\xff\x7f"
    elif what == "layers of":
        size = int.from_bytes(content[105:107], "little")
        content[start + 8 + size + 4 : start + 8 + size + 8] = b"\xff\xff\xff\x7f"
    else:
        content[start : start + 8] = (10**12).to_bytes(8, "little")
    (tmp_path / "b.laz").write_bytes(content)
    with pytest.raises(InputError, match=rf"b\.laz: damaged or truncated: the header promises .*{what}"):
        read_scene(tmp_path / "b.laz", None)


def test_a_table_of_chunks_that_the_end_of_the_file_names(tmp_path: Path) -> None:
    content = bytearray(scan(tmp_path / "a.laz", "1.2", 3).read_bytes())
    start = int.from_bytes(content[96:100], "little")
    (tmp_path / "b.laz").write_bytes(content[:start] + b"\xff" * 8 + content[start + 8 :] + content[start : start + 8])
    assert len(read_scene(tmp_path / "b.laz", None)) == COUNT


@pytest.mark.parametrize("at", [103, 246])
def test_a_billion_records_are_not_looked_for(tmp_path: Path, at: int) -> None:
    content = bytearray(scan(tmp_path / "a.laz").read_bytes())
    content[at] = 0x75
    (tmp_path / "b.laz").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.laz: damaged or truncated: the header promises 1,96\d,\d+,\d+ records"):
        read_scene(tmp_path / "b.laz", None)


@pytest.mark.parametrize(
    ("labels", "extra", "message"),
    [
        (np.zeros(3), {}, "a.las has 5,000 points, found 3 labels"),
        (np.full(COUNT, 32), {}, r"point format 3 holds classification codes 0\.\.31, found 32\.\.32"),
        (np.full(COUNT, -1), {}, r"found -1\.\.-1"),
        (None, {"share": np.zeros(4)}, "found 4 share to write"),
        (None, {"intensity": np.zeros(COUNT)}, "has a field 'intensity' already"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, labels: np.ndarray | None, extra: dict[str, np.ndarray], message: str
) -> None:
    source = scan(tmp_path / "a.las", "1.2", 3)
    with pytest.raises(InputError, match=message):
        write_labels(source, labels, tmp_path / "b.las", extra)
    with pytest.raises(InputError, match=r"written to \.las or \.laz, found '\.ply'"):
        write_labels(source, np.zeros(COUNT), tmp_path / "b.ply")
    assert not list(tmp_path.glob("*b.*"))


@pytest.mark.parametrize("missing", ["laspy", "lazrs"])
def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    scan(tmp_path / "a.laz")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"a\.laz: {missing} is not installed.*pip install 'image2point\[las\]'"):
        read_scene(tmp_path / "a.laz", None)
