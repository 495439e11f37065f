"""Two processes are one process at the same global batch, to rounding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_runs import rows, separable, tiny

from image2point.errors import InputError
from image2point.jobs.transfer import run_transfer
from image2point.training import distributed


@pytest.mark.parametrize(
    "batches", ["training.batch_size=5", "training.batch_voxels=300", "training.batch_size=5 training.accumulate=2"]
)
def test_two_processes_equal_one(tmp_path: Path, batches: str) -> None:
    # No max-pool: inflated kernels give neighbours along the depth equal values, and rounding decides which one wins.
    # Batches of about five clouds, so that shares are unequal; on data that it learns, so that scores are unequal.
    data = tmp_path / "data"
    settings = (
        "data.validation=0.17",
        *batches.split(),
        "network.stem=paper",
        "network.head=batchnorm",
        "training.precision=64",
        "finetune.policy=all",
        "training.label_smoothing=0.1",
        "training.gradient_clip=1",
        "training.l2_sp=0.1",
    )
    one = run_transfer(separable(data, "name=one", *settings), tmp_path).path
    config = tmp_path / "two.yaml"
    config.write_text(separable(data, "name=two", "training.devices=2", *settings).to_yaml())
    command = [sys.executable, "-m", "image2point", "transfer", str(config), "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("epoch 3/3") == 1  # the first process speaks for both

    first, second = rows(one), rows(tmp_path / "two")
    assert len(first) == len(second) == 4
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert (a[name] == "") == (b[name] == ""), name
            if a[name]:
                assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-6, abs=1e-9), name
    ours, theirs = load_file(one / "weights.safetensors"), load_file(tmp_path / "two/weights.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.double().sub(theirs[name].double()).abs().max() < 1e-9, name


def test_torchrun_has_to_start_as_many_processes_as_the_config_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "4")
    message = r"torchrun started 4 processes, but training.devices × training.nodes is 1 × 2 = 2; set training.devices"
    with pytest.raises(InputError, match=message):
        distributed.start(tiny("training.nodes=2").training)


@pytest.mark.slow
def test_torchrun_gives_what_the_launcher_of_fabric_gives(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(separable(tmp_path / "data", "training.devices=2").to_yaml())
    torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    for name, start in (("fabric", []), ("torchrun", torchrun)):
        command = [sys.executable, "-m", *start, "image2point", "transfer", str(config), f"name={name}"]
        done = subprocess.run([*command, "--runs", str(tmp_path)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    assert rows(tmp_path / "fabric") == rows(tmp_path / "torchrun")
    ours, theirs = (tmp_path / name / "weights.safetensors" for name in ("fabric", "torchrun"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"training.accelerator = cuda.*no GPU"):
        run_transfer(tiny("training.accelerator=cuda"), tmp_path)
