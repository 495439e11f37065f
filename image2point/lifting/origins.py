"""Where every tensor of a lifted network comes from, and where every tensor of the 2D weights went."""

from __future__ import annotations

from collections.abc import Callable, Container

from torch import Tensor

from image2point.lifting.records import Lifting, ParameterRecord, SourceRecord
from image2point.lifting.rewrite import Rewriter
from image2point.lifting.stems import FRESH_STEMS
from image2point.networks.weights import WeightsReport


def record_origins(rewriter: Rewriter, weights: WeightsReport, loaded: dict[str, tuple[int, ...]]) -> Lifting:
    """Where every tensor of the 3D network comes from, and where every tensor of the 2D weights went.

    Args:
        loaded: name and shape of the tensors in the 2D weights.
    """
    source = {name: tuple(t.shape) for name, t in rewriter.traced.network.state_dict().items()}
    original = {**source, **loaded}

    def describe(name: str, tensor: Tensor) -> ParameterRecord:
        owner, shape, kind = _owner(rewriter.writer.roles, name), tuple(tensor.shape), name.rpartition(".")[2]
        role = rewriter.writer.roles[owner]
        if owner in rewriter.fresh or name in weights.missing:
            return ParameterRecord(name, shape, role, "fresh", None, None)
        is_kernel = kind == "weight" and len(shape) == 5
        return ParameterRecord(name, shape, role, "inflated" if is_kernel else "copied", name, original[name])

    parameters = tuple(describe(n, p) for n, p in rewriter.writer.tree.root.named_parameters())
    kept = rewriter.writer.tree.root.state_dict()  # what is not kept holds constants, such as a blur's
    buffers = tuple(describe(n, b) for n, b in rewriter.writer.tree.root.named_buffers() if n in kept)
    used = {r.source for r in (*parameters, *buffers)} | {
        name for name in rewriter.merged if name.rpartition(".")[0] not in rewriter.fresh
    }
    replaced = _replaced(rewriter)
    sources = tuple(
        SourceRecord(name, shape, "used" if name in used else "replaced" if replaced(name) else "skipped")
        for name, shape in loaded.items()
    )
    return Lifting(rewriter.traced.name, rewriter.options, weights, parameters, buffers, sources)


def _replaced(rewriter: Rewriter) -> Callable[[str], bool]:
    """Whether a 2D tensor belongs to a layer that fresh values replaced."""
    stem = rewriter.stem.nodes if rewriter.options.stem in FRESH_STEMS else ()
    owners = rewriter.fresh | {str(node.target) for node in stem}
    return lambda name: _owner(owners, name) in owners


def _owner(names: Container[str], tensor: str) -> str:
    """The lifted module that a tensor belongs to, or the tensor itself where no module holds it."""
    name = tensor
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name
