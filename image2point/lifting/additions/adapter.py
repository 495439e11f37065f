"""A residual branch behind each block: x + up(relu(down(x))) at every site, R channels wide; up starts at zero.

Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, whose bottleneck is behind each sublayer
of a transformer; on feature maps, where it is a 1×1 convolution, after Rebuffi et al., "Learning multiple visual
domains with residual adapters", 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from image2point.errors import InputError
from image2point.lifting.blocks import Block
from image2point.lifting.kernels import generator
from image2point.lifting.regions import WITHIN, Call, Operand, members, replaced
from image2point.lifting.rewrite import LAYERS
from image2point.voxels import DenseVoxels, Voxels, functional

NAME = "adapter"
"""What the branch of a block is called in it."""


class Adapter(nn.Module):
    """x + up(relu(down(x))) at each site.

    >>> branch = Adapter(4, 2, torch.Generator().manual_seed(0))
    >>> x = torch.rand(1, 4, 2, 2, 2)
    >>> torch.equal(branch(x), x)  # until it is trained
    True
    """

    def __init__(self, channels: int, rank: int, draw: torch.Generator) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, rank), nn.Linear(rank, channels)
        with torch.no_grad():
            self.down.weight.normal_(0.0, (2 / channels) ** 0.5, generator=draw)
            for start in (self.down.bias, self.up.weight, self.up.bias):
                start.zero_()

    def forward(self, x: Voxels) -> Voxels:
        return functional.add(x, functional.on_sites(self._branch, x))

    def _branch(self, features: Tensor) -> Tensor:
        return self.up(self.down(features).relu())


def plan(net: Any, names: Iterable[str], rank: int) -> tuple[list[str], Callable[[], None]]:
    """Which of the blocks take a branch, and what gives it to them and writes it into the network's graph.

    Args:
        net: a lifted network.
        names: of its blocks.

    Returns:
        The names of the branches, those that are there included, and what makes the others.

    Raises:
        InputError: where one has a branch of another width already, or a layer of that name.
    """
    blocks = {name: block for name in names if isinstance(block := net.get_submodule(name), Block)}
    there = {name for name, block in blocks.items() if isinstance(block._modules.get(NAME), Adapter)}
    for name, block in blocks.items():
        found = block._modules.get(NAME)
        if name in there:
            width = found.down.out_features  # type: ignore[union-attr]
            if width != rank:
                raise InputError(
                    f"policy adapter:{rank}: {name} has an adapter of {width} channels already, which stays; lift the "
                    "network anew"
                )
        elif found is not None:
            raise InputError(f"policy adapter:{rank}: {name} has a layer of its own that is called {NAME}")
    maps = _maps(net, [name for name in blocks if name not in there])

    def add() -> None:
        inside, nodes = members(net._graph), {node.name: node for node in net._graph.nodes}
        for name, map_ in maps.items():
            call, like = blocks[name]._region.call, next(net.parameters())
            node = nodes[call.result.name]
            made = Adapter(map_.grid.shape[1], rank, generator(net._lifting.options.seed, f"{name}.{NAME}"))
            blocks[name]._modules[NAME] = made.to(like).train(blocks[name].training)
            net._roles[f"{name}.{NAME}"] = "body"
            _write(net._graph, net._calls, name, node, set(inside[name]))
        if maps:
            net.renew_program()

    return [f"{name}.{NAME}" for name in blocks if name in there or name in maps], add


def _maps(net: Any, names: list[str]) -> dict[str, DenseVoxels]:
    """What those of the blocks give, on a single voxel, that are called once and give one map that they made."""
    graph = net._graph
    inside = members(graph)
    made = {name: {node.name for node in inside.get(name, ())} for name in names}
    regions = {name: net.get_submodule(name)._region for name in names}
    one = [
        name
        for name, region in regions.items()
        if not region.problem and isinstance(region.call.result, Operand) and region.call.result.name in made[name]
    ]
    maps = net._on_one_voxel(net.observe_maps(one)) if one else {}
    return {name: each for name, each in maps.items() if isinstance(each, DenseVoxels)}


def _write(graph: fx.Graph, calls: dict[str, list[Call]], name: str, node: fx.Node, inside: set[fx.Node]) -> None:
    """Put the branch of a block behind the node that the block gave: it is a part of the block from then on."""
    with graph.inserting_after(node):
        branch = graph.call_module(f"{name}.{NAME}", (node,))
    node.replace_all_uses_with(branch, delete_user_cb=lambda user: user is not branch and user not in inside)
    within = node.meta[WITHIN]
    branch.meta[WITHIN] = (*within[: within.index(name) + 1], f"{name}.{NAME}")
    deeper = [each for each in node.meta.get(LAYERS, ()) if each.startswith(f"{name}.")]
    branch.meta[LAYERS] = [each for each in node.meta.get(LAYERS, ()) if each not in deeper]
    node.meta[LAYERS] = deeper

    def renamed(structure: Any) -> Any:
        return replaced(structure, lambda operand: Operand(branch.name) if operand.name == node.name else operand)

    for path, times in calls.items():
        if not path.startswith(f"{name}."):
            calls[path] = [Call(renamed(call.args), renamed(call.named), renamed(call.result)) for call in times]
