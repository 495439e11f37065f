"""Programs for other software: torch.export and ONNX files, torch.compile; on plain and on masked grids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lifting_samples import relative, timm_network
from torch import Tensor, nn

import image2point as i2p
from image2point.lifting import LiftedNetwork, eager
from image2point.voxels import DenseVoxels, VoxelError, VoxelTensor

SIZE = (12, 9, 8)
BRINGS = "pip install 'image2point[export]' brings it"
FAMILIES = ("tf_efficientnet_lite0", "resnetblur18", "convnextv2_atto", "mobilenetv3_small_050")


class Small(nn.Module):
    """Strides, a shortcut, pooling, a gate, norms of sites and of clouds; and a child named like an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
        self.norm = nn.GroupNorm(2, 8)
        self.shortcut = nn.Conv2d(8, 8, 1, 2)
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.classifier = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.bn1(self.conv_stem(x)).relu())
        x = self.norm(self.depthwise(x)) + self.shortcut(x)
        x = x * self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.classifier(x.mean((2, 3)))


def small() -> LiftedNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Small()
        network.bn1.running_mean.uniform_(-1, 1)
        return i2p.lift(network, stem="inflate", num_classes=None, substrate="dense").eval()


def clouds(number: int, size: tuple[int, int, int] = SIZE) -> VoxelTensor:
    draw = torch.Generator().manual_seed(number)
    points = [torch.rand(150, 3, generator=draw) * torch.tensor(size) for _ in range(number)]
    return i2p.voxelize(points, 1.0, [torch.randn(150, 3, generator=draw) for _ in points])


