"""Configs: inheritance, overrides, and errors that say what to do."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import run_transfer, tiny
from typer.testing import CliRunner

from image2point import config as configuration
from image2point.cli import app
from image2point.config import Config, load_config, load_run_config
from image2point.config.idle import idle_in_all, idle_settings
from image2point.config.reading import read
from image2point.errors import InputError
from image2point.experiments.study import read_study
from image2point.sweeps import plan as sweeps

FOLDER = Path(__file__).resolve().parent.parent / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_config_lists_only_what_differs_from_its_base(tmp_path: Path) -> None:
    write(tmp_path / "common/base.yaml", "seed: 3\ntraining: {epochs: 7, lr: 0.5}\n")
    write(tmp_path / "middle.yaml", "base: common/base.yaml\ntraining: {lr: 0.25}\n")
    config = load_config(write(tmp_path / "last.yaml", "base: middle.yaml\ntraining: {batch_size: 4}\n"))
    assert (config.seed, config.training.epochs, config.training.lr, config.training.batch_size) == (3, 7, 0.25, 4)
    assert config.name == "last"  # the file's own name, not that of a base


def test_overrides_come_last_and_are_parsed_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "data: {shots: 5}\n")
    config = load_config(
        path, ["data.shots=null", "training.lr=1e-3", "data.features=[occupancy, xyz]", "network.weights=file:/a=b"]
    )
    assert config.data.shots is None
    assert config.training.lr == 1e-3
    assert config.data.features == ("occupancy", "xyz")
    assert config.network.weights == "file:/a=b"


def test_bases_in_a_circle(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "base: b.yaml\n")
    write(tmp_path / "b.yaml", "base: a.yaml\n")
    with pytest.raises(InputError, match=r"circle: a.yaml -> b.yaml -> a.yaml"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {epohs: 3}", ["training.epohs", "bad.yaml", "did you mean epochs?"]),
        ("trainng: {}", ["trainng", "did you mean training?"]),
        ("network: {axis: w}", ["network.axis = 'w'", "bad.yaml", "'x', 'y', 'z' or 'alternate'"]),
        ("training: {lr: fast}", ["training.lr = 'fast'", "valid number"]),
        ("training: {lr: .nan}", ["training.lr", "finite"]),
        ("training: 5", ["training = 5"]),
        ("data: {augmentation: {jiter: 1}}", ["data.augmentation.jiter", "did you mean jitter?"]),
        (
            "training: {epochs: 5, warmup_epochs: 5}",
            ["warmup_epochs = 5", "epochs = 5", "training.warmup_epochs=0 too"],
        ),
        ("epochs: 2", ["unknown key epochs", "did you mean training.epochs or choose.epochs?"]),
        ("voxel_size: 0.1", ["did you mean data.voxel_size?"]),
        ("finetune: {policy: none}", ["finetune.policy = none", "training.epochs=0"]),
        ("data: {scenes: {validation: [a]}, validation: 0}", ["data.scenes.validation", "give one of them"]),
        ("data: {shots: 1, validation: 0.1}", ["data.validation = 0.1", "data.shots = 1"]),
        ("collapse: {splits: [test]}", ["collapse.splits", "train"]),
        ("training: {nesterov: true, momentum: 0}", ["nesterov"]),
        ("name: a/b", ["name = 'a/b'"]),
        ("base: 3", ["base = 3", "bad.yaml"]),
        ("base: nowhere.yaml", ["nowhere.yaml does not exist", "bad.yaml"]),
        ("seed: 1\nseed: 2", ["line 2", "'seed' is written twice"]),
        ("- a", ["key: value", "list"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load_config(write(tmp_path / "bad.yaml", text))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_an_error_names_the_file_that_wrote_the_value(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "training: {lr: -1}\n")
    path = write(tmp_path / "a.yaml", "base: base.yaml\ntraining: {epochs: 3}\n")
    with pytest.raises(InputError, match=r"training.lr = -1 \(in .*base.yaml\)"):
        load_config(path)
    with pytest.raises(InputError, match=r"training.lr = -2 \(in command line\)"):
        load_config(path, ["training.lr=-2"])


@pytest.mark.parametrize("text", ["training.lr", "=3", "training.lr=[", "training.epohs=3"])
def test_bad_overrides(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError):
        load_config(write(tmp_path / "a.yaml", ""), [text])


def test_a_resolved_config_reads_back_unchanged(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "a.yaml", "data: {augmentation: null, shots: 3}\ntraining: {lr: 1.0e-5}\n"))
    assert load_config(write(tmp_path / "config.yaml", config.to_yaml())) == config


def test_changes_name_the_fields() -> None:
    old, new = Config(), configuration.from_values({"training": {"lr": 0.2}, "data": {"augmentation": None}})
    changed = configuration.changes(old, new)
    assert "training.lr: 0.1 -> 0.2" in changed
    assert "data.augmentation.rotate: none -> None" in changed
    assert configuration.changes(old, old) == []


def test_the_schema_describes_every_field() -> None:
    schema = configuration.schema()
    sections = [schema, *schema["$defs"].values()]
    fields = [(f"{s.get('title')}.{k}", v) for s in sections for k, v in s["properties"].items()]
    silent = [name for name, field in fields if not _described(field, schema)]
    assert silent == []
    assert len(fields) > 60


def _described(field: dict[str, Any], schema: dict[str, Any]) -> bool:
    if "$ref" in field:  # a section describes itself
        return bool(schema["$defs"][field["$ref"].rsplit("/", 1)[1]].get("description"))
    return bool(field.get("description"))


def test_validation_is_cut_from_full_training_sets_only() -> None:
    assert Config().data.validation_fraction == 0.1
    assert configuration.from_values({"data": {"shots": 10}}).data.validation_fraction == 0
    assert configuration.from_values({"data": {"shots": 10, "validation": 0.2}}).data.validation_fraction == 0.2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_of_the_repository_are_valid(path: Path) -> None:
    values, _ = configuration.read(path)
    if "sweep" in values:
        sweeps.read_sweep(path)
    elif "kind" in values:
        read_study(path)
    else:
        load_run_config(path)


def test_every_arm_has_its_config() -> None:
    names = {path.stem for path in CONFIGS}
    for network in ("resnet50", "efficientnet_lite0"):
        assert {f"{network}_{arm}" for arm in ("io", "io_norm", "all", "scratch", "random_frozen")} <= names
        assert {f"{network}_{arm}_10shot" for arm in ("io_norm", "all", "scratch", "random_frozen")} <= names


DOUBLED = "data:\n  a: &a {x: 1}\n" + "".join(
    f"  {b}: &{b} {{l: *{a}, r: *{a}}}\n" for a, b in pairwise("abcdefghijklmnopqrstuvwxyz")
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (DOUBLED, "values, with its aliases"),
        ("data: &d\n  synthetic: *d\n", "holds itself"),
        ("a: " + "{a: " * 3000 + "1" + "}" * 3000, "too deeply"),
        ("? [a, b]\n: 1\n", "a key should be a word"),
        ("seed: " + "9" * 5000, "valid YAML"),
        ("seed: 99999999999999999999", "seed"),
        ('name: "a\\0b"\n', "name"),
    ],
)  # fmt: skip
def test_configs_of_strangers_end_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(InputError, match=told) as error:
        load_config(tmp_path / "odd.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000


def test_merge_keys_work(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("data:\n  <<: {voxel_size: 0.1, points: 5}\n  points: 7\n")
    assert (load_config(tmp_path / "m.yaml").data.voxel_size, load_config(tmp_path / "m.yaml").data.points) == (0.1, 7)


def test_a_base_is_a_file_of_sane_size(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: /dev/zero\n")
    with pytest.raises(InputError, match="not a file"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("#" * (2**20 + 1))
    with pytest.raises(InputError, match="bytes; expected at most"):
        load_config(tmp_path / "b.yaml")


def test_shipped_configs_go_by_their_names_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_config(FOLDER / "modelnet40" / "resnet50_io_norm.yaml")
    monkeypatch.chdir(tmp_path)
    for name in ("modelnet40/resnet50_io_norm", "configs/modelnet40/resnet50_io_norm.yaml"):
        assert load_config(name) == whole
    own = tmp_path / "modelnet40"
    own.mkdir()
    (own / "resnet50_io_norm.yaml").write_text("name: mine\n")
    assert load_config("modelnet40/resnet50_io_norm.yaml").name == "mine"  # a user's own file comes first
    with pytest.raises(InputError, match="config --list"):
        load_config("modelnet40/_recipe")


def test_every_config_of_the_folder_ships_but_the_bases() -> None:
    names = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in CONFIGS if not path.name.startswith("_")}
    assert set(configuration.shipped()) == names


def test_numbers_are_what_they_look_like(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "name: 007\nseed: 010\n")
    config = load_config(path, ["training.epochs=0100", "data.voxel_size=1e-1", "data.shots=1_0"])
    assert (config.name, config.seed, config.training.epochs) == ("007", 10, 100)
    assert (config.data.voxel_size, config.data.shots) == (0.1, 10)
    assert load_config(path, ["name=010"]).name == "010"
    with pytest.raises(InputError, match=r"training.epochs = '1:30' .* valid integer"):
        load_config(path, ["training.epochs=1:30"])


IDLE = {  # settings that do nothing, what is said of the first, and what makes them work
    "choose.epochs=[3, 9] choose.clouds=5 data.shots=5": ("choose.epochs = [3, 9]", "choose.lr=[0.1, 0.2]"),
    "teacher.threshold=0.9 teacher.soft=true data.shots=5": ("teacher.threshold = 0.9", "teacher.network=runs/a"),
    "finetune.candidates=[layer1.0] finetune.probe_epochs=3": ("finetune.cand", "finetune.policy=layer:auto"),
    "training.layer_decay=0.5 finetune.policy=head": ("training.layer_decay = 0.5", "finetune.policy=io"),
    "training.step_per=epoch training.schedule=constant": ("training.step_per = epoch", "training.warmup_epochs=2"),
    "collapse.at=[50, 150, 250]": ("collapse.at: nothing is measured after epoch 150, 250", "training.epochs=300"),
    "data.ground_cell=9 data.up=z": ("data.ground_cell = 9.0", "data.features=[ground_height]"),
    "data.intensity=scene data.scaling={intensity: 2}": ("data.intensity = scene", "data.features=[intensity]"),
    "data.normals=estimated data.scaling={normals: 2}": ("data.normals = estimated", "data.features=[normals]"),
    "data.name=shapenet data.classes=10": ("data.classes = 10", "data.name=modelnet_off"),
    "data.class_split.seed=2": ("data.class_split.seed = 2", "data.class_split.novel=8"),
    "data.shot_seed=2 data.validation=0": ("data.shot_seed = 2", "data.shots=3"),
    "data.synthetic.difficulty.tilt=3 data.synthetic.points=9": ("data.synthetic.points = 9", "data.name=synthetic"),
    "data.synthetic_scenes.rays=9": ("data.synthetic_scenes.rays = 9", "data.name=synthetic_scenes"),
    "data.name=synthetic data.sample=9 data.sample_seed=2": ("data.sample = 9", "data.name=folder"),
    "data.augmentation.elastic_probability=0.5": ("data.aug", "data.augmentation.elastic=[[6, 40]]"),
    "data.augmentation.jitter=0 data.augmentation.jitter_probability=0.5": ("data.aug", "data.augmentation.jitter=0.1"),
    "data.augmentation.colour_drop=0.3": ("data.augmentation.colour_drop = 0.3", "data.features=[colour]"),
}


@pytest.mark.parametrize("given", IDLE)
def test_a_setting_that_changes_nothing_is_told(tmp_path: Path, given: str) -> None:
    said, partner = IDLE[given]
    overrides = re.split(r" (?=\w+\.\w)", given)
    path = write(tmp_path / "a.yaml", "name: a\n")
    found = idle_settings(load_config(path, overrides))
    changed = [each for each in overrides if each.split("=")[0] not in ("data.shots", "data.validation", "data.up")]
    assert any(line.startswith(said) for line in found) and 1 <= len(found) <= len(changed)
    assert idle_settings(load_config(path, [*overrides, partner])) == []


TRANSFERS = [path for path in CONFIGS if not {"kind", "images"} & set(read(path)[0])]


@pytest.mark.parametrize("path", TRANSFERS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_what_ships_has_no_setting_that_changes_nothing(path: Path) -> None:
    configs = [run.config for run in sweeps.read_sweep(path).runs] if "sweep" in read(path)[0] else [load_config(path)]
    assert idle_in_all(configs) == []


def test_a_setting_that_works_in_some_run_of_a_sweep_is_not_idle() -> None:
    alone, taught = (Config(teacher={"network": n, "soft": True}, data={"shots": 5}) for n in (None, "runs/a"))  # type: ignore[arg-type]
    told = ["teacher.soft changes nothing: teacher.network names no teacher"]
    assert idle_in_all([alone, alone]) == told and idle_in_all([alone, taught]) == []
    cells = [Config(data={"ground_cell": cell, "up": "z"}) for cell in (1, 5, 9)]  # type: ignore[arg-type]
    assert idle_in_all(cells) == ["data.ground_cell changes nothing: data.features has no ground_height"]


def test_idle_settings_are_told_before_and_in_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "changes nothing: choose.lr names no rates to choose from"
    line = f"choose.epochs = [2] {reason}"
    path = write(tmp_path / "a.yaml", "choose: {epochs: 2}\nsweep:\n  - seed: [1, 2]\n")
    planned = CliRunner().invoke(app, ["sweep", str(path), "--plan", "--runs", str(tmp_path)])
    assert f"note: in every run choose.epochs {reason}" in planned.stdout
    shown = CliRunner().invoke(app, ["config", "modelnet40/resnet50_io", "choose.epochs=2"])
    assert f"note: {line}" in shown.stderr and "note" not in shown.stdout
    run_transfer(tiny("choose.epochs=2", "training.epochs=0"), tmp_path)
    assert f"note: {line}" in capsys.readouterr().out
