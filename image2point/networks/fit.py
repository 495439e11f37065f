"""Whether the tensors of some weights fit a 2D network, and why not, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from image2point.errors import listed

_ENOUGH = 0.9  # of the tensors that should load; below that, weights look like another network's

Shapes = Mapping[str, tuple[int, ...]]


def misfit(
    own: Mapping[str, Tensor],
    shapes: Shapes,
    replaced: Collection[str] = (),
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> str:
    """Why weights do not fit a network; empty where they do.

    Args:
        own: the network's tensors by name.
        shapes: shape of each tensor in the weights, under the network's names.
        replaced: paths of layers that fresh ones will replace: their tensors may be absent or of another shape.
        allow_missing, allow_unexpected: names or patterns of tensors that may be missing or left over. Where less than
            90 % of what should load is there, a pattern for everything does not count.

    >>> import torch
    >>> misfit({"fc.bias": torch.zeros(2)}, {"fc.bias": (3,)})
    'fc.bias has shape [3] in the weights, but the network expects [2]'
    """

    allow_missing, allow_unexpected = _patterns(allow_missing), _patterns(allow_unexpected)

    def kept(names: Collection[str]) -> list[str]:
        return [name for name in names if name.rpartition(".")[0] not in replaced]

    needed = [name for name in kept(own) if not name.endswith("num_batches_tracked")]
    left_over = [name for name in kept(shapes) if name not in own]
    return (
        _is_lifted(own, shapes)
        or _nothing_loads(needed, shapes)
        or _other_shapes(own, {name: shapes[name] for name in kept(shapes)})
        or _gaps(needed, shapes, left_over, allow_missing, allow_unexpected)
    )


def _is_lifted(own: Mapping[str, Tensor], shapes: Shapes) -> str:
    for name, shape in shapes.items():
        if name in own and own[name].ndim == 4 and len(shape) == 5:
            return (
                f"they are of a lifted network, such as the weights of a run ({name} has shape {list(shape)}), and "
                "lift takes 2D weights; image2point.load(RUN) gives the network of a run"
            )
    return ""


def _nothing_loads(needed: Sequence[str], shapes: Shapes) -> str:
    if not needed or any(name in shapes for name in needed):
        return ""
    return (
        f"nothing in them would load. The network's tensors are called {listed(needed, 3)}, those in the weights "
        f"{listed(list(shapes), 3)}{_folding(list(shapes))}. Use weights of this architecture"
    )


def _gaps(
    needed: Sequence[str],
    shapes: Shapes,
    left_over: Sequence[str],
    allow_missing: Sequence[str],
    allow_unexpected: Sequence[str],
) -> str:
    """Which tensors are missing or left over without having been named."""
    absent = [name for name in needed if name not in shapes]
    few = len(absent) > (1 - _ENOUGH) * len(needed)
    if few:  # a pattern for everything names nothing
        allow_missing = [pattern for pattern in allow_missing if _unnamed(needed, [pattern])]
    refused, unnamed = _unnamed(absent, allow_missing), _unnamed(left_over, allow_unexpected)
    if not refused and not unnamed:
        return ""
    problems = [f"{len(refused)} missing: {listed(refused)}"] if refused else []
    problems += [f"{len(unnamed)} left over: {listed(unnamed)}"] if unnamed else []
    found = "; ".join(problems) + _folding(left_over)
    if refused and few:
        return (
            f"only {len(needed) - len(absent)} of the {len(needed)} tensors that should load are in them; {found}. "
            "They look like weights of another network. If a part of yours should begin without weights, name that "
            "part in allow_missing (a pattern such as 'layer4.*'; one for everything does not count)"
        )
    return (
        f"{found}. Use other weights, or name these tensors in allow_missing / allow_unexpected (patterns such as "
        "'head.*' work)"
    )


def _other_shapes(own: Mapping[str, Tensor], shapes: Shapes) -> str:
    wrong = [key for key, shape in shapes.items() if key in own and own[key].shape != shape]
    if not wrong:
        return ""
    key, more = wrong[0], f" ({len(wrong)} tensors differ in shape)" if len(wrong) > 1 else ""
    return f"{key} has shape {list(shapes[key])} in the weights, but the network expects {list(own[key].shape)}{more}"


def _folding(names: Sequence[str]) -> str:
    """How to store weights whose names show that they are computed from others; empty where none are."""
    for pattern, advice in (
        (r"\.parametrizations\.", "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"),
        (r"\.weight_[gv]$", "torch.nn.utils.remove_weight_norm(layer)"),
        (r"\.weight_(u|orig)$", "torch.nn.utils.remove_spectral_norm(layer), or prune.remove(layer, 'weight')"),
        (r"\.lora_[AB]|\.base_layer\.", "the adapters' own merge, such as peft's merge_and_unload()"),
    ):
        if any(re.search(pattern, name) for name in names):
            return f"; its weights are computed from others: fold them before you store them, by {advice}"
    return ""


def _patterns(given: Sequence[str]) -> Sequence[str]:
    return (given,) if isinstance(given, str) else given


def _unnamed(keys: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [key for key in keys if not any(fnmatchcase(key, pattern) for pattern in patterns)]
