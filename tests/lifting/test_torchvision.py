"""torchvision's ConvNets against the 2D network; and transformers, refused as what they are."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import equivalence
import pytest
import torch
from torch import Tensor, nn

import image2point as i2p
from image2point.lifting import LiftError
from image2point.networks.timm_import import load_timm


def torchvision() -> ModuleType:
    """Imported as timm imports it, which a CPU-only torch needs help with."""
    load_timm()
    import torchvision

    return torchvision


def network(name: str, **named: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return equivalence.randomise(torchvision().models.get_model(name, weights=None, **named))


def thin_classifier(net: nn.Module) -> nn.Module:
    """VGG and AlexNet with few features in their classifiers, which have most of their parameters."""
    layers, width = list(net.classifier), 6  # type: ignore[arg-type]
    linear = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    for i in linear:
        inputs = layers[i].in_features if i == linear[0] else width
        layers[i] = nn.Linear(inputs, width, dtype=torch.float64)
    net.classifier = nn.Sequential(*layers)
    return net


SPARSE: dict[str, dict[str, Any]] = {
    "convnext_tiny": {"block_setting": None},
    "efficientnet_b0": {},
    "mobilenet_v3_small": {},
    "regnet_y_400mf": {},
    "shufflenet_v2_x0_5": {},
    "squeezenet1_1": {},
    "mnasnet0_5": {},
    "resnet18": {},
    "googlenet": {"init_weights": False},
}
SLOW: dict[str, dict[str, Any]] = {
    "resnet50": {},
    "densenet121": {},
    "mobilenet_v2": {},
    "mobilenet_v3_large": {},
    "inception_v3": {"init_weights": False},
    "efficientnet_v2_s": {},
}


class Map(nn.Module):
    """The scores of the pixels, which torchvision's networks for segmentation give in a dictionary."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)["out"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_segmentation(name: str) -> None:
    compare(Map(network(name, weights_backbone=None)))


def small_convnext() -> nn.Module:
    """ConvNeXt with one block per stage."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = [8, 16, 24, 32]
    blocks = [CNBlockConfig(a, b, 1) for a, b in zip(widths, [*widths[1:], None], strict=True)]
    return equivalence.randomise(ConvNeXt(blocks, stochastic_depth_prob=0.1))


def compare(net: nn.Module) -> None:
    error, _ = equivalence.depth_constant(net)
    assert error < 1e-10
    lifted = equivalence.lifted(net, rule="repeat")
    assert equivalence.sparse_against_masked(lifted) < 1e-10
    assert not [r.name for r in lifted.lifting.sources if r.fate != "used" and not r.name.startswith(("aux", "Aux"))]


@pytest.mark.parametrize("name", [name for name in SPARSE if name != "convnext_tiny"])
def test_equals_the_2d_network(name: str) -> None:
    compare(network(name, **SPARSE[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", *SLOW])
def test_large_ones_equal_the_2d_network(name: str) -> None:
    compare(network(name, **SLOW.get(name, {})))


def test_convnext() -> None:
    torchvision()
    net = small_convnext()
    compare(net)
    lifted = i2p.lift(net, num_classes=5)
    role = {record.name: record.role for record in lifted.lifting.parameters}
    assert role["features.0.1.weight"] == "input" and role["features.1.0.block.2.weight"] == "norm"
    assert role["features.1.0.layer_scale"] == "body" and role["classifier.2.weight"] == "output"
    drops = [m for m in lifted.modules() if type(m).__name__ == "DropPath"]
    assert sorted(drop.probability for drop in drops) == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])


def test_stochastic_depth_is_one_draw_per_cloud() -> None:
    module = torchvision().ops.StochasticDepth(0.4, "row")
    net = equivalence.lifted(nn.Sequential(nn.Conv2d(3, 4, 1), module))
    drop: Any = net.get_submodule("1")
    assert drop.probability == 0.4 and drop.scale_by_keep
    with pytest.raises(LiftError, match="stochastic depth of a whole batch"):
        equivalence.lifted(nn.Sequential(nn.Conv2d(3, 4, 1), torchvision().ops.StochasticDepth(0.4, "batch")))


@pytest.mark.parametrize("name", ["vgg11_bn", "alexnet"])
def test_a_classifier_over_a_whole_map(name: str) -> None:
    """On grids: a linear layer on 7×7 cells becomes one on 7×7×7. Sparse voxels have no extent, and are refused."""
    net = thin_classifier(network(name))
    with pytest.raises(LiftError, match=r"adaptive pooling to .* has no meaning on sparse voxels.*substrate='dense'"):
        equivalence.lifted(net)
    assert equivalence.depth_constant(net, substrate="dense")[0] < 1e-10
    lifted = equivalence.lifted(net, rule="repeat", substrate="dense")
    full = equivalence.occupied_against_plain(lifted)
    assert full is not None and full < 1e-10
    first = 0 if name == "vgg11_bn" else 1
    record = {r.name: r for r in lifted.lifting.parameters}[f"classifier.{first}.weight"]
    cells = 7 if name == "vgg11_bn" else 6
    assert record.shape == (6, 512 if cells == 7 else 256, cells, cells, cells) and record.origin == "inflated"
    assert record.source_shape == (6, record.shape[1] * cells**2)


def flat_classifier(cells: Any, flatten: nn.Module | None = None, width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(cells), flatten or nn.Flatten(),
        nn.Linear(4 * cells[0] * cells[1], width), nn.ReLU(), nn.Linear(width, 5),
    )  # fmt: skip


@pytest.mark.parametrize("rule", ["mean", "tied", "center"])
def test_cells_of_the_map_keep_their_place(rule: str) -> None:
    """Maps that are not square, on masked cells, under every rule."""
    net = equivalence.randomise(flat_classifier((3, 2)))
    assert equivalence.depth_constant(net, substrate="dense")[0] < 1e-10
    on_z, on_x = (equivalence.lifted(net, rule=rule, axis=axis, substrate="dense") for axis in "zx")
    assert equivalence.worst(equivalence.turned(on_x), equivalence.turned(on_z)) < 1e-10
    assert tuple(on_z.get_parameter("3.weight").shape) == ((4, 4, 3, 2) if rule == "tied" else (4, 4, 3, 2, 2))
    assert on_z.roles["3"] == "body" and on_z.roles["5"] == "output"


def test_a_view_flattens_too_and_a_fresh_classifier_does_not_read_a_map() -> None:
    class View(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(x.size(0), -1)

    net = equivalence.randomise(flat_classifier((2, 2), View()))
    assert equivalence.depth_constant(net, substrate="dense")[0] < 1e-10
    with pytest.raises(LiftError, match="fresh classifier that reads a whole feature map"):
        i2p.lift(net[:4], substrate="dense")
    unknown = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten())
    with pytest.raises(LiftError, match="whose size a cloud does not fix"):
        i2p.lift(nn.Sequential(*unknown, nn.Linear(16, 5)), substrate="dense")


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, batch_first=True), 1)


class Patches(nn.Module):
    """Convolution, and torch's own transformer on its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.encoder = nn.Conv2d(3, 16, 4, 4), encoder()

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.stem(x).flatten(2).transpose(1, 2)).mean(1)


