"""Throughput of training as it is run: loading, augmentation, voxels, plan, step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from image2point.benchmarks import plain
from image2point.config import Config
from image2point.errors import InputError
from image2point.finetune import freeze
from image2point.jobs.ingredients import load_splits, make_network, make_recipe
from image2point.training.batches import batches, plans_of, shuffled
from image2point.training.schedule import make_optimizer
from image2point.voxels import VoxelConv
from image2point.voxels.conv import engines

engines.MODULES.setdefault("plain", plain.__name__)


def measure_training(
    config: Config, contenders: list[str], steps: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """One row per engine: clouds per second over `steps` steps, the share of the time spent waiting for batches, and
    the CPU time that this process takes for a step. Where there are workers, two: plans made here, and made by them."""
    if config.training.batch_voxels:
        raise InputError("bench train measures batches of training.batch_size clouds; leave training.batch_voxels null")
    splits = load_splits(config.data)
    plan = [part for epoch in range(1 + steps * config.training.batch_size // len(splits.train))
            for part in shuffled(len(splits.train), config.training.batch_size, config.seed, epoch)]  # fmt: skip
    precision = config.training.precision
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    workers = config.training.workers
    for engine, ahead in [
        (engine, ahead) for engine in contenders for ahead in ([False, True] if workers else [False])
    ]:
        network = make_network(config, len(splits.train.classes))
        freeze(network, config.finetune.policy)
        for module in network.modules():
            if isinstance(module, VoxelConv):
                module.engine = engine
        network.to(device).train()
        optimizer, recipe = make_optimizer(network, config.training), make_recipe(config)
        loader = batches(
            splits.train, plan[: steps + 1], recipe, 1, workers, device.type == "cuda",
            wanted=plans_of(network, splits.train, recipe) if ahead else None,
        )  # fmt: skip
        clouds, waited, start, used = 0, 0.0, 0.0, 0.0
        for number in range(steps + 1):
            asked = time.perf_counter()
            batch = next(loader).to(device, torch.float32)
            if number:
                waited += time.perf_counter() - asked
                clouds += len(batch.targets)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, half, enabled=half is not None):
                loss = nn.functional.cross_entropy(network(batch.voxels), batch.targets)
            loss.backward()
            optimizer.step()
            loss.item()  # the step is over
            if not number:  # the first step warms up
                start, used = time.perf_counter(), time.process_time()
        used = time.process_time() - used
        seconds = time.perf_counter() - start
        yield {
            "config": config.name, "engine": engine, "plans_by": "workers" if ahead else "main", "steps": steps,
            "seconds": seconds,
            "clouds_per_s": clouds / seconds, "share_waiting_for_data": waited / seconds,
            "main_cpu_ms_per_step": 1e3 * used / steps,
        }  # fmt: skip
