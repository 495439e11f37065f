"""The first part of a 2D network: all that leads to one of its blocks, and nothing behind it.

Kernels that learnt images can know less of clouds the deeper they lie: a frozen body that ends early may then do better
than the whole one, with fewer parameters and in less time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from image2point.errors import InputError
from image2point.lifting.dead_code import drop_dead
from image2point.lifting.graph import Stem, Trace
from image2point.lifting.image_shapes import image_channels, shape_of
from image2point.networks.layer_names import blocks


def cut(traced: Trace, stem: Stem, until: Any) -> Stem:
    """Let a traced network end in the mean over space of what the block or stage `until` gives, in place.

    Returns:
        The stem, without the pools behind the cut.

    Raises:
        InputError: where no part of that name gives one map behind the stem; the network is then as it was.
    """
    given = traced.outputs.get(until) if isinstance(until, str) else None
    if given is None or given not in traced.graph.nodes or not _is_map(traced, stem, given):
        there = blocks(f"{node.target}.weight" for node in traced.kernels() if node not in stem.nodes)
        raise InputError(
            f"until: expected the name of a part of {traced.name} that gives one map behind the stem, found {until!r}; "
            f"its blocks are {', '.join(there)}"
        )
    (last,), nodes = traced.graph.find_nodes(op="output"), list(traced.graph.nodes)
    behind = nodes[nodes.index(given) + 1 :]
    with traced.graph.inserting_after(given):
        pooled = traced.graph.call_function(F.adaptive_avg_pool2d, (given, 1))
    with traced.graph.inserting_after(pooled):
        last.args = (traced.graph.call_function(torch.flatten, (pooled, 1)),)
    for node in reversed(behind):  # before dead code is looked for: some of it may write into what is left
        if node.op not in ("placeholder", "output"):
            traced.graph.erase_node(node)
    drop_dead(traced)
    left = set(traced.graph.nodes)
    return replace(stem, pools=tuple(node for node in stem.pools if node in left))


def unneeded(traced: Trace) -> frozenset[str]:
    """Paths of the modules whose tensors no node of the graph needs."""
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    read = {str(node.target).rpartition(".")[0] for node in traced.graph.nodes if node.op == "get_attr"}

    def is_needed(path: str) -> bool:
        parents = (path[:end] for end, letter in enumerate(f"{path}.") if letter == ".")
        return path in read or any(parent in called for parent in parents)

    return frozenset(path for path, _ in traced.network.named_modules() if not is_needed(path))


def _is_map(traced: Trace, stem: Stem, node: fx.Node) -> bool:
    """Whether a node gives a map with something of the image's space, behind all of the stem."""
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        for each in {waiting.pop()} - seen:
            seen.add(each)
            waiting += each.all_input_nodes
    if node in stem.nodes or not seen.issuperset(stem.nodes):
        return False
    shape = shape_of(traced, node, image_channels(traced, stem), (224, 448))
    return len(shape) == 4 and sum(size > 1 for size in shape[1:]) > 1
