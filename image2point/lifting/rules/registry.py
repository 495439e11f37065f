"""Which rule lifts which operation: the dictionary and the dispatch. It knows no rule by name; `table.py` fills it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from image2point.errors import InputError
from image2point.lifting.records import Options
from image2point.lifting.rules.values import Call, Chain, Lifted, Unsupported, Value

RuleKind: TypeAlias = Literal["norm", "pool", "reduction", "elementwise", "blocks", "other"]


@dataclass(frozen=True)
class Rule:
    """How one operation is lifted, and what the rest of lifting asks about it.

    Attributes:
        lift: of a module, (module, x, options, *others) → `Lifted`; of a function or method, (options, *arguments,
            **named) → `Lifted`. See `register_rule`.
        kind: "norm" (its parameters have the role of a norm), "pool" (over windows), "reduction" (over both image
            axes), "elementwise" (the stem goes on through it), "blocks" (moves blocks of pixels into channels), or
            "other".
        reads_padding: whether it takes features that padding modules have put zeros around.
        operands: feature maps that a module is called on.
        prepare: the 2D module in the form whose tensors the controls change.
        plain: the ordinary convolution that a weight-standardised one amounts to.
    """

    lift: Callable[..., Lifted]
    kind: RuleKind = "other"
    reads_padding: bool = False
    operands: int = 1
    prepare: Callable[[Any], nn.Module] | None = None
    plain: Callable[[Any], nn.Conv2d] | None = None


Operation: TypeAlias = "type[nn.Module] | Callable[..., Any] | str"

RULES: dict[Any, Rule] = {}
"""Rule of each module class, function, and method (by name). Classes and functions of packages that are imported only
when needed stand under their path: "timm.layers.drop.DropPath"."""

_SET_UP = {"__init__", "reset_parameters", "extra_repr", "init_weights"}


def register_rule(
    operation: Operation,
    rule: Callable[..., Lifted],
    *,
    kind: RuleKind = "other",
    operands: int = 1,
    reads_padding: bool = False,
    replace: bool = False,
) -> None:
    """Say how to lift an operation that has no rule yet. docs/lifting.md has a worked example.

    Args:
        operation: a class of modules, which `lift` then takes as a whole and does not look into; a function, under
            the name by which a module's `forward` calls it; or the name of a method of tensors, such as "roll".
        rule: of a class, called as rule(module, x, options), with the 2D module and the `Value` it is called on (and
            one more `Value` for each further operand); of a function or method, as rule(options, *arguments, **named),
            with the arguments of the call, feature maps and parameters among them as `Value`s. Both return what the
            operation becomes: a `Chain` of modules, a `Call` of a function, or a `Value` that passes through. They
            raise `Unsupported` where they do not apply. All these names are in `image2point.lifting.rules`.
        kind: what the operation is, see `Rule`: "norm" gives its parameters the role of a norm.
        operands: feature maps that a module is called on.
        reads_padding: whether it takes features that a padding module has put zeros around (`Value.padding`).
        replace: whether it may take the place of a rule that is there.

    Raises:
        InputError: where the operation or the rule is none, or the operation has a rule and `replace` is not given.

    >>> import torch
    >>> from torch import nn
    >>> from image2point.lifting import lift, rules
    >>> from image2point.voxels import Pointwise
    >>> class Halve(nn.Module):
    ...     def forward(self, x):
    ...         return torch.ldexp(x, torch.tensor(-1))
    >>> rules.register_rule(Halve, lambda module, x, options: rules.on(x, Pointwise(module)))
    >>> net = lift(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Halve(), nn.Conv2d(4, 4, 1)), num_classes=None)
    >>> type(net.get_submodule("1")).__name__
    'Pointwise'
    """
    of_module = _check_operation(operation)
    name = _name(operation)
    if kind not in get_args(RuleKind):
        raise InputError(f"kind of the rule for {name}: expected {', '.join(get_args(RuleKind))}, found {kind!r}")
    if not isinstance(operands, int) or operands < 1:
        raise InputError(f"operands of {name}: expected a whole number of at least 1, found {operands!r}")
    _check_signature(name, rule, 2 + operands if of_module else None)
    if not replace and (operation in RULES or _path(operation) in RULES):
        raise InputError(f"{name} has a rule already; give replace=True to put another in its place")
    RULES.pop(_path(operation), None)
    RULES[operation] = Rule(rule, kind, reads_padding, operands)


def class_rule(kind: type[nn.Module]) -> Rule | None:
    """Rule of a module class. A subclass inherits it only if it changes nothing but how it is set up."""
    own: set[str] = set()
    for base in kind.__mro__:
        if (rule := _find(base)) is not None:
            return rule if own <= _SET_UP else None
        own |= {name for name, value in vars(base).items() if callable(value) or isinstance(value, property)}
    return None


def rule_of(module: nn.Module | None, target: Any) -> Rule | None:
    """Rule of a module, or where there is none, of the function or method that `target` is."""
    return _find(target) if module is None else class_rule(type(module))


def is_norm(module: nn.Module | None) -> bool:
    """Whether a 2D module is a norm."""
    rule = None if module is None else class_rule(type(module))
    return rule is not None and rule.kind == "norm"


def python_functions() -> list[FunctionType]:
    """The functions with a rule that a tracer would look into: those in Python, but for torch's own."""
    functions = [operation for operation in RULES if isinstance(operation, FunctionType)]
    return [function for function in functions if function.__module__.split(".")[0] != "torch"]


