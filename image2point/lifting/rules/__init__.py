"""One rule per operation: what each module, function and method of a 2D network becomes on voxels.

A rule gets the 2D operation and its operands, and returns a `Chain` of modules, a `Call` of a function, or a `Value`
that passes through. An operation without a rule is an error, never a guess: `table.py` lists what can be lifted, and
`register_rule` adds to it. Everything that a rule of your own needs is importable from here.
"""

from image2point.lifting.records import Options
from image2point.lifting.rules import table
from image2point.lifting.rules.convolution import voxel_conv
from image2point.lifting.rules.registry import (
    Rule,
    class_rule,
    is_norm,
    lift_function,
    lift_module,
    register_rule,
    rule_of,
    spelled,
)
from image2point.lifting.rules.values import Call, Chain, FinerSites, Kind, Lifted, Unsupported, Value, need, on

__all__ = [
    "Call",
    "Chain",
    "FinerSites",
    "Kind",
    "Lifted",
    "Options",
    "Rule",
    "Unsupported",
    "Value",
    "class_rule",
    "is_norm",
    "lift_function",
    "lift_module",
    "need",
    "on",
    "register_rule",
    "rule_of",
    "spelled",
    "table",
    "voxel_conv",
]
