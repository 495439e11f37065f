"""The open rule table: rules of one's own, and what is refused as one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import equivalence
import pytest
import torch
from lifting_samples import clouds, image, relative
from torch import Tensor, nn

import image2point as i2p
from image2point.lifting import LiftError, rules
from image2point.lifting.rules import Lifted, Options, Unsupported, Value, on, registry, table
from image2point.networks.timm_import import load_timm
from image2point.voxels import Pointwise, Voxels, functional


@pytest.fixture(autouse=True)
def rules_of_this_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers goes with it."""
    before = dict(registry.RULES)
    monkeypatch.setitem(sys.modules, "elsewhere", elsewhere)
    yield
    registry.RULES.clear()
    registry.RULES.update(before)


class Squash(nn.Module):
    """Not in the table, and made of an operation that is not there either."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Softsign())

    def forward(self, x: Tensor) -> Tensor:
        return torch.atan(self.inside(x))


def lift_squash(module: Squash, x: Value, options: Options) -> Lifted:
    return on(x, Pointwise(module))


def rotate_channels(x: Tensor, step: int = 1) -> Tensor:
    if float(x.mean()) > 1e9:  # cannot be traced
        return x
    return x.roll(step, 1)


def rotate_rows(x: Voxels, step: int) -> Voxels:
    return functional.pointwise(lambda features: features.roll(step, 1), x)


def lift_rotate(options: Options, x: Value, step: int = 1) -> Lifted:
    if x.kind != "voxels":
        raise Unsupported(f"no rule for rotating a {x.kind}")
    return rules.Call(rotate_rows, (x.node, step), x)


class Weighted(nn.Module):
    """Two operands, and parameters as a norm has them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.addcmul(x, y, self.weight.view(-1, 1, 1))


class VoxelWeighted(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())

    def forward(self, x: Voxels, y: Voxels) -> Voxels:
        return functional.add(x, functional.multiply(y, self.weight))


def module_elsewhere() -> ModuleType:
    """A file that has `rotate_channels` as well, to be called as its attribute."""
    module = ModuleType("elsewhere")
    exec(f"from __future__ import annotations\n{inspect.getsource(rotate_channels)}", vars(module))
    return module


elsewhere = module_elsewhere()


class Net(nn.Module):
    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.after(self.middle(x) if self.middle is not None else rotate_channels(x, step=3))


class ByMethod(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.conv(x).roll(3, 1))


class ByModule(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.after(elsewhere.rotate_channels(self.conv(x), 3))


class Two(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.after(self.middle(x, x.relu()))  # type: ignore[misc]


def register_all() -> None:
    i2p.register_rule(Squash, lift_squash)
    i2p.register_rule(rotate_channels, lift_rotate)
    i2p.register_rule(elsewhere.rotate_channels, lift_rotate)
    i2p.register_rule("roll", lambda options, x, step, dim: lift_rotate(options, x, step))
    i2p.register_rule(
        Weighted,
        lambda module, x, options, y: rules.Chain(
            x, (("", VoxelWeighted(module.weight)),), rules.on(x).result, others=(y,)
        ),
        kind="norm",
        operands=2,
    )


NETWORKS = {
    "class": lambda: Net(Squash()), "function": Net, "function of a module": ByModule, "method": ByMethod,
    "two operands": lambda: Two(Weighted()),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_an_operation_of_ones_own(name: str) -> None:
    network = equivalence.randomise(NETWORKS[name]())
    with pytest.raises(LiftError, match=r"no rule for|cannot trace"):
        equivalence.lifted(network)
    register_all()
    error, completed = equivalence.depth_constant(network)
    assert error < 1e-10 and completed == 0
    net = equivalence.lifted(network, rule="repeat")
    with torch.no_grad():
        sparse: Any = net(clouds())
        dense: Any = net(clouds().dense())
    assert relative(dense.rows, sparse.features) < 1e-10
    role = {record.name: record.role for record in net.lifting.parameters}
    assert role.get("middle.weight", "norm") == "norm"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x.cumsum(1), r'no rule for the method cumsum.*register_rule\("cumsum", rule\)'),
        (lambda x: torch.cumsum(x, 1), r"no rule for the function cumsum.*register_rule\(torch.cumsum, rule\)"),
        (nn.Fold((4, 4), 2), r"no rule for the module class Fold.*register_rule\(Fold, rule\)"),
    ],
)
def test_what_has_no_rule_is_told_as_what_takes_one(call: Any, message: str) -> None:
    class Calling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.call = nn.Conv2d(3, 4, 3), call

        def forward(self, x: Tensor) -> Tensor:
            return self.call(self.conv(x))

    with pytest.raises(LiftError, match=message):
        i2p.lift(Calling(), num_classes=None)


def test_a_module_with_a_rule_is_a_leaf() -> None:
    register_all()
    net = equivalence.lifted(equivalence.randomise(Net(Squash())))
    assert isinstance(net.get_submodule("middle"), Pointwise)


def test_a_rule_reads_paddings_only_if_it_says_so() -> None:
    def rule(module: Squash, x: Value, options: Options) -> Lifted:
        raise Unsupported(f"padded: {x.padded}")

    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ZeroPad2d(1), Squash(), nn.Conv2d(8, 8, 1))
    for reads, message in ((False, "padding that is not followed"), (True, "padded: True")):
        i2p.register_rule(Squash, rule, reads_padding=reads, replace=True)
        with pytest.raises(LiftError, match=message):
            equivalence.lifted(equivalence.randomise(network))


