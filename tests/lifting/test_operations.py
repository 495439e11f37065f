"""One small network per operation: the equivalences, every gradient, and the 2D names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equivalence
import pytest
import torch
from lifting_samples import clouds, relative, rows
from torch import Tensor, nn
from torch.nn import functional as F

import image2point as i2p
from image2point.networks.timm_import import load_timm
from image2point.voxels import VoxelTensor


class Block(nn.Module):
    """A stem, the operation on 8 channels, and a strided convolution, so that what follows sees its output."""

    def __init__(self, operation: nn.Module, width: int = 8, stem_stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stem_stride, 1)
        self.operation = operation
        self.after = nn.Conv2d(width, 4, 3, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.operation(self.stem(x)).tanh())
        return self.head(torch.sigmoid(self.pool(x)).flatten(1))


class Calls(nn.Module):
    """An operation that is a function; what it needs of parameters lies in `scale`."""

    def __init__(self, function: Callable[[Tensor, nn.Parameter], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * self.scale.view(1, -1, 1, 1), self.scale)


class HighResolution(nn.Module):
    """Two scales that exchange what they have."""

    def __init__(self, mode: str = "nearest", **named: Any) -> None:
        super().__init__()
        self.down, self.coarse = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.up = nn.Upsample(scale_factor=2.0, mode=mode, **named)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(torch.relu(self.coarse(self.down(x))))


class Decoder(nn.Module):
    """A coarse map, and a transposed convolution back to the sites of the fine one."""

    def __init__(self, size: Any, stride: int = 2, padding: Any = 0, **named: Any) -> None:
        super().__init__()
        self.down, self.coarse = nn.Conv2d(8, 8, 3, stride, 1), nn.Conv2d(8, 4, 3, 1, 1)
        self.up = nn.ConvTranspose2d(4, 8, size, stride, padding, **named)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(torch.relu(self.coarse(self.down(x))))


class ToSize(HighResolution):
    def forward(self, x: Tensor) -> Tensor:
        y = self.coarse(self.down(x))
        return x * F.interpolate(y.sigmoid(), size=(x.shape[-2], x.shape[-1]), mode="nearest")


class Pyramid(nn.Module):
    """Features of the whole image at every pixel, beside those of the pixel, as DeepLab has it; and U-Net's padding."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.both = nn.Conv2d(8, 4, 1), nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = F.interpolate(self.whole(F.adaptive_avg_pool2d(x, 1)), size=x.shape[-2:], mode="bilinear")
        missing = x.size()[2] - mean.size()[2], x.size(3) - mean.size(3)
        mean = F.pad(mean, [missing[1] // 2, missing[1] - missing[1] // 2, missing[0] // 2, 0])
        return self.both(torch.cat([mean, x], 1))


class GroupNormWithoutBias(nn.GroupNorm):
    """Differs from a class that has a rule in how it is set up, and in nothing else."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(groups, channels)
        self.bias = None


class Routed(nn.Module):
    """CondConv with the routing that EfficientNet gives it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__()
        self.routing = nn.Linear(8, 4)
        self.conv = layers()["layers"].CondConv2d(*arguments, **named)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.routing(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        return self.conv(x, weights)


def channel_shuffle(x: Tensor, _: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, 4, channels // 4, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def exchanged(x: Tensor, _: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    left, middle, right = torch.split(second * first, [1, 1, 2], 1)
    return torch.cat([x[:, 6:], right, middle - 0.5, left / 2, first], dim=1)[:, :8]


def channels_last(x: Tensor, scale: Tensor) -> Tensor:
    y = x.permute(0, 2, 3, 1)
    y = F.gelu(y) * scale + 1
    return x + y.permute(0, 3, 1, 2)


def normalised(x: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), (8,), scale, None, 1e-3).permute(0, 3, 1, 2)


def layers() -> Any:
    load_timm()
    from timm import layers
    from timm.layers import cbam, eca, global_context, grn, norm_act, split_attn, std_conv
    from timm.layers import selective_kernel as selective
    from timm.models import byobnet, convnext

    return {
        "layers": layers, "grn": grn, "norm_act": norm_act, "std": std_conv, "byobnet": byobnet, "convnext": convnext,
        "cbam": cbam, "eca": eca, "context": global_context, "split": split_attn,
        "selective": selective,
    }  # fmt: skip


def of(kind: str, name: str, *arguments: Any, **named: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(layers()[kind], name)(*arguments, **named)


OPERATIONS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": of("layers", "LayerNorm2d", 8),
    "group norm without bias": lambda: GroupNormWithoutBias(4, 8),
    "rms norm": of("layers", "RmsNorm2d", 8),
    "simple norm": of("layers", "SimpleNorm2d", 8),
    "group norm": lambda: nn.GroupNorm(4, 8),
    "group norm with activation": of("norm_act", "GroupNormAct", 8, num_groups=2),
    "evonorm": of("layers", "EvoNorm2dS0", 8, groups=4),
    "evonorm without activation": of("layers", "EvoNorm2dS0", 8, groups=4, apply_act=False),
    "evonorm that always divides": of("layers", "EvoNorm2dS0a", 8, groups=4, apply_act=False),
    "frn": of("layers", "FilterResponseNormTlu2d", 8),
    "response norm": of("grn", "GlobalResponseNorm", 8, channels_last=False),
    "prelu": lambda: nn.PReLU(8),
    "squeeze and excite": of("layers", "SEModule", 8, rd_channels=4),
    "squeeze and excite with norm": of("layers", "SEModule", 8, rd_channels=4, norm_layer=nn.BatchNorm2d),
    "effective squeeze and excite": of("layers", "EffectiveSEModule", 8),
    "eca": of("eca", "EcaModule", 8),
    "eca with mlp": of("eca", "EcaModule", 8, use_mlp=True),
    "circular eca": of("eca", "CecaModule", 8),
    "cbam": of("cbam", "CbamModule", 8),
    "light cbam": of("cbam", "LightCbamModule", 8),
    "global context": of("context", "GlobalContext", 8, rd_channels=4, fuse_add=True),
    "split attention": of("split", "SplitAttn", 8, radix=2, groups=2, norm_layer=nn.BatchNorm2d),
    "selective kernel": of("selective", "SelectiveKernel", 8),
    "standardised": of("std", "StdConv2d", 8, 8, 3),
    "scaled and standardised": of("std", "ScaledStdConv2dSame", 8, 8, 3, stride=2),
    "line": lambda: nn.Conv2d(8, 8, (1, 7), padding=(0, 3)),
    "not square": lambda: nn.Conv2d(8, 8, (5, 3), padding=(2, 1), groups=4),
    "even": lambda: nn.Conv2d(8, 8, 4, stride=2, padding=1),
    "patches": lambda: nn.Conv2d(8, 8, 4, stride=4),
    "blur": of("layers", "BlurPool2d", 8),
    "pool that counts padding": lambda: nn.AvgPool2d(3, 2, 1),
    "padding, then a pool": lambda: nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2)),
    "padding, then a convolution": lambda: nn.Sequential(nn.ConstantPad2d((1, 0, 1, 0), 0.0), nn.Conv2d(8, 8, 2)),
    "padding behind, then a pool": lambda: nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1, ceil_mode=True)
    ),
    "mixture of experts": lambda: Routed(8, 8, 3, 2, 1, groups=2, bias=True),
    "blocks into channels": lambda: nn.Sequential(layers()["layers"].SpaceToDepth(4), nn.Conv2d(128, 8, 1)),
    "convnext block": of("convnext", "ConvNeXtBlock", 8, kernel_size=3, ls_init_value=1.0),
    "convnext block with response norm": of("convnext", "ConvNeXtBlock", 8, kernel_size=3, use_grn=True),
    "repvgg block": of("byobnet", "RepVggBlock", 8, 8),
    "mobileone block": of("byobnet", "MobileOneBlock", 8, 8, num_conv_branches=2),
    "transposed": lambda: Decoder(2),
    "transposed that overlaps": lambda: Decoder(4, 2, 1, groups=2),
    "transposed with output padding": lambda: Decoder(3, 2, 1, output_padding=1, bias=False),
    "transposed by four": lambda: Decoder(5, 4, 1, output_padding=1),
    "transposed of stride 1": lambda: Decoder(3, 1, 1),
    "transposed and not square": lambda: Decoder((2, 4), 2, (0, 1)),
    "transposed and dilated": lambda: Decoder(3, 2, 3, dilation=3, output_padding=1, groups=4),
    "pyramid": Pyramid,
    "instance norm": lambda: nn.InstanceNorm2d(8, affine=True),
    "instance norm without parameters": lambda: nn.InstanceNorm2d(8),
    "channel shuffle": lambda: nn.ChannelShuffle(4),
    "upsampling": HighResolution,
    "upsampling to a size": ToSize,
    "linear upsampling": lambda: HighResolution("bilinear"),
    "shuffle": lambda: Calls(channel_shuffle),
    "split, chunk, cat": lambda: Calls(exchanged),
    "layer norm as a function": lambda: Calls(normalised),
    "channels last": lambda: Calls(channels_last),
    "factor per channel": lambda: Calls(lambda x, scale: x.mul(scale.reshape(1, -1, 1, 1)) ** 2 + scale[:, None, None]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str) -> None:
    torch.manual_seed(0)
    network = equivalence.randomise(Block(OPERATIONS[name]()))
    error, completed = equivalence.depth_constant(network)
    assert error < 1e-10 and completed == 0
    on_z, on_x = (equivalence.lifted(network, rule="repeat", axis=axis) for axis in "zx")
    full = equivalence.occupied_against_plain(on_z)
    bordered = name in ("blur", "pool that counts padding", "padding, then a pool", "padding behind, then a pool")
    assert full is None if bordered else full is not None and full < 1e-10
    assert equivalence.worst(equivalence.turned(on_x), equivalence.turned(on_z)) < 1e-10
    net = i2p.lift(network, rule="repeat", stem="inflate", downsample="exact", num_classes=None).double().eval()
    assert set(network.state_dict()) - set(net.state_dict()) <= {"operation.gain"}
    assert not set(net.state_dict()) - set(network.state_dict())
    counts = net.lifting.counts["source"]
    assert counts["used"] == counts["total"]
    compare_gradients(net, clouds())


