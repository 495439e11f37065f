"""A network as a folder: what is saved comes back, can be used on raw points, and begins a second transfer."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rooms import furnish, segmenting
from safetensors.torch import load_file, save_file
from tiny_runs import run_transfer, separable, tiny
from torch import nn
from typer.testing import CliRunner

import image2point as i2p
from image2point.cli import app
from image2point.datasets import Cloud
from image2point.datasets.catalogue import Options
from image2point.datasets.prepare import prepare_dataset
from image2point.datasets.registry import load_dataset
from image2point.finetune import count
from image2point.jobs.artefact import usage_of_run
from image2point.jobs.label_files import label_points
from image2point.jobs.reuse import predict
from image2point.jobs.saving import save_weights
from image2point.lifting.usable import Usable
from image2point.runs import Run
from image2point.training import checkpoint

CLASSES = ("ball", "box", "cone")


def clouds(number: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, (200 + 10 * i, 3)).astype(np.float32) for i in range(number)]


def load(source: object, **given: Any) -> Any:
    return i2p.load(source, **given)  # type: ignore[arg-type]


def small(**options: Any) -> Any:
    return i2p.lift("test_efficientnet", weights="random", num_classes=3, rule="mean", **options).eval()


def same(first: Any, second: Any) -> bool:
    voxels = i2p.voxelize(clouds(), 0.2)
    with torch.no_grad():
        one, other = first(voxels), second(voxels)
    return torch.equal(*(each if isinstance(each, torch.Tensor) else each.features for each in (one, other)))


def trained(net: Any) -> Any:
    """Every tensor another than a fresh network has."""
    with torch.no_grad():
        for number, tensor in enumerate(net.state_dict().values()):
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.01 * (number % 7)).add_(0.001)
    return net


def test_a_network_comes_back_in_another_process(tmp_path: Path) -> None:
    net = trained(small())
    net.save(tmp_path / "net", scores={"accuracy": 0.5}, licence="mit", voxel_size=0.2, classes=CLASSES)
    voxels = i2p.voxelize(clouds(), 0.2)
    with torch.no_grad():
        np.save(tmp_path / "logits.npy", net(voxels).numpy())
    np.savez(tmp_path / "clouds.npz", *clouds())
    code = (
        "import sys, numpy as np, torch, image2point as i2p\n"
        "torch.set_num_threads(int(sys.argv[2]))\n"
        "net, home = i2p.load(sys.argv[1] + '/net'), sys.argv[1]\n"
        "clouds = list(np.load(home + '/clouds.npz').values())\n"
        "with torch.no_grad():\n"
        "    again = net(i2p.voxelize(clouds, 0.2)).numpy()\n"
        "print(np.array_equal(again, np.load(home + '/logits.npy')), net.classes, net.training, net.usage.voxel_size)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(torch.get_num_threads())], capture_output=True, text=True
    )
    assert done.stdout == "True ('ball', 'box', 'cone') False 0.2\n", done.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"stem": "paper"},
        {"rule": "tied", "axis": "alternate"},
        {"head": "batchnorm", "substrate": "dense"},
        {"head": "cosine", "axis": {"blocks.0*": "x", "*": "y"}},
        {"head": "etf"},
    ],
)
def test_options_of_the_lifting_come_back(tmp_path: Path, options: dict[str, Any]) -> None:
    net = trained(i2p.lift("test_efficientnet", **{"weights": "random", "num_classes": 3, "seed": 5, **options}).eval())
    again = load(net.save(tmp_path / "net"))
    assert same(net, again) and again.lifting == net.lifting and again.usage is None and again.classes == ()


def test_double_precision_comes_back(tmp_path: Path) -> None:
    net = small().double()
    again = load(net.save(tmp_path / "net", voxel_size=0.2))
    assert next(again.parameters()).dtype == torch.float64
    assert [each.label for each in net.predict(clouds())] == [each.label for each in again.predict(clouds())]


@pytest.mark.parametrize("decoder", ["light", "unet", "hypercolumn"])
def test_segmenters_come_back_and_label_points(tmp_path: Path, decoder: Any) -> None:
    width = {} if decoder == "hypercolumn" else {"width": 0.2}
    net = i2p.segmenter("test_resnet", num_classes=3, weights="random", decoder=decoder, **width)
    net = trained(net).eval()
    again = load(net.save(tmp_path / "net", voxel_size=0.2, classes=CLASSES))
    assert same(net, again)
    points = clouds()[1]
    voxels, index = i2p.voxelize([points], 0.2, return_index=True)
    with torch.no_grad():
        scores = net(voxels).features[index[0]]
    (said,) = again.predict([points])
    np.testing.assert_array_equal(said.labels, scores.argmax(1).numpy())
    np.testing.assert_allclose(said.probabilities(2)[:], scores.softmax(1)[:, 2].numpy(), atol=1e-6)


@pytest.mark.parametrize("policy", ["io+depth+ssf", "layer:blocks.1.0+depth"])
def test_what_a_policy_added_comes_back(tmp_path: Path, policy: str) -> None:
    net = small()
    i2p.freeze(net, policy)
    i2p.freeze(net, "io")  # what is there stays
    again = load(trained(net).save(tmp_path / "net"))
    assert (
        same(net.eval(), again)
        and again.lifting == net.lifting
        and again.state_dict().keys() == net.state_dict().keys()
    )
    folded = load(net.fold().save(tmp_path / "folded"))
    voxels = i2p.voxelize(clouds(), 0.2)
    with torch.no_grad():
        torch.testing.assert_close(folded(voxels), net(voxels), atol=1e-5, rtol=1e-5)


def test_a_given_module_is_given_again(tmp_path: Path) -> None:
    def module() -> nn.Module:
        layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(8, 5))

    net = trained(i2p.lift(module(), num_classes=3)).eval()
    home = net.save(tmp_path / "net")
    with pytest.raises(i2p.InputError, match=r"was lifted from a module .* load\(\.\.\., network=MyNetwork\(\)\)"):
        load(home)
    assert same(net, load(home, network=module()))


def test_children_of_the_same_names_come_first(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.save, self.use = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.fold, self.pool, self.classes = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classes(self.pool(self.fold(self.use(self.save(x)))).flatten(1))

    net = trained(i2p.lift(Named(), num_classes=3)).eval()
    assert isinstance(net.classes, nn.Linear) and "save.weight" in net.state_dict()
    home = Usable.save(net, tmp_path / "net", voxel_size=0.2, classes=CLASSES)
    assert same(net, load(home, network=Named())) and net.predict(clouds())[0].name in CLASSES


def test_predictions_are_those_of_the_voxels(tmp_path: Path) -> None:
    net = trained(small())
    net.use(voxel_size=0.2, classes=CLASSES)
    with torch.no_grad():
        scores = net(i2p.voxelize(clouds(), 0.2)).double().softmax(1).numpy()
    net.train()
    found = net.predict([clouds()[0], torch.from_numpy(clouds()[1]), Cloud(clouds()[2])])
    assert net.training and all(module.training for module in net.modules())
    for one, expected in zip(found, scores, strict=True):
        np.testing.assert_allclose(one.probabilities, expected, atol=1e-6)
        assert one.name == CLASSES[expected.argmax()] and one.label == expected.argmax()


def test_clouds_are_taken_as_the_network_was_told() -> None:
    net = trained(i2p.lift("test_efficientnet", weights="random", num_classes=3, in_channels=4)).eval()
    net.use(voxel_size=0.2, features=("xyz", "height"), up="z", normalise=True, scaling={"height": 2.0})
    points = clouds()[0].astype(np.float64) * 1000 + [869400, 6524300, 50]
    unit = (points - points.mean(0)) / np.linalg.norm(points - points.mean(0), axis=1).max()
    features = np.c_[unit, 2 * (unit[:, 2] - unit[:, 2].min())].astype(np.float32)
    with torch.no_grad():
        scores = net(i2p.voxelize([unit.astype(np.float32)], 0.2, [features])).double().softmax(1).numpy()
    np.testing.assert_allclose(net.predict([points])[0].probabilities, scores[0], atol=1e-5)
    with pytest.raises(i2p.InputError, match=r"cloud 0: near .* float32 numbers are 0\.5 apart"):
        net.predict([(points / 100 + [500000, 5800000, 0]).astype(np.float32)])
    drawn = net.usage.changed({"points": 50})
    net.use(points=50)
    assert net.usage == drawn
    first, second = (net.predict([points])[0].probabilities for _ in range(2))
    assert np.array_equal(first, second) and not np.allclose(first, scores[0], atol=1e-5)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    net = small()
    with pytest.raises(i2p.InputError, match=r"say it once, as in net\.use\(voxel_size=0\.05"):
        net.predict(clouds())
    for fields, message in (
        ({"classes": CLASSES}, "needs voxel_size"),
        ({"voxel_size": 0.2, "classes": ("a", "b")}, "expected 3 names, one for each score, found 2"),
        ({"voxel_size": 0.2, "classes": ("a", "b", "a")}, "expected names that differ, found a more than once"),
        ({"voxel_size": 0.2, "features": "normals", "colour": 1}, "unknown key colour"),
        ({"voxel_size": 0.2, "features": ("xyz", "normals")}, "are 6 input channels, but the network was lifted for 3"),
        ({"voxel_size": -1}, "voxel_size = -1"),
    ):
        with pytest.raises(i2p.InputError, match=message):
            net.use(**fields)
        assert net.usage is None
    net.use(voxel_size=0.2)
    with pytest.raises(i2p.InputError, match=r"found one .*\[points\]|expected points of shape"):
        net.predict(clouds()[0])
    with pytest.raises(i2p.InputError, match=r"cloud 1: the cloud is empty"):
        net.predict([clouds()[0], np.empty((0, 3))])
    with pytest.raises(i2p.InputError, match=r"leave voxels of 0\.2 too few digits"):
        net.predict([clouds()[0] + np.array([869400, 6524300, 0])])
    assert net.predict([]) == []


def test_what_a_folder_cannot_give_back_is_not_saved(tmp_path: Path) -> None:
    net = small()
    net.extra = nn.Linear(2, 2)
    with pytest.raises(i2p.InputError, match=r"extra\.bias"):
        net.save(tmp_path / "net")
    with pytest.raises(i2p.InputError, match="expected finite numbers, found accuracy = nan"):
        small().save(tmp_path / "net", scores={"accuracy": float("nan")})
    assert not (tmp_path / "net" / "weights.safetensors").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/weights.safetensors").write_bytes(b"of a run")
    with pytest.raises(i2p.InputError, match="of something else, such as a run"):
        small().save(tmp_path / "run")
    assert (tmp_path / "run/weights.safetensors").read_bytes() == b"of a run"


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def changed(what: str, net: Any) -> None:
    block = net.layer2[0]
    if what == "block":
        net.layer2[0] = nn.Identity()
    elif what == "activation":
        block.act2 = nn.Tanh()
    elif what == "inside":
        block.act2.module = nn.Identity()
    elif what == "classifier":
        net.fc = Doubled(net.fc.in_features, net.fc.out_features)
    elif what == "gone":
        block.act2 = None
    elif what == "eps":
        block.bn1.eps = 0.1
    else:
        block.bn2.weight = block.bn1.weight


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("block", r"net\.layer2\.0 is Identity and was Block"),
        ("activation", r"net\.layer2\.0\.act2 is Tanh and was Pointwise"),
        ("inside", r"net\.layer2\.0\.act2\.module is Identity and was ReLU"),
        ("classifier", r"net\.fc is Doubled and was Linear"),
        ("gone", r"net\.layer2\.0\.act2 is gone"),
        ("eps", r"net\.layer2\.0\.bn1\.eps is 0\.1 and was 1e-05"),
        ("tied", r"net\.layer2\.0\.bn1\.weight and net\.layer2\.0\.bn2\.weight are one tensor"),
    ],
)
def test_what_was_changed_is_named_and_not_saved(tmp_path: Path, what: str, message: str) -> None:
    """Also after a policy added to the network, as a copy, and folded."""
    net = i2p.lift("test_resnet", weights="random", num_classes=3)
    changed(what, net)
    with pytest.raises(i2p.InputError, match=f"{message}, which a folder could not give back"):
        net.save(tmp_path / "net")
    if what in ("activation", "inside", "eps"):
        i2p.freeze(net, "io+depth")
        again = pickle.loads(pickle.dumps(net.fold()))
        if what != "activation":
            again = i2p.segmenter(again, 3)
        with pytest.raises(i2p.InputError, match=message):
            again.save(tmp_path / "net")
    assert not list(tmp_path.glob("net/*"))


def test_what_training_alone_sees_is_no_change(tmp_path: Path) -> None:
    net = i2p.lift("test_efficientnet", weights="random", num_classes=3)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.01
    net = nn.SyncBatchNorm.convert_sync_batchnorm(trained(net)).bfloat16()
    net.blocks[0].register_forward_hook(lambda *_: None)
    again = load(net.save(tmp_path / "net"))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in net.state_dict().items())


def behaviour(net: Any) -> tuple[dict[str, bool], dict[str, bool]]:
    """What trains, and the modes of the modules in training."""
    modes = {name: module.training for name, module in net.train().named_modules()}
    return {name: parameter.requires_grad for name, parameter in net.named_parameters()}, modes


@pytest.mark.parametrize("policy", ["io", "io+norm", "all", "head", "none", "io+depth+ssf", "scl:layer4.0"])
def test_a_network_comes_back_frozen(tmp_path: Path, policy: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also where what the policy added is folded away; and nothing is said about it."""
    net = i2p.lift("test_resnet", weights="random", num_classes=3, rule="mean")
    i2p.freeze(net, policy)
    caplog.clear()
    for each in (net, net.fold()):
        again = load(each.save(tmp_path / "net"))
        assert not again.training and behaviour(again) == behaviour(each)
        assert behaviour(load(again.save(tmp_path / "again"))) == behaviour(each)
    assert not caplog.records


