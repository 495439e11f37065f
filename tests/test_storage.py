"""Object storage: what is read and written there is what a folder gives and gets, whatever goes wrong on the way."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import torch
from buckets import Bucket, bucket, place, s3, written
from typer.testing import CliRunner

import image2point as i2p
from image2point import cli, files, objects, storage
from image2point.datasets import registry
from image2point.datasets.catalogue import Options
from image2point.datasets.prepare import prepare_dataset
from image2point.datasets.splits import Splits
from image2point.datasets.verify import verify_dataset
from image2point.errors import InputError
from image2point.jobs.ingredients import make_recipe
from image2point.training.batches import batches, in_order

__all__ = ["bucket", "place", "s3"]

FAR = {"shard_bytes": 2000}


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, [*map(str, arguments)], env={"COLUMNS": "200"})


def splits_of(folder: Path) -> Splits:
    tiny_runs.separable(folder)
    return registry.load_dataset("folder", folder, Options(normalise=False))


def upload(folder: Path, url: str) -> None:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        objects.put(path, f"{url}/{path.relative_to(folder).as_posix()}")


def in_cache(pattern: str = "*.npy") -> list[str]:
    return sorted(path.name for path in storage.copies().rglob(pattern))


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Clouds prepared in a folder, several shards."""
    prepare_dataset(splits_of(tmp_path / "clouds"), tmp_path / "prepared", "folder", **FAR)
    return tmp_path / "prepared"


# ------------------------------------------------------------------------------------------------------ prepared data


def test_prepared_at_a_url_is_prepared_in_a_folder(tmp_path: Path, prepared: Path, place: str) -> None:
    summary = prepare_dataset(splits_of(tmp_path / "clouds"), f"{place}/a/b", "folder", **FAR)
    expected = {path.relative_to(prepared).as_posix() for path in prepared.rglob("*") if path.is_file()}
    assert objects.listing(f"{place}/a/b").keys() == expected
    assert summary.bytes == sum(path.stat().st_size for path in prepared.rglob("*") if path.is_file())
    dataset = registry.find_dataset("prepared")
    here, there = (verify_dataset(dataset, storage.fetched(root), Options()) for root in (prepared, f"{place}/a/b"))
    assert here.splits == there.splits and here.files == there.files and not there.problems
    with pytest.raises(InputError, match="exists already; choose another or ask to overwrite"):
        prepare_dataset(splits_of(tmp_path / "clouds"), f"{place}/a/b", "folder")


