"""Convolution, norm, sum and activation as one operation: the values and gradients of the modules one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from voxel_samples import random_voxels, relative

from image2point.voxels import BatchNorm, Pointwise, Sites, TiedConv, VoxelConv, VoxelError, VoxelTensor, relu
from image2point.voxels.block import convolve_norm_activate
from image2point.voxels.conv import fused
from image2point.voxels.conv.epilogue import Epilogue, finish
from image2point.voxels.conv.fused import convolve_and_finish

CONVS: dict[str, Callable[[], VoxelConv]] = {
    "inflated": lambda: VoxelConv(6, 10, (3, 3, 3), 1, (1, 1, 1)),
    "strided, with bias": lambda: VoxelConv(6, 10, (3, 3, 3), 2, (1, 1, 1), bias=True),
    "tied": lambda: TiedConv(6, 10, (3, 3, 3), 1, (1, 1, 1)),
    "pointwise": lambda: VoxelConv(6, 10, (1, 1, 1)),
    "depthwise": lambda: VoxelConv(6, 6, (3, 3, 3), 1, (1, 1, 1), groups=6),
    "groups": lambda: VoxelConv(6, 10, (3, 3, 3), 1, (1, 1, 1), groups=2),
}
FUSED = VoxelConv.finished


class Block:
    """A frozen convolution and norm with statistics of some data, the activation, and voxels to run them on."""

    def __init__(self, kind: str, activation: nn.Module | None, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        conv = CONVS[kind]()
        if kind == "tied":
            conv.weight = nn.Parameter(torch.randn(10, 6, 3, 3) / 4)
        if kind == "inflated":
            conv.weight.data = conv.weight.data[..., :1].repeat(1, 1, 1, 1, 3)
        if conv.bias is not None:
            nn.init.normal_(conv.bias)
        self.conv = conv.to(dtype).requires_grad_(False)
        width = len(conv.weight)
        self.norm = BatchNorm(width).to(dtype).requires_grad_(False).eval()
        for tensor in (self.norm.running_mean, self.norm.weight, self.norm.bias):
            nn.init.normal_(tensor)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        self.activation = None if activation is None else Pointwise(activation)
        x = random_voxels(6, clouds=2, points=60, edge=0.2)
        self.x = VoxelTensor(x.features.to(dtype).requires_grad_(), x.sites)
        sites = x.sites.coarsen(conv.window.stride)
        self.residual = VoxelTensor(torch.randn(len(sites), width, dtype=dtype).requires_grad_(), sites)

    def together(self, residual: bool) -> Tensor:
        args = self.conv, self.norm, self.activation, self.x, self.residual if residual else None
        return convolve_norm_activate(*args).features

    def one_by_one(self, residual: bool) -> Tensor:
        y = self.norm(self.conv(self.x)).features
        y = y + self.residual.features if residual else y
        return y if self.activation is None else self.activation.module(y)

    def leaves(self, residual: bool) -> list[Tensor]:
        return [self.x.features, self.residual.features] if residual else [self.x.features]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Epilogue]:
    """The steps of every convolution that ran together with what follows it."""
    made: list[Epilogue] = []

    def finished(conv: VoxelConv, x: VoxelTensor, steps: Epilogue) -> VoxelTensor:
        made.append(steps)
        return FUSED(conv, x, steps)

    monkeypatch.setattr(VoxelConv, "finished", finished)
    return made


@pytest.fixture(params=["compiled", "torch"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(relu, "library", lambda: None)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6()], ids=str)
@pytest.mark.parametrize("kind", CONVS)
def test_values_and_gradients(kind: str, activation: nn.Module | None, residual: bool, calls: list) -> None:
    block = Block(kind, activation)
    found, expected = block.together(residual), block.one_by_one(residual)
    assert len(calls) == 1
    assert relative(found, expected) < 1e-12
    gradient = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(y, block.leaves(residual), gradient) for y in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert relative(one, other) < 1e-12


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(), nn.Hardswish()], ids=str)
def test_without_gradient_other_activations_too(activation: nn.Module, dtype: torch.dtype, calls: list) -> None:
    block = Block("inflated", activation, dtype)
    with torch.no_grad():
        assert relative(block.together(True), block.one_by_one(True)) < (1e-6 if dtype == torch.float32 else 2e-2)
    assert len(calls) == 1
    if not isinstance(activation, nn.ReLU):  # its gradient needs more than bits
        block.together(True).sum().backward()
        assert len(calls) == 1


@pytest.mark.parametrize("kind", ["pointwise", "strided, with bias"])
def test_the_gradient_can_be_differentiated_again(kind: str) -> None:
    block = Block(kind, nn.ReLU())
    x, sites = block.x.features.detach()[:4].requires_grad_(), Sites.of(block.x.coordinates[:4].clone(), 2)

    def function(features: Tensor) -> Tensor:
        y = convolve_norm_activate(block.conv, block.norm, block.activation, VoxelTensor(features, sites))
        return y.features.square()

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_bits_are_all_that_is_kept_of_the_voxels() -> None:
    block, sizes = Block("inflated", nn.ReLU()), []
    rows = block.residual.features
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        block.together(True)
    weight = block.conv.weight[..., :1]
    assert sum(sizes) <= weight.nbytes + 8 * rows.shape[1] + rows.numel() // 8 + 1


def test_no_bits_are_made_where_no_gradient_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(fused, "finish", lambda y, steps, keep: asked.append(keep) or finish(y, steps, keep))
    block = Block("pointwise", nn.ReLU())
    block.conv.requires_grad_(True)
    with torch.no_grad():
        block.together(False)
    block.conv.requires_grad_(False)
    block.together(False)
    assert asked == [False, True]


@pytest.mark.parametrize(("channels", "rows"), [(1, 1), (3, 5), (5, 2000), (300, 100), (5000, 9), (4, 0)])
def test_bits_of_rows_of_any_length(channels: int, rows: int) -> None:
    """Those that fill no bytes, and more than a thread takes at once."""
    y, residual = torch.randn(2, rows, channels, dtype=torch.float64)
    scale, shift = torch.randn(2, channels, dtype=torch.float64)
    expected = nn.functional.relu6(3 * (y * scale + shift + residual))
    found, mask = finish(y.clone(), Epilogue(3 * scale, 3 * shift, 3 * residual, "relu6"), keep=True)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert mask is not None and torch.equal(mask, relu.rising(expected, 6.0))


def test_what_moves_runs_one_by_one(calls: list) -> None:
    block = Block("inflated", nn.ReLU())
    for module in (block.conv, block.norm):
        module.requires_grad_(True)
        block.together(False).sum().backward()
        assert all(p.grad is not None for p in module.parameters())
        module.requires_grad_(False)
    block.norm.train()
    before = block.norm.running_mean.clone()
    block.together(False)
    assert not torch.equal(block.norm.running_mean, before)
    block.norm.eval()
    assert not calls
    seen: list[VoxelTensor] = []
    hook = block.norm.register_forward_hook(lambda module, given, result: seen.append(result))
    block.together(False)
    assert len(seen) == 1 and not calls
    hook.remove()
    block.together(False)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda norm: norm.running_mean.add_(1),
        lambda norm: norm.running_var.mul_(2),
        lambda norm: norm.load_state_dict({**norm.state_dict(), "bias": torch.ones(10)}),
        lambda norm: norm.float().double(),
        lambda norm: norm.train()(random_voxels(10)) and norm.eval(),
    ],
)
def test_a_change_of_the_norm_is_noticed(change: Callable[[BatchNorm], object]) -> None:
    block = Block("pointwise", nn.ReLU())
    norm, x = block.norm, block.x.features
    block.together(False)
    change(norm)
    linear = x @ block.conv.weight.flatten(1).T
    parts = norm.running_mean, norm.running_var, norm.weight, norm.bias
    expected = nn.functional.batch_norm(linear, *parts, eps=norm.eps).relu()
    assert relative(block.together(False), expected) < 1e-12


def test_modules_in_the_place_of_others_are_called() -> None:
    """As adapters, quantisers and offloaders put them there."""

    class Doubled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: VoxelTensor) -> VoxelTensor:
            y = self.inner(x)
            return y.replace(2 * y.features)

    block = Block("inflated", nn.ReLU())
    plain = block.conv, block.norm, block.activation
    for place in range(3):
        parts: list = list(plain)
        parts[place] = Doubled(parts[place])
        y = parts[1](parts[0](block.x))
        assert torch.equal(convolve_norm_activate(*parts, block.x).features, parts[2](y).features)
    identity = convolve_norm_activate(block.conv, nn.Identity(), nn.Identity(), block.x)
    assert torch.equal(identity.features, block.conv(block.x).features)
    block.norm.forward = lambda x: x
    assert torch.equal(block.together(False), block.conv(block.x).features.relu())


def test_hooks_on_all_modules_see_each(calls: list) -> None:
    block, seen = Block("inflated", nn.ReLU()), []
    hook = nn.modules.module.register_module_forward_hook(lambda module, given, y: seen.append(module))
    try:
        block.together(False)
    finally:
        hook.remove()
    assert {block.conv, block.norm, block.activation} <= set(seen) and not calls


def test_statistics_may_take_gradients(calls: list) -> None:
    """As when a norm is adapted to test data."""
    block = Block("inflated", nn.ReLU())
    block.norm.running_mean.requires_grad_()
    (gradient,) = torch.autograd.grad(block.together(False).sum(), block.norm.running_mean)
    assert gradient.any() and not calls


def test_a_sum_may_repeat_channels(calls: list) -> None:
    block = Block("inflated", nn.ReLU())
    narrow = block.residual.replace(block.residual.features.detach()[:, :1])
    y = convolve_norm_activate(block.conv, block.norm, block.activation, block.x, narrow).features
    assert relative(y, (block.norm(block.conv(block.x)).features + narrow.features).relu()) < 1e-12
    assert not calls


def test_scale_and_shift_may_lie_anyhow() -> None:
    block = Block("pointwise", None)
    scale, shift = torch.randn(2, 10, 2, dtype=torch.float64)[..., 0]
    y = convolve_and_finish(block.x.features, block.conv.weight, None, Epilogue(scale, shift))
    assert relative(y, block.conv(block.x).features * scale + shift) < 1e-12


def test_other_voxels_cannot_be_added() -> None:
    block = Block("inflated", nn.ReLU())
    block.residual = VoxelTensor(torch.randn(3, 10), Sites.of(block.x.coordinates[:3].clone(), 2))
    with pytest.raises(VoxelError, match="different sites"):
        block.together(True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "tanh"}, "activation"),
        ({"activation": "silu"}, "no gradient here"),
        ({"residual": torch.zeros(2, 2)}, "residual"),
        ({"scale": torch.ones(10, dtype=torch.float64, requires_grad=True)}, "constants"),
        ({"shift": None}, "a scale and a shift"),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(change: dict, message: str) -> None:
    block = Block("pointwise", None)
    steps = {"scale": torch.ones(10).double(), "shift": torch.ones(10).double(), **change}
    with pytest.raises(VoxelError, match=message):
        convolve_and_finish(block.x.features, block.conv.weight, None, Epilogue(**steps))


def test_gradients_after_inference_mode() -> None:
    """What is computed once and kept in inference mode must do where gradients are taken."""
    block = Block("inflated", nn.ReLU(), torch.float32)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            with torch.inference_mode():
                block.together(False)
                block.one_by_one(False)
            for run in (block.together, block.one_by_one):
                (gradient,) = torch.autograd.grad(run(False).float().sum(), block.x.features)
                assert gradient.isfinite().all()
