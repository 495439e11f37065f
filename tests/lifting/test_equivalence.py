"""What a lifted network must equal: the 2D network where it can, and itself in every form of voxels."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from lifting_samples import DEPTH, clouds, image, randomise, relative, rows, small_resnet, timm_network
from torch import Tensor, nn

import image2point as i2p
from image2point.lifting import LiftedNetwork
from image2point.voxels import Sites, VoxelTensor

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "basic": small_resnet,
    "bottleneck": functools.partial(small_resnet, "Bottleneck"),
    "grouped": functools.partial(small_resnet, "Bottleneck", cardinality=4, base_width=16),
    "deep stem, average shortcut": functools.partial(small_resnet, stem_type="deep", stem_width=8, avg_down=True),
    "dilated": functools.partial(small_resnet, output_stride=8),
    "efficientnet-lite": functools.partial(timm_network, "tf_efficientnet_lite0"),
    "mobilenetv2": functools.partial(timm_network, "mobilenetv2_050"),
}
AXES = ["x", "y", "z"]


def lifted(network: nn.Module, axis: str = "z", rule: str = "mean", **options: object) -> LiftedNetwork:
    settings = {"stem": "inflate", "downsample": "exact", "num_classes": None, **options}
    return i2p.lift(network, axis=axis, rule=rule, **settings).eval()  # type: ignore[arg-type]


def stages_2d(network: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    """Outputs of the named modules of a 2D network, by hooks."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.update({name: output.clone()})

    hooks = [network.get_submodule(name).register_forward_hook(note(name)) for name in names]
    network(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_mean_on_depth_constant_input_is_the_2d_network(name: str) -> None:
    """Stage maps repeat the 2D ones along depth, and class scores are the same."""
    network, axis = NETWORKS[name](), AXES[len(name) % 3]
    net, x = lifted(network, axis, depth_padding="replicate"), image()
    with torch.no_grad():
        volume = x.unsqueeze(DEPTH[axis]).repeat_interleave(8, DEPTH[axis])
        assert relative(net(volume), network(x)) < 1e-10
        maps = net.forward_features(volume)
        expected = stages_2d(network, list(maps), x)
    assert maps
    for stage, grid in maps.items():
        assert isinstance(grid, Tensor)
        assert relative(grid, expected[stage].unsqueeze(DEPTH[axis]).expand_as(grid)) < 1e-10, stage


@pytest.mark.parametrize("name", NETWORKS)
def test_center_slices_are_the_2d_network_on_their_slice(name: str) -> None:
    """Slice d of a stage of total stride S is the 2D stage on input slice S·d."""
    network, axis = NETWORKS[name](), AXES[(len(name) + 1) % 3]
    net = lifted(network, axis, rule="center")
    draw = torch.Generator().manual_seed(5)
    volume = torch.randn(1, 3, 32, 32, 8, generator=draw, dtype=torch.float64).movedim(4, DEPTH[axis])
    with torch.no_grad():
        maps = net.forward_features(volume)
        for slice_ in range(8):
            expected = stages_2d(network, list(maps), volume.select(DEPTH[axis], slice_))
            for stage, grid in maps.items():
                assert isinstance(grid, Tensor)
                stride = 8 // grid.shape[DEPTH[axis]] if grid.shape[DEPTH[axis]] > 1 else 32
                if slice_ % stride == 0:
                    found = grid.select(DEPTH[axis], slice_ // stride)
                    assert relative(found, expected[stage]) < 1e-10, (stage, slice_)


@pytest.mark.parametrize("axis", AXES)
def test_kernel_rows_and_columns_lie_on_the_other_axes_in_order(axis: str) -> None:
    """A network that tells rows from columns gives the same scores when the cloud is turned with the depth axis."""
    network = small_resnet()
    on_z, on_axis = lifted(network, "z", "repeat"), lifted(network, axis, "repeat")
    x = clouds()
    order = [a for a in (0, 1, 2) if a != AXES.index(axis)]
    order.insert(AXES.index(axis), 2)  # where each new axis comes from
    source = [0, 0, 0]
    first, second = (a for a in (0, 1, 2) if a != AXES.index(axis))
    source[first], source[second], source[AXES.index(axis)] = 0, 1, 2
    turned = x.coordinates[:, [0, *(1 + s for s in source)]].contiguous()
    keys = [tuple(row) for row in turned.tolist()]
    permutation = sorted(range(len(keys)), key=keys.__getitem__)
    moved = VoxelTensor(x.features[permutation], Sites.of(turned[permutation], x.batch_size))
    with torch.no_grad():
        assert relative(on_axis(moved), on_z(x)) < 1e-10


def test_fresh_stem_turns_with_the_cloud() -> None:
    """The paper's fresh stem has no preferred axis of its own: turned by hand it turns the network."""
    network = small_resnet()
    on_z = lifted(network, "z", "repeat", stem="paper", downsample="auto").double()
    on_x = lifted(network, "x", "repeat", stem="paper", downsample="auto").double()
    stem = dict(on_x.named_parameters())["conv1.weight"]
    stem.data = dict(on_z.named_parameters())["conv1.weight"].detach().permute(0, 1, 4, 2, 3).contiguous()
    grid = clouds().dense()
    turned = type(grid)(grid.grid.permute(0, 1, 4, 2, 3).contiguous(), grid.mask.permute(0, 1, 4, 2, 3).contiguous())
    with torch.no_grad():
        assert relative(on_x(turned.sparse()), on_z(grid.sparse())) < 1e-10


@pytest.mark.parametrize("options", [{"stem": "paper", "downsample": "paper"}, {}, {"rule": "center"}], ids=str)
@pytest.mark.parametrize("name", ["bottleneck", "deep stem, average shortcut", "efficientnet-lite"])
def test_sparse_equals_masked_dense(name: str, options: dict[str, str]) -> None:
    """Class scores, stage maps and every gradient.

    Norms in training mode too, where the last stage has more than a handful of voxels: the variance of a few is so
    small now and then that dividing by it makes the rounding visible.
    """
    if name.startswith("deep") and options.get("stem") == "paper":
        options = {**options, "stem": "inflate"}
    net = lifted(NETWORKS[name](), "y", **{"rule": "repeat", **options}).double()
    net.train(name == "bottleneck" and options.get("stem") == "paper")
    x = clouds()
    results = []
    for form in (x, x.dense()):
        net.zero_grad()
        features = (form.features if isinstance(form, VoxelTensor) else form.grid).clone().requires_grad_()
        maps = net.forward_features(form.replace(features))
        total = sum((rows(m).tanh() * _ramp(rows(m))).sum() for m in maps.values())
        total = total + (net(form.replace(features)).tanh() * 3).sum()
        assert isinstance(total, Tensor)
        total.backward()
        gradient = features.grad
        assert gradient is not None
        if not isinstance(form, VoxelTensor):
            gradient = form.replace(gradient).rows
        parameters = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
        results.append(({n: rows(m) for n, m in maps.items()}, gradient, parameters))
    (expected, gradient, parameters), (found, other_gradient, other_parameters) = results
    assert list(expected) == list(found)
    for stage in expected:
        assert relative(found[stage], expected[stage]) < 1e-10, stage
    assert relative(other_gradient, gradient) < 1e-10
    largest = max(float(g.abs().max()) for g in parameters.values())
    for parameter, value in parameters.items():
        error = float((other_parameters[parameter] - value).abs().max())
        assert error < 1e-10 * max(float(value.abs().max()), 1e-3 * largest), parameter


def test_sparse_equals_unmasked_dense_on_a_full_grid() -> None:
    net = lifted(small_resnet("Bottleneck"), rule="repeat", stem="paper", downsample="paper").double()
    grid = torch.randn(2, 3, 9, 8, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mask = torch.ones(2, 1, 9, 8, 7, dtype=torch.bool)
    sparse = i2p.DenseVoxels(grid, mask).sparse()
    for mode in (True, False):
        net.train(mode)
        features = grid.clone().requires_grad_()
        scores = net(features)
        (expected,) = torch.autograd.grad(scores.tanh().sum(), features)
        on_sites = sparse.features.clone().requires_grad_()
        found = net(sparse.replace(on_sites))
        (gradient,) = torch.autograd.grad(found.tanh().sum(), on_sites)
        assert relative(found, scores) < 1e-10
        assert relative(gradient, rows(expected)) < 1e-10


def test_thick_as_one_voxel_is_the_submanifold_2d_network() -> None:
    """A flat cloud under `repeat` is the 2D network on its image, with empty pixels masked after every layer."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.BatchNorm2d(8),
    )  # fmt: skip
    randomise(network)
    net = lifted(network, rule="repeat").double()
    draw = torch.Generator().manual_seed(4)
    mask = torch.rand(2, 1, 12, 10, generator=draw) < 0.3
    mask[:, :, -1, -1] = True
    x = torch.where(mask, torch.randn(2, 3, 12, 10, generator=draw, dtype=torch.float64), 0)
    found = net.forward_features(i2p.DenseVoxels(x.unsqueeze(-1), mask.unsqueeze(-1)).sparse())
    with torch.no_grad():
        for name, layer in network.named_children():
            x = layer(x)
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                mask = torch.nn.functional.max_pool2d(mask.double(), 2, ceil_mode=True) > 0
            x = torch.where(mask, x, 0)
            expected = x.permute(0, 2, 3, 1)[mask[:, 0]]
            assert relative(rows(found[name]), expected) < 1e-10, name


def _ramp(like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, like.numel(), dtype=like.dtype).view_as(like)
