"""Statistics of activations: streaming, in every form, over the sites that count; and the distance between samples."""

from __future__ import annotations

import math

import pytest
import torch
from lifting_samples import clouds, image, small_resnet
from torch import Tensor, nn

import image2point as i2p
from image2point.lifting.activations import (
    SAMPLE,
    MaskedImages,
    activation_statistics,
    evaluating,
    layer_outputs,
    wasserstein,
)
from image2point.voxels import Sites, VoxelTensor


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The kernels of a small ResNet are drawn from torch's own generator."""
    torch.manual_seed(0)


def parts(x: VoxelTensor) -> list[VoxelTensor]:
    """Each cloud of a batch as a batch of its own."""
    pieces = []
    for number in range(x.batch_size):
        rows = x.sites.batch == number
        coordinates = x.coordinates[rows].clone()
        coordinates[:, 0] = 0
        pieces.append(VoxelTensor(x.features[rows], Sites.of(coordinates)))
    return pieces


@pytest.mark.parametrize("form", ["sparse", "masked", "grid"])
def test_batch_by_batch_is_all_at_once(form: str) -> None:
    net = i2p.lift(small_resnet(), stem="inflate", num_classes=5).double()
    x = clouds()
    kept: dict[str, Tensor] = {}

    def keep(module: nn.Module, inputs: object, output: VoxelTensor | i2p.DenseVoxels | Tensor) -> None:
        if isinstance(output, Tensor):
            kept["rows"] = output.movedim(1, -1).flatten(0, -2)
        else:
            kept["rows"] = output.features if isinstance(output, VoxelTensor) else output.rows

    hook = net.get_submodule("layer2.0.conv2").register_forward_hook(keep)
    whole = {"sparse": x, "masked": x.dense(), "grid": x.dense().grid}[form]
    net.eval()(whole)
    hook.remove()
    batches = [part if form == "sparse" else part.dense() for part in parts(x)]
    found = activation_statistics(net, [grid[None] for grid in x.dense().grid] if form == "grid" else batches)
    layer, rows = found["layer2.0.conv2"], kept["rows"].detach()
    assert layer.sites == len(rows)
    assert torch.allclose(layer.mean, rows.mean(0), rtol=1e-10)
    assert torch.allclose(layer.variance, rows.var(0, correction=0), rtol=1e-10)
    assert layer.pooled_deviation == pytest.approx(float(rows.std(correction=0)))
    assert layer.pooled_mean == pytest.approx(float(rows.mean()))
    assert torch.allclose(layer.sample.sort().values, rows.flatten().sort().values)  # few elements: all are kept
    assert found["fc"].sites == 2 and len(found["fc"].mean) == 5


def test_names_are_those_of_the_2d_layers_and_activations_inside_them_count() -> None:
    """timm's EfficientNet has norms with an activation inside, which is a module of its own in 3D."""
    net = i2p.lift("test_efficientnet", weights="random", stem="inflate")
    outputs = layer_outputs(net)
    assert outputs["bn1"] == "bn1.act" and outputs["conv_stem"] == "conv_stem"
    assert set(outputs) <= {record.name.rpartition(".")[0] for record in net.lifting.parameters}
    found = activation_statistics(net, [clouds().to(torch.float32)])
    assert list(found) == list(outputs)
    assert float(found["bn1"].sample.min()) >= -0.3 and float(found["conv_stem"].sample.min()) < -0.3  # SiLU


def test_a_child_may_be_called_like_an_attribute_of_the_network() -> None:
    net = i2p.lift("test_efficientnet", weights="random")
    assert "classifier" in activation_statistics(net, [clouds().to(torch.float32)])


