"""Networks that give a map per pixel: what `num_classes` means for them, and the role of what scores a pixel."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from lifting_samples import clouds, image, relative
from torch import Tensor, nn

import image2point as i2p
from image2point.voxels import VoxelTensor


class Segmenter(nn.Module):
    """A stem, a strided block, scores per pixel, and back to the input's size."""

    def __init__(self, kernel: int = 1, groups: int = 1, as_dict: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 12, 3, 2, 1)
        self.score = nn.Conv2d(12, 6, kernel, padding=kernel // 2, groups=groups)
        self.as_dict = as_dict
        self.double()

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        y = F.interpolate(self.score(F.relu(self.down(F.relu(self.bn(self.stem(x)))))), scale_factor=2.0)
        return OrderedDict(out=y, aux=y + 1) if self.as_dict else y


@pytest.mark.parametrize("kernel", [1, 3])
def test_num_classes_is_the_width_of_the_last_convolution(kernel: int) -> None:
    net = i2p.lift(Segmenter(kernel), num_classes=5).double()
    x = clouds()
    scores = net(x)
    assert isinstance(scores, VoxelTensor)
    assert scores.features.shape == (len(x.features), 5)
    assert torch.equal(scores.coordinates, x.coordinates)
    records = {r.name: (r.role, r.origin) for r in net.lifting.parameters}
    assert records["score.weight"] == records["score.bias"] == ("output", "fresh")
    assert records["down.weight"] == ("body", "inflated")
    assert {s.name: s.fate for s in net.lifting.sources}["score.weight"] == "replaced"
    assert float(net.get_parameter("score.weight").detach().std()) == pytest.approx(0.01, rel=0.5)
    assert i2p.freeze(net, "head").trainable == sum(net.get_parameter(f"score.{n}").numel() for n in ("weight", "bias"))


def test_none_keeps_the_last_convolution() -> None:
    network = Segmenter(3).eval()
    net = i2p.lift(network, num_classes=None, rule="mean", stem="inflate", depth_padding="replicate").eval()
    x = image()
    with torch.no_grad():
        assert (
            relative(net(x.unsqueeze(-1).repeat(1, 1, 1, 1, 8)), network(x).unsqueeze(-1).repeat(1, 1, 1, 1, 8)) < 1e-10
        )
    assert {r.name: (r.role, r.origin) for r in net.lifting.parameters}["score.weight"] == ("output", "inflated")


def test_of_a_dict_the_entry_out_counts() -> None:
    ways = [i2p.lift(Segmenter(as_dict=kind), num_classes=None, seed=1) for kind in (True, False)]
    ways[0].load_state_dict(ways[1].state_dict())
    with torch.no_grad():
        first, second = (net.eval()(clouds()).features for net in ways)
    assert torch.equal(first, second)


def test_what_a_map_cannot_have() -> None:
    features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    with pytest.raises(i2p.InputError, match=r"feature map.*num_classes=None.*nn.AdaptiveAvgPool2d"):
        i2p.lift(features)
    with pytest.raises(i2p.InputError, match="head='linear'"):
        i2p.lift(Segmenter(), head="cosine")
    with pytest.raises(i2p.InputError, match="2 groups"):
        i2p.lift(Segmenter(groups=2))


class Several(nn.Module):
    def __init__(self, named: bool) -> None:
        super().__init__()
        self.conv, self.named = nn.Conv2d(3, 4, 3), named

    def forward(self, x: Tensor) -> dict[str, Tensor] | list[Tensor]:
        y = self.conv(x)
        return {"boxes": y, "masks": y} if self.named else [y, y]


def test_several_outputs() -> None:
    with pytest.raises(i2p.InputError, match=r"2 tensors.*forward_features"):
        i2p.lift(Several(named=False))
    with pytest.raises(i2p.InputError, match=r"'boxes', 'masks'.*'out'"):
        i2p.lift(Several(named=True))
