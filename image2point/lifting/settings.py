"""What the modules of a lifted network are beside their tensors, as they were made: to see what was changed since."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import NoneType
from typing import Any

from torch import nn

from image2point.voxels.window import Window

Settings = dict[str, tuple[type[nn.Module], dict[str, Any]]]
"""Of each module by its name: its class, and its plain public attributes."""

_PLAIN = (bool, int, float, str, tuple, frozenset, NoneType, Window)
_WITHOUT_EFFECT = ("training", "momentum", "p", "probability", "inplace", "engine")
"""What no network in eval mode computes anything else by: rates of dropout, and who computes it where."""


def settings(net: nn.Module) -> Settings:
    """Those of all modules but the network itself.

    >>> settings(nn.Sequential(nn.LeakyReLU(0.1)))["0"][1]
    {'negative_slope': 0.1}
    """
    return {
        name: (
            type(module),
            {
                key: value
                for key, value in vars(module).items()
                if not key.startswith("_") and key not in _WITHOUT_EFFECT and isinstance(value, _PLAIN)
            },
        )
        for name, module in net.named_modules(remove_duplicate=False)
        if name
    }


@contextmanager
def changing(net: Any) -> Iterator[None]:
    """What changes in a lifted network meanwhile counts as made so; what was changed before still does not."""
    before = settings(net)
    yield
    net._made = net._made | {name: each for name, each in settings(net).items() if before.get(name) != each}


def first_change(net: nn.Module, made: Settings, free: str | None = None) -> str | None:
    """The first module that is not as it was made, in words; None where all are.

    free: a module that may have other settings, but no other class. What was attached is not looked at: the network
    does not call it.

    >>> net = nn.Sequential(nn.LeakyReLU(0.1))
    >>> made = settings(net)
    >>> net[0].negative_slope = 0.2
    >>> first_change(net, made)
    'net.0.negative_slope is 0.2 and was 0.1'
    """
    now = settings(net)
    for name, (kind, before) in made.items():
        if name not in now:
            return f"net.{name} is gone"
        found, values = now[name]
        if found is not kind:
            return f"net.{name} is {found.__name__} and was {kind.__name__}"
        for key, value in before.items() if name != free else ():
            if values.get(key) != value:
                return f"net.{name}.{key} is {values.get(key)!r} and was {value!r}"
    return None
