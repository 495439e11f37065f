"""A whole fine-tuning step with frozen kernels, or a forward pass: ours, and what it is compared with."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import image2point
from image2point.benchmarks import plain
from image2point.benchmarks.timing import compare
from image2point.lifting.costs import costs
from image2point.lifting.network import LiftedNetwork
from image2point.training.memory import peak, return_freed_blocks
from image2point.voxels import Sites, VoxelConv, VoxelError, VoxelTensor
from image2point.voxels.conv import engines

engines.MODULES.setdefault("plain", plain.__name__)
CLASSES = 40
APART = "apart"
"""The contender that runs the modules one by one where ours takes frozen ones together."""


def build_network(arch: str, engine: str, policy: str, decoder: str = "", seed: int = 0) -> LiftedNetwork:
    """A lifted network with random weights under a policy, a segmenter if there is a decoder; in eval mode if nothing
    trains.

    With the engine `plain` every kernel takes a gradient, as in libraries that compute it whether it is used or not;
    the optimizer has the same parameters in both.
    """
    made: dict[str, Any] = {"weights": "random", "num_classes": CLASSES, "seed": seed}
    if decoder:  # with the paper's stem for segmentation
        made |= {"decoder": decoder, "stem": "full"}
    network = image2point.segmenter(arch, **made) if decoder else image2point.lift(arch, **made)
    counts = image2point.freeze(network, policy)
    for module in network.modules():
        if isinstance(module, VoxelConv):
            module.engine = "auto" if engine == APART else engine
            if engine == APART:  # modules that someone watches run one by one
                module.register_forward_hook(lambda module, given, result: None)
    return network.train(counts.trainable > 0)


def step_of(network: LiftedNetwork, voxels: Callable[[], VoxelTensor], labels: Tensor) -> Callable[[], None]:
    """A training step on the voxels that `voxels()` gives, or their class scores if nothing trains."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if not trained:

        def scores() -> None:
            with torch.no_grad():
                network(voxels())

        return scores
    segments = bool(network.lifting.decoder)
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9)
    if any(module.engine == "plain" for module in network.modules() if isinstance(module, VoxelConv)):
        for module in network.modules():
            if isinstance(module, VoxelConv):
                module.requires_grad_(True)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        scores = network(voxels())
        nn.functional.cross_entropy(scores.features if segments else scores, labels).backward()
        optimizer.step()

    return step


def measure_network(
    arch: str,
    voxels: VoxelTensor,
    contenders: Sequence[str],
    policy: str,
    repeats: int,
    decoder: str = "",
    ceiling: float | None = None,
) -> Iterator[dict[str, Any]]:
    """One row per engine: seconds of a step with its plan at hand and with the plan built anew, and peak memory.

    With a decoder every voxel is scored. ceiling: operations per second of a product of matrices; where nothing trains,
    a row then has the share of it that the multiplications of the pass reach, those that summing tied neighbours saves
    not counted. One that is compared and cannot run has a remark instead.
    """
    device = voxels.device
    labels = torch.arange(len(voxels.sites) if decoder else voxels.batch_size, device=device) % CLASSES
    fresh = lambda: VoxelTensor(voxels.features, Sites(voxels.coordinates, voxels.batch_size))  # noqa: E731
    case: dict[str, Any] = {"network": arch, "policy": policy, "clouds": voxels.batch_size, "voxels": len(voxels.sites)}
    if decoder:
        case["decoder"] = decoder
    warm, cold, operations = {}, {}, 0.0
    for engine in contenders:
        network = build_network(arch, engine, policy, decoder).to(device)
        step = step_of(network, lambda: voxels, labels)
        if ceiling and policy == "none" and engine == contenders[0]:
            operations = 2 * sum(cost.summed for cost in costs(network, [voxels]).values()) * voxels.batch_size
        try:
            step()
        except VoxelError as reason:
            if engine == contenders[0]:
                raise
            yield {**case, "engine": engine, "remark": str(reason)}
            continue
        warm[engine], cold[engine] = step, step_of(network, fresh, labels)
    seconds, with_plan = compare(warm, device, repeats), compare(cold, device, repeats)
    del warm, cold
    memory = {engine: peak_of_step(arch, engine, policy, decoder, voxels, labels) for engine in seconds}
    ours = contenders[0]
    for engine in seconds:
        row = {
            **case, "engine": engine,
            "step_ms": 1e3 * seconds[engine], "step_with_plan_ms": 1e3 * with_plan[engine],
            "clouds_per_s": voxels.batch_size / with_plan[engine],
            "step_times_ours": seconds[engine] / seconds[ours],
            "peak_mib": None if memory[engine] is None else (memory[engine] or 0) / 2**20,
            "peak_times_ours": _ratio(memory[engine], memory[ours]),
        }  # fmt: skip
        if ceiling and operations and engine == ours:
            row["gemm_share"] = operations / seconds[engine] / ceiling
        yield row


def peak_of_step(arch: str, engine: str, policy: str, decoder: str, voxels: VoxelTensor, labels: Tensor) -> int | None:
    """Peak memory of a network's first step, plan included, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        arguments = (arch, engine, policy, decoder, voxels.features.cpu().numpy(), voxels.coordinates.cpu().numpy(),
                     voxels.batch_size, labels.cpu().numpy(), str(voxels.device), torch.get_num_threads())  # fmt: skip
        return pool.apply(_peak, arguments)


def _peak(
    arch: str,
    engine: str,
    policy: str,
    decoder: str,
    features: Any,
    coordinates: Any,
    clouds: int,
    labels: Any,
    device: str,
    threads: int,
) -> int | None:
    return_freed_blocks()
    torch.set_num_threads(threads)
    network = build_network(arch, engine, policy, decoder).to(device)
    sites = Sites(torch.from_numpy(coordinates).to(device), clouds)
    voxels = VoxelTensor(torch.from_numpy(features).to(device), sites)
    return peak(step_of(network, lambda: voxels, torch.from_numpy(labels).to(device)), torch.device(device))


def _ratio(value: int | None, ours: int | None) -> float | None:
    return None if value is None or not ours else value / ours
