"""Checkpoints as training scripts write them: what is taken, what is stripped, and what is refused."""

from __future__ import annotations

import argparse
import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import image2point as i2p
from image2point.networks.timm_import import load_timm

State = dict[str, Tensor]
KERNEL = "layer2.0.conv1.weight"
VARIANCE = "layer2.0.bn1.running_var"


@pytest.fixture(scope="module")
def state() -> State:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return load_timm().create_model("test_resnet").state_dict()


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state: State) -> State:
    """A copy with other values."""
    return {name: tensor + 1 for name, tensor in state.items()}


def lifted(content: Any, folder: Path, **options: Any) -> i2p.lifting.LiftedNetwork:
    torch.save(content, folder / "w.pth")
    return i2p.lift("test_resnet", weights=f"file:{folder / 'w.pth'}", num_classes=3, rule="center", **options)


def middle(net: nn.Module) -> Tensor:
    """The slice of a lifted kernel that holds the 2D one."""
    return net.get_parameter(KERNEL)[..., 1]


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "backbone.",
        "_orig_mod.",
        "encoder.",
        "encoder_q.",
        "teacher.",
        "module.encoder_q.",
        "a.b.c.",
    ],
)
def test_a_prefix_before_every_name_is_stripped(
    prefix: str, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "image2point"):
        net = lifted(under(prefix, state), tmp_path)
    assert torch.equal(middle(net), state[KERNEL])
    assert f"{prefix!r} stripped from {len(state)} names" in caplog.text
    assert net.lifting.weights.missing == ()


def test_what_wrappers_insert_in_the_middle_of_a_name(state: State, tmp_path: Path) -> None:
    inserted = {name.replace(".0.", "._orig_mod.0._fsdp_wrapped_module.", 1): tensor for name, tensor in state.items()}
    assert inserted.keys() != state.keys()
    assert torch.equal(middle(lifted(under("model.module.", inserted), tmp_path)), state[KERNEL])


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (lambda s: {"epoch": 3, "model": s, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, "'model'"),
        (lambda s: {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "module": s}, "'module'"),
        (lambda s: {"state_dict": other(s), "state_dict_ema": s}, "'state_dict_ema'"),
        (lambda s: {"teacher": under("backbone.", s), "student": under("module.backbone.", other(s))}, "'teacher'"),
        (lambda s: {"net": {"weights": {"state_dict": under("model.", s)}}}, "'net.weights.state_dict'"),
        (lambda s: {"model": s, "copy": dict(s)}, "'model'"),
        (lambda s: {"model": s, "momentum_encoder": other(s)}, "'model'"),
        (lambda s: {"epoch": 3, **s}, ""),
    ],
    ids=["optimizer", "namespace", "ema", "dino", "nested", "twice", "momentum", "flat"],
)
def test_entries_beside_the_weights(
    content: Any, taken: str, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "image2point"):
        net = lifted(content(state), tmp_path)
    assert torch.equal(middle(net), state[KERNEL])
    assert f"entry {taken}" in caplog.text if taken else "entry" not in caplog.text


