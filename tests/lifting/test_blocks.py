"""Blocks of a lifted network are modules: they are called, have hooks, can be wrapped, and change nothing by it."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from lifting_samples import clouds, image, small_resnet, timm_network
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.checkpoint import checkpoint

import image2point as i2p
from image2point.lifting import LiftedNetwork
from image2point.lifting.blocks import Block, tensors
from image2point.lifting.observe import rows_per_cloud
from image2point.lifting.skip import add_skip
from image2point.voxels import BatchNorm, VoxelTensor

FAMILIES = (
    "resnet50", "resnet18", "efficientnet_lite0", "convnext_atto", "densenet121", "hrnet_w18_small", "regnety_002",
    "mobilenetv3_small_100",
)  # fmt: skip


def lifted(arch: str, **options: Any) -> LiftedNetwork:
    """Of float32, in eval mode, with norms that are no identities."""
    return i2p.lift(timm_network(arch).float(), num_classes=4, **options).eval()


def voxels() -> VoxelTensor:
    return clouds().to(torch.float32)


def blocks(net: nn.Module) -> dict[str, Block]:
    return {name: module for name, module in net.named_modules() if isinstance(module, Block)}


def hookable(net: nn.Module) -> dict[str, Block]:
    found = {}
    for name, block in blocks(net).items():
        try:
            block.register_forward_hook(lambda *given: None).remove()
        except i2p.InputError:
            continue
        found[name] = block
    return found


def equal(one: Any, other: Any) -> bool:
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("arch", FAMILIES)
def test_what_the_image_network_calls_once_is_a_module(arch: str) -> None:
    network = timm_network(arch)
    calls: Counter[str] = Counter()
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *given, name=name: calls.update([name]))
    with torch.no_grad():
        network(image(size=64))
    net = lifted(arch)
    here, called = blocks(net), hookable(net)
    missing = {name for name in here if name not in called}
    assert len(called) > 10 and all(calls[name] == 1 for name in called)
    # Upsampling takes its voxels from a finer map, which these two are not given in 2D.
    upsampling = {name for name in missing if calls[name]}
    assert all(arch.startswith("hrnet") and ".fuse_layers." in name for name in upsampling)
    assert all(name.rsplit(".", 2)[0].endswith("fuse_layers") or name.endswith(".2") for name in upsampling)
    for name in missing:
        with pytest.raises(i2p.InputError, match=rf"^{name} is no module .*forward_features"):
            here[name].register_full_backward_hook(lambda *given: None)
        with pytest.raises(i2p.InputError, match="calling it"):
            here[name](voxels())


@pytest.mark.parametrize("arch", FAMILIES)
def test_hooks_on_all_blocks_see_what_flows_and_change_nothing(arch: str) -> None:
    net, x = lifted(arch), voxels()
    before = copy.deepcopy(net)
    with torch.no_grad():
        expected, maps = net(x), net.forward_features(x)
    fired: Counter[str] = Counter()
    seen: dict[str, tuple[Any, ...]] = {}

    def note(block: nn.Module, args: Any, named: Any, result: Any, name: str) -> None:
        fired[name] += 1
        seen[name] = args, named, result

    watched = hookable(net)
    handles = [
        block.register_forward_hook(partial(note, name=name), with_kwargs=True) for name, block in watched.items()
    ]
    with torch.no_grad():
        found = net(x)
    assert fired == dict.fromkeys(watched, 1)
    torch.testing.assert_close(found, expected)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        for name, (args, named, result) in seen.items():
            assert equal(watched[name](*args, **named), result), name
        assert torch.equal(net(x), expected)
    for name, stage in maps.items():
        if name in seen:
            assert equal(seen[name][2], stage), name
    # In training nothing runs together, so that not even rounding differs.
    for block in watched.values():
        block.register_forward_hook(lambda *given: None)
    torch.manual_seed(0)
    one = before.train()(x)
    torch.manual_seed(0)
    assert torch.equal(net.train()(x), one)
    assert all(map(torch.equal, net.buffers(), before.buffers()))


@pytest.mark.parametrize("arch", ["resnet18", "efficientnet_lite0", "densenet121", "hrnet_w18_small"])
def test_one_hook_leaves_the_bits_as_they_are(arch: str) -> None:
    """Of blocks that end where a fused chain ends."""
    net, x = lifted(arch), voxels()
    with torch.no_grad():
        expected = net(x)
    last = [name for name, block in hookable(net).items() if name.count(".") == 1 and len(block._modules) > 1][-1]
    for name in (last, last.partition(".")[0] if arch != "hrnet_w18_small" else "stage4"):
        with torch.no_grad():
            handle = net.get_submodule(name).register_forward_hook(lambda *given: None)
            assert torch.equal(net(x), expected), name
            handle.remove()


@pytest.mark.parametrize("substrate", ["sparse", "dense"])
def test_pre_hooks_and_hooks_change_what_flows(substrate: str) -> None:
    net, x = i2p.lift(small_resnet(), num_classes=4, substrate=substrate).eval(), clouds()

    def doubled(v: Any) -> Any:
        return v.replace(2 * tensors(v)[0])

    with torch.no_grad():
        net.embed(x)  # a hook that comes later must count, too
        given: list[Any] = []
        net.layer3.register_forward_pre_hook(lambda block, args: given.extend(args) or (doubled(args[0]),))
        net.layer4[0].register_forward_hook(lambda block, args, result: doubled(result))
        features, scores = net.embed(x)
        inner = net.layer4[0](net.layer3[0](doubled(given[0])))
        assert torch.equal(rows_per_cloud(inner)[0], features) and torch.equal(net.fc(features), scores)


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "hrnet_w18_small", "regnety_002"])
def test_checkpointed_blocks_give_the_same_gradients(arch: str) -> None:
    net, x = lifted(arch).train(), voxels()
    other = copy.deepcopy(net)
    wrapped = {name: block for name, block in hookable(other).items() if name.count(".") < 2 and block._modules}
    assert len(wrapped) > 5
    for block in wrapped.values():  # stages, and the blocks in them
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    kept: list[int] = []
    for each in (net, other):
        sizes: dict[int, int] = {}

        def note(kept: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[kept.data_ptr()] = kept.nbytes
            return kept

        with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept):
            loss = nn.functional.cross_entropy(each(x), torch.tensor([0, 1]))
        kept.append(sum(sizes.values()))
        loss.backward()
    assert kept[1] < 0.7 * kept[0]
    for (name, one), two in zip(net.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None and torch.equal(one.grad, two.grad), name


def test_gradients_reach_full_backward_hooks() -> None:
    net = i2p.lift(small_resnet(), num_classes=4).eval()
    block, x = net.layer2[0], clouds(channels=8)
    x = x.replace(x.features.requires_grad_())
    result = block(x)
    weights = torch.randn_like(result.features)
    (expected,) = torch.autograd.grad((result.features * weights).sum(), x.features)
    seen: list[Any] = []
    block.register_full_backward_hook(lambda module, to, of: seen.append(("hook", module, *to, *of)))
    block.register_full_backward_hook(lambda module, to, of: (to[0] * 3,))
    block.register_full_backward_pre_hook(lambda module, of: seen.append(("before", *of)) or (of[0] * 2,))
    block.register_full_backward_hook(lambda module, to, of: seen.append("first"), prepend=True)
    (found,) = torch.autograd.grad((block(x).features * weights).sum(), x.features)
    torch.testing.assert_close(found, 6 * expected)
    before, first, (_, module, to, of) = seen
    assert before[0] == "before" and first == "first" and module is block
    assert torch.equal(before[1], weights) and torch.equal(of, 2 * weights)
    torch.testing.assert_close(to, 2 * expected)
    seen.clear()
    net(clouds()).sum().backward()  # within the network, too
    assert len(seen) == 3 and seen[2][2].shape[1] == 8


def test_blocks_are_indexed_as_in_the_image_network() -> None:
    net, x = lifted("resnet18"), voxels()
    network = timm_network("resnet18")
    assert len(net.layer1) == len(network.layer1) == 2
    assert [type(block).__name__ for block in network.layer1] == [block._get_name() for block in net.layer1]
    assert net.layer1[1] is list(net.layer1)[-1] is net.layer1[-1] is net.get_submodule("layer1.1")
    assert [n for n, _ in net.named_children()] == [n for n, _ in network.named_children()]
    assert [n for n, _ in net.layer2[0].named_children()] == [n for n, _ in network.layer2[0].named_children()]
    assert "(layer2): Sequential(\n    (0): BasicBlock(\n      (conv1): VoxelConv" in repr(net)
    with torch.no_grad():
        x = net.act1(net.bn1(net.conv1(x)))
        assert equal(net.layer1[:1](x), net.layer1[0](x)) and equal(net.layer1[1:](net.layer1[0](x)), net.layer1(x))
        assert equal(net.layer1[:0](x), x) and equal(net.layer1[:][1:](x), net.layer1[1](x))
    with pytest.raises(i2p.InputError, match="only neighbours"):
        net.layer1[::-1](x)
    with pytest.raises(i2p.InputError, match=r"expected the arguments \(voxels\), found \(3\)"):
        net.layer1(3)
    with pytest.raises(i2p.InputError, match="neither added nor taken away"):
        net.layer1.append(nn.Identity())
    assert len(net.layer2[0].downsample) == 2 and isinstance(net.layer2[0].downsample[1], BatchNorm)


def test_parts_of_a_sequence_keep_the_activations_of_norms() -> None:
    net = lifted("densenet121", stem="inflate")
    given: list[Any] = []
    net.features.denseblock1.register_forward_pre_hook(lambda block, args: given.extend(args))
    with torch.no_grad():
        net(voxels())
        assert equal(net.features[:3](voxels()), given)
        assert equal(net.features.denseblock1["denselayer1"]([given[0]]), net.features.denseblock1.denselayer1(given))


def test_a_block_can_be_replaced() -> None:
    net, x = i2p.lift(small_resnet(), num_classes=4).eval(), clouds()
    with torch.no_grad():
        expected = net(x)
        net.layer2[0] = nn.Sequential(net.layer2[0], nn.Identity())
        net.layer3 = copy.deepcopy(net.layer3)
        assert torch.equal(net(x), expected)
        other = i2p.lift(small_resnet(), num_classes=4, rule="mean").eval()
        net.layer4[0] = other.layer4[0]
        assert not torch.equal(net(x), expected)
        found = other.layer4(net.layer3(net.layer2(net.layer1(net.act1(net.bn1(net.conv1(x)))))))
        assert torch.equal(rows_per_cloud(found)[0], net.embed(x)[0])
    net.layer1[0].drop_path = nn.Dropout(1.0)  # nothing in 3D until it is replaced
    assert not torch.equal(net.train()(x), other.train()(x))
    hr = lifted("hrnet_w18_small")
    hr.stage2[0].fuse_layers[0][1] = nn.Identity()
    with pytest.raises(i2p.InputError, match=r"stage2\.0\.fuse_layers\.0\.1 has a hook or was replaced"):
        hr(voxels())


class Names(nn.Module):
    """With children that are called as what lifted networks have."""

    def __init__(self, name: str = "stages") -> None:
        super().__init__()
        self.graph, self.lifting = nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.roles, self.classifier = nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.gain = nn.Parameter(torch.rand(4, 1, 1))
        setattr(self, name, nn.Sequential(nn.Conv2d(4, 4, 1)))
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        x = self.get_submodule(self.name)(self.roles(self.lifting(self.graph(x)))) * self.gain
        return self.classifier(x.mean((2, 3)))


def test_no_attribute_hides_a_child() -> None:
    net = i2p.lift(Names(), stem="inflate").double().eval()
    for name, child in net.named_children():
        assert getattr(net, name) is child
    x = clouds()
    with torch.no_grad():
        scores = net(x)
        shown = net.stages(net.roles(net.lifting(net.graph(x))))
    weight, bias = net.linear_classifier()
    assert weight is net.classifier.weight and bias is net.classifier.bias
    assert torch.equal(rows_per_cloud(shown.replace(shown.features * net.gain.flatten()))[0], net.embed(x)[0])
    assert "gain" in net.state_dict() and torch.equal(copy.deepcopy(net)(x), scores)
    assert i2p.lift("efficientnet_lite0", weights="random").classifier.out_features == 40
    assert i2p.lift("resnet10t", weights="random").classifier[0].shape == (40, 512)
    with pytest.raises(i2p.InputError, match="child module 'embed'"):
        i2p.lift(Names("embed"))


def test_copies_and_pickles_have_their_own_blocks() -> None:
    net, x = lifted("densenet121"), voxels()
    fired: list[nn.Module] = []
    net.features.denseblock2.register_forward_hook(lambda block, args, result: fired.append(block))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        expected = net(x)
        assert torch.equal(twin(x), expected)
    assert fired == [net.features.denseblock2, twin.features.denseblock2] and fired[0] is not fired[1]
    net.features.denseblock2._forward_hooks.clear()
    read, block = pickle.loads(pickle.dumps((net, net.features.denseblock1)))
    with torch.no_grad():
        assert torch.equal(read(x), expected) and equal(block(given := only(net, x)), net.features.denseblock1(given))


def only(net: LiftedNetwork, x: VoxelTensor) -> Any:
    """What the first dense block is given."""
    given: list[Any] = []
    handle = net.features.denseblock1.register_forward_pre_hook(lambda block, args: given.extend(args))
    net(x)
    handle.remove()
    return given[0]


def test_embedding_with_a_hook_on_the_head() -> None:
    net, x = lifted("convnext_atto"), voxels()
    with torch.no_grad():
        expected = net.embed(x)
        fired: list[Any] = []
        net.head.register_forward_hook(lambda block, args, result: fired.append(result))
        features, scores = net.embed(x)
        net.forward_features(x)
    assert torch.equal(features, expected[0]) and torch.equal(scores, expected[1])
    assert len(fired) == 2 and fired[0] is scores


def test_observed_blocks_run_their_hooks() -> None:
    net, x = i2p.lift(small_resnet(), num_classes=4).eval(), clouds()
    fired: list[Any] = []
    net.layer2.register_forward_hook(lambda block, args, result: fired.append(result))
    with torch.no_grad():
        seen = net.observe(["layer1.0", "layer2", "layer3.0.conv1"])(x)
        assert len(fired) == 1 and torch.equal(rows_per_cloud(fired[0])[0], seen["layer2"][0])
        net.observe(["layer1.0.conv1"])(x)
        assert len(fired) == 1
        with pytest.raises(i2p.InputError, match=r"^layer2 has a hook .*read from outside"):
            net.observe(["layer2.0.conv1"])(x)


def test_a_skip_into_a_head_leaves_no_block_of_it() -> None:
    net = lifted("convnext_atto")
    net.head.register_forward_hook(lambda *given: None).remove()
    add_skip(net, "stages.1")
    with pytest.raises(i2p.InputError, match="head is no module of its own"):
        net.head.register_forward_hook(lambda *given: None)
    fired: list[Any] = []
    net.stages[1].register_forward_hook(lambda *given: fired.append(given))
    with torch.no_grad():
        net(voxels())
    assert len(fired) == 1


def test_hooks_for_all_modules_fire_for_blocks() -> None:
    net = i2p.lift(small_resnet(), num_classes=4).eval()
    fired: list[nn.Module] = []
    with torch.no_grad():
        net(clouds())
        handle = register_module_forward_hook(lambda module, args, result: fired.append(module))
        try:
            net(clouds())
        finally:
            handle.remove()
        count = len(fired)
        net(clouds())
    assert len(fired) == count and all(fired.count(block) == 1 for block in hookable(net).values())


def test_compiled_blocks_and_hooks_in_compiled_networks() -> None:
    net = i2p.lift(small_resnet(), num_classes=4, substrate="dense").eval()
    grid = torch.rand(2, 3, 12, 12, 12, dtype=torch.float64)
    torch.compiler.reset()
    with torch.no_grad():
        expected = net(grid)
        net.layer2.compile(backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(net(grid), expected)
        net.layer3.register_forward_hook(lambda block, args, result: 2 * result)
        doubled = net(grid)
        assert not torch.allclose(doubled, expected)
        torch.testing.assert_close(torch.compile(net, backend="aot_eager", fullgraph=True)(grid), doubled)


def test_norms_over_all_processes_stay_what_they_are() -> None:
    """A norm of the user's own is converted."""
    net = lifted("resnet10t")
    net.layer4.add_module("0", nn.BatchNorm2d(8))
    before = {name: module for name, module in net.named_modules() if isinstance(module, BatchNorm)}
    same = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert same is net and isinstance(net.get_submodule("layer4.0"), nn.SyncBatchNorm)
    assert before == {name: module for name, module in net.named_modules() if isinstance(module, BatchNorm)}
    with pytest.raises(i2p.InputError, match="over all processes, not over a process_group"):
        nn.SyncBatchNorm.convert_sync_batchnorm(net, process_group="some")


def test_a_head_under_a_name_that_nobody_calls_is_refused() -> None:
    net = lifted("resnet10t")
    for name in ("head", "classifier"):
        with pytest.raises(i2p.InputError, match=rf"calls no module '{name}'.*the classifier is net\.fc"):
            setattr(net, name, nn.Linear(512, 3))
    for name in ("reset_classifier", "get_classifier"):
        with pytest.raises(AttributeError, match=r"its classifier is net\.fc"):
            getattr(net, name)
    net.fc = nn.Linear(512, 3)
    assert net(voxels()).shape[1] == 3 and net.classifier[0].shape == (3, 512)
    net.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 4))
    assert net(voxels()).shape[1] == 4 and net.embed(voxels())[0].shape[1] == 512
    with pytest.raises(i2p.InputError, match=r"net\.fc is a Sequential by now"):
        net.linear_classifier()
