"""Which axis is the depth of which layer: one for all, each in turn, or by patterns over the layers' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from image2point.errors import InputError
from image2point.lifting.kernels import AXES


def check_axis(axis: object) -> None:
    """Raise InputError unless `axis` is x, y, z, alternate, or a mapping from patterns to x, y, z."""
    if isinstance(axis, Mapping):
        wrong = {pattern: value for pattern, value in axis.items() if value not in AXES}
        if axis and not wrong:
            return
        raise InputError(f"axis: expected each pattern to have one of {', '.join(AXES)}, found {wrong or 'no pattern'}")
    if axis not in (*AXES, "alternate"):
        raise InputError(
            f"axis: expected one of {', '.join(AXES)}, alternate, or a mapping from patterns over the layers' names "
            f"to {', '.join(AXES)}, found {axis!r}"
        )


def axis_of(patterns: Mapping[str, str], layer: str) -> str | None:
    """The axis of the first pattern (as in the shell: `layer1.*`) that `layer` matches; None where none does."""
    return next((axis for pattern, axis in patterns.items() if fnmatchcase(layer, pattern)), None)


def check_patterns(patterns: Mapping[str, str], layers: Sequence[str], network: str) -> None:
    """Raise InputError where a pattern decides for no layer, or a layer has no pattern.

    layers: names of the convolutions whose kernels get a depth.
    """
    left = list(layers)
    for pattern in patterns:
        matched = [layer for layer in left if fnmatchcase(layer, pattern)]
        if not matched:
            taken = any(fnmatchcase(layer, pattern) for layer in layers)
            why = "comes after others that match all its layers" if taken else "matches no layer"
            raise InputError(
                f"axis: the pattern {pattern!r} {why}; the layers of {network} with a kernel to inflate are "
                f"{_named(layers)}"
            )
        left = [layer for layer in left if layer not in matched]
    if left:
        raise InputError(f'axis: no pattern matches {_named(left)} of {network}; end with "*" for all other layers')


def _named(layers: Sequence[str], most: int = 60) -> str:
    return ", ".join(layers[:most]) + (f" and {len(layers) - most} more" if len(layers) > most else "")