def test_a_file_that_is_to_go_to_a_url_is_tried_before_the_work(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.tried_target(Path(f"{bucket}/some/page.json")) == Path(f"{bucket}/some/page.json")
    assert not objects.listing(bucket)

    def refused(*_: object) -> None:
        raise PermissionError("read only")

    monkeypatch.setattr(Bucket, "put_file", refused)
    with pytest.raises(InputError, match=r"page\.json\.part: no permission"):
        files.tried_target(Path(f"{bucket}/some/page.json"))


@pytest.mark.parametrize("path", ["gs:bucket/p", "S3:p", "s3:", "gs://"])
def test_a_url_without_slashes_is_no_folder(path: str) -> None:
    with pytest.raises(InputError, match=rf"{path}: expected (gs|s3)://BUCKET/"):
        files.target_path(path)


def test_shards_come_when_they_are_needed(prepared: Path, bucket: str) -> None:
    upload(prepared, f"{bucket}/p")
    splits = registry.load_dataset("prepared", f"{bucket}/p")
    assert in_cache() == sorted(["labels.npy", "starts.npy"] * 2)
    local = registry.load_dataset("prepared", prepared)
    assert np.array_equal(splits.train[0].points, local.train[0].points)
    assert in_cache("0*.npy") == ["00000.points.npy"]
    for index in range(len(splits.train)):
        assert np.array_equal(splits.train[index].points, local.train[index].points)
    again = registry.load_dataset("prepared", f"{bucket}/p")
    assert np.array_equal(again.train[5].points, local.train[5].points)
    assert {count for name, count in Bucket.asked.items() if ".points" in name and "get" in name} == {1}


def test_batches_and_workers_see_the_same(prepared: Path, s3: str) -> None:
    upload(prepared, f"{s3}/p")
    config = tiny_runs.tiny("data.name=prepared")
    found = []
    for root, workers in ((prepared, 0), (f"{s3}/p", 2)):
        train = registry.load_dataset("prepared", root).train
        steps = batches(train, in_order(len(train), 4), make_recipe(config), 0, workers)
        found.append([(batch.indices, batch.voxels.features, batch.voxels.coordinates) for batch in steps])
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_run_is_the_same_and_resumes_from_either(
    tmp_path: Path, prepared: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(prepared, f"{s3}/p")
    settings = ("data.name=prepared", "data.validation=0.34", "training.epochs=2")
    here = tiny_runs.run_transfer(tiny_runs.tiny(*settings, f"data.root={prepared}"), tmp_path / "here")
    away = tiny_runs.tiny(*settings, f"data.root={s3}/p")
    with monkeypatch.context() as patch:
        tiny_runs.interrupt_at(patch, "step 4")
        with pytest.raises(i2p.training.interrupt.Interrupted):
            tiny_runs.run_transfer(tiny_runs.tiny(*settings, f"data.root={prepared}"), tmp_path / "there")
    there = tiny_runs.run_transfer(away, tmp_path / "there", resume=True)
    assert tiny_runs.rows(here.path) == tiny_runs.rows(there.path)
    for name in ("weights.safetensors", "predictions.csv", "confusion.csv"):
        assert (here.path / name).read_bytes() == (there.path / name).read_bytes()


def test_other_data_at_the_url_are_noticed(
    tmp_path: Path, prepared: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(prepared, f"{bucket}/p")
    config = tiny_runs.tiny("data.name=prepared", f"data.root={bucket}/p", "data.validation=0.34")
    with monkeypatch.context() as patch:
        tiny_runs.interrupt_at(patch, "step 4")
        with pytest.raises(i2p.training.interrupt.Interrupted):
            tiny_runs.run_transfer(config, tmp_path / "runs")
    splits = splits_of(tmp_path / "clouds")
    prepare_dataset(splits, f"{bucket}/p", "folder", encoding="int16", overwrite=True)
    with pytest.raises(InputError, match="its files are not the same"):
        tiny_runs.run_transfer(config, tmp_path / "runs", resume=True)


# ------------------------------------------------------------------------------------------------------ what goes wrong


def cut(times: int) -> Callable[..., bool]:
    """The connection ends in the middle, so many times: with an error, and in turn without."""
    left = [times]

    def fault(client: Bucket, what: str, source: str, target: str) -> bool:
        if left[0] == 0:
            return False
        left[0] -= 1
        if what == "get_file":
            Path(target).write_bytes(client.cat_file(source)[:100])
        if left[0] % 2 == 0:
            raise ConnectionResetError("Connection reset by peer")
        return what == "get_file"

    return fault


def test_a_cut_connection_is_tried_again(prepared: Path, bucket: str) -> None:
    Bucket.faults["00000.points"] = cut(objects.ATTEMPTS - 1)
    upload(prepared, f"{bucket}/p")
    Bucket.faults["00000.points"] = cut(objects.ATTEMPTS - 1)
    local = registry.load_dataset("prepared", prepared)
    splits = registry.load_dataset("prepared", f"{bucket}/p")
    assert np.array_equal(splits.train[0].points, local.train[0].points)


def test_what_ends_early_is_noticed_by_its_size(tmp_path: Path, bucket: str) -> None:
    splits_of(tmp_path / "clouds")
    upload(tmp_path / "clouds", f"{bucket}/c")
    Bucket.faults["train/east/0.npy"] = cut(2)
    whole = (tmp_path / "clouds/train/east/0.npy").read_bytes()
    assert (storage.fetched(f"{bucket}/c") / "train/east/0.npy").read_bytes() == whole


def test_one_that_stays_cut_is_named_and_leaves_nothing(prepared: Path, bucket: str) -> None:
    upload(prepared, f"{bucket}/p")
    Bucket.faults["00000.points"] = cut(1000)
    splits = registry.load_dataset("prepared", f"{bucket}/p")
    with pytest.raises(InputError, match=r"gs://bucket/p/train/00000\.points\.npy: failed 4 times, at last with: .*"):
        splits.train[0]
    assert in_cache("*00000*") == [] and in_cache("*.part") == []
    Bucket.faults.clear()
    assert len(splits.train[0].points) == 48


def test_another_content_of_the_same_size_is_noticed(prepared: Path, bucket: str) -> None:
    shard = prepared / "train" / "00000.points.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    upload(prepared, f"{bucket}/p")
    splits = registry.load_dataset("prepared", f"{bucket}/p")
    with pytest.raises(InputError, match="its sha256 is"):
        splits.train[0]
    assert in_cache("*00000*") == []


def refuse(*_: Any) -> bool:
    raise PermissionError(13, "Access Denied")


def test_what_cannot_be_had_is_named(prepared: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(root: str) -> str:
        with pytest.raises(InputError) as caught:
            registry.load_dataset("prepared", root)
        return str(caught.value)

    assert "gs://elsewhere/p has no prepared.json" in told("gs://elsewhere/p")
    assert "gs://bucket/p has no prepared.json" in told(f"{bucket}/p")
    upload(prepared, f"{bucket}/p")
    Bucket.faults["prepared.json"] = refuse
    assert "no permission" in told(f"{bucket}/p")
    Bucket.faults.clear()
    assert "expected a path of this machine or a URL s3://BUCKET/..." in told("https://example.org/p")
    (prepared / "file").touch()
    monkeypatch.setenv("IMAGE2POINT_COPIES", str(prepared / "file"))
    assert "IMAGE2POINT_COPIES may name another folder" in told(f"{bucket}/p")


def test_errors_name_the_url_and_no_copy(bucket: str) -> None:
    for name in ("config.yaml", "summary.json"):
        files.write_text(f"{bucket}/run/{name}", "[nothing")
    result = CliRunner().invoke(cli.app, ["evaluate", f"{bucket}/run"])
    assert result.exit_code == 2 and "gs://bucket/run/summary.json" in "".join(result.output.split())
    files.write_text(f"{bucket}/cloud.xyz", "1 2 nothing")
    copy = storage.fetched(f"{bucket}/cloud.xyz")
    assert storage.by_url(f"{copy}: line 1") == "gs://bucket/cloud.xyz: line 1"


def test_a_missing_bucket_is_named_by_a_server_too(s3: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="s3://no-such-bucket/a: nothing lies there; check the name"):
        storage.fetched("s3://no-such-bucket/a")
    with pytest.raises(InputError, match="s3://no-such-bucket/a: no such object or bucket"):
        files.write_text("s3://no-such-bucket/a", "text")
    with (
        pytest.raises(InputError, match="no such object or bucket"),
        storage.uploading("s3://no-such-bucket/a", "index"),
    ):
        pytest.fail("work was begun that would be lost")


def test_an_interrupted_write_looks_like_nothing_and_goes_on(tmp_path: Path, prepared: Path, bucket: str) -> None:
    splits, url = splits_of(tmp_path / "clouds"), f"{bucket}/p"
    Bucket.faults["test/starts"] = refuse
    with pytest.raises(InputError, match="no permission"):
        prepare_dataset(splits, url, "folder", **FAR)
    assert "prepared.json" not in objects.listing(url) and storage.PENDING in objects.listing(url)
    with pytest.raises(InputError, match="says that writing it was interrupted"):
        registry.load_dataset("prepared", url)
    Bucket.faults.clear()
    prepare_dataset(splits, url, "folder", **FAR)
    assert len(registry.load_dataset("prepared", url).test) == 12
    Bucket.faults["test/starts"] = refuse  # of data that were there before
    with pytest.raises(InputError, match="no permission"):
        prepare_dataset(splits, url, "folder", overwrite=True)
    assert "prepared.json" not in objects.listing(url)
    Bucket.faults.clear()
    prepare_dataset(splits, url, "folder", overwrite=True)
    assert "train/00001.points.npy" not in objects.listing(url)
    assert len(registry.load_dataset("prepared", url).test) == 12


def test_nothing_of_others_is_replaced(tmp_path: Path, bucket: str) -> None:
    files.write_text(f"{bucket}/p/thesis.txt", "text")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds objects and no prepared\.json"):
            prepare_dataset(splits_of(tmp_path / "clouds"), f"{bucket}/p", "folder", overwrite=overwrite)
    assert list(objects.listing(f"{bucket}/p")) == ["thesis.txt"]
    splits = splits_of(tmp_path / "clouds")
    prepare_dataset(splits, f"{bucket}/q", "folder")
    files.write_text(f"{bucket}/q/thesis.txt", "text")
    files.write_text(f"{bucket}/q/inner/prepared.json", "another's")
    files.write_text(f"{bucket}/q/train/00009.points.npy", "of before")
    prepare_dataset(splits, f"{bucket}/q", "folder", overwrite=True)
    left = objects.listing(f"{bucket}/q").keys()
    assert {"thesis.txt", "inner/prepared.json"} <= left and "train/00009.points.npy" not in left
    with (
        pytest.raises(ValueError, match=r"expected a file prepared\.json"),
        storage.uploading(f"{bucket}/q", "prepared.json", overwrite=True),
    ):
        pass
    assert len(registry.load_dataset("prepared", f"{bucket}/q").test) == 12


def test_threads_fetch_once(prepared: Path, bucket: str) -> None:
    upload(prepared, f"{bucket}/p")
    Bucket.faults["00000"] = lambda *_: time.sleep(0.05)
    folder = storage.opened(f"{bucket}/p", "prepared.json")
    size = (prepared / "train" / "00000.points.npy").stat().st_size
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: folder.get("train/00000.points.npy", size), range(8)))
    assert len(paths) == 1 and Bucket.asked["get_file /bucket/p/train/00000.points.npy"] == 1


def test_processes_fetch_once(tmp_path: Path, s3: str) -> None:
    splits_of(tmp_path / "clouds")
    upload(tmp_path / "clouds", f"{s3}/c")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(written, [f"{s3}/c"] * 4, chunksize=1)
    assert all(each == found[0] for each in found)


def test_what_changes_meanwhile_is_read_again(tmp_path: Path, bucket: str) -> None:
    splits_of(tmp_path / "clouds")
    upload(tmp_path / "clouds", f"{bucket}/c")
    old = storage.fetched(f"{bucket}/c")
    assert storage.fetched(f"{bucket}/c") == old
    changes = iter([b"first", b"second"])

    def change(client: Bucket, what: str, *_: str) -> bool:
        if what == "get_file" and (content := next(changes, None)):
            client.pipe_file("/bucket/c/train/east/new.txt", content)
        return False

    Bucket.faults["east/0"] = change
    files.write_text(f"{bucket}/c/more.txt", "text")
    new = storage.fetched(f"{bucket}/c")
    assert new != old and (new / "train/east/new.txt").read_bytes() == b"second"
    assert not (old / "more.txt").exists() and (new / "more.txt").read_text() == "text"


@pytest.mark.parametrize("name", ["../evil.npy", "a/../../evil.npy", "/evil.npy"])
def test_names_stay_in_the_copy(bucket: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {f"/bucket/c/{name}": {"name": f"/bucket/c/{name}", "size": 1, "type": "file"}}
    monkeypatch.setattr(Bucket, "find", lambda *_, **__: found)
    with pytest.raises(InputError, match="can be no file in a folder"):
        storage.fetched(f"{bucket}/c")


# ------------------------------------------------------------------------------------------------------ other folders


def test_folders_of_clouds(tmp_path: Path, place: str) -> None:
    here = splits_of(tmp_path / "clouds")
    upload(tmp_path / "clouds", f"{place}/c")
    there = registry.load_dataset("folder", f"{place}/c", Options(normalise=False))
    assert there.train.classes == here.train.classes and np.array_equal(there.train.labels, here.train.labels)
    assert all(np.array_equal(here.test[i].points, there.test[i].points) for i in range(len(here.test)))
    names = [i2p.datasets.splits.short_names(each.test, root) for each, root in
             ((here, tmp_path / "clouds"), (there, f"{place}/c"))]  # fmt: skip
    assert names[0] == names[1]


def test_runs_and_saved_networks(tmp_path: Path, bucket: str) -> None:
    run = tiny_runs.run_transfer(tiny_runs.separable(tmp_path / "clouds", "training.epochs=1"), tmp_path / "runs")
    upload(run.path, f"{bucket}/run")
    net, cloud = i2p.load(run.path), next((tmp_path / "clouds" / "test" / "east").iterdir())
    expected = str(net.predict([np.load(cloud)]))
    assert str(i2p.load(f"{bucket}/run").predict([np.load(cloud)])) == expected
    net.save(f"{bucket}/saved")
    assert str(i2p.load(f"{bucket}/saved").predict([np.load(cloud)])) == expected
    with pytest.raises(InputError, match="something else, such as a run; save to another folder"):
        net.save(f"{bucket}/run")
    files.write_bytes(f"{bucket}/cloud.npy", cloud.read_bytes())
    here = call("predict", run.path, cloud, "--json").stdout
    there = call("predict", f"{bucket}/run", f"{bucket}/cloud.npy", "--json").stdout
    assert json.loads(here) == [{**json.loads(there)[0], "file": str(cloud)}]
    assert json.loads(there)[0]["file"] == f"{bucket}/cloud.npy"
    weights = f"network.weights=run:{bucket}/run"
    second = tiny_runs.tiny(weights, "name=second", "training.epochs=1", "finetune.policy=head")
    assert tiny_runs.run_transfer(second, tmp_path / "runs").finished
    evaluated = call("evaluate", f"{bucket}/run")
    assert evaluated.exit_code == 0 and "the same as stored" in evaluated.output, evaluated.output
    reported = call("report", f"{bucket}/run", "--out", f"{bucket}/pages/page.html")
    assert reported.exit_code == 0 and f"report: {bucket}/pages/page.html" in reported.output, reported.output
    assert (storage.fetched(f"{bucket}/pages/page.html")).read_text().startswith("<!DOCTYPE html>")
    measured = call("measure", f"{bucket}/run", "--layers", "features", "--on", "test", "--json", f"{bucket}/m.json")
    assert measured.exit_code == 0 and f"everything is in {bucket}/m.json" in measured.output, measured.output


# ------------------------------------------------------------------------------------------- where no URL is understood


@pytest.mark.parametrize(
    "arguments",
    [
        ("transfer", "demo", "--runs", "URL"),
        ("transfer", "URL"),
        ("config", "URL"),
        ("pretrain", "collapse/pretrain_rendered", "--runs", "URL"),
        ("study", "collapse/unconstrained", "--out", "URL"),
        ("sweep", "ablations/inflation", "--plan", "--runs", "URL"),
        ("demo", "--runs", "URL"),
        ("data", "fetch", "modelnet", "--accept-terms", "--into", "URL"),
        ("rank", "URL", "--model", "test_resnet=random"),
    ],
    ids=" ".join,
)
def test_other_places_say_so(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*("s3://bucket/a.yaml" if each == "URL" else each for each in arguments))
    assert result.exit_code == 2 and "expected a path of this machine here, found a URL" in result.output, result.output
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"s3fs is not installed: pip install 'image2point\[s3\]'"):
        i2p.load("s3://bucket/run")