def test_a_subclass_that_changes_something_has_no_rule() -> None:
    class Other(Squash):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    class Same(Squash):
        def __init__(self) -> None:
            super().__init__()

    register_all()
    equivalence.lifted(equivalence.randomise(Net(Same())))
    with pytest.raises(LiftError, match="atan"):
        equivalence.lifted(equivalence.randomise(Net(Other())))
    i2p.register_rule(Other, lift_squash)
    equivalence.lifted(equivalence.randomise(Net(Other())))


def test_a_rule_that_is_there_is_replaced_only_when_asked() -> None:
    drop_path = load_timm().layers.DropPath  # in the table under its path
    for operation in (nn.ReLU, torch.cat, "view", drop_path):
        with pytest.raises(i2p.InputError, match="has a rule already; give replace=True"):
            i2p.register_rule(operation, lambda *a, **named: a[0])

    def other(module: nn.Module, x: Value, options: Options) -> Lifted:
        return on(x, Pointwise(nn.Tanh()))

    for operation in (nn.ReLU, drop_path):
        i2p.register_rule(operation, other, replace=True)
        net = equivalence.lifted(Net(operation()))
        assert isinstance(net.get_submodule("middle.module"), nn.Tanh)


@pytest.mark.parametrize(
    ("operation", "rule", "named", "message"),
    [
        (Squash(), lift_squash, {}, "give Squash, its class"),
        (nn.Module, lift_squash, {}, "expected a subclass of nn.Module"),
        (Tensor, lift_squash, {}, "expected a subclass of nn.Module"),
        (7, lift_squash, {}, "expected a subclass of nn.Module, a function or the name of a method, found 7"),
        ("torch.roll", lift_rotate, {}, "'torch.roll' is not the name of a method"),
        ("", lift_rotate, {}, "'' is not the name of a method"),
        (registry._name, lift_rotate, {}, "begins with an underscore"),
        (Squash, None, {}, r"rule for Squash: expected a function of \(module, x, options\)"),
        (Squash, lambda module, x: x, {}, "rule for Squash: expected a function .*too many positional"),
        (Squash, lift_squash, {"operands": 2}, "rule for Squash: expected a function .*too many positional"),
        (rotate_channels, lambda: None, {}, r"rule for rotate_channels: expected a function of \(options, x"),
        (Squash, lift_squash, {"operands": 0}, "operands of Squash"),
        (Squash, lift_squash, {"kind": "activation"}, "kind of the rule for Squash: expected norm, pool"),
    ],
)
def test_nonsense_is_refused(operation: Any, rule: Any, named: dict[str, Any], message: str) -> None:
    before = dict(registry.RULES)
    with pytest.raises(i2p.InputError, match=message):
        i2p.register_rule(operation, rule, **named)
    assert before == registry.RULES


def test_a_rule_that_returns_nonsense_is_named() -> None:
    i2p.register_rule(Squash, lambda module, x, options: module)  # type: ignore[arg-type,return-value]
    with pytest.raises(i2p.InputError, match="the rule for Squash returned a Squash; expected a Chain"):
        equivalence.lifted(Net(Squash()))


def test_a_module_is_called_on_as_many_maps_as_its_rule_says() -> None:
    i2p.register_rule(Weighted, lambda module, x, options: x)
    with pytest.raises(LiftError, match="no rule for Weighted of 2 operands"):
        equivalence.lifted(Two(Weighted()))


def test_what_the_table_names_by_path_is_there() -> None:
    """A path that leads nowhere would be an operation that no longer lifts."""
    load_timm()
    operations = [o for _, listed in (*table.MODULES, *table.FUNCTIONS) for o in listed]
    paths = [o for o in operations if isinstance(o, str) and "." in o]
    for path in paths:
        module, _, name = path.rpartition(".")
        operation = getattr(importlib.import_module(module), name)
        assert registry._path(operation) == path
        rule = registry.class_rule(operation) if isinstance(operation, type) else registry.rule_of(None, operation)
        assert rule is not None and rule is registry.RULES[path]
    assert len(paths) > 50 and len(operations) == len(set(operations)) == len(registry.RULES)


def test_the_example_in_the_docs() -> None:
    """It runs as it stands, and what it lifts is right."""
    text = (Path(__file__).parents[2] / "docs" / "lifting.md").read_text()
    (code,) = re.findall(r"## A rule of your own\n.*?```python\n(.*?)```", text, re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(code, namespace)
    network = equivalence.randomise(namespace["Net"]())
    assert equivalence.depth_constant(network)[0] < 1e-10
    expected = network.conv(image()) * network.gate.logits.sigmoid().view(-1, 1, 1)
    torch.testing.assert_close(network(image()), expected.roll(3, 1))
    assert {r.name: r.origin for r in namespace["net"].lifting.parameters}["gate.logits"] == "copied"


def test_the_example_in_the_docstring() -> None:
    assert doctest.testmod(registry).failed == 0 and doctest.testmod(registry).attempted > 5
