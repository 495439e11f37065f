"""What has a meaning on dense grids alone is refused elsewhere, and the refusal says where it works."""

from __future__ import annotations

import equivalence
import pytest
import torch
from lifting_samples import image, randomise, relative
from torch import Tensor, nn
from torch.nn import functional as F

import image2point as i2p
from image2point.lifting import LiftError
from image2point.networks.timm_import import load_timm


class WholeMap(nn.Module):
    """The end of VGG: a kernel as large as the feature map."""

    def __init__(self) -> None:
        super().__init__()
        load_timm()
        from timm.models.vgg import ConvMlp

        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 1))
        self.pre_logits = ConvMlp(6, 12, 7, mlp_ratio=0.5)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pre_logits(self.features(x)).mean((2, 3)))


class Corners(nn.Module):
    """Linear upsampling that puts the corners of both maps on top of each other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 2, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.interpolate(self.down(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.fc((x * y).tanh().mean((2, 3)))


NETWORKS = {"WholeMap": (WholeMap, "pre_logits (ConvMlp)"), "Corners": (Corners, "interpolate")}


@pytest.mark.parametrize("name", NETWORKS)
def test_refusal_names_network_node_operation_and_where_it_works(name: str) -> None:
    make, where = NETWORKS[name]
    with pytest.raises(LiftError) as caught:
        i2p.lift(make(), stem="inflate", num_classes=None)
    message = str(caught.value)
    assert f"cannot lift {name}" in message and where in message
    assert "no meaning on sparse voxels" in message and message.endswith("It works with substrate='dense'.")


def test_what_works_nowhere_says_so() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PixelShuffle(2))
    for substrate in ("sparse", "dense"):
        with pytest.raises(LiftError, match=r"PixelShuffle.* works on no substrate, sparse or dense"):
            i2p.lift(network, substrate=substrate)


@pytest.mark.parametrize("name", NETWORKS)
def test_on_dense_grids(name: str) -> None:
    """All equivalences but the one with sparse voxels; sparse input becomes a grid."""
    torch.manual_seed(0)
    network = randomise(NETWORKS[name][0]())
    assert equivalence.depth_constant(network, substrate="dense")[0] < 1e-10
    for rule in ("repeat", "tied", "mean"):
        on_z, on_x, on_y = (
            equivalence.lifted(network, rule=rule, axis=axis, substrate="dense") for axis in ("z", "x", "y")
        )
        full = equivalence.occupied_against_plain(on_z)
        assert full is not None and full < 1e-10
        assert equivalence.worst(equivalence.turned(on_x), equivalence.turned(on_z)) < 1e-10
        assert equivalence.worst(equivalence.turned(on_y), equivalence.turned(on_z)) < 1e-10


@pytest.mark.parametrize("size", [12, 28, 40])
def test_a_kernel_over_the_whole_map(size: int) -> None:
    """Maps that are smaller than the kernel are stretched to it, and larger ones are read at every place it fits."""
    torch.manual_seed(0)
    network = randomise(WholeMap())
    net = equivalence.lifted(network, rule="mean", substrate="dense", depth_padding="replicate")
    assert set(net.state_dict()) == set(network.state_dict())
    x = image(size=size)
    with torch.no_grad():
        volume = x.unsqueeze(-1).expand(-1, -1, -1, -1, 8)
        assert relative(net(volume), network(x)) < 1e-10


def test_stem_of_blocks_of_pixels() -> None:
    """SpaceToDepth before the first convolution belongs to the stem, of other input channels and of the paper."""
    load_timm()
    from timm.layers import SpaceToDepth

    network = nn.Sequential(SpaceToDepth(4), nn.Conv2d(48, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    six = i2p.lift(network, stem="inflate", in_channels=6, num_classes=None)
    kernel, adapted = network[1].weight, six.get_parameter("1.weight")[..., 0]
    found = adapted.unflatten(1, (16, 6)).unflatten(2, (2, 3)).detach()
    expected = kernel.detach().unflatten(1, (16, 3)).unsqueeze(2).expand_as(found) / 2
    torch.testing.assert_close(found, expected)
    paper = i2p.lift(network, stem="paper", in_channels=5, num_classes=None)
    assert paper.get_parameter("1.weight").shape == (8, 5, 3, 3, 3)


def test_padding_before_something_else_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ZeroPad2d(1), nn.Sigmoid(), nn.Conv2d(4, 4, 3))
    with pytest.raises(LiftError, match="padding that is not followed by a convolution or pooling"):
        i2p.lift(network, stem="inflate", num_classes=None)
