"""One architecture per family: the default lifting runs, and sparse = masked dense in float64."""

from __future__ import annotations

import pytest
import torch

import image2point as i2p
from image2point.lifting.graph import LiftError

QUICK = (
    "mobilenetv3_small_050", "lcnet_050", "regnety_002", "tinynet_e", "hgnetv2_b0", "fasternet_t0", "starnet_s1",
    "mambaout_femto", "inception_next_atto", "repvit_m0_9", "nf_regnet_b0", "mobilenetv4_conv_small",
)  # fmt: skip
LARGER = (
    "resnet18", "seresnet18", "efficientnet_b0", "convnext_atto", "convnextv2_atto", "repvgg_a0", "mobileone_s0",
    "hrnet_w18_small", "ghostnet_100", "densenet121", "ecaresnet26t", "resnetblur18", "skresnet18", "resnetv2_18",
    "dm_nfnet_f0", "cspresnet50", "dla34", "vovnet39a",
)  # fmt: skip


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER)])
def test_family(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    clouds = [torch.rand(300, 3, generator=generator) for _ in range(2)]
    vox = i2p.voxelize(clouds, 0.12).double()
    net = i2p.lift(name, weights="random", num_classes=5).double().eval()
    with torch.no_grad():
        sparse, dense = net(vox), net(vox.dense())
    assert sparse.shape == (2, 5)
    assert not torch.equal(sparse[0], sparse[1])
    assert float((sparse - dense).abs().max() / dense.abs().max()) < 1e-10


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "edgenext_xx_small"])
def test_attention_is_refused_by_name(name: str) -> None:
    with pytest.raises(LiftError, match=f"cannot lift {name}"):
        i2p.lift(name, weights="random")
