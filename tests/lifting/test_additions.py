"""What policies add to the layers of a lifted network: it starts unseen, trains alone, folds away, and is kept."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from lifting_samples import relative
from torch import Tensor, nn

import image2point as i2p
from image2point.config import from_values
from image2point.finetune import blocks_of, count_by_role, trained
from image2point.lifting import LiftedNetwork
from image2point.lifting.additions import added, depth, ssf
from image2point.lifting.kernels import inflate
from image2point.networks.timm_import import load_timm
from image2point.roles import read_policy
from image2point.voxels import DepthConv, TiedConv, VoxelConv

EVERY = (
    "io+bias", "io+depth", "io+ssf", "io+stats+depth+bias", "io+norm+ssf+depth", "layer:layer2.0+depth+ssf",
    "io+lora:2", "io+norm+lora:3+ssf", "layer:layer2.0+ssf+lora:2+depth+bias", "io+norm+depth:channels",
    "io+depth:channels+lora:2",
)  # fmt: skip


def clouds(seed: int = 0) -> i2p.VoxelTensor:
    draw = torch.Generator().manual_seed(seed)
    return i2p.voxelize([torch.rand(60, 3, generator=draw) for _ in range(3)], 0.12)


def network(arch: str = "test_resnet", **options: object) -> LiftedNetwork:
    """With norms that let every branch through: timm starts the last one of a residual block at zero."""
    made = load_timm().create_model(arch, **({"zero_init_last": False} if "resnet" in arch else {}))
    return i2p.lift(made, num_classes=4, **options)


def train(net: LiftedNetwork, x: i2p.VoxelTensor, steps: int = 2) -> None:
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net.train()(x), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    net.eval()


@pytest.mark.parametrize("policy", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_starts_where_the_network_was_trains_and_folds(policy: str, dtype: torch.dtype) -> None:
    net, x = network().to(dtype).eval(), clouds().to(dtype)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad():
        plain = net(x)
    names, blocks = list(net.state_dict()), net.block_names()
    counts = i2p.freeze(net, policy)
    with torch.no_grad():
        if "channels" in policy:  # summed in another order
            assert relative(net.eval()(x), plain) < (1e-12 if dtype == torch.float64 else 1e-5)
        else:
            assert torch.equal(net.eval()(x), plain)  # 1 · W, 1 · y + 0: the same bits
    at_first = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    train(net, x)
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, at_first[name]) != parameter.requires_grad, name
    assert counts.trainable == sum(trained(net).values())
    assert sum(c.total for c in count_by_role(net).values()) == counts.total
    assert {r.name: r.shape for r in net.lifting.parameters} == {n: tuple(p.shape) for n, p in net.named_parameters()}
    folded = net.fold()
    assert (
        not added(folded) and list(folded.state_dict()) == names and folded.block_names() == net.block_names() == blocks
    )
    assert {r.name: r.shape for r in folded.lifting.parameters} == {
        n: tuple(p.shape) for n, p in folded.named_parameters()
    }
    assert {n: t.shape for n, t in folded.state_dict().items()} == {n: t.shape for n, t in before.items()}
    assert all(type(m) is not DepthConv and not m._forward_hooks for m in folded.modules())
    with torch.no_grad():
        found = net(x)
        assert relative(found, plain) > 1e-3
        assert relative(folded(x), found) < (1e-12 if dtype == torch.float64 else 1e-6)
        assert added(net).keys() <= net.state_dict().keys() and torch.equal(net(x), found)  # it stays as it was


@pytest.mark.parametrize(
    ("rule", "values"), [("repeat", [1, 1, 1]), ("mean", [1 / 3] * 3), ("center", [0, 1, 0]), ("tied", [1, 1, 1])]
)
def test_the_depth_starts_at_the_rule(rule: str, values: list[float]) -> None:
    net, x = network(rule=rule).double().eval(), clouds().double()
    with torch.no_grad():
        before = net(x)
    kernels = {n: m.kernel().detach().clone() for n, m in net.named_modules() if isinstance(m, VoxelConv)}
    i2p.freeze(net, "io+depth")
    found = {name: layer for name, layer in net.named_modules() if isinstance(layer, DepthConv)}
    assert set(found) == {name for name, k in kernels.items() if k.shape[2:] == (3, 3, 3) and name.startswith("layer")}
    for name, layer in found.items():
        assert torch.allclose(layer.depth, torch.tensor(values, dtype=torch.float64)) and layer.weight.ndim == 4
        assert relative(layer.kernel(), kernels[name]) < 1e-15
    with torch.no_grad():
        assert relative(net.eval()(x), before) < 1e-12


def test_what_trains_by_policy() -> None:
    net = network("test_convnext")
    i2p.freeze(net, "io+bias")
    roles = {record.name: record.role for record in net.lifting.parameters}
    for name, parameter in net.named_parameters():
        new = roles[name] in ("input", "output")
        assert parameter.requires_grad == (new or (roles[name] == "norm" and name.endswith(".bias"))), name
    io = i2p.freeze(net, "io").trainable
    i2p.freeze(net, "io+ssf")
    scales = {name.rpartition(".")[0] for name in added(net)}
    # Of a block: the norm behind the depthwise convolution, which needs none, and both layers of the MLP.
    assert {n for n in scales if n.startswith("stages.0.blocks.0.")} == {
        f"stages.0.blocks.0.{leaf}" for leaf in ("norm", "mlp.fc1", "mlp.fc2")
    }
    assert trained(net)["ssf"] == sum(p.numel() for n, p in net.named_parameters() if ".ssf_" in n)
    assert i2p.freeze(net, "io").trainable == io  # what was added stays and rests
    assert i2p.freeze(net, "io+norm").trainable > io and "ssf" not in trained(net)
    assert i2p.freeze(net, "all").trainable == sum(p.numel() for p in net.parameters())


def test_scales_that_were_there_keep_their_values_when_the_depth_is_added() -> None:
    net, x = network("test_convnext").eval(), clouds()
    i2p.freeze(net, "io+ssf")
    train(net, x)
    with torch.no_grad():
        before = net(x)
        i2p.freeze(net, "io+depth+ssf")
        assert torch.equal(net.eval()(x), before)


def test_a_block_that_trains_gets_nothing() -> None:
    net = network()
    assert "layer2.0" in blocks_of(net)
    i2p.freeze(net, "layer:layer2.0+depth")
    assert added(net) and not any(name.startswith("layer2.0.") for name in added(net))
    assert all(p.requires_grad for n, p in net.named_parameters() if n.startswith("layer2.0."))
    assert not net.get_parameter("layer1.0.conv2.weight").requires_grad
    assert "layer2.0" in blocks_of(net)


def test_a_frozen_kernel_takes_no_gradient_and_frozen_stretches_still_run_as_one() -> None:
    net, x = network().eval(), clouds()
    i2p.freeze(net, "io+depth")
    net(x).sum().backward()
    layer = net.get_submodule("layer1.0.conv1")
    assert layer.weight.grad is None and layer.depth.grad.abs().min() > 0
    ours = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    for module in net.modules():
        module.register_forward_hook(lambda module, given, result: None) if isinstance(module, VoxelConv) else None
    net.zero_grad()
    net(x).sum().backward()  # one by one
    assert all(relative(net.get_parameter(name).grad, gradient) < 1e-4 for name, gradient in ours.items())


@pytest.mark.parametrize("policy", ["io+depth+ssf", "io+norm+depth", "layer:layer1.0+ssf"])
def test_a_segmenter_takes_policies_and_folds(policy: str) -> None:
    net, x = i2p.segmenter("test_resnet", 3, weights="random", stem="inflate1").double().eval(), clouds().double()
    with torch.no_grad():
        before = net(x).features
        i2p.freeze(net, policy)
        assert relative(net.eval()(x).features, before) < 1e-12
    assert not any(name.startswith("decoder") for name in added(net))
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01)
    net(x).features.square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        found = net(x).features
        assert relative(net.fold()(x).features, found) < 1e-12 and relative(found, before) > 1e-3


def test_copies_pickles_and_files_of_weights(tmp_path: Path) -> None:
    net, x = network().eval(), clouds()
    i2p.freeze(net, "io+depth+ssf")
    train(net, x)
    other = network().eval()
    i2p.freeze(other, "io+depth+ssf")
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        for same in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), other):
            assert torch.equal(same(x), net(x)) and torch.equal(same.fold()(x), net.fold()(x))


class Bare(nn.Module):
    """Every kind of layer that takes a scale and a shift, norms without parameters, and layers that take none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.affine_free, self.conv, self.group = (
            nn.BatchNorm2d(4, affine=False),
            nn.Conv2d(4, 4, 3, 1, 1, bias=False),
            nn.GroupNorm(2, 4, affine=False),
        )
        self.read_twice = nn.Conv2d(4, 4, 1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.group(self.conv(self.affine_free(x))).relu()
        y = self.read_twice(x)
        return self.head((self.norm(y) + y).mean((2, 3)))


def test_norms_without_parameters_and_convolutions_that_are_read_twice() -> None:
    net = i2p.lift(Bare(), num_classes=3).double().eval()
    i2p.freeze(net, "io+ssf")
    assert {name.rpartition(".")[0] for name in added(net)} == {"affine_free", "group", "read_twice", "norm"}
    draw = torch.Generator().manual_seed(0)
    for name in added(net):
        nn.init.normal_(net.get_parameter(name), generator=draw)
    x = clouds().double()
    with torch.no_grad():
        for each in (x, x.dense()):
            assert relative(net.fold()(each), net(each)) < 1e-12


# ------------------------------------------------------------------------------------------------- changes of low rank


@pytest.mark.parametrize("options", [
    {}, {"rule": "mean"}, {"rule": "center"}, {"rule": "tied"}, {"axis": "x", "variance": "1/K"},
    {"downsample": "paper", "rule": "center"}, {"control": "shuffled", "engine": "reference"},
], ids=str)  # fmt: skip
def test_a_change_is_lifted_by_the_rule(options: dict[str, str]) -> None:
    resnet = load_timm().models.resnet
    made = resnet.ResNet(resnet.BasicBlock, (1, 1, 1, 1), channels=(8, 8, 16, 16), zero_init_last=False)
    net = i2p.lift(made, num_classes=4, **options).double().eval()
    kernels = {n: m.kernel().detach().clone() for n, m in net.named_modules() if isinstance(m, VoxelConv)}
    i2p.freeze(net, "io+lora:2")
    draw, x = torch.Generator().manual_seed(1), clouds().double()
    for name in added(net):
        nn.init.normal_(net.get_parameter(name), std=0.1, generator=draw)
    convs = {n: m for n, m in net.named_modules() if isinstance(m, VoxelConv) and m.has_low_rank()}
    assert set(convs) == {name for name in kernels if name.startswith("layer")}
    for name, layer in convs.items():
        flat = (layer.lora_up @ layer.lora_down.flatten(1)).view(-1, *layer.lora_down.shape[1:])
        rule = "repeat" if options.get("rule") == "tied" else options.get("rule", "repeat")
        lifted = inflate(flat, rule, layer.axis)
        if lifted.shape[2:] == (1, 1, 1):  # the shortcut of the paper repeats one entry
            lifted = lifted.expand(-1, -1, *layer.window.kernel)
        assert relative(layer.kernel(), kernels[name] + lifted) < 1e-15, name
        tied = rule != "center" or layer.window.kernel == (2, 2, 2)
        assert bool(layer.structure().tied) == (tied and layer.window.taps > 1), name
    folded = net.fold()
    with torch.no_grad():
        for each in (x, x.dense()):
            assert relative(folded(each), net(each)) < 1e-12
    # The gradients of both parts, against those of a kernel that is made of them by torch.
    names = [name for name in added(net) if name.startswith("layer2.0.conv2.")]
    net(x).sum().backward()
    up, down = (net.get_parameter(name) for name in names)
    changed = net.fold()
    layer = changed.get_submodule("layer2.0.conv2")
    layer.weight.requires_grad_()
    changed(x).sum().backward()
    of = (up @ down.flatten(1)).view(-1, *down.shape[1:])
    rule = "repeat" if options.get("rule") == "tied" else options.get("rule", "repeat")
    if layer.weight.ndim == 5:
        of = inflate(of, rule, layer.axis)
    found = torch.autograd.grad((of * layer.weight.grad).sum(), (up, down))
    assert relative(up.grad, found[0]) < 1e-10 and relative(down.grad, found[1]) < 1e-10


def test_changes_of_networks_with_linear_layers_and_one_group_per_channel() -> None:
    net, x = network("test_convnext").double().eval(), clouds().double()
    i2p.freeze(net, "io+lora:100")
    sizes = {name.rpartition(".")[0]: net.get_parameter(name).shape[0] for name in added(net) if "down" in name}
    assert sizes["stages.0.blocks.0.conv_dw"] == 24  # one group per channel: at most the number of channels
    assert net.get_parameter("stages.0.blocks.0.conv_dw.lora_down").shape[1:] == (1, 7, 7)
    assert sizes["stages.0.blocks.0.mlp.fc1"] == 24 and trained(net)["lora"]
    train(net, x)
    with torch.no_grad():
        for each in (x, x.dense()):
            assert relative(net.fold()(each), net(each)) < 1e-12
    i2p.freeze(net := network("test_convnext").double().eval(), "io+ssf")
    i2p.freeze(net, "io+lora:2")  # what the scales scale
    draw = torch.Generator().manual_seed(1)
    for name in added(net):
        nn.init.normal_(net.get_parameter(name), generator=draw)
    with torch.no_grad():
        assert relative(net.fold()(x), net(x)) < 1e-12
    net = network("test_byobnet").double().eval()  # squeeze-and-excite
    i2p.freeze(net, "io+lora:2+ssf")
    train(net, x)
    with torch.no_grad():
        assert relative(net.fold()(x), net(x)) < 1e-12


def test_a_layer_whose_change_moves_is_never_run_as_a_constant() -> None:
    net, x = network().double().eval(), clouds().double()
    with torch.no_grad():
        net.get_parameter("layer1.0.conv1.weight")[:, :, 0] = 0  # a face of zeros, of which the change knows nothing
    i2p.freeze(net, "io+lora:2")
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        net(x)
        nn.init.normal_(net.get_parameter("layer1.0.conv1.lora_up"), generator=draw)
        assert relative(net(x), net.fold()(x)) < 1e-12  # nothing packed of the kernel before is used
    net(x).sum().backward()
    assert net.get_parameter("layer1.0.conv1.lora_up").grad.abs().max() > 0
    assert net.get_parameter("layer1.0.conv1.weight").grad is None


# ------------------------------------------------------------------------------------------------------------ adapters


@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_adapters_start_unseen_and_stay(arch: str) -> None:
    net, x = network(arch).eval(), clouds()
    names, blocks = net.layer_names(), net.block_names()
    with torch.no_grad():
        plain, maps = net(x), net.observe_maps(list(blocks))(x)
    i2p.freeze(net, "io+adapter:4")
    homes = {name.removesuffix(".adapter.down.weight") for name in added(net) if name.endswith("down.weight")}
    assert homes <= set(blocks) and len(homes) >= 4
    assert net.block_names() == blocks and set(names) <= set(net.layer_names())
    for home in homes:
        down = net.get_parameter(f"{home}.adapter.down.weight")
        assert down.shape == (4, maps[home].features.shape[1])
    with torch.no_grad():
        assert torch.equal(net.eval()(x), plain)
    train(net, x)
    folded = net.fold()
    with torch.no_grad():
        found = net(x)
        assert relative(found, plain) > 1e-4
        assert torch.equal(folded(x), found) and set(added(folded).values()) == {"adapter"}
        assert relative(net(x.dense()), found) < 1e-4
    kept = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    copied = pickle.loads(pickle.dumps(net))
    copied.load_state_dict(kept)
    with torch.no_grad():
        assert torch.equal(copied(x), found) and torch.equal(copy.deepcopy(net)(x), found)


def test_an_adapter_is_a_part_of_its_block() -> None:
    net, x = network().eval(), clouds()
    i2p.freeze(net, "io+adapter:4")
    train(net, x)
    seen: dict[str, object] = {}
    adapter = net.layer1[0].adapter
    adapter.register_forward_hook(lambda layer, given, result: seen.update(given=given[0], result=result))
    with torch.no_grad():
        maps = net.observe_maps(["layer1.0", "layer1"])(x)
        given, result = seen["given"], seen["result"]
        assert torch.equal(maps["layer1.0"].features, result.features)
        assert torch.equal(net.forward_features(x)["layer1"].features, maps["layer1"].features)
        down, up = adapter.down, adapter.up
        by_hand = given.features + up(torch.relu(down(given.features)))
        assert relative(result.features, by_hand) < 1e-6
        plain = net(x)
        blocks: list[object] = []
        net.layer1[0].register_forward_hook(lambda layer, given, result: blocks.extend((given[0], result)))
        assert relative(net(x), plain) < 1e-5 and torch.allclose(blocks[1].features, result.features, atol=1e-5)
        assert torch.allclose(net.layer1[0](blocks[0]).features, result.features, atol=1e-5)
        passed: list[object] = []
        net.layer1.register_forward_hook(lambda layer, given, result: passed.extend((given[0], result)))
        assert relative(net(x), plain) < 1e-5 and relative(passed[1].features, maps["layer1"].features) < 1e-5
        assert torch.equal(net.layer1(passed[0]).features, passed[1].features)


def test_what_comes_behind_adapters() -> None:
    net, x = network().double().eval(), clouds().double()
    i2p.freeze(net, "layer:layer2.0+adapter:4")
    assert added(net) and not any(name.startswith("layer2.0.") for name in added(net))
    i2p.freeze(net, "io+norm+adapter:4+lora:2+ssf+depth")
    kinds = added(net)
    assert "layer2.0.adapter.up.weight" in kinds and not any(
        "adapter" in n and k != "adapter" for n, k in kinds.items()
    )
    assert set(trained(net)) == {"input", "norm", "output", "depth", "lora", "ssf", "adapter"}
    train(net, x)
    with torch.no_grad():
        assert relative(net.fold()(x), net(x)) < 1e-12
    with pytest.raises(i2p.InputError, match=r"adapter:8: layer1\.0 has an adapter of 4 channels"):
        i2p.freeze(net, "io+adapter:8")
    with pytest.raises(i2p.InputError, match=r"lora:1: .* has a change of rank 2 already"):
        i2p.freeze(net, "io+lora:1")
    i2p.freeze(net.fold(), "io+lora:1")


class Blocks(nn.Module):
    """Small blocks, of which programs are made quickly."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, 1, 1), nn.Linear(8, 5)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(width, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
                for width in (4, 8)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_networks_are_exported(tmp_path: Path, suffix: str) -> None:
    """As they are, and folded."""
    net, x = i2p.lift(Blocks(), num_classes=4).eval(), clouds()
    i2p.freeze(net, "io+norm+depth+lora:2+ssf+adapter:4")
    train(net, x)
    example = x.dense()
    if suffix == ".pt2":
        path = i2p.export(net, example, tmp_path / "net.pt2")
        found = torch.export.load(path).module()(example.grid, example.mask)
    else:
        runtime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        program = runtime.InferenceSession(str(i2p.export(net.fold(), example, tmp_path / "net.onnx")))
        (scores,) = program.run(["logits"], {"grid": example.grid.numpy(), "mask": example.mask.numpy()})
        found = torch.from_numpy(scores)
    with torch.no_grad():
        assert relative(found, net(x)) < 1e-5


def test_a_saved_network_has_its_adapters_and_changes_again(tmp_path: Path) -> None:
    net = i2p.lift("test_resnet", weights="random", num_classes=4)
    i2p.freeze(net, "io+lora:2+adapter:4")
    train(net, clouds())
    net.use(voxel_size=0.12)
    for each in (net, net.fold()):
        again = i2p.load(each.save(tmp_path / "net"))
        with torch.no_grad():
            assert torch.equal(again(clouds()), each.eval()(clouds())) and added(again) == added(each)


@pytest.mark.parametrize("policy", ["io+depth:channels", "layer:layer2.0+depth+lora:2+adapter:4"])
def test_what_was_folded_from_kernels_that_stayed_2d_is_saved_and_loaded(tmp_path: Path, policy: str) -> None:
    net = i2p.lift("test_resnet", weights="random", num_classes=4, rule="tied")
    i2p.freeze(net, policy)
    train(net, clouds())
    folded = net.fold()
    assert isinstance(folded.get_submodule("layer2.0.conv1"), TiedConv) == policy.startswith("layer:")  # got no depth
    again = i2p.load(folded.save(tmp_path / "net", voxel_size=0.12))
    with torch.no_grad():
        assert torch.equal(again(clouds()), folded(clouds()))
        assert relative(again(clouds()), net(clouds())) < 1e-5
    assert again.lifting == folded.lifting
    i2p.freeze(again, "io+lora:2")


class PreActivation(nn.Module):
    """Convolutions without a bias that no norm reads alone, and norms with and without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.bare = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, affine=False)
        self.conv2, self.head = nn.Conv2d(8, 8, 1, bias=False), nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv1(self.norm(x).relu())
        return self.head((x + self.conv2(self.bare(x).relu())).mean((2, 3)))


