"""Networks that score every voxel: their forms, names, roles, records, and how they fail."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from typing import Any

import pytest
import torch
from lifting_samples import clouds, relative, rows
from segmenter_samples import CLASSES, segmenter, small
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import image2point as i2p
from image2point import config as configuration
from image2point.finetune import blocks_of, count_by_role
from image2point.lifting import LiftedNetwork, Lifting
from image2point.lifting.skip import add_skip
from image2point.voxels import DenseVoxels, VoxelConv, VoxelTensor

DECODERS = ("light", "unet", "hypercolumn")
NETWORKS = ("resnet18", "mobilenetv2_100", "tf_efficientnet_lite0", "convnext_atto")


@functools.cache
def lifted(name: str) -> LiftedNetwork:
    return i2p.lift(name, weights="random", stem="inflate")


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_voxel_is_scored_and_every_parameter_takes_part(name: str, decoder: Any) -> None:
    net = i2p.segmenter(
        lifted(name), num_classes=CLASSES, decoder=decoder, width=1 if decoder == "hypercolumn" else 0.05
    )
    x = clouds().to(torch.float32)
    scores = net(x)
    assert isinstance(scores, VoxelTensor) and scores.sites is x.sites and scores.features.shape[1] == CLASSES
    scores.features.square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []
    info = net.feature_info
    assert [stage["reduction"] for stage in info] == [2, 4, 8, 16, 32][-len(info) :]
    assert [stage["num_chs"] for stage in info] == [rows(m).shape[1] for m in net.forward_features(x).values()]
    assert [stage["module"] for stage in info] == list(net.forward_features(x))
    features, logits = net.eval().embed(x)
    weight, bias = net.linear_classifier()
    torch.testing.assert_close(logits, features @ weight.T + bias)
    torch.testing.assert_close(net(x).features, logits)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["resnet", "efficientnet", "convnext"])
def test_sparse_equals_masked_dense(name: str, decoder: str, training: bool) -> None:
    """Scores, and the gradients of the input and of every parameter.

    In training the norms of stem and decoder take the statistics of the batch. Some gradients are zero then but for
    rounding (a bias before a norm), so they are compared with the largest of all.
    """
    x = clouds()
    results = []
    for form in (x, x.dense()):
        net = segmenter(name, decoder, stem="inflate")
        i2p.freeze(net, "io")
        net.train(training).requires_grad_()
        leaf = form.features if isinstance(form, VoxelTensor) else form.grid
        leaf.requires_grad_()
        scores = net(form)
        assert type(scores) is type(form) and scores.stride == 1
        rows(scores).tanh().mul(torch.arange(1.0, 1 + CLASSES)).sum().backward()
        assert leaf.grad is not None
        given = leaf.grad if isinstance(form, VoxelTensor) else form.replace(leaf.grad).rows
        results.append([rows(scores).detach(), given, *(p.grad for p in net.parameters())])
    largest = max(float(g.abs().max()) for g in results[1]) if training else 0.0
    errors = [float((a - b).abs().max() / max(float(b.abs().max()), largest)) for a, b in zip(*results, strict=True)]
    assert max(errors) < 1e-10


@pytest.mark.parametrize("decoder", DECODERS)
def test_on_a_full_grid_the_three_forms_agree(decoder: str) -> None:
    net = segmenter(decoder=decoder, stem="inflate").eval()
    grid = torch.randn(1, 3, 9, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    masked = DenseVoxels(grid, torch.ones_like(grid[:, :1], dtype=torch.bool))
    found = [net.embed(form) for form in (grid, masked, masked.sparse())]
    for features, logits in found[1:]:
        assert relative(features, found[0][0]) < 1e-10 and relative(logits, found[0][1]) < 1e-10


def test_the_options_of_lift_reach_the_decoder() -> None:
    net = segmenter(decoder="unet", engine="reference", axis="x", depth_padding="replicate", stem="inflate")
    convolutions = [m for m in net.decoder.modules() if isinstance(m, VoxelConv)]
    assert {(m.engine, m.axis, m.depth_padding) for m in convolutions} == {("reference", "x", "replicate")}
    assert len(convolutions) == 1 + 5 * (1 + 2 + 2 + 1)
    alternate = segmenter(axis="alternate")
    assert alternate.decoder.laterals[0].conv.axis == "z"


def test_on_the_dense_substrate_sparse_voxels_get_sparse_scores() -> None:
    x = clouds()
    sparse, dense = (segmenter(substrate=each).eval() for each in ("sparse", "dense"))
    scores = dense(x)
    assert isinstance(scores, VoxelTensor) and scores.sites is x.sites
    assert relative(scores.features, sparse(x).features) < 1e-10


POLICIES = {
    "io": {"input", "output", "decoder"},
    "io+stats": {"input", "output", "decoder"},
    "io+norm": {"input", "output", "decoder", "norm"},
    "all": {"input", "output", "decoder", "norm", "body"},
    "head": {"output"},
    "none": set(),
    "layer:layer3.0": {"input", "output", "decoder", "norm", "body"},
}
MOVING = {
    "io": {"input", "decoder"}, "io+stats": {"input", "norm", "decoder"}, "io+norm": {"input", "norm", "decoder"},
    "all": {"input", "norm", "decoder"}, "head": set(), "none": set(), "layer:layer3.0": {"input", "norm", "decoder"},
}  # fmt: skip


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("policy", POLICIES)
def test_only_what_the_policy_names_moves(policy: str, decoder: str) -> None:
    net, x = segmenter(decoder=decoder), clouds()
    found = i2p.freeze(net, policy)
    trains = [p for p in net.parameters() if p.requires_grad]
    assert found.trainable == sum(p.numel() for p in trains)
    by_role = count_by_role(net)
    assert sum(count.trainable for count in by_role.values()) == found.trainable
    assert sum(count.total for count in by_role.values()) == found.total
    known = {"input", "norm", "body", "output"} | (set() if decoder == "hypercolumn" else {"decoder"})
    assert {role for role, count in by_role.items() if count.trainable} == POLICIES[policy] & known
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    scores = net(x).features.square().mean()
    if trains:
        torch.optim.SGD(trains, lr=0.01).zero_grad()
        scores.backward()
        torch.optim.SGD(trains, lr=0.01).step()
    inside = policy.partition(":")[2]
    for record in (*net.lifting.parameters, *net.lifting.buffers):
        roles = POLICIES[policy] if record in net.lifting.parameters else MOVING[policy]
        if inside and record.role in ("body", "norm"):
            expected = record.name.startswith(f"{inside}.")
        else:
            expected = record.role in roles
        assert torch.equal(net.state_dict()[record.name], before[record.name]) != expected, record.name


def test_the_record_lists_the_decoder_and_drops_what_follows_the_stages() -> None:
    net = segmenter("efficientnet", "light", width=1.0)
    record = net.lifting
    names = set(net.state_dict())
    assert {r.name for r in (*record.parameters, *record.buffers)} == names
    assert not any(name.startswith(("conv_head", "classifier", "bn2")) for name in names)
    assert {s.fate for s in record.sources if s.name.startswith("conv_head")} == {"skipped"}
    channels = [stage["num_chs"] for stage in net.feature_info]
    sizes = {
        role: sum(p.numel() for n, p in net.named_parameters() if n.startswith(role)) for role in ("decoder", "head")
    }
    assert sizes == {"decoder": 96 * sum(channels) + 2 * 96 * len(channels), "head": 97 * CLASSES}
    counts = record.counts["role"]
    assert (counts["decoder"], counts["output"]) == (sizes["decoder"], sizes["head"])
    assert (record.decoder, record.decoder_width, record.options.num_classes) == ("light", 1.0, CLASSES)
    assert Lifting.from_dict(record.to_dict()) == record


def test_light_takes_the_last_stage_of_a_stride_and_hypercolumn_every_stage() -> None:
    light, hypercolumn = (segmenter(decoder=each, stem="paper") for each in ("light", "hypercolumn"))
    assert [stage["reduction"] for stage in light.feature_info] == [1, 1, 2, 4, 8]
    assert [lateral.conv.weight.shape[1] for lateral in light.decoder.laterals] == [8, 16, 16, 24]
    assert hypercolumn.head.in_features == 64 + 8 + 16 + 16 + 24


def test_a_lifted_network_stays_what_it_was() -> None:
    net = i2p.lift(small("resnet"), num_classes=3).double().eval()
    x = clouds()
    before, names = net(x), set(net.state_dict())
    i2p.freeze(net, "io")
    seg = i2p.segmenter(net, num_classes=CLASSES, decoder="unet", width=0.05)
    assert relative(net(x), before) < 1e-12 and set(net.state_dict()) == names
    maps = [each.eval().forward_features(x)["layer4"].features for each in (seg, net)]
    assert relative(*maps) < 1e-12


def test_fresh_weights_follow_from_seed_and_name() -> None:
    one, same, other = (i2p.segmenter(small("resnet"), num_classes=CLASSES, seed=seed) for seed in (3, 3, 4))
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    again = i2p.segmenter(small("resnet"), num_classes=CLASSES, seed=3, rule="center")
    assert torch.equal(torch.random.get_rng_state(), state)
    for name in ("decoder.laterals.0.conv.weight", "head.weight"):
        weights = [net.get_parameter(name) for net in (one, same, again, other)]
        assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])
        assert not torch.equal(weights[0], weights[3])
    alike = [one.get_parameter(f"decoder.laterals.{level}.conv.weight") for level in (1, 2)]
    assert alike[0].shape == alike[1].shape and not torch.equal(*alike)


@pytest.mark.parametrize("decoder", DECODERS)
def test_copies_and_files_give_the_same_scores(decoder: str) -> None:
    net, x = segmenter(decoder=decoder).eval(), clouds()
    expected = net(x).features
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x).features, expected)
    fresh = segmenter(decoder=decoder, seed=9).eval()
    assert not torch.equal(fresh(x).features, expected)
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x).features, expected)
    assert net.float()(x.to(torch.float32)).features.dtype == torch.float32


def test_layers_of_encoder_and_decoder_are_observed() -> None:
    net, x = segmenter(decoder="unet").eval(), clouds()
    names = net.layer_names()
    assert names[-1] == "features" and names.index("layer4") < names.index("decoder.levels.0") < names.index("decoder")
    assert {"layer2.0", "decoder.levels.1", "features"} <= set(net.block_names())
    assert not any(name.startswith("decoder") for name in blocks_of(net))
    seen = net.observe(["layer4", "decoder.levels.0.blocks.1", "decoder", "features"], per_site=True)(x)
    assert torch.equal(seen["features"][0], net.embed(x)[0]) and torch.equal(seen["decoder"][0], seen["features"][0])
    assert torch.equal(seen["features"][1], x.sites.batch)
    assert len(seen["decoder.levels.0.blocks.1"][0]) > len(seen["layer4"][0])
    means = net.observe(["decoder"])(x)["decoder"][0]
    assert relative(means[0], seen["decoder"][0][seen["decoder"][1] == 0].mean(0)) < 1e-12


def test_a_block_of_the_decoder_can_have_a_hook() -> None:
    net, x = segmenter(decoder="unet"), clouds()
    expected = net.eval()(x).features
    seen: list[VoxelTensor] = []
    handle = net.decoder.levels[1].register_forward_hook(lambda block, given, result: seen.append(result))
    whole = net.decoder.register_forward_hook(lambda block, given, result: seen.append(result))
    assert relative(net(x).features, expected) < 1e-12 and [voxels.stride for voxels in seen] == [2, 1]
    handle.remove(), whole.remove()
    net.decoder.register_forward_hook(lambda block, given, result: result.replace(result.features * 0))
    assert not net(x).features.any()  # the bias of the last layer is zero


def test_recalibration_takes_the_statistics_of_the_batch() -> None:
    net, x = segmenter(), clouds()
    i2p.freeze(net, "io")
    norm = net.decoder.laterals[0].norm
    i2p.recalibrate(net, [x])
    rows_in = net.observe(["decoder.laterals.0.conv"], per_site=True)(x)["decoder.laterals.0.conv"][0]
    assert relative(norm.running_mean, rows_in.mean(0)) < 1e-10
    assert not net.layer4[0].bn1.training


@pytest.mark.parametrize("decoder", DECODERS)
def test_it_learns_a_tiny_scene(decoder: str) -> None:
    net, x = segmenter(decoder=decoder, width=1.0 if decoder == "hypercolumn" else 0.2), clouds()
    targets = (x.coordinates[:, 3] > 4).long() + 2 * (x.coordinates[:, 1] > 4).long()
    i2p.freeze(net, "io")
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(net(x).features, targets)
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "fpn"}, "decoder: expected one of light, unet, hypercolumn, found 'fpn'"),
        ({"width": 0}, "width: expected a number above 0, found 0"),
        ({"width": float("nan")}, "width: expected a number above 0, found nan"),
        ({"decoder": "hypercolumn", "width": 2}, "no parameters that a width could scale"),
        ({"num_classes": 0}, "num_classes: expected at least 1, found 0"),
        ({"num_classes": None}, "num_classes: expected the number of classes"),
        ({"head": "cosine"}, "the last layer of a segmenter is linear, found 'cosine'"),
        ({"in_chans": 4}, "here it is in_channels"),
    ],
)
def test_options_that_it_does_not_take(options: dict[str, Any], message: str) -> None:
    with pytest.raises(i2p.InputError, match=message):
        i2p.segmenter(small("resnet"), **{"num_classes": CLASSES, **options})


class Chain(nn.Sequential):
    """Networks whose stages are their layers."""


def test_networks_that_have_nothing_to_decode() -> None:
    one = i2p.lift(Chain(nn.Conv2d(3, 4, 3, padding=1)), num_classes=None)
    with pytest.raises(i2p.InputError, match="maps at stride 1 alone, so a unet would have no level"):
        i2p.segmenter(one, num_classes=2, decoder="unet")
    assert i2p.segmenter(one, num_classes=2)(clouds().to(torch.float32)).features.shape[1] == 2
    net = i2p.lift(small("resnet"), num_classes=3)
    with pytest.raises(i2p.InputError, match="is lifted already, so stem would do nothing"):
        i2p.segmenter(net, num_classes=2, stem="paper")
    with pytest.raises(i2p.InputError, match="num_classes: expected a whole number of at least 1, found 0"):
        i2p.segmenter(net, num_classes=0)
    with pytest.raises(i2p.InputError, match="is a segmenter already, with the decoder light"):
        i2p.segmenter(i2p.segmenter(net, num_classes=2), num_classes=2)


def test_a_skip_to_the_features_of_a_cloud_has_no_meaning() -> None:
    net = segmenter()
    with pytest.raises(i2p.InputError, match=r"policy scl:layer3\.0: .* layer:layer3\.0 trains the same block"):
        i2p.freeze(net, "scl:layer3.0")
    with pytest.raises(i2p.InputError, match="no global pooling"):
        add_skip(net, "layer3.0")


def test_the_head_alone_behind_a_fresh_decoder_is_named(caplog: pytest.LogCaptureFixture) -> None:
    i2p.freeze(segmenter(decoder="hypercolumn", stem="inflate"), "head")
    assert "decoder" not in caplog.text
    i2p.freeze(segmenter(decoder="light", stem="inflate"), "head")
    assert "the decoder is fresh and stays random under policy head" in caplog.text


def test_norms_of_the_decoder_rest_under_head() -> None:
    net = segmenter()
    i2p.freeze(net, "head")
    net.train()
    assert not any(module.training for module in net.modules() if isinstance(module, _BatchNorm))


@pytest.mark.parametrize("setting", [{"decoder": "unet"}, {"decoder_width": 0.5}])
def test_a_classification_has_no_decoder(setting: dict[str, Any]) -> None:
    with pytest.raises(i2p.InputError, match=r"network\.decoder and network\.decoder_width are for task: segmentation"):
        configuration.from_values({"network": setting})


@pytest.mark.parametrize(
    ("setting", "expected"), [({}, ("light", 1.0)), ({"decoder": "unet", "decoder_width": 0.1}, ("unet", 0.1))]
)
def test_a_config_hands_the_decoder_on(setting: dict[str, Any], expected: tuple[str, float]) -> None:
    from image2point.jobs.artefact import again
    from image2point.jobs.ingredients import make_network

    values = {"network": {"arch": "test_resnet", "weights": "random"}, "training": {"precision": "64"}}
    config = configuration.from_values(values)
    network = config.network.model_copy(update=setting)
    config = config.model_copy(update={"task": "segmentation", "network": network})
    made = make_network(config, classes=3)
    assert (made.lifting.decoder, made.lifting.decoder_width) == expected
    blank = again(Lifting.from_dict(json.loads(made.lifting.to_json()))).double()
    blank.load_state_dict(made.state_dict())
    x = clouds()
    assert torch.equal(blank.eval()(x).features, made.eval()(x).features)
    head = config.model_copy(update={"finetune": config.finetune.model_copy(update={"policy": "head"})})
    with pytest.raises(i2p.InputError, match=r"set network\.decoder=hypercolumn"):
        make_network(head, classes=3)
