"""The first part of a 2D network: all that leads to one of its blocks, and nothing behind it.

Kernels that learnt images can know less of clouds the deeper they lie: a frozen body that ends early may then do better
than the whole one, with fewer parameters and in less time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx

from image2point.errors import InputError
from image2point.lifting.graph import Trace, shape_of
from image2point.networks.layer_names import blocks


def cut(traced: Trace, until: str) -> None:
    """Let a traced network end in the mean over space of what the block or stage `until` gives, in place.

    Raises:
        InputError: where no part of that name gives one map, or none of its convolutions comes before it; the network
            is then as it was.
    """
    given, last = traced.outputs.get(until), traced.graph.find_nodes(op="output")[0]
    if given is None or given not in traced.graph.nodes or not _is_map(traced, given):
        there = blocks(f"{node.target}.weight" for node in traced.kernels())
        raise InputError(
            f"until: expected a part of {traced.name} that gives one map, found {until!r}; its blocks are "
            f"{', '.join(there)}"
        )
    with traced.graph.inserting_before(last):
        pooled = traced.graph.call_function(F.adaptive_avg_pool2d, (given, 1))
        last.args = (traced.graph.call_function(torch.flatten, (pooled, 1)),)
    traced.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))


def _is_map(traced: Trace, node: fx.Node) -> bool:
    """Whether a node gives an image's map, behind a convolution."""
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        for each in {waiting.pop()} - seen:
            seen.add(each)
            waiting += each.all_input_nodes
    return any(kernel in seen for kernel in traced.kernels()) and len(shape_of(traced, node)) == 4
