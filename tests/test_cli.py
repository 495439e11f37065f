"""The command line, from config to prediction."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import tiny
from typer.testing import CliRunner, Result

import image2point
from image2point.cli import app

REPOSITORY = Path(__file__).resolve().parent.parent
VERBS = (
    "pretrain",
    "measure",
    "rank",
    "rank",
    "study",
    "transfer",
    "demo",
    "evaluate",
    "predict",
    "report",
    "lift",
    "export",
    "config",
)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made by the command."""
    folder = tmp_path_factory.mktemp("cli")
    config = folder / "tiny.yaml"
    config.write_text(tiny().to_yaml())
    result = call("transfer", config, "training.epochs=1", "finetune.policy=head", "--runs", folder)
    assert result.exit_code == 0, result.output
    return folder / "tiny"


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_how_to_use_it(verb: str) -> None:
    result = call(verb, "--help")
    assert result.exit_code == 0
    assert f"image2point {verb}" in result.output and "Example" in result.output


def test_transfer_leaves_all_that_a_run_has(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.yaml", "metrics.csv", "summary.json", "lifting.json", "weights.safetensors", "examples.npz",
        "confusion.csv", "predictions.csv", "geometry.npz", "tensorboard", "log.txt", "fingerprint.json",
    }  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["policy"], summary["chosen_epoch"]) == ("finished", "head", 1)
    assert (summary["data"]["train_clouds"], summary["data"]["validation_clouds"]) == (12, 3)
    roles = summary["parameters"]["by_role"]
    assert roles["output"]["trainable"] == roles["output"]["total"] == summary["parameters"]["trainable"] > 0
    measured = {"nc1", "cdnv", "nc2_equinorm", "nc2_equiangle", "nc3", "nc4", "ncc_accuracy"}
    assert summary["collapse"]["test"].keys() >= measured
    with np.load(run / "examples.npz") as examples:
        assert examples["points"].shape == (3, 64, 3) and examples["predictions"].shape == (3,)