def compare_gradients(net: nn.Module, x: VoxelTensor) -> None:
    """Class scores and every gradient, sparse against masked dense."""
    results = []
    for form in (x, x.dense()):
        net.zero_grad()
        features = (form.features if isinstance(form, VoxelTensor) else form.grid).clone().requires_grad_()
        scores = net(form.replace(features))
        (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum().backward()
        assert features.grad is not None
        gradients = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
        results.append((scores, rows(form.replace(features.grad)), gradients))
    (scores, gradient, parameters), (other_scores, other_gradient, other_parameters) = results
    assert relative(other_scores, scores) < 1e-10 and relative(other_gradient, gradient) < 1e-10
    assert set(parameters) == set(other_parameters) == {n for n, _ in net.named_parameters()}
    largest = max(float(g.abs().max()) for g in parameters.values())
    for name, value in parameters.items():
        error = float((other_parameters[name] - value).abs().max())
        assert error < 1e-10 * max(float(value.abs().max()), 1e-3 * largest), name


def test_squeeze_and_excite_belongs_to_the_body() -> None:
    """Only what follows the last pooling has the role of the output."""
    network = Block(layers()["layers"].SEModule(8, rd_channels=4, norm_layer=nn.BatchNorm2d))
    net = i2p.lift(network, stem="inflate")
    found = {r.name: (r.role, r.origin) for r in (*net.lifting.parameters, *net.lifting.buffers)}
    assert found["operation.fc1.weight"] == ("body", "copied") and found["operation.bn.weight"] == ("norm", "copied")
    assert found["head.weight"] == ("output", "fresh") and found["after.weight"] == ("body", "inflated")


def test_controls_reach_every_kind_of_layer() -> None:
    make = layers()["convnext"].ConvNeXtBlock
    network = equivalence.randomise(Block(make(8, kernel_size=3, ls_init_value=1.0, use_grn=True)))
    for control in ("random", "scratch"):
        net = i2p.lift(network, stem="inflate", control=control)
        for record in net.lifting.parameters:
            if record.name.startswith("operation") or control == "scratch":
                assert record.origin == "fresh", record.name
        state = net.state_dict()
        assert bool((state["operation.norm.weight"] == 1).all()) and bool(
            (state["operation.mlp.grn.weight"] == 0).all()
        )
        gamma = network.state_dict()["operation.gamma"]
        expected = gamma.mean() if control == "random" else torch.tensor(1.0)
        torch.testing.assert_close(state["operation.gamma"].double(), expected.double().expand(8))
    spread = float(network.state_dict()["operation.mlp.fc1.weight"].std())
    kept = i2p.lift(network, stem="inflate", control="random").state_dict()["operation.mlp.fc1.weight"]
    assert float(kept.std()) == pytest.approx(spread, rel=0.25)


def test_a_standardised_kernel_is_adapted_after_it_is_standardised() -> None:
    """So that the response to equal channels stays."""
    network = nn.Sequential(layers()["std"].ScaledStdConv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    equivalence.randomise(network)
    three, six = (
        i2p.lift(network, stem="inflate", in_channels=c, num_classes=None).get_parameter("0.weight") for c in (3, 6)
    )
    torch.testing.assert_close(six, torch.cat([three, three], 1) / 2)
    torch.testing.assert_close(three[..., 0].flatten(1).mean(1), torch.zeros(8).double(), atol=1e-6, rtol=0)
