"""`image2point bench`: one command per question, each thin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeAlias

import typer

from image2point.cli_options import Json
from image2point.errors import InputError

if TYPE_CHECKING:
    import torch

    from image2point.voxels import VoxelTensor

app = typer.Typer(
    no_args_is_help=True, help="Measure side by side, on this machine: ours, a plain engine, other packages."
)

Root = Annotated[Path, typer.Option("--data", help="Folder of ModelNet40.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's choice.")]
Engine = Annotated[str, typer.Option(help="Engine that is measured: auto, cpu, ...")]
Repeats = Annotated[int, typer.Option(min=1, help="Measurements per figure; the median counts.")]
Clouds = Annotated[int, typer.Option(min=1, help="Clouds per batch.")]
VoxelSize = Annotated[float, typer.Option(help="Edge of a voxel.")]
Rows: TypeAlias = Iterable[dict[str, Any]]
MODELNET = Path("data/modelnet40_ply_hdf5_2048")


@app.command()
def conv(
    compare: Annotated[
        str, typer.Option(help="Contenders, by comma: plain, cpu, triton, spconv-triton, open3d, ocnn, spconv, dense.")
    ] = "plain,open3d,ocnn,spconv,dense",
    kernel: Annotated[
        str,
        typer.Option(
            help="Kinds of kernels, by comma, on our engine instead: depth, depth:channels, inflated, general."
        ),
    ] = "",
    depthwise: Annotated[bool, typer.Option(help="With --kernel: one group per channel.")] = False,
    channels: Annotated[str, typer.Option(help="stride:channels, by comma.")] = "1:32,1:64,1:128,2:128,4:256,8:512",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    voxels: Annotated[int, typer.Option(help="Measure on a synthetic surface of so many voxels instead.")] = 0,
    data: Root = MODELNET,
    clouds: Clouds = 32,
    voxel_size: VoxelSize = 0.05,
    engine: Engine = "auto",
    device: Device = "cpu",
    threads: Threads = 0,
    repeats: Repeats = 7,
    json: Json = None,
) -> None:
    """One 3×3×3 submanifold convolution of an inflated, frozen kernel: forward, and with the data gradient."""
    import torch

    from image2point.benchmarks import clouds as sources
    from image2point.benchmarks import conv as bench
    from image2point.benchmarks import kernels, peers

    if dtype not in ("float32", "bfloat16", "float16"):
        raise InputError(f"--dtype: expected float32, bfloat16 or float16, found {dtype!r}")
    where, kind = _prepare(device, threads), getattr(torch, dtype)
    against = [name for name in compare.split(",") if name]
    for name in against:
        if name not in (*peers.PEERS, *bench.OWN):
            raise InputError(f"--compare: expected {', '.join((*bench.OWN, *peers.PEERS))}, found {name!r}")
    kinds = [name for name in kernel.split(",") if name]
    if unknown := [name for name in kinds if name not in kernels.KINDS]:
        raise InputError(f"--kernel: expected {', '.join(kernels.KINDS)}, found {unknown[0]!r}")
    if depthwise and not kinds:
        raise InputError("--depthwise: needs --kernel; the other contenders are measured with one group")
    sites = sources.surface(voxels).to(where) if voxels else _modelnet(data, clouds, voxel_size, where).sites
    wanted = [tuple(int(part) for part in item.split(":")) for item in channels.split(",")]

    def rows(machine: dict[str, Any]) -> Rows:
        ceiling = 1e9 * machine[f"gemm_gflops_{dtype}"]
        for stride, width in wanted:
            scale = sources.scales(sites, stride.bit_length())[-1]
            if kinds:
                yield from kernels.measure_kernels(scale, width, kind, engine, kinds, repeats, depthwise)
            else:
                yield from bench.measure_convolution(scale, width, kind, engine, against, ceiling, repeats)

    _show(where, rows, json, dtype)


@app.command()
def network(
    compare: Annotated[str, typer.Option(help="Contenders, by comma: engines, plain, apart (unfused).")] = "plain",
    policy: Annotated[str, typer.Option(help="What trains, as of `transfer`; none: class scores alone.")] = "io+norm",
    arch: Annotated[str, typer.Option(help="Names of timm, by comma.")] = "resnet50,tf_efficientnet_lite0",
    decoder: Annotated[str, typer.Option(help="Score every voxel, by this decoder: light, unet, hypercolumn.")] = "",
    scan: Annotated[int, typer.Option(help="Measure on a synthetic street scan of so many points instead.")] = 0,
    data: Root = MODELNET,
    clouds: Clouds = 32,
    voxel_size: VoxelSize = 0.05,
    engine: Engine = "auto",
    device: Device = "cpu",
    threads: Threads = 0,
    repeats: Repeats = 5,
    json: Json = None,
) -> None:
    """A whole fine-tuning step with frozen kernels, or a forward pass, and its peak memory."""
    from image2point.benchmarks import network as bench
    from image2point.benchmarks.clouds import street_scan

    where = _prepare(device, threads)
    voxels = street_scan(scan, voxel_size).to(where) if scan else _modelnet(data, clouds, voxel_size, where)
    contenders = [engine, *(name for name in compare.split(",") if name)]

    def rows(machine: dict[str, Any]) -> Rows:
        ceiling = 1e9 * machine["gemm_gflops_float32"]
        for name in arch.split(","):
            yield from bench.measure_network(name, voxels, contenders, policy, repeats, decoder, ceiling)

    _show(where, rows, json)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A config file.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]")] = None,  # noqa: UP045
    compare: Annotated[str, typer.Option(help="Engines to compare with, by comma: plain, reference.")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure.")] = 10,
    device: Device = "cpu",
    threads: Threads = 0,
    json: Json = None,
) -> None:
    """Clouds per second of training as it is run, loading and plans included."""
    from image2point import config as configuration
    from image2point.benchmarks import train as bench

    where = _prepare(device, threads)
    settings = configuration.load_config(config, overrides or ())
    contenders = [settings.network.engine, *(name for name in compare.split(",") if name)]
    _show(where, lambda machine: bench.measure_training(settings, contenders, steps, where), json)


@app.command()
def plan(
    compare: Annotated[str, typer.Option(help="`growth` adds the table of cost over size.")] = "growth",
    levels: Annotated[int, typer.Option(min=1, help="Scales.")] = 4,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the convolution beside it.")] = 64,
    largest: Annotated[int, typer.Option(min=10_000, help="Largest number of voxels of the growth table.")] = 1_000_000,
    data: Root = MODELNET,
    clouds: Clouds = 32,
    voxel_size: VoxelSize = 0.05,
    engine: Engine = "auto",
    device: Device = "cpu",
    threads: Threads = 0,
    repeats: Repeats = 7,
    json: Json = None,
) -> None:
    """What neighbour tables cost, and how time and memory grow with the number of voxels."""
    from image2point.benchmarks import plan as bench

    where = _prepare(device, threads)
    sites = _modelnet(data, clouds, voxel_size, where).sites

    def rows(machine: dict[str, Any]) -> Rows:
        yield from bench.measure_plans(sites, levels, channels, engine, repeats)
        if "growth" in compare.split(","):
            yield from bench.measure_growth(largest, min(channels, 16), engine, where)

    _show(where, rows, json)


def _prepare(device: str, threads: int) -> torch.device:
    import torch

    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device {device}: expected cpu, or cuda where there is a GPU")
    if threads:
        torch.set_num_threads(threads)
    return torch.device(device)


def _show(
    device: torch.device, rows: Callable[[dict[str, Any]], Rows], json: Path | None, dtype: str = "float32"
) -> None:
    """Measure the machine, then print the rows as they come, and write them where that is asked for."""
    import torch

    from image2point.benchmarks import table, timing

    machine = timing.machine(device, tuple({torch.float32, getattr(torch, dtype)}))
    table.show_rows(machine, rows(machine), json)


def _modelnet(data: Path, clouds: int, voxel_size: float, device: torch.device) -> VoxelTensor:
    from image2point.benchmarks.clouds import modelnet_voxels

    return modelnet_voxels(data, clouds, voxel_size).to(device)
