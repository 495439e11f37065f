"""FSDP: each process keeps its part of what trains, and of the optimizer's state (`training.sharding`).

Parameters are put together for the block that runs, forward and backward, and let go behind it. Those that are frozen
stay whole: they have no gradient and no state, and what is computed from their kernels is remembered as a whole anyway.
What is scored, measured and saved is a whole network, which is given the values of the parts first (`gather`).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from image2point.errors import InputError
from image2point.finetune import blocks_of
from image2point.lifting import LiftedNetwork
from image2point.lifting.blocks import Block

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import ModelParallelStrategy
    from torch.distributed.device_mesh import DeviceMesh


def strategy(processes: int) -> ModelParallelStrategy:
    """What Fabric has to be started with.

    Raises:
        InputError: with a torch that finds no tensors in the voxels between blocks, and would not see their gradients.
    """
    from lightning.fabric.strategies import ModelParallelStrategy

    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        raise InputError(f"training.sharding = blocks needs torch 2.13, found {torch.__version__}; set it to none")

    class Blocks(ModelParallelStrategy):
        """Fabric's own leaves a module where it lies; here whole networks have to be moved as well."""

        def module_to_device(self, module: nn.Module) -> None:
            module.to(self.root_device)

    return Blocks(by_block, data_parallel_size=processes, tensor_parallel_size=1)


def is_on(fabric: Fabric) -> bool:
    """Whether the processes of a run keep parts."""
    from lightning.fabric.strategies import ModelParallelStrategy

    return isinstance(fabric.strategy, ModelParallelStrategy)


def by_block(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Let each process keep its part of what trains, in place: of each block in the lifted network, and of the rest.

    Raises:
        InputError: where a parameter that trains is a single number without an axis, along which it could be divided.
    """
    from torch.distributed.fsdp import fully_shard

    if numbers := [name for name, p in module.named_parameters() if p.requires_grad and not p.ndim]:
        raise InputError(
            f"training.sharding = blocks divides parameters along their first axis, and {numbers[0]} has none; "
            "set training.sharding to none, or another finetune.policy"
        )
    frozen = {parameter for parameter in module.parameters() if not parameter.requires_grad}
    (network,) = (part for part in module.modules() if isinstance(part, LiftedNetwork))
    for block in map(network.get_submodule, blocks_of(network)):
        trains = any(parameter.requires_grad for parameter in block.parameters())
        if trains and isinstance(block, Block) and not block._region.problem:
            fully_shard(block, mesh=mesh["data_parallel"], ignored_params=frozen)
    # It means the scores, which the loss reads and nothing writes to.
    warnings.filterwarnings("ignore", rf"FSDP2-wrapped module \(FSDP{type(module).__name__}\) returned a view")
    fully_shard(module, mesh=mesh["data_parallel"], ignored_params=frozen)
    return module


def told(network: nn.Module) -> str:
    """How much of what trains this process keeps, in one line."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    trains = [parameter for parameter in network.parameters() if parameter.requires_grad]
    parts = (parameter.to_local() if isinstance(parameter, DTensor) else parameter for parameter in trains)
    if not (mine := sum(tensor.numel() for tensor in parts)) < (total := sum(map(Tensor.numel, trains))):
        return "warning: training.sharding = blocks divides nothing where one process trains; set training.devices"
    blocks = sum(isinstance(module, FSDPModule) for module in network.modules())
    return (
        f"sharding: this process keeps {mine:,} of {total:,} parameters that train; {blocks} blocks are put together "
        "one at a time"
    )


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each process has a part, put together on the host; any other as it is. By all processes."""
    return tensor.full_tensor().cpu() if hasattr(tensor, "full_tensor") else tensor  # some torches lack DTensor


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, cut as another one of its shape is; all of it where that one is whole."""
    if not hasattr(like, "full_tensor") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def gather(parts: nn.Module, network: nn.Module) -> None:
    """Give a whole network the values of one in parts."""
    network.load_state_dict({name: whole(tensor) for name, tensor in parts.state_dict().items()})


def scatter(network: nn.Module, parts: nn.Module) -> None:
    """Give a network in parts the values of a whole one."""
    values = network.state_dict()
    parts.load_state_dict({name: part(values[name], like) for name, like in parts.state_dict().items()})