def test_moco_takes_the_query_encoder(state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue = {"module.queue": torch.zeros(4)}
    both = under("module.encoder_k.", other(state)) | under("module.encoder_q.", state) | queue
    with caplog.at_level(logging.INFO, "image2point"):
        assert torch.equal(middle(lifted({"state_dict": both}, tmp_path)), state[KERNEL])
    assert f"{len(state) + 1} tensors without that prefix left aside" in caplog.text


def test_two_copies_that_fit_equally_well_are_refused(state: State, tmp_path: Path) -> None:
    with pytest.raises(i2p.InputError, match=r"'first' and entry 'second' fit the network equally well; store"):
        lifted({"first": state, "second": other(state)}, tmp_path)


def test_the_code_of_a_file_does_not_run(tmp_path: Path, state: State) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    with contextlib.suppress(i2p.InputError):
        lifted({"bomb": Bomb(), "model": state}, tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_known_classes_are_as_before(tmp_path: Path, state: State) -> None:
    """Stand-ins are taken back after the file was read."""
    before = set(torch.serialization.get_safe_globals())
    lifted({"args": argparse.Namespace(lr=0.1), "model": state}, tmp_path)
    assert set(torch.serialization.get_safe_globals()) == before


def test_files_are_known_by_content(tmp_path: Path, state: State) -> None:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "weights.bin")
    torch.save(state, tmp_path / "weights.safetensors")
    for name in ("weights.bin", "weights.safetensors"):
        net = i2p.lift("test_resnet", weights=f"file:{tmp_path / name}", rule="center")
        assert torch.equal(middle(net), state[KERNEL])


def test_a_tilde_is_the_home_folder(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(state, tmp_path / "w.pth")
    assert torch.equal(middle(i2p.lift("test_resnet", weights="file:~/w.pth", rule="center")), state[KERNEL])


def test_weights_of_a_lifted_network(tmp_path: Path) -> None:
    run = i2p.lift("test_resnet", weights="random", num_classes=3)
    with pytest.raises(i2p.InputError, match=r"of a lifted network.*image2point.load\(RUN\)"):
        lifted(run.state_dict(), tmp_path)


@pytest.mark.parametrize("word", [("*",), "*", ("a*", "*")])
def test_nothing_loaded_is_an_error_whatever_is_allowed(word: Any, state: State, tmp_path: Path) -> None:
    strange = {f"{index}x": tensor for index, tensor in enumerate(state.values())}
    with pytest.raises(i2p.InputError, match=r"nothing in them would load. The network's tensors are called conv1"):
        lifted(strange, tmp_path, allow_missing=word, allow_unexpected="*")


def test_a_part_without_weights_is_named(state: State, tmp_path: Path) -> None:
    part = {name: tensor for name, tensor in state.items() if not name.startswith("layer4.")}
    needed = [n for n in state if not n.startswith(("fc.", "conv1.0.")) and not n.endswith("num_batches_tracked")]
    gone = sum(name.startswith("layer4.") for name in needed)
    assert gone > 0.1 * len(needed)
    for allowed in ((), ("*",), ("layer4.0.conv1.*",)):
        with pytest.raises(i2p.InputError, match=r"of the \d+ tensors that should load.*name that part in allow_miss"):
            lifted(part, tmp_path, allow_missing=allowed)
    net = lifted(part, tmp_path, allow_missing="layer4.*")
    assert torch.equal(middle(net), state[KERNEL])
    almost = {name: tensor for name, tensor in state.items() if name != VARIANCE}
    assert lifted(almost, tmp_path, allow_missing=("*",)).lifting.weights.missing == (VARIANCE,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {KERNEL: t.to_sparse()}, "is stored as sparse_coo; store tensor.to_dense"),
        (lambda t: {KERNEL: t.to("meta")}, "no values"),
        (lambda t: {KERNEL: t.to(torch.complex64) * 1j}, "is complex"),
        (lambda t: {KERNEL: t.double() * 1e300}, r"beyond what float32 can hold, up to \d"),
        (lambda t: {KERNEL: t * float("inf")}, "NaN or infinite"),
        (lambda t: {KERNEL: (t * 100).to(torch.int8)}, "holds int8.*quantised"),
        (lambda t: {KERNEL: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)}, "is quantised"),
        (lambda t: {VARIANCE: torch.full((48,), -0.5)}, "negative variances, down to -0.5"),
        (lambda t: {KERNEL: t[:, :, 0]}, "has shape"),
    ],
    ids=["sparse", "meta", "complex", "1e300", "infinite", "int8", "quantised", "variance", "shape"],
)
@pytest.mark.filterwarnings("ignore")
def test_values_are_checked_in_the_network_s_own_type(change: Any, message: str, state: State, tmp_path: Path) -> None:
    changed = change(state[KERNEL])
    changed = {name: t if t.shape != (48,) else t[: len(state[name])] for name, t in changed.items()}
    name = next(iter(changed))
    with pytest.raises(i2p.InputError, match=rf"{name}.*{message}|{message}.*{name}"):
        lifted({**state, **changed}, tmp_path)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_other_floating_types_are_converted(kind: torch.dtype, state: State, tmp_path: Path) -> None:
    net = lifted({name: t.to(kind) if t.is_floating_point() else t for name, t in state.items()}, tmp_path)
    assert torch.equal(middle(net), state[KERNEL].to(kind).float())


@pytest.mark.parametrize("content", [{1: torch.zeros(2)}, {}, {"w": 3.0}, [1], nn.Linear(2, 2), torch.zeros(2)])
def test_contents_that_are_no_state_dict(content: Any, tmp_path: Path) -> None:
    with pytest.raises(i2p.InputError, match=r"expected a state dict \(name → tensor\), found a"):
        lifted(content, tmp_path)


def test_weights_that_are_computed_from_others(state: State, tmp_path: Path) -> None:
    split = {name: tensor for name, tensor in state.items() if name != KERNEL}
    split |= {f"{KERNEL}_g": torch.ones(1), f"{KERNEL}_v": state[KERNEL]}
    with pytest.raises(i2p.InputError, match="remove_weight_norm"):
        lifted(split, tmp_path)


@pytest.mark.parametrize(
    ("bytes_", "message"),
    [(b"", "it is empty, cut off, or of another kind"), (b"<html>not found</html>", "of another kind")],
)
def test_files_of_another_kind(bytes_: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(bytes_)
    with pytest.raises(i2p.InputError, match=message) as caught:
        i2p.lift("test_resnet", weights=f"file:{tmp_path / 'w.pth'}")
    assert "weights_only" not in str(caught.value)  # torch's own message advises to run what the file says


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("w.pth", "did you mean file:w.pth"),
        ("https://x.org/w.pth", "download the file"),
        ({}, r"found dict. Load a state dict into the 2D network"),
        (True, "found bool"),
    ],
)
def test_sources_that_were_meant_otherwise(weights: Any, message: str) -> None:
    with pytest.raises(i2p.InputError, match=message):
        i2p.lift("test_resnet", weights=weights)


def test_another_network_s_weights(tmp_path: Path) -> None:
    with pytest.raises(i2p.InputError, match=r"has shape .* but the network expects .*tensors differ in shape"):
        lifted(load_timm().create_model("resnet10t").state_dict(), tmp_path)


def test_values_of_replaced_layers_are_not_needed(state: State, tmp_path: Path) -> None:
    broken = {**state, "fc.weight": state["fc.weight"] * float("nan")}
    assert torch.isfinite(lifted(broken, tmp_path).classifier[0]).all()
    with pytest.raises(i2p.InputError, match=r"fc\.weight holds NaN"):
        torch.save(broken, tmp_path / "w.pth")
        i2p.lift("test_resnet", weights=f"file:{tmp_path / 'w.pth'}", num_classes=None)


def test_arrays_and_nested_tensors(state: State, tmp_path: Path) -> None:
    with pytest.raises(i2p.InputError, match="NumPy array"):
        lifted({name: tensor.numpy() for name, tensor in state.items()}, tmp_path)
    with pytest.raises(i2p.InputError, match=f"1 missing: {KERNEL}"):
        lifted({**state, KERNEL: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, tmp_path)