def test_weights_that_share_memory_are_written_whole(tmp_path: Path) -> None:
    """As runs write them: their own code makes the same network again, ties included."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    save_weights(net, tmp_path / "weights.safetensors")
    checkpoint.save(tmp_path / "checkpoint", "epoch-0001", net.state_dict(), {})
    for found in (load_file(tmp_path / "weights.safetensors"), checkpoint.load(tmp_path / "checkpoint/epoch-0001")[0]):
        assert found.keys() == net.state_dict().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in net.state_dict().items())


def test_another_linear_classifier_is_saved(tmp_path: Path) -> None:
    net = small()
    net.classifier = nn.Linear(net.classifier.in_features, 7)
    again = load(trained(net).save(tmp_path / "net", voxel_size=0.2, classes=tuple("abcdefg")))
    assert same(net, again) and again.lifting.options.num_classes == 7


def test_scores_belong_to_the_weights(tmp_path: Path) -> None:
    net = small()
    net.save(tmp_path / "net", scores={"accuracy": 0.5})
    load(tmp_path / "net").save(tmp_path / "copy")
    assert json.loads((tmp_path / "copy/network.json").read_text())["scores"] == {"accuracy": 0.5}
    trained(load(tmp_path / "net")).save(tmp_path / "other")
    assert json.loads((tmp_path / "other/network.json").read_text())["scores"] == {}


def test_damage_is_named(tmp_path: Path) -> None:
    home = small().save(tmp_path / "net", voxel_size=0.2)
    good = json.loads((home / "network.json").read_text())

    def broken(**changes: Any) -> str:
        (home / "network.json").write_text(json.dumps({**good, **changes}))
        with pytest.raises(i2p.InputError) as caught:
            load(home)
        return str(caught.value)

    assert "damaged" in broken(lifting={}) and "damaged" in broken(
        lifting={**good["lifting"], "options": {"rule": "mean"}}
    )
    assert "install a newer one" in broken(format=99) and "with its format" in broken(format=None)
    assert "unknown key" in broken(use={"voxel_size": 0.2, "more": 1}) and "voxel_size" in broken(use={})
    assert "network.json, under policy: expected one of io, " in broken(policy="x")
    assert "under policy" in broken(policy=3) and "damaged" in broken(scores={"a": "b"})
    assert "not the file" in broken(sha256="0" * 64)
    assert "rule: expected one of" in broken(
        lifting={**good["lifting"], "options": {**good["lifting"]["options"], "rule": "x"}}
    )
    assert "lifted from a module" in broken(lifting={**good["lifting"], "network": "resnet9999"})
    (home / "network.json").write_text("{")
    with pytest.raises(i2p.InputError, match=r"network\.json cannot be read"):
        load(home)
    (home / "network.json").write_text(json.dumps({**good, "sha256": None}))
    tensors = load_file(home / "weights.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "bn1" not in name}, home / "weights.safetensors")
    with pytest.raises(i2p.InputError, match="weights do not fit the network"):
        load(home)
    (home / "weights.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(i2p.InputError, match=r"weights\.safetensors cannot be read"):
        load(home)


# ------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    return run_transfer(separable(folder / "data", "name=first", "training.epochs=2"), folder / "runs").path


def test_a_run_is_such_a_network(run: Path, tmp_path: Path) -> None:
    net = load(run)
    assert net.classes == ("east", "north", "top") and not net.usage.normalise and net.usage.voxel_size > 0
    files = sorted((run.parents[1] / "data/test").glob("*/*.npy"))
    names = [each.classes[0] for each in predict(run, files)]
    assert names == [each.name for each in net.predict([np.load(file) for file in files])]
    again = load(net.save(tmp_path / "net"))
    assert same(net, again)
    content = json.loads((tmp_path / "net/network.json").read_text())
    final = json.loads((run / "summary.json").read_text())["final"]
    assert content["scores"]["test_accuracy"] == final["test_accuracy"] and content["policy"] == "io+norm"
    frozen = copy.deepcopy(net)
    frozen.requires_grad_(True)
    i2p.freeze(frozen, "io+norm")
    assert behaviour(net) == behaviour(again) == behaviour(frozen) and count(net).trainable < count(net).total


def test_predict_takes_clouds_as_the_run_did(run: Path) -> None:
    """The run has data.normalise=false: its classes are places, which the unit sphere would take away."""
    files = sorted((run.parents[1] / "data/test").glob("*/*.npy"))
    as_trained = [each.probabilities for each in predict(run, files)]
    assert as_trained == [each.probabilities for each in predict(run, files, normalise=False)]
    assert as_trained != [each.probabilities for each in predict(run, files, normalise=True)]


@pytest.mark.parametrize("normalise", [False, True])
def test_prepared_clouds_are_met_as_they_were_prepared(tmp_path: Path, normalise: bool) -> None:
    """data.normalise is not said in the run: prepared data are as they are."""
    folder = separable(tmp_path / "clouds", "training.epochs=2")
    splits = load_dataset("folder", tmp_path / "clouds", Options(normalise=normalise))
    prepare_dataset(splits, tmp_path / "prepared", "folder")
    data = {"name": "prepared", "root": str(tmp_path / "prepared"), "normalise": None}
    config = folder.model_copy(update={"data": folder.data.model_copy(update=data)})
    path = run_transfer(config, tmp_path / "runs").path
    files = sorted((tmp_path / "clouds/test").glob("*/*.npy"))
    as_trained = [each.probabilities for each in predict(path, files, normalise=normalise)]
    assert load(path).usage.normalise is normalise
    assert as_trained == [each.probabilities for each in predict(path, files)]
    assert as_trained != [each.probabilities for each in predict(path, files, normalise=not normalise)]


def test_clouds_prepared_as_they_are_stay_so_though_they_would_fit_the_unit_sphere(tmp_path: Path) -> None:
    folder = separable(tmp_path / "clouds", "training.epochs=1", "report.examples=0")
    for path in (tmp_path / "clouds").rglob("*.npy"):
        np.save(path, np.load(path) / 2)
    splits = load_dataset("folder", tmp_path / "clouds", Options(normalise=False))
    prepare_dataset(splits, tmp_path / "prepared", "folder", {"normalise": False})
    data = {"name": "prepared", "root": str(tmp_path / "prepared"), "normalise": None}
    config = folder.model_copy(update={"data": folder.data.model_copy(update=data)})
    assert load(run_transfer(config, tmp_path / "runs").path).usage.normalise is False


def test_files_are_thinned_only_to_what_every_training_cloud_had(tmp_path: Path) -> None:
    config, file = separable(tmp_path / "clouds", "training.epochs=1"), tmp_path / "dense.npy"
    np.save(file, np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32))

    def scores(run: Path, **settings: Any) -> Any:
        return predict(run, [file], **settings)[0].probabilities

    run = run_transfer(config, tmp_path / "alike").path
    assert scores(run) == scores(run, points=48) != scores(run, points=500)
    smallest = tmp_path / "clouds/test/east/0.npy"
    for path, kept in ((smallest, 5), (tmp_path / "clouds/train/east/0.npy", 30)):
        np.save(path, np.load(path)[:kept])
    run = run_transfer(config, tmp_path / "unlike").path
    assert scores(run) == scores(run, points=500) != scores(run, points=5)
    as_points = i2p.load(run).predict([np.load(file)])[0].probabilities
    np.testing.assert_allclose(scores(run), sorted(as_points, reverse=True), atol=1e-6)


def test_a_segmentation_is_such_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(monkeypatch)
    path = run_transfer(segmenting("name=rooms", "training.epochs=1"), tmp_path).path
    net, points = load(path), clouds()[0].astype(np.float64) + np.array([869400, 6524300, 50])
    (one,), (other,) = net.predict([points]), label_points(path, [points])
    np.testing.assert_array_equal(one.labels, other.labels)


def test_files_are_predicted_with_a_saved_network(tmp_path: Path, run: Path) -> None:
    """The command takes the folder of `net.save` as it takes a run, and says what `net.predict` does."""
    net = load(run)
    net.save(tmp_path / "net", points=None)
    files = sorted((run.parents[1] / "data/test").glob("*/*.npy"))
    said = CliRunner().invoke(app, ["predict", str(tmp_path / "net"), *map(str, files), "--top", "1", "--json"])
    assert said.exit_code == 0, said.output
    answers = net.predict([np.load(file) for file in files])
    for found, expected in zip(json.loads(said.stdout), answers, strict=True):
        ((name, share),) = found["classes"].items()
        assert name == expected.name and abs(share - expected.probabilities.max()) < 1e-6
    unnamed = small()
    unnamed.use(voxel_size=0.2, normalise=True)
    (one,) = predict(unnamed.save(tmp_path / "unnamed"), files[:1], top=1)
    assert one.classes == (unnamed.predict([np.load(files[0])])[0].name,)
    with pytest.raises(i2p.InputError, match=r"does not say how points become its input.*net\.save"):
        predict(small().save(tmp_path / "silent"), files)
    with pytest.raises(i2p.InputError, match=r"net is of the task classification: it has a class for each file"):
        label_points(tmp_path / "net", [np.load(files[0])])


@pytest.mark.parametrize(("name", "moved"), [("semantickitti", False), ("s3dis", True), ("synthetic_scenes", True)])
def test_scans_stay_around_their_sensor(name: str, moved: bool, tmp_path: Path) -> None:
    """A network that was given coordinates in training is given the same in use."""
    config = segmenting(f"data.name={name}", "data.root=elsewhere")
    assert usage_of_run(config, ("a", "b"), Run(tmp_path)).near_origin is moved


@pytest.mark.parametrize(("lowest", "moved"), [(-40.0, False), (0.2, True)])
def test_prepared_scans_stay_around_their_sensor(lowest: float, moved: bool, tmp_path: Path) -> None:
    """What prepared data were is in the scenes that a run stored."""
    config, run = segmenting("data.name=prepared", "data.root=elsewhere"), Run(tmp_path)
    assert usage_of_run(config, ("a", "b"), run).near_origin
    np.savez(run.examples, points=np.linspace(lowest, 50, 30, dtype=np.float32).reshape(10, 3))
    assert usage_of_run(config, ("a", "b"), run).near_origin is moved
    np.savez(run.examples, points=np.empty((0, 3), np.float32))  # a run that stores none says it in its summary
    run.summary.write_text(json.dumps({"data": {"centred": not moved}}))
    assert usage_of_run(config, ("a", "b"), run).near_origin is moved


@pytest.mark.parametrize("near_origin", [False, True])
def test_files_are_labelled_with_a_saved_segmenter(tmp_path: Path, near_origin: bool) -> None:
    net = trained(i2p.segmenter("test_efficientnet", 3, "light", weights="random", rule="mean")).eval()
    net.save(tmp_path / "net", voxel_size=0.2, classes=CLASSES, near_origin=near_origin)
    points = clouds()[0] + np.array([7, 30, 5], np.float32)
    np.save(tmp_path / "scene.npy", points)
    (expected,), (other,) = net.predict([points]), label_points(tmp_path / "net", [points])
    np.testing.assert_array_equal(other.labels, expected.labels)
    command = ["predict", str(tmp_path / "net"), str(tmp_path / "scene.npy"), "--json"]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0, said.output
    counts = np.bincount(expected.labels, minlength=3).tolist()
    assert json.loads(said.stdout)[0]["points"] == dict(zip(CLASSES, counts, strict=True))
    refused = CliRunner().invoke(app, [*command, "--top", "3"])
    assert refused.exit_code == 2 and "is a segmentation" in refused.output


def test_a_second_transfer_begins_with_the_first(run: Path, tmp_path: Path) -> None:
    first = load(run)
    settings = [
        f"network.{name}={getattr(first.lifting.options, name)}" for name in ("rule", "stem", "downsample", "head")
    ]
    start = (f"network.weights=run:{run}", *settings, "finetune.policy=head", "training.epochs=0", "collapse.final=[]")
    path = run_transfer(tiny("name=second", *start), tmp_path).path
    second = load(path)
    before, after = first.state_dict(), second.state_dict()
    head = [name for name in after if name.startswith(f"{second._classifier}.")]
    assert head and second.classes == ("box", "cone", "torus")
    assert str(second.lifting.start).startswith(f"run:{run} (sha256 ")
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == (name not in head), name
    origins = {r.name: r.origin for r in second.lifting.parameters}
    assert {origins.pop(name) for name in head} == {"fresh"} and "fresh" not in origins.values()
    assert "began as run:" in (path / "log.txt").read_text()
    again = load(second.save(tmp_path / "net"))
    assert same(second, again) and count(again).total == count(second).total


def test_a_second_transfer_may_ask_for_points(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(monkeypatch)
    net = trained(i2p.lift("test_resnet", weights="random", num_classes=3, in_channels=4))
    home = net.save(tmp_path / "net")
    start = (f"network.weights=run:{home}", "network.stem=auto", "training.epochs=1")
    path = run_transfer(segmenting("name=points", *start, "finetune.policy=io"), tmp_path).path
    made = load(path)
    body = [r.name for r in made.lifting.parameters if r.role == "body"]
    before, after = net.state_dict(), made.state_dict()
    assert body and all(torch.equal(before[name], after[name]) for name in body)
    once_more = (f"network.weights=run:{path}", "network.stem=auto", "training.epochs=1", "finetune.policy=head")
    last = load(run_transfer(segmenting("name=again", *once_more), tmp_path).path)
    decoder = [r.name for r in last.lifting.parameters if r.role == "decoder"]
    assert decoder and all(torch.equal(after[name], last.state_dict()[name]) for name in decoder)
    assert {r.origin for r in last.lifting.parameters if r.role == "decoder"} == {"trained"}
    monkeypatch.undo()
    back = (f"network.weights=run:{path}", "network.stem=auto", "data.features=[xyz,height]", "data.up=z")
    with pytest.raises(i2p.InputError, match="scores points, and has nothing that scores a cloud"):
        run_transfer(tiny("name=back", *back), tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("network.rule=tied", r"set network\.rule=repeat"),
        ("network.arch=resnet18", r"set network\.arch=test_resnet"),
        ("network.head=cosine", r"set network\.head=linear"),
        ("data.features=[occupancy]", "takes 3 input channels"),
        ("network.weights=run:nowhere", "nowhere is not a run directory"),
    ],
)
def test_a_second_transfer_that_cannot_be(run: Path, tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(i2p.InputError, match=message):
        run_transfer(tiny("name=second", f"network.weights=run:{run}", "finetune.policy=io", setting), tmp_path)
    assert not (tmp_path / "second").exists()