def test_evaluate_finds_the_stored_figure(run: Path) -> None:
    result = call("evaluate", run, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["agrees"] is True
    assert found["accuracy"] == json.loads((run / "summary.json").read_text())["final"]["test_accuracy"]
    assert "the same as stored" in call("evaluate", run).output


def test_report_prints_markdown_and_writes_no_page(run: Path) -> None:
    result = call("report", run, "--markdown")
    assert result.exit_code == 0, result.output
    head, rule, arm = result.stdout.splitlines()
    assert head.startswith("| Arm |") and set(rule) <= set("|-:") and arm.startswith("| tiny | head |")
    assert not (run / "report.html").exists()
    assert call("report", run, "--markdown", "--out", "x.html").exit_code == 2


def test_a_table_is_drawn_too(run: Path, tmp_path: Path) -> None:
    figure = tmp_path / "figure.svg"
    result = call("table", run, "--rows", "data.voxel_size", "--plot", figure)
    assert result.exit_code == 0 and f"figure: {figure}" in result.output, result.output
    assert "data.voxel_size" in figure.read_text()
    result = call("table", run, "--rows", "data.voxel_size", "--plot", tmp_path / "figure.jpg")
    assert result.exit_code == 2 and ".svg, .pdf, .png" in result.output


def test_evaluate_notices_other_data(run: Path) -> None:
    result = call("evaluate", run, "data.synthetic.seed=5")
    assert result.exit_code == 0
    assert "NOT the same as stored" in result.output


def test_predict_takes_files(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.uniform(-3, 3, (40, 3)).astype(np.float32))
    np.savetxt(tmp_path / "b.xyz", np.array([[1.0, 2.0, 3.0]]))
    result = call("predict", run, tmp_path / "a.npy", tmp_path / "b.xyz", "--json", "--top", 3)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [Path(each["file"]).name for each in found] == ["a.npy", "b.xyz"]
    for each in found:
        shares = list(each["classes"].values())
        assert set(each["classes"]) == {"box", "cone", "torus"}
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    table = call("predict", run, tmp_path / "a.npy", "--top", 2).output
    assert table.count("%") == 2


def test_load_needs_the_run_directory_only(run: Path) -> None:
    import image2point as i2p

    network = i2p.load(run)
    assert not network.training
    assert network.linear_classifier()[0].shape[0] == 3


def test_export_writes_the_network_of_a_run(run: Path, tmp_path: Path) -> None:
    import torch

    import image2point as i2p

    out = tmp_path / "net.pt2"
    result = call("export", run, "--out", out, "--grid", 8)
    assert result.exit_code == 0 and "[batch, 3, 8, 8, 8]" in result.output, result.output
    assert "warning" not in result.output  # 2 / 0.3 + 1, rounded up
    assert "need 8 cells" in call("export", run, "--out", tmp_path / "small.pt2", "--grid", 7).output
    voxels = i2p.voxelize([torch.rand(50, 3), torch.rand(20, 3)], 0.13)
    grid = voxels.dense((8, 8, 8))
    with torch.no_grad():
        expected = i2p.load(run)(voxels)
        found = torch.export.load(out).module()(grid.grid, grid.mask)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert call("export", run, "--out", tmp_path / "net.pth", "--grid", 8).exit_code == 2


def test_resuming_a_finished_run_says_so(run: Path) -> None:
    result = call("transfer", run / "config.yaml", "--runs", run.parent, "--resume")
    assert result.exit_code == 0
    assert "finished already" in result.output


def test_lift_lists_every_parameter() -> None:
    result = call("lift", "test_resnet", "rule=mean", "--classes", 7, "--json")
    assert result.exit_code == 0, result.output
    lifting = json.loads(result.stdout)
    assert lifting["options"]["rule"] == "mean"
    assert {record["role"] for record in lifting["parameters"]} == {"input", "norm", "body", "output"}
    assert lifting["counts"]["target"]["total"] == len(lifting["parameters"]) + len(lifting["buffers"])
    assert "layer1.0.conv1.weight" in call("lift", "test_resnet").output


def test_lift_says_what_a_policy_trains() -> None:
    said = " ".join(call("lift", "test_resnet", "--policy", "io+lora:2+adapter:4").output.split())
    assert "layer1.0.adapter.down.weight 4×32 body fresh" in said and "lora_up 32×2 body fresh" in said
    told = re.search(r"policy io\+lora:2\+adapter:4: ([\d,]+) of [\d,]+ parameters train \(.* %\), (.*)", said)
    assert told is not None
    every, *parts = (
        int(n.replace(",", "")) for n in [told[1], *re.findall(r"(?:put|lora|adapter) ([\d,]*\d)", told[2])]
    )
    assert every == sum(parts) and len(parts) == 4
    assert "policy" not in call("lift", "test_resnet").output


CHECK = ("lift", "test_resnet", "--check", "--count", 3, "--voxel-size", 0.2)


def test_lift_check_prints_tables_of_every_layer() -> None:
    result = call(*CHECK, "rule=mean", "stem=inflate")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 120
    assert sum(line.startswith("layer1.0.conv1 ") for line in lines) == 2
    assert "weight 32×32×3×3 → 32×32×3×3×3" in result.output
    assert "image repeated along depth: the 2D network, exactly" in result.output
    assert any(line.startswith("warnings: ") for line in lines)


def test_lift_check_in_json_of_given_clouds_and_images(tmp_path: Path) -> None:
    from PIL import Image

    fixtures = REPOSITORY / "data" / "fixtures"
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (40, 30), (200, 30, 90)).save(tmp_path / name)
    for folder in ("clouds", "modelnet"):
        result = call(*CHECK, "--clouds", fixtures / folder, "--images", tmp_path, "--policy", "io+norm", "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        layers = {layer["name"]: layer for layer in found["check"]["layers"]}
        assert found["counts"]["target"]["total"] == sum(len(layer["tensors"]) for layer in layers.values())
        assert layers["fc"]["cloud"]["sites"] == 3 and layers["fc"]["image"]["sites"] == 2
        assert found["check"]["image_size"] == [160, 160]
        # The norms follow the clouds under this policy.
        assert layers["layer2.0.bn1"]["cloud"]["spread"] == pytest.approx(1.0, rel=0.05)


def test_lift_check_scales_kernels_by_the_occupancy_of_its_clouds() -> None:
    found = {}
    for variance in ("1/K", "occupancy"):
        result = call(*CHECK, f"variance={variance}", "stem=inflate", "--json")
        assert result.exit_code == 0, result.output
        layers = {layer["name"]: layer for layer in json.loads(result.stdout)["check"]["layers"]}
        found[variance] = layers["layer1.0.conv1"]["cloud"]["spread"]
    assert found["occupancy"] > found["1/K"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--images", "nowhere"), "not a folder"),
        (("--clouds", "configs"), "no clouds or meshes"),
        (("--policy", "some"), "io+norm"),
        (("--bound", "0.5"), "above 1"),
        (("--voxel-size", "0"), "voxel_size"),
    ],
)
def test_lift_check_refuses(arguments: tuple[str, str], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    result = call(*CHECK, *arguments)
    assert result.exit_code == 2 and what in result.stderr and result.stderr.count("\n") == 1


def test_what_to_check_with_needs_check() -> None:
    result = call("lift", "test_resnet", "--images", "photos")
    assert result.exit_code == 2 and "--check" in result.stderr


def test_config_prints_what_is_inherited(run: Path) -> None:
    result = call("config", run / "config.yaml", "seed=3")
    assert result.exit_code == 0
    assert "seed: 3" in result.output and "policy: head" in result.output
    assert json.loads(call("config", "--schema").stdout)["properties"]["training"]


def test_version() -> None:
    assert call("--version").output == f"image2point {image2point.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("transfr shapes.yaml", "No such command 'transfr'. Did you mean 'transfer'? (see image2point --help)"),
        ("transfer", "Missing argument 'config' (see image2point transfer --help)"),
        ("data verify folder x --worker 2", "No such option: --worker"),
        ("lift resnet18 --classes 0", "'--classes'"),
        ("transfer a.yaml --data.root=clouds", "settings go without dashes: data.root=VALUE"),
        ("--verbose", "No such option: --verbose"),
    ],
)
def test_arguments_that_cannot_be_used_are_told_in_one_line(arguments: str, words: str) -> None:
    result = CliRunner().invoke(app, arguments.split(), prog_name="image2point")
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and words.lower() in line.lower()