@pytest.mark.parametrize("rule", ["repeat", "tied"])
def test_shifts_of_layers_without_a_bias_are_folded_exported_saved_and_loaded(tmp_path: Path, rule: str) -> None:
    net, x = i2p.lift(PreActivation(), num_classes=4, rule=rule), clouds()
    i2p.freeze(net, "io+ssf")
    train(net, x)
    for name in added(net):
        nn.init.normal_(net.get_parameter(name), 1.0, 0.5, generator=torch.Generator().manual_seed(2))
    folded = net.fold()
    fresh = {record.name for record in folded.lifting.parameters} - {name for name, _ in net.named_parameters()}
    assert {"conv1.bias", "conv2.bias"} <= fresh
    again = i2p.load(folded.save(tmp_path / "net", voxel_size=0.12), network=PreActivation())
    example = x.dense()
    program = torch.export.load(i2p.export(folded, example, tmp_path / "net.pt2")).module()
    with torch.no_grad():
        assert relative(folded(x), net(x)) < 1e-5
        assert torch.equal(again(x), folded(x)) and again.lifting == folded.lifting
        assert relative(program(example.grid, example.mask), net(x)) < 1e-5


def test_what_is_refused_leaves_no_trace() -> None:
    net, x = network(), clouds()
    i2p.freeze(net, "io+adapter:2")
    trains = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    record = net.lifting
    for policy in ("io+depth+lora:2+ssf+adapter:3", "scl:layer2.0+ssf+adapter:3"):
        with pytest.raises(i2p.InputError, match="has an adapter of 2 channels already"):
            i2p.freeze(net, policy)
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == trains
    assert net.lifting == record and torch.isfinite(net.eval()(x)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_adapters_of_a_network_of_half_precision(dtype: torch.dtype) -> None:
    """Its shortcuts take means, of which torch has none of these types on a CPU."""
    net, x = i2p.lift("test_resnet", weights="random", num_classes=4).eval(), clouds().dense()
    with torch.no_grad():
        expected = net(x)
        net.to(dtype)
        i2p.freeze(net, "io+adapter:2")
        found = net(i2p.DenseVoxels(x.grid.to(dtype), x.mask))
    assert found.dtype == dtype and relative(found.float(), expected) < 0.05


def test_kernels_that_stay_2d_make_the_same_blocks() -> None:
    for options in ({}, {"control": "scratch"}):
        tied, repeated = (network(rule=rule, **options) for rule in ("tied", "repeat"))
        assert blocks_of(tied) == blocks_of(repeated) and tied.block_names() == repeated.block_names()
    i2p.freeze(tied := network(rule="tied"), "io+adapter:4")
    i2p.freeze(repeated := network(), "io+adapter:4")
    assert added(tied) == added(repeated)


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("depth", r"found 'depth'; write io\+depth"),
        ("io+deep", "found 'deep' in 'io\\+deep'"),
        ("io+depth+norm", "found 'norm' in .*norm and stats come right after io"),
        ("all+depth", "all trains every parameter"),
        ("head+ssf", "begin with io"),
        ("none+bias", "begin with io"),
        ("io+ssf+ssf", "twice"),
        ("io+norm+bias", r"write io\+bias or io\+norm"),
        ("layer:auto+depth", "name the block"),
        ("layer:+depth", "layer:NAME"),
        ("lora:4", r"found 'lora:4'; write io\+lora:4"),
        ("io+lora", "lora needs a whole number"),
        ("io+adapter:0", "adapter needs a whole number"),
        ("io+lora:x", "lora needs a whole number"),
        ("io+lora:2+lora:4", "twice"),
        ("io+depth:3", "expected depth or depth:channels, found depth:3"),
        ("io+ssf:2", "expected ssf, found ssf:2"),
        ("io+depth+depth:channels", "twice"),
        ("", "expected one of io"),
        (7, "expected one of io"),
    ],
)
def test_what_does_not_compose_is_named(policy: object, message: str) -> None:
    with pytest.raises(i2p.InputError, match=message):
        read_policy(policy)
    with pytest.raises(i2p.InputError, match=message):
        i2p.freeze(network(), policy)  # type: ignore[arg-type]
    with pytest.raises(i2p.InputError, match=r"finetune\.policy"):
        from_values({"finetune": {"policy": policy}})


