"""Every option of `lift` is written once: signature, checks, config, schema and documents agree."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import image2point as i2p
from image2point import config as configuration
from image2point.config.lifting import CHOICES, DEFAULTS, AxisName, Network
from image2point.config.sections import Config
from image2point.lifting import Options, lift
from image2point.roles import POLICIES
from image2point.voxels.conv.engines import ENGINES

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = inspect.signature(lift).parameters
OPTIONS = list(DEFAULTS.lift_options)


def test_the_config_has_every_option_and_lift_too() -> None:
    of_a_run = {"network", "weights", "calibration", "in_channels", "num_classes", "seed", "unknown"}
    assert set(OPTIONS) == PARAMETERS.keys() - of_a_run
    assert {f for f in Options.__dataclass_fields__} == set(OPTIONS) - {"allow_missing", "allow_unexpected"} | {
        "in_channels", "num_classes", "seed",
    }  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_signature_and_config_have_one_default_and_one_type(option: str) -> None:
    assert PARAMETERS[option].default == DEFAULTS.lift_options[option]
    if option in CHOICES:
        assert get_type_hints(lift)[option] == Network.model_fields[option].annotation


@pytest.mark.parametrize("option", CHOICES)
def test_every_word_is_checked_and_described(option: str) -> None:
    with pytest.raises(i2p.InputError, match=rf"{option}: expected one of {', '.join(CHOICES[option])}, found 'x'"):
        lift("test_resnet", weights="random", **{option: "x"})  # type: ignore[arg-type]
    field = configuration.schema()["$defs"]["Network"]["properties"][option]
    assert tuple(field["enum"]) == CHOICES[option] and field["default"] == getattr(DEFAULTS, option)
    described = described_options()[option]
    assert [word for word in CHOICES[option] if f"`{word}`" not in described] == []


def test_lift_describes_every_parameter() -> None:
    assert set(described_options()) == set(PARAMETERS)
    assert [axis for axis in get_args(AxisName) if f"`{axis}`" not in described_options()["axis"]] == []


def described_options() -> dict[str, str]:
    """The entries of the docstring's Args by name."""
    text = inspect.getdoc(lift) or ""
    arguments = text.partition("Args:")[2].partition("Returns:")[0]
    return {m[1]: m[2] for m in re.finditer(r"^    (\w+): (.*?)(?=^    \w+:|\Z)", arguments, re.M | re.S)}


@pytest.mark.parametrize("option", ["rule", "variance", "stem", "head", "control", "downsample"])
def test_the_page_on_lifting_names_every_word(option: str) -> None:
    page = (ROOT / "docs/lifting.md").read_text(encoding="utf-8")
    assert [word for word in CHOICES[option] if not re.search(rf"[`\"]{re.escape(word)}[`\"]", page)] == []


def test_engines_are_those_of_the_voxels() -> None:
    assert set(CHOICES["engine"]) == set(ENGINES)


def test_the_page_on_design_has_every_policy() -> None:
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    assert [policy for policy in POLICIES if f"| `{policy}` |" not in page] == []
    assert [policy for policy in POLICIES if f"`{policy}`" not in str(policy_description())] == []


def policy_description() -> object:
    return configuration.schema()["$defs"]["Finetune"]["properties"]["policy"]["description"]


def test_a_config_hands_every_option_to_lift(monkeypatch: pytest.MonkeyPatch) -> None:
    from image2point.jobs.ingredients import make_network

    other = {
        "rule": "mean", "axis": "x", "variance": "1/K", "substrate": "dense", "stem": "inflate", "head": "cosine",
        "downsample": "paper", "depth_padding": "replicate", "control": "shuffled", "engine": "reference",
    }  # fmt: skip
    values = {"network": {"arch": "test_resnet", "weights": "random", **other}, "seed": 11}
    options = make_network(configuration.from_values(values), classes=3).lifting.options
    assert {name: getattr(options, name) for name in other} == other
    assert (options.num_classes, options.seed, options.in_channels) == (3, 11, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_chans": 6}, "here it is in_channels"),
        ({"pretrained": True}, "here it is weights"),
        ({"features_only": True}, "forward_features"),
        ({"numclasses": 3}, "did you mean num_classes"),
        ({"drop_rate": 0.1}, "timm.create_model"),
        ({"num_classes": 0}, r"embed.*num_classes=None"),
        ({"num_classes": True}, "expected a whole number of at least 1, found True"),
        ({"num_classes": 2.0}, "expected a whole number of at least 1, found 2.0"),
        ({"in_channels": 0}, "expected a whole number of at least 1, found 0"),
        ({"seed": "a"}, "seed: expected a whole number, found 'a'"),
    ],
)
def test_words_and_numbers_that_lift_does_not_take(options: dict[str, object], message: str) -> None:
    with pytest.raises(i2p.InputError, match=message):
        i2p.lift("test_resnet", weights="random", **options)  # type: ignore[arg-type]


def test_numpy_numbers_are_numbers() -> None:
    import numpy as np

    net = i2p.lift("test_resnet", weights="random", num_classes=np.int64(4), seed=np.uint8(3))  # type: ignore[arg-type]
    assert net.classifier[0].shape[0] == 4
    assert type(net.lifting.options.num_classes) is int and '"seed": 3' in net.lifting.to_json()


def test_configs_need_no_torch() -> None:
    code = "import sys, image2point.config, image2point.roles; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_defaults_of_a_config() -> None:
    assert Config().network == DEFAULTS
