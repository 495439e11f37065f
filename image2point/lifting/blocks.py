"""Blocks of a lifted network: what holds layers in 2D, such as `layer1` and `layer1.0`, as modules with a forward."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from torch import Tensor, fx, nn
from torch.utils.hooks import BackwardHook, RemovableHandle

from image2point.errors import InputError
from image2point.lifting.programs import Region
from image2point.lifting.regions import WITHIN, Call, LeakError, Operand, members, region
from image2point.voxels import BatchNorm, DenseVoxels, VoxelTensor


class OwnNorms(nn.Module):
    """A module whose batch norms stay where `convert_sync_batchnorm` would replace them."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As of any module; but in place of a batch norm over voxels, `SyncBatchNorm` changes nothing.

        Those here reduce their statistics over all processes by themselves.

        Raises:
            InputError: where it is to reduce over some processes only.
        """
        if isinstance(module, nn.SyncBatchNorm) and isinstance(self._modules.get(name), BatchNorm):
            if module.process_group is not None:
                raise InputError(
                    "the batch norms of a lifted network reduce their statistics over all processes, not over a "
                    "process_group; call convert_sync_batchnorm without one, or not at all"
                )
            return
        super().add_module(name, module)


class Block(OwnNorms):
    """A module of the 2D network in 3D: one that holds others, or one that changes nothing there.

    It takes and gives what it does there, with voxels in place of images, and has hooks as any module. Where its layers
    are not entered and left once in 3D, calling it and setting a hook on it are errors.

    Args:
        kind: class of the 2D module.
    """

    _region: Region

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind
        self._gradient_hooks: dict[int, Callable[..., Any]] = OrderedDict()
        self._gradient_pre_hooks: dict[int, Callable[..., Any]] = OrderedDict()

    def forward(self, *args: Any, **named: Any) -> Any:
        """What the block gives for the arguments that the 2D one takes.

        Raises:
            InputError: where it cannot run on its own, or on other arguments.
        """
        if self._region.graph is None:
            self._refuse("calling it")
        values = self._region.call.bind(args, named)
        if not self._gradient_hooks and not self._gradient_pre_hooks:
            return self._region.run(self, values)
        # As nn.Module does it, which knows tensors alone.
        hook = BackwardHook(self, list(self._gradient_hooks.values()), list(self._gradient_pre_hooks.values()))
        given = hook.setup_input_hook(tuple(tensors(values)))
        result = self._region.run(self, with_tensors(values, iter(given)))
        return with_tensors(result, iter(hook.setup_output_hook(tuple(tensors(result)))))

    def register_forward_hook(self, *args: Any, **named: Any) -> RemovableHandle:
        self._check_hook()
        return super().register_forward_hook(*args, **named)

    def register_forward_pre_hook(self, *args: Any, **named: Any) -> RemovableHandle:
        self._check_hook()
        return super().register_forward_pre_hook(*args, **named)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """As of any module; the gradients are those of features [N, C] or of grids."""
        return self._register(self._gradient_hooks, hook, prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """As of any module; the gradients are those of features [N, C] or of grids."""
        return self._register(self._gradient_pre_hooks, hook, prepend)

    def register_backward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        raise InputError("blocks have no hooks of this deprecated kind; use register_full_backward_hook")

    def _register(self, hooks: dict[int, Callable[..., Any]], hook: Callable[..., Any], first: bool) -> RemovableHandle:
        self._check_hook()
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        if first:
            hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]
        return handle

    def _check_hook(self) -> None:
        if self._region.problem:
            self._refuse("a hook on it")

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(
            f"{self._region.path} is no module of its own in 3D ({self._region.problem}), so {what} would do nothing. "
            "The network's forward_features gives the maps of its stages, and the modules in it can have hooks"
        )

    def _fixed(self, *args: Any) -> NoReturn:
        raise InputError(
            f"what {self._region.path} calls was fixed when the network was lifted: layers can be replaced, for "
            "example by nn.Sequential(layer, new), but neither added nor taken away"
        )

    def _get_name(self) -> str:
        return self._kind

    def extra_repr(self) -> str:
        return "" if self._modules or self._kind == "Identity" else "nothing in 3D"


class BlockSequence(Block, nn.Sequential):
    """A `Sequential` of the 2D network."""

    def __getitem__(self, index: Any) -> Any:
        """A module of it, or a part of it that runs on its own."""
        if not isinstance(index, slice):
            return super().__getitem__(index)
        part = BlockSequence("Sequential")
        names = list(self._modules)
        part._modules.update((name, self._modules[name]) for name in names[index])
        part._region = _part(self._region, names[index], neighbours=index.step in (None, 1))
        return part

    append = extend = insert = pop = __delitem__ = Block._fixed  # type: ignore[assignment]


class BlockList(Block, nn.ModuleList):
    """A `ModuleList` of the 2D network."""

    def __getitem__(self, index: Any) -> Any:
        return nn.ModuleList(list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    append = extend = insert = pop = __delitem__ = Block._fixed  # type: ignore[assignment]


class BlockDict(Block, nn.ModuleDict):
    """A `ModuleDict` of the 2D network."""


def block_like(module: nn.Module) -> Block:
    """An empty block for the children of a 2D module."""
    kinds = {nn.Sequential: BlockSequence, nn.ModuleList: BlockList, nn.ModuleDict: BlockDict}
    kind = next((block for base, block in kinds.items() if isinstance(module, base)), Block)
    return kind(type(module).__name__)


def assign_regions(root: nn.Module, graph: fx.Graph, calls: Mapping[str, list[Call]]) -> dict[str, Region]:
    """Give every block of a network its region of the graph.

    Args:
        calls: how the 2D network calls each of its modules.

    Returns:
        The regions of the network's children that are blocks, by name.
    """
    inside, named = members(graph), {node.name: node for node in graph.nodes}
    layers = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    top: dict[str, Region] = {}
    made: dict[str, Region] = {}
    for path, block in root.named_modules():
        if not isinstance(block, Block):
            continue
        times = calls.get(path, [])
        call, own, problem = Call(), None, ""
        if path in layers:
            call = Call((Operand("x"),), {}, Operand("x"))
            own = region("", call, [], {"x": next(iter(graph.nodes))})
        elif len(times) == 1:
            call = times[0]
            try:
                own = region(path, call, inside.get(path, []), named)
            except LeakError as error:
                problem = str(error)
            if not problem and path not in inside:
                problem = "it does nothing there"
        else:
            problem = f"the 2D network calls it {len(times)} times" if times else "the 2D network never calls it"
        block._region = made[path] = Region(path, call, own, problem, path in layers)
        parent, _, name = path.rpartition(".")
        (made[parent].inner if parent in made else top)[name] = made[path]
    return top


def tensors(structure: Any) -> list[Tensor]:
    """The tensors in voxels, or in tuples, lists and dictionaries of them."""
    if isinstance(structure, VoxelTensor):
        return [structure.features]
    if isinstance(structure, DenseVoxels):
        return [structure.grid]
    if isinstance(structure, dict):
        structure = structure.values()
    elif not isinstance(structure, tuple | list):
        return [structure] if isinstance(structure, Tensor) else []
    return [tensor for part in structure for tensor in tensors(part)]


def with_tensors(structure: Any, new: Iterator[Tensor]) -> Any:
    """The structure with other tensors, in the order of `tensors`."""
    if isinstance(structure, VoxelTensor):
        return dataclasses.replace(structure, features=next(new))
    if isinstance(structure, DenseVoxels):
        return dataclasses.replace(structure, grid=next(new))
    if isinstance(structure, dict):
        return {key: with_tensors(part, new) for key, part in structure.items()}
    if isinstance(structure, tuple | list):
        return type(structure)(with_tensors(part, new) for part in structure)
    return next(new) if isinstance(structure, Tensor) else structure


def _part(whole: Region, names: list[str], neighbours: bool) -> Region:
    """The region of some children of a block, which run one after another."""
    if whole.graph is None or not neighbours:
        return Region(whole.path, Call(), None, whole.problem or "only neighbours run one after another")
    paths = {f"{whole.path}.{name}" for name in names}
    inside = [node for node in whole.graph.nodes if paths.intersection(node.meta.get(WITHIN, ()))]
    made = set(inside)
    given = dict.fromkeys(read for node in inside for read in node.all_input_nodes if read not in made)
    returned = [node for node in inside if not made.issuperset(node.users)]
    call, own, problem = Call(), None, "its layers are no chain"
    if len(given) == len(returned) == 1 or not inside:
        first = next(iter(given or whole.graph.nodes))
        call, problem = Call((Operand(first.name),), {}, Operand((returned or [first])[0].name)), ""
        own = region("", call, inside, {node.name: node for node in whole.graph.nodes})
    part = Region(whole.path, call, own, problem)
    part.inner.update({name: whole.inner[name] for name in names if name in whole.inner})
    return part