def lift_module(module: nn.Module, x: Value, options: Options, *others: Value) -> Lifted:
    """Lift one module of the 2D network, which is called on x, and on others where it takes more than one operand.

    Raises:
        Unsupported: where no rule covers it.
    """
    rule = class_rule(type(module))
    name = type(module).__name__
    if rule is None:
        raise Unsupported(f"no rule for the module class {name}")
    if 1 + len(others) != rule.operands:
        raise Unsupported(f"no rule for {name} of {1 + len(others)} operands")
    return _checked(name, rule.lift(module, x, options, *others))


def lift_function(target: Any, arguments: tuple[Any, ...], named: dict[str, Any], options: Options) -> Lifted:
    """Lift one function or method call, its operands given as `Value`s.

    Raises:
        Unsupported: where no rule covers it.
    """
    rule, name = _find(target), _name(target)
    if rule is None:
        raise Unsupported(f"no rule for the {'method' if isinstance(target, str) else 'function'} {name}")
    try:
        return _checked(name, rule.lift(options, *arguments, **named))
    except TypeError as error:
        raise Unsupported(f"no rule for {name} with these arguments ({error})") from None


def _find(operation: Any) -> Rule | None:
    rule = RULES.get(operation)
    return rule if rule is not None or isinstance(operation, str) else RULES.get(_path(operation))


def _path(operation: Any) -> str:
    """Where a class or function is defined; a method name, which has no dots, is never one."""
    return f"{getattr(operation, '__module__', '')}.{getattr(operation, '__qualname__', '')}"


def spelled(operation: Any) -> str:
    """An operation as code that names it to `register_rule`.

    >>> spelled("roll"), spelled(torch.cumsum), spelled(nn.functional.fold), spelled(nn.Fold)
    ('"roll"', 'torch.cumsum', 'torch.nn.functional.fold', 'Fold')
    """
    if isinstance(operation, str):
        return f'"{operation}"'
    name = _name(operation)
    homes = [home.__name__ for home in (torch, nn.functional) if getattr(home, name, None) is operation]
    return ".".join([*homes[:1], name])


def _name(operation: Any) -> str:
    return operation if isinstance(operation, str) else getattr(operation, "__name__", repr(operation))


def _checked(name: str, lifted: Any) -> Lifted:
    if not isinstance(lifted, Chain | Call | Value):
        raise InputError(f"the rule for {name} returned a {type(lifted).__name__}; expected a Chain, a Call or a Value")
    return lifted


def _check_operation(operation: Any) -> bool:
    """Whether it is a class of modules. Raises InputError where it is nothing that can have a rule."""
    if isinstance(operation, str):
        if not operation.isidentifier():
            raise InputError(
                f"register_rule: {operation!r} is not the name of a method; give a class or a function itself"
            )
        return False
    if isinstance(operation, nn.Module):
        raise InputError(
            f"register_rule: expected a class of modules, found a module; give {type(operation).__name__}, its class"
        )
    if isinstance(operation, type) and issubclass(operation, nn.Module) and operation is not nn.Module:
        return True
    if isinstance(operation, type) or not callable(operation):
        raise InputError(
            f"register_rule: expected a subclass of nn.Module, a function or the name of a method, found {operation!r}"
        )
    if isinstance(operation, FunctionType) and operation.__name__.startswith("_"):
        raise InputError(
            f"register_rule: {operation.__name__} begins with an underscore, and torch.fx looks into such functions; "
            "rename it"
        )
    return False


def _check_signature(name: str, rule: Any, arguments: int | None) -> None:
    """Raise InputError unless a rule takes so many arguments, or, where the number is not known, at least two."""
    expected = "(options, x, ...)" if arguments is None else "(module, x, options) and each further operand"
    if not callable(rule):
        raise InputError(f"the rule for {name}: expected a function of {expected}, found {rule!r}")
    try:
        signature = inspect.signature(rule)
        signature.bind_partial(None, None) if arguments is None else signature.bind(*[None] * arguments)
    except TypeError as error:
        raise InputError(f"the rule for {name}: expected a function of {expected}, but {error}") from None
    except ValueError:  # a builtin that does not tell
        return