class Mixer(nn.Module):
    """Attention whose queries, keys and values have no names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.project(x).split(16, dim=-1)
        return nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])


class Cells(nn.Module):
    """Attention between the cells of a map, each step of which has a rule in other places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.q, self.k, self.v = (nn.Conv2d(16, 16, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights = (self.q(x).flatten(2).transpose(1, 2) @ self.k(x).flatten(2)).softmax(2)
        return (self.v(x).flatten(2) @ weights).mean(2)


class Tokens(Patches):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Mixer()


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: "vit_tiny_patch16_224", r"module blocks\.0\.attn \(Attention\)"),
        (lambda: "swin_tiny_patch4_window7_224", r"module layers\.0\.blocks\.0\.attn \(WindowAttention\)"),
        (lambda: "mobilevit_xxs", r"module stages\.2\.1\.transformer\.0\.attn \(Attention\)"),  # fx cannot trace it
        (
            lambda: torchvision().models.VisionTransformer(32, 16, 1, 2, 16, 32),
            r"module encoder\.layers\.encoder_layer_0\.self_attention \(MultiheadAttention\)",
        ),
        (lambda: torchvision().models.swin_t(), r"module features\.1\.0\.attn \(ShiftedWindowAttention\)"),
        (Cells, "Cells. A cloud has"),
        (Tokens, r"module encoder \(Mixer\)"),
        (Patches, r"module encoder\.layers\.0\.self_attn \(MultiheadAttention\)"),
        (encoder, r"module layers\.0\.self_attn \(MultiheadAttention\)"),
    ],
)
def test_a_transformer_is_refused_as_one(make: Any, where: str) -> None:
    """Before its weights are looked for: of the names none are given."""
    with pytest.raises(LiftError, match=f"not a ConvNet: it has attention over a fixed number of tokens, in {where}"):
        i2p.lift(make())


def test_attention_that_is_not_reached_refuses_nothing() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.attention = nn.Conv2d(3, 4, 3, padding=1), nn.MultiheadAttention(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    assert equivalence.depth_constant(equivalence.randomise(Unused()))[0] < 1e-10
