"""One small network of every file of timm that has ConvNets: lifted, run, and sparse = masked dense in float64.

`scripts/coverage.py` compares every architecture, in every way there is.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import image2point as i2p
from image2point.lifting.graph import LiftError
from image2point.networks.timm_import import load_timm

# The smallest of each file, or one that these arguments make smaller.
FAMILIES: dict[str, dict[str, Any]] = {
    "convmixer_1024_20_ks9_p14": {},
    "cs3darknet_focus_s": {},
    "cspnext_tiny": {},
    "densenet121": {"block_config": (2, 2, 2, 2)},
    "dla46_c": {},
    "dpn48b": {"k_sec": (1, 1, 1, 1)},
    "ese_vovnet19b_slim_dw": {},
    "fasternet_t0": {},
    "fastvit_t8": {},
    "focalnet_tiny_srf": {},
    "ghostnet_050": {},
    "hardcorenas_a": {},
    "hgnetv2_b0": {},
    "hrnet_w18_small": {},
    "inception_next_atto": {},
    "inception_resnet_v2": {},
    "inception_v3": {},
    "inception_v4": {},
    "lcnetv2_small": {},
    "legacy_seresnet18": {},
    "legacy_xception": {},
    "mobilenetv3_small_050": {},
    "nasnetalarge": {"num_features": 96, "stem_size": 8},
    "pnasnet5large": {},
    "poolformerv2_s12": {},
    "rdnet_tiny": {},
    "regnetx_002": {},
    "repghostnet_050": {},
    "repvit_m1": {},
    "res2net50_14w_8s": {},
    "resnest14d": {},
    "resnetv2_18": {},
    "rexnet_100": {},
    "selecsls42b": {},
    "skresnet18": {},
    "starnet_s050": {},
    "test_byobnet": {},
    "test_convnext": {},
    "test_efficientnet": {},
    "test_mambaout": {},
    "test_nfnet": {},
    "test_resnet": {},
    "tresnet_m": {},
    "vgg11": {"mlp_ratio": 0.01},
    "xception41": {},
}
DENSE_ONLY = ("vgg11",)


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    vox = i2p.voxelize([torch.rand(300, 3, generator=generator) for _ in range(2)], 0.08)
    substrate = "dense" if name in DENSE_ONLY else "sparse"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = load_timm().create_model(name, num_classes=5, **FAMILIES[name])
    net = i2p.lift(network, substrate=substrate, stem="inflate", num_classes=5).double().eval()
    vox = vox.double()
    with torch.no_grad():
        scores = net(vox)
        assert scores.shape == (2, 5) and bool(torch.isfinite(scores).all())
        assert not torch.equal(scores[0], scores[1])
        if substrate == "sparse":
            assert float((scores - net(vox.dense())).abs().max() / scores.abs().max()) < 1e-10


@pytest.mark.slow
def test_every_file_is_there() -> None:
    """Each file of timm from which the coverage script takes ConvNets has one here."""
    path = Path(__file__).parents[2] / "scripts" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_script", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    wanted = {script.file_of(name) for name in script.by_kind()["convnet"]}
    assert {script.file_of(name) for name in FAMILIES} == wanted


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "edgenext_xx_small"])
def test_attention_is_refused_by_name(name: str) -> None:
    with pytest.raises(LiftError, match=f"cannot lift {name}"):
        i2p.lift(name, weights="random")