class Sites2d(nn.Module):
    """A convolution, and a norm and a linear layer with the channels last, on maps as high as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 2, 2), nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(x).permute(0, 2, 3, 1))).mean((1, 2))


def test_only_the_masked_pixels_of_images_count() -> None:
    network, x = Sites2d().double(), image(size=8)
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[0, 0, 3, 4] = mask[0, 0, 2, 5] = mask[1, 0, 7, 0] = True  # two of one cell, one of another
    found = activation_statistics(network, [MaskedImages(x, mask)])
    with torch.no_grad():
        conv = network.conv(x)
        norm = network.norm(conv.permute(0, 2, 3, 1))
        chosen = torch.stack([norm[0, 1, 2], norm[1, 3, 0]])
    assert (found["conv"].sites, found["norm"].sites, found["linear"].sites) == (2, 2, 2)
    assert torch.allclose(found["conv"].mean, (conv[0, :, 1, 2] + conv[1, :, 3, 0]) / 2)
    assert torch.allclose(found["norm"].mean, chosen.mean(0))
    assert torch.allclose(found["norm"].variance, chosen.var(0, correction=0))
    everything = activation_statistics(network, [x])
    assert everything["norm"].sites == 32 and torch.allclose(everything["norm"].mean, norm.flatten(0, 2).mean(0))


def test_the_sample_is_drawn_evenly_from_all_batches() -> None:
    """Three batches of 1, 2 and 3 parts, told apart by their values."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    nn.init.ones_(network[0].weight)  # type: ignore[arg-type]
    sides = (100, 141, 173)
    batches = [torch.full((1, 1, side, side), float(value)) for value, side in enumerate(sides)]
    found = activation_statistics(network, batches)["0"]
    total = sum(side**2 for side in sides)
    assert len(found.sample) == SAMPLE and found.sites == total
    for value, side in enumerate(sides):
        share = side**2 / total
        error = float((found.sample == value).double().mean()) - share
        assert abs(error) < 5 * math.sqrt(share * (1 - share) / SAMPLE)
    again = activation_statistics(network, batches)["0"]
    assert torch.equal(found.sample, again.sample)


def test_dead_channels_and_spread() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    with torch.no_grad():
        network[0].weight[1:3] = 0.0  # type: ignore[index]
        network[0].bias.copy_(torch.tensor([0.0, 0.0, 7.0, 0.0]))  # type: ignore[operator,union-attr]
    found = activation_statistics(network, [image().float()])["0"]
    assert found.dead == 0.5
    assert found.spread == pytest.approx(math.sqrt(float(found.variance.mean())))
    assert found.pooled_deviation > 3 > found.spread
    one = activation_statistics(network, [image(size=1, batch=1).float()])["0"]
    assert one.dead == 0.0  # a single site says nothing


def test_the_network_is_left_as_it_was_and_norms_may_follow_the_batch() -> None:
    net = i2p.lift(small_resnet(), num_classes=5).double().train()
    net.hold_in_eval(["bn1"])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    following = {"layer1.0.bn1"}
    found = activation_statistics(net, [clouds()], following)
    stored = activation_statistics(net, [clouds()])
    weight, bias = net.get_parameter("layer1.0.bn1.weight"), net.get_parameter("layer1.0.bn1.bias")
    assert torch.allclose(found["layer1.0.bn1"].mean, bias.detach())
    assert torch.allclose(found["layer1.0.bn1"].variance, weight.detach().square(), rtol=0.02)
    assert not torch.allclose(stored["layer1.0.bn1"].mean, bias.detach(), atol=0.1)
    assert modes == [module.training for module in net.modules()]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    with pytest.raises(RuntimeError), evaluating(net, following):
        net.get_buffer("layer1.0.bn1.running_mean").add_(1.0)
        raise RuntimeError
    assert torch.equal(net.state_dict()["layer1.0.bn1.running_mean"], before["layer1.0.bn1.running_mean"])


@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (7, 3), (40, 64), (1, 9)])
def test_wasserstein_is_exact(n: int, m: int) -> None:
    """Samples of one size: the mean distance in sorted order. Others: repeated to one size."""
    draw = torch.Generator().manual_seed(n * 100 + m)
    a, b = torch.randn(n, generator=draw), torch.randn(m, generator=draw) * 2 + 1
    b[0] = a[0]  # a tie
    size = math.lcm(n, m)
    expected = [x.double().sort().values.repeat_interleave(size // len(x)) for x in (a, b)]
    assert wasserstein(a, b) == pytest.approx(float((expected[0] - expected[1]).abs().mean()), abs=1e-14)
    assert wasserstein(a, a) == pytest.approx(0.0, abs=1e-15)


def test_wasserstein_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = torch.Generator().manual_seed(1)
    a, b = torch.randn(500, generator=draw).double(), torch.rand(333, generator=draw).double()
    assert wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(a.numpy(), b.numpy()), rel=1e-12)


def test_wasserstein_of_nothing_and_of_infinity_is_no_number() -> None:
    a = torch.ones(3)
    assert math.isnan(wasserstein(a, a[:0])) and math.isnan(wasserstein(a, a / 0))