def test_networks_that_have_nothing_of_the_kind() -> None:
    with pytest.raises(i2p.InputError, match="inflated along one axis"):
        i2p.freeze(network(rule="rotate"), "io+depth")
    net = network(control="scratch")
    with pytest.raises(i2p.InputError, match=r"layer1\.0\.conv1\.weight \[.*is not a 2D kernel that the rule repeat"):
        i2p.freeze(net, "io+depth")
    assert not added(net)  # nothing is left of it
    net = network()
    i2p.freeze(net, "io+depth")
    with pytest.raises(i2p.InputError, match=r"depth:channels: layer1\.0\.conv1 has .* already; lift the network anew"):
        i2p.freeze(net, "io+depth:channels")
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    net = i2p.lift(plain, num_classes=2)
    with pytest.raises(i2p.InputError, match=r"depth: .* no frozen layers that take it: convolutions wider than 1×1"):
        i2p.freeze(net, "io+depth")
    with pytest.raises(i2p.InputError, match="have no biases"):
        i2p.freeze(net, "io+bias")


def test_shortcuts_that_were_spread_have_no_depth() -> None:
    net = network("resnet18", downsample="paper", rule="center")
    spread = [n for n, m in net.named_modules() if isinstance(m, VoxelConv) and m.window.kernel == (2, 2, 2)]
    i2p.freeze(net, "io+depth")
    assert spread and not any(f"{name}.depth" in added(net) for name in spread)


def test_parts() -> None:
    assert depth.depth_values("repeat", 2).tolist() == [1, 1] and not ssf.is_in(nn.Linear(2, 2))
