"""Weights on disk: lifted networks are stored under timm's names, and load back by them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import image2point as i2p
from image2point.networks.timm_import import load_timm

NAMES = ("test_resnet", "test_efficientnet", "test_convnext")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stem", ["paper", "inflate"])
def test_names_are_those_of_timm(name: str, stem: str) -> None:
    flat = load_timm().create_model(name).state_dict()
    net = i2p.lift(name, weights="random", stem=stem)
    kept = [r for r in (*net.lifting.parameters, *net.lifting.buffers) if r.origin != "fresh"]
    assert len(kept) > 10
    for record in kept:
        assert record.source == record.name and tuple(flat[record.name].shape) == record.source_shape
        assert record.shape == record.source_shape or len(record.shape) == 5
    assert set(net.state_dict()) <= set(flat)


@pytest.mark.parametrize("name", NAMES)
def test_stored_weights_load_into_a_fresh_lifting(name: str, tmp_path: Path) -> None:
    net = i2p.lift(name, weights="random", seed=1)
    state = net.state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "weights.pt")
    for stored in (
        load_file(tmp_path / "weights.safetensors"),
        torch.load(tmp_path / "weights.pt", weights_only=True),
    ):
        assert list(stored) and set(stored) == set(state)
        other = i2p.lift(name, weights="random", seed=2)
        assert not all(torch.equal(other.state_dict()[key], state[key]) for key in state)
        other.load_state_dict(stored, strict=True)
        assert all(torch.equal(other.state_dict()[key], state[key]) for key in state)


def test_a_child_named_like_an_attribute_is_found() -> None:
    net = i2p.lift("test_efficientnet", weights="random", num_classes=4)
    assert net.get_submodule("classifier") is dict(net.named_modules())["classifier"]
    assert net.get_parameter("classifier.weight").shape[0] == 4
    assert net.get_submodule("") is net
    with pytest.raises(AttributeError, match="no_such"):
        net.get_submodule("no_such.layer")