def run_file(path: Path, *inputs: Tensor) -> Tensor:
    """What the program in a file gives."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(*inputs).detach()
    onnxruntime = pytest.importorskip("onnxruntime", reason=BRINGS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["grid", "mask"][: len(inputs)]
    named = {i.name: value.numpy() for i, value in zip(session.get_inputs(), inputs, strict=True)}
    return torch.from_numpy(session.run(["logits"], named)[0])


@pytest.mark.parametrize("decoder", ["light", "unet", "hypercolumn"])
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_segmenter_scores_every_cell(suffix: str, decoder: str, tmp_path: Path) -> None:
    """In batches of another size; in occupied cells what sparse voxels give."""
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason=BRINGS)
    network = i2p.segmenter("test_resnet", num_classes=4, decoder=decoder, weights="random").eval()
    path = i2p.export(network, clouds(2).dense(SIZE), tmp_path / f"net{suffix}")
    x = clouds(3)
    cells = x.dense(SIZE)
    given = run_file(path, cells.grid, cells.mask)
    assert given.shape == (3, 4, *SIZE) and relative(given, network(cells).grid) < 1e-5
    rows = DenseVoxels(given, cells.mask).sparse()
    assert relative(rows.features, network(x).features) < 1e-4


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_programs_give_what_the_network_gives(suffix: str, tmp_path: Path) -> None:
    """In batches of another size, and on masked grids what sparse voxels give."""
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason=BRINGS)
    net, example, other = small(), clouds(1).dense(SIZE), clouds(3)
    grid = other.dense(SIZE)
    with torch.no_grad():
        on_voxels, on_grid = net(other), net(grid.grid)
    assert relative(on_grid, on_voxels) > 1e-2  # so that the one cannot pass for the other
    masked = i2p.export(net, example, tmp_path / f"masked{suffix}")
    assert relative(run_file(masked, grid.grid, grid.mask), on_voxels) < 1e-5
    plain = i2p.export(net, example.grid, tmp_path / f"plain{suffix}")
    assert relative(run_file(plain, grid.grid), on_grid) < 1e-5


def test_programs_say_how_they_are_used(tmp_path: Path) -> None:
    net = small()
    net.use(voxel_size=0.2, classes=[f"class {number}" for number in range(net.classifier.out_features)])
    extra = {"image2point.json": ""}
    torch.export.load(i2p.export(net, torch.zeros(1, 3, 8, 8, 8), tmp_path / "net.pt2"), extra_files=extra)
    content = json.loads(extra["image2point.json"])
    assert content["use"]["classes"] == list(net.classes) and content["lifting"]["network"] == net.lifting.network
    onnx = pytest.importorskip("onnx", reason=BRINGS)
    pytest.importorskip("onnxscript", reason=BRINGS)
    model = onnx.load(i2p.export(net, torch.zeros(1, 3, 8, 8, 8), tmp_path / "net.onnx"))
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props}["image2point"] == content


def test_programs_keep_the_names_of_tensors(tmp_path: Path) -> None:
    net = small()
    program = torch.export.load(i2p.export(net, torch.zeros(1, 3, 8, 8, 8), tmp_path / "net.pt2"))
    assert set(dict(net.named_parameters())) <= set(program.state_dict) <= set(net.state_dict())
    assert torch.equal(program.state_dict["classifier.weight"], net.get_parameter("classifier.weight"))


@pytest.mark.parametrize("by_hand", [False, True])
def test_export_leaves_the_mode_and_the_held_norms(by_hand: bool, tmp_path: Path) -> None:
    net = small().train()
    if by_hand:
        net.bn1.eval()
    else:
        i2p.freeze(net, "head")
    modes = {name: module.training for name, module in net.named_modules()}
    assert set(modes.values()) == {True, False}
    path = i2p.export(net, torch.zeros(1, 3, 8, 8, 8), tmp_path / "net.pt2")
    assert {name: module.training for name, module in net.named_modules()} == modes
    grid = torch.randn(2, 3, 8, 8, 8)
    with torch.no_grad():
        assert relative(run_file(path, grid), net.eval()(grid)) < 1e-5


def test_what_cannot_be_exported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, grid = small(), torch.zeros(1, 3, 8, 8, 8)
    kept = tmp_path / "kept.pt2"
    kept.write_text("as it was")
    with pytest.raises(i2p.InputError, match="carry 4"):
        i2p.export(net, torch.zeros(1, 4, 8, 8, 8), kept)
    assert kept.read_text() == "as it was" and list(tmp_path.iterdir()) == [kept]
    with pytest.raises(i2p.InputError, match=r"\.onnx .* or \.pt2"):
        i2p.export(net, grid, tmp_path / "net.pth")
    with pytest.raises(i2p.InputError, match=r"vox\.dense"):
        i2p.export(net, clouds(1), tmp_path / "net.pt2")  # type: ignore[arg-type]
    with pytest.raises(VoxelError, match="need a grid of"):
        clouds(1).dense((4, 9, 8))
    monkeypatch.setattr("image2point.lifting.export.find_spec", lambda name: None)
    with pytest.raises(i2p.InputError, match=r"image2point\[export\]"):
        i2p.export(net, grid, tmp_path / "net.onnx")


def test_numbers_that_onnx_cannot_convolve_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("onnxscript", reason=BRINGS)
    grid = torch.zeros(1, 3, 8, 8, 8)
    with pytest.raises(i2p.InputError, match=r"bfloat16, which .* export network\.float\(\), or write \.pt2"):
        i2p.export(small().bfloat16(), grid, tmp_path / "net.onnx")
    i2p.export(small(), grid, tmp_path / "net.onnx")
    assert "no such convolutions" not in caplog.text
    i2p.export(small().double(), grid, tmp_path / "net.onnx")
    assert "is of float64: ONNX Runtime has no such convolutions on CPUs" in caplog.text
    i2p.export(small().bfloat16(), grid, tmp_path / "net.pt2")


@pytest.mark.parametrize("masked", [False, True])
def test_compiles_without_graph_breaks(masked: bool) -> None:
    check_compiled(small(), "aot_eager", masked)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's own backend needs a C++ compiler")
def test_compiles_to_machine_code() -> None:
    check_compiled(small(), "inductor", masked=True)


def test_sparse_voxels_run_as_they_are_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the hundreds of functions that run, torch looks at three; grids are compiled as before."""
    monkeypatch.setattr(eager, "call", getattr(eager.call, "_torchdynamo_orig_callable", eager.call))
    torch.compiler.reset()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph.forward

    net = small()
    compiled = torch.compile(net, backend=backend)
    with torch.no_grad():
        for number in (2, 3, 2):
            assert torch.equal(compiled(clouds(number)), net(clouds(number)))
    assert caplog.text.count("torch.compile leaves sparse voxels to run as they are") == 1 and not graphs
    counted = torch._dynamo.utils.counters
    assert counted["frames"]["total"] <= 4 and sum(counted["graph_break"].values()) <= 3
    grid = clouds(2).dense(SIZE)
    with torch.no_grad():
        torch.testing.assert_close(compiled(grid), net(grid))
    assert len(graphs) == 1


def check_compiled(net: LiftedNetwork, backend: str, masked: bool) -> None:
    torch.compiler.reset()
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    for number in (2, 3):
        voxels = clouds(number).dense(SIZE)
        x = voxels if masked else voxels.grid
        with torch.no_grad():
            assert relative(compiled(x), net(x)) < 1e-5


def test_mean_pooling_runs_as_onnx(tmp_path: Path) -> None:
    """The shortcuts of this network pool by means over the occupied cells."""
    net = i2p.lift("test_resnet", weights="random", num_classes=4).eval()
    voxels = clouds(2)
    grid = voxels.dense()
    with torch.no_grad():
        expected = net(voxels)
    path = i2p.export(net, clouds(1).dense(), tmp_path / "net.onnx")
    assert relative(run_file(path, grid.grid, grid.mask), expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_run_as_onnx(name: str, tmp_path: Path) -> None:
    net = i2p.lift(timm_network(name).float(), num_classes=None, stem="inflate").eval()
    path = i2p.export(net, clouds(1, (32, 32, 32)).dense((32, 32, 32)), tmp_path / "net.onnx")
    voxels = clouds(2, (32, 32, 32))
    grid: DenseVoxels = voxels.dense((32, 32, 32))
    with torch.no_grad():
        expected = net(voxels)
    assert not torch.equal(expected[0], expected[1])
    assert relative(run_file(path, grid.grid, grid.mask), expected) < 1e-5