@pytest.mark.parametrize("arguments", [(), ("data",)])
def test_a_command_without_anything_prints_its_help(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2 and "Usage:" in result.output and "error" not in result.output


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, image2point.cli; print([m for m in ('torch', 'timm', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="torch's threads are GNU's on Linux alone")
@pytest.mark.parametrize(
    ("given", "spins"), [({}, "3000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_that_wait_sleep_early_unless_the_user_says_otherwise(given: dict[str, str], spins: str | None) -> None:
    code = "import image2point.cli as cli; cli.app = lambda **_: None; cli.main(); import torch"
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"OMP_DISPLAY_ENV": "verbose", **given}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    assert found and (found[1] == spins if spins else int(found[1]) > 3000)


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from image2point.training.journal import Journal

    config = tmp_path / "tiny.yaml"
    config.write_text(tiny("training.epochs=1").to_yaml())
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", lambda *_: signal.raise_signal(signal.SIGINT))
        result = call("transfer", config, "--runs", tmp_path)
    assert result.exit_code == 130
    command = result.stderr.strip().partition("continue with: image2point ")[2].split()
    assert command[0] == "transfer" and command[-1] == "--resume"
    assert call(*command).exit_code == 0
    assert (tmp_path / "tiny/summary.json").is_file()


def test_a_bad_file_leaves_the_others_their_prediction(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.xyz").write_text("no numbers\n")
    good = Path("data/fixtures/clouds/torus.npy")
    result = call("predict", run, tmp_path / "bad.xyz", good, tmp_path / "absent.ply", "--json")
    assert result.exit_code == 2
    assert [each["file"] for each in json.loads(result.stdout)] == [str(good)]
    assert [line for line in result.stderr.splitlines() if "bad.xyz" in line or "absent.ply" in line] == (
        result.stderr.splitlines()
    )
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    "command",
    [
        ("transfer", "NAME"),
        ("measure", "NAME"),
        ("rank", "NAME", "--model", "test_resnet=random"),
        ("rank", "NAME", "--model", "test_resnet=random", "--ends"),
    ],
    ids=" ".join,
)
def test_a_shipped_config_goes_by_its_name_anywhere(command: tuple[str, ...], tmp_path: Path) -> None:
    name = "modelnet40/efficientnet_lite0_io_norm_10shot"
    words = [name if word == "NAME" else word for word in command]
    found = CliRunner().invoke(app, [*words, f"data.root={tmp_path / 'none'}", "training.accelerator=cpu"])
    assert found.exit_code == 2 and "no ModelNet data at" in found.output, found.output
