"""One rule per operation: what each module, function and method of a 2D network becomes on voxels.

A rule gets the 2D operation and its operands and answers with a `Chain` of modules, a `Call` of a function, or
simply the operand that passes through. An operation without a rule is an error, never a guess: `table.py` lists
everything that can be lifted.
"""

from image2point.lifting.rules.convolution import voxel_conv
from image2point.lifting.rules.table import class_rule, is_norm, lift_function, lift_module, rule_of
from image2point.lifting.rules.values import Call, Chain, FinerSites, Kind, Lifted, Unsupported, Value, on

__all__ = [
    "Call",
    "Chain",
    "FinerSites",
    "Kind",
    "Lifted",
    "Unsupported",
    "Value",
    "class_rule",
    "is_norm",
    "lift_function",
    "lift_module",
    "on",
    "rule_of",
    "voxel_conv",
]
