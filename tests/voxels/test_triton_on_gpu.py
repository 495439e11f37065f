"""The Triton engine, and spconv-triton, on a CUDA device at the sizes of real batches; `make test-gpu` runs this."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from voxel_samples import relative

from image2point.voxels import Sites, VoxelConv, VoxelTensor, Window, neighbour_table
from image2point.voxels.conv import engines, reference
from image2point.voxels.conv.autograd import convolve
from image2point.voxels.plan import NeighbourTable

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

# Largest error relative to the largest value, operands rounded to the type and sums in float32.
BOUNDS = {"ieee": 2e-6, "tf32": 2e-3, "bfloat16": 1e-2, "float16": 2e-3}


@pytest.fixture(autouse=True)
def first_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search for tile sizes: it compiles every kernel eight times."""
    monkeypatch.setenv("IMAGE2POINT_TUNE", "0")


@pytest.fixture(params=list(BOUNDS))
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if request.param == "tf32" else "highest")
    yield request.param
    torch.set_float32_matmul_precision(before)


def spheres(clouds: int, radius: float) -> Sites:
    """Sites within half a voxel of spheres of growing size, on the GPU."""
    size = int(radius + clouds) + 3
    grid = torch.cartesian_prod(*[torch.arange(-size, size + 1, device="cuda")] * 3)
    shells = []
    for cloud in range(clouds):
        near = ((grid.float().norm(dim=1)) - radius - 0.3 * cloud).abs() < 0.5
        shells.append(torch.nn.functional.pad(grid[near], (1, 0), value=cloud))
    return Sites.of(torch.cat(shells).to(torch.int32))


def check(table: NeighbourTable, inputs: int, outputs: int, shape: tuple, groups: int, name: str, engine: str) -> None:
    """Result and both gradients, against the reference in float64 on the operands as they were rounded."""
    dtype = getattr(torch, name) if name in ("bfloat16", "float16") else torch.float32
    generator = torch.Generator("cuda").manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device="cuda").to(dtype)

    x, w = draw(table.sources, inputs).requires_grad_(), draw(outputs, inputs // groups, *shape).requires_grad_()
    gradient = draw(table.targets, outputs)
    y = convolve(x, w, table, groups, engine)
    found = [y, *torch.autograd.grad(y, (x, w), gradient)]
    x, w = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    y = reference.convolve(x, w.expand(-1, -1, *table.kernel), table, groups)
    for value, truth in zip(found, [y, *torch.autograd.grad(y, (x, w), gradient.double())], strict=True):
        assert relative(value.double(), truth) < BOUNDS[name]


@pytest.mark.parametrize(
    ("kernel", "stride", "tied", "groups", "inputs", "outputs"),
    [
        (3, 1, "z", 1, 64, 64),
        (3, 1, "", 1, 128, 96),
        (3, 2, "z", 1, 64, 128),
        (2, 2, "xyz", 1, 256, 512),
        (1, 2, "", 1, 64, 128),
        (5, 2, "y", 4, 64, 64),
        (3, 1, "z", 96, 96, 96),
        (7, 2, "z", 1, 3, 64),
    ],
)
def test_equals_the_reference(
    kernel: int, stride: int, tied: str, groups: int, inputs: int, outputs: int, precision: str
) -> None:
    near = 0 if kernel < 3 else kernel // 2
    table = neighbour_table(spheres(4, 22.0), Window((kernel,) * 3, stride, (near,) * 3))
    shape = tuple(1 if axis in tied else kernel for axis in "xyz")
    check(table, inputs, outputs, shape, groups, precision, "triton")


def test_few_rows_with_many_channels(precision: str) -> None:
    table = neighbour_table(spheres(2, 4.0), Window((3, 3, 3), 1, (1, 1, 1)))
    check(table, 512, 512, (3, 3, 1), 1, precision, "triton")


def test_spconv_equals_the_reference(precision: str) -> None:
    pytest.importorskip("spconv_triton", reason="spconv-triton is not installed")
    for kernel, stride in ((3, 1), (3, 2), (2, 2)):
        table = neighbour_table(spheres(2, 22.0), Window((kernel,) * 3, stride, (kernel // 3,) * 3))
        check(table, 64, 96, (kernel,) * 3, 1, precision, "spconv")


def test_a_gpu_takes_triton_by_itself() -> None:
    table = neighbour_table(spheres(1, 5.0), Window((3, 3, 3), 1, (1, 1, 1)))
    features, weight = torch.randn(table.sources, 16, device="cuda"), torch.randn(16, 16, 3, 3, 1, device="cuda")
    assert engines.choose("auto", features, weight, table, 1).__name__.endswith("triton_engine")
    assert engines.choose("auto", features.double(), weight.double(), table, 1).__name__.endswith("cpu")


def test_repeats_are_identical_and_the_search_does_not_change_values(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = spheres(4, 22.0)
    layer = VoxelConv(64, 64, (3, 3, 3), 1, (1, 1, 1)).cuda()
    x = VoxelTensor(torch.randn(len(sites), 64, device="cuda", requires_grad=True), sites)

    def step() -> list[Tensor]:
        y = layer(x).features
        return [y, *torch.autograd.grad(y.square().sum(), (x.features, layer.weight))]

    first = step()
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(first, step(), strict=True))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("IMAGE2POINT_TUNE")
    from image2point.voxels.conv import triton_tune

    monkeypatch.setattr(triton_tune, "_chosen", {})
    triton_tune._saved.cache_clear()
    for tuned, plain in zip(step(), first, strict=True):
        assert relative(tuned, plain) < 1e-5


def test_offsets_beyond_32_bits() -> None:
    rows, channels = 9_000_000, 256  # 2.3e9 elements
    if torch.cuda.mem_get_info()[0] < 60 << 30:
        pytest.skip("needs 60 GiB of free GPU memory")
    line = torch.arange(rows, dtype=torch.int32, device="cuda")
    side = 3000
    sites = Sites.of(torch.stack([line * 0, line // side, line % side, line * 0], 1))
    table = neighbour_table(sites, Window((3, 3, 3), 1, (1, 1, 1)))
    x = torch.randn(rows, channels, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(channels, channels, 3, 3, 1, device="cuda", dtype=torch.bfloat16)
    y = convolve(x, w, table, engine="triton")
    last = table.index()[-200:].long()
    taps = torch.where((last >= 0)[..., None], x[last.clamp(min=0)], 0).double()
    expected = torch.einsum("mtc,otc->mo", taps, w.expand(-1, -1, 3, 3, 3).flatten(2).transpose(1, 2).double())
    assert relative(y[-200:].double(), expected) < BOUNDS["bfloat16"]
