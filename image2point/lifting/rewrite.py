"""The lifted graph: the traced 2D network, node by node, in 3D."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from image2point.errors import InputError
from image2point.lifting import controls, kernels, rules
from image2point.lifting.axes import axis_of, check_patterns
from image2point.lifting.graph import (
    KERNELS,
    LiftError,
    Stem,
    Trace,
    find_classifier,
    find_head,
    overwrites,
    refusal_of_attention,
    stage_modules,
)
from image2point.lifting.heads import fresh_head, unit_length
from image2point.lifting.image_shapes import image_channels, shape_of
from image2point.lifting.outputs import fresh_scores, pixel_classifier
from image2point.lifting.records import Options
from image2point.lifting.rules import Chain, Unsupported, Value
from image2point.lifting.stems import (
    FRESH_STEMS,
    adapted_convolution,
    at_stride_one,
    fresh_convolution,
    full_resolution,
    replaced_nodes,
)
from image2point.lifting.writer import Writer

logger = logging.getLogger("image2point")

LAYERS = "layers"
"""Key in the `meta` of a 3D node: names of the 2D network's modules whose output it has become."""


class Rewriter:
    """Goes through the 2D network's operations and decides what becomes of each.

    Attributes:
        writer: the 3D graph, whose output is {"stages": {name: voxels}, "features": [B, p], "logits": [B, classes]},
            and its modules, under the 2D network's names.
        fresh: names of 3D modules and parameters whose tensors do not come from 2D weights.
        merged: names of 2D tensors that went into a tensor of another name.
        classifier: name of the last linear layer, if there is one.
    """

    def __init__(self, traced: Trace, stem: Stem, options: Options) -> None:
        self.traced, self.stem, self.options = traced, stem, options
        self.writer = Writer(traced)
        self.fresh: set[str] = set()
        self.merged: set[str] = set()
        self.classifier: str | None = None
        self._values: dict[fx.Node, Value] = {}
        self._features: Value | None = None
        self._finest: dict[str, Value] = {}
        self._turns = 0
        self._last_linear, self._head = find_classifier(traced), find_head(traced)
        self._scores = pixel_classifier(traced)
        if isinstance(options.axis, dict):
            replaced = replaced_nodes(stem, options.stem)
            inflated = [node for node in traced.kernels() if node not in replaced and _is_wide(traced.module(node))]
            check_patterns(options.axis, list(dict.fromkeys(str(node.target) for node in inflated)), traced.name)

    def run(self) -> None:
        """Lift every node.

        Raises:
            LiftError: naming the network, the node and the missing rule.
        """
        made: dict[fx.Node, Value] = {}
        for node in self.traced.graph.nodes:
            if node.op == "output":
                self.writer.calls.finish(self._values.get)
                self._finish(node, made)
                self.writer.tree.order()
                return
            self.writer.calls.before(node, self._values.get)
            if node.op == "placeholder":
                value = self._full_resolution(self.writer.input()) if not made else Value("size")
            else:
                try:
                    value = self._lift(node)
                except Unsupported as reason:
                    raise self._error(node, reason) from None
            self.writer.calls.after()
            if overwrites(self.traced, node):
                # Whoever sees the overwritten value later sees the new one.
                old = self._values[node.all_input_nodes[0]]
                self._values = {n: value if v is old else v for n, v in self._values.items()}
            self._values[node] = made[node] = value

    # ------------------------------------------------------------------------------------------------- nodes

    def _lift(self, node: fx.Node) -> Value:
        options, stem = self.options, self.stem
        if options.stem in FRESH_STEMS and node in replaced_nodes(stem, options.stem):
            value = self._values[node.all_input_nodes[0]]
            return self._fresh_stem(node, value) if node is stem.convolutions[-1] else self._unchanged(node, value)
        if options.stem == "inflate1" and node in stem.pools:
            return self._unchanged(node, self._values[node.all_input_nodes[0]])
        padded = any(self._values[operand].padded for operand in node.all_input_nodes)
        rule = rules.rule_of(self.traced.module(node), node.target)
        if padded and not (rule is not None and rule.reads_padding):
            raise Unsupported("no rule for padding that is not followed by a convolution or pooling")
        if node.op == "call_module":
            value = self._lift_module(node)
            same = value.node is not None and value.node is self._values[node.all_input_nodes[0]].node
            return self._unchanged(node, value) if same else value
        if node.op in ("call_function", "call_method"):
            operands = self._operands(node.args), self._operands(node.kwargs)
            lifted = rules.lift_function(node.target, *operands, self._turned(None))
            return self.writer.write_function(lifted, node.name)
        return self._parameter(str(node.target))

    def _unchanged(self, node: fx.Node, value: Value) -> Value:
        return self.writer.call_unchanged(str(node.target), value) if node.op == "call_module" else value

    def _parameter(self, path: str) -> Value:
        """A parameter or buffer that no layer holds, such as a layer scale: one number per channel, or one for all."""
        owner, _, name = path.rpartition(".")
        tensor = getattr(self.traced.network.get_submodule(owner), name)
        if not isinstance(tensor, Tensor) or sum(size > 1 for size in tensor.shape) > 1:
            raise Unsupported(f"no rule for {path!r} outside a layer, which is not one number per channel")
        if path not in self.writer.roles:
            held = controls.held(tensor.detach(), self.options.control)
            if self.options.control in ("random", "scratch"):
                self.fresh.add(path)
            self.writer.write_parameter(path, nn.Parameter(held) if isinstance(tensor, nn.Parameter) else held, "body")
        return self.writer.read_parameter(path, tuple(tensor.shape))

    def _operands(self, arguments: Any) -> Any:
        """Arguments of a 2D node, the nodes among them replaced by what they became."""
        become: Any = self._values.__getitem__
        return fx.map_arg(arguments, become)

    def _lift_module(self, node: fx.Node) -> Value:
        path, module = str(node.target), self.traced.module(node)
        assert module is not None
        operands = self._operands(node.args)
        if node.kwargs or not operands or not all(isinstance(value, Value) for value in operands):
            raise Unsupported(f"no rule for {type(module).__name__} with these arguments")
        operand, *others = operands
        if self.writer.has_layer(path, operand):  # the same module again
            again = rules.lift_module(module, operand, self._turned(None), *others)
            result = again.result if isinstance(again, Chain) else operand
            further = again.others if isinstance(again, Chain) else others
            return self.writer.call_again(path, operand, result, further)
        role = self._role(node, module, operand)
        replaced = node is self._last_linear and self.options.num_classes is not None
        if node is self._last_linear:
            self._features, self.classifier = operand, path
        if replaced:
            assert isinstance(module, nn.Linear)
            if operand.axes == "BM":
                raise Unsupported("no rule for a fresh classifier that reads a whole feature map")
            return self._fresh_head(operand, path, module.in_features, role)
        if node is self._scores and operand.kind == "voxels" and self.options.num_classes is not None:
            assert isinstance(module, nn.Conv2d)
            draw = kernels.generator(self.options.seed, path)
            module = fresh_scores(module, self.options.num_classes, draw, self.traced.name)
            logger.info("%s gives a map: its last convolution %s is a fresh one", self.traced.name, path)
            self.fresh.add(path)
        rule = rules.rule_of(module, None)
        if rule is not None and rule.prepare is not None:
            module = rule.prepare(module)
        control = self.options.control
        if control in ("random", "shuffled") and role in ("body", "norm") and _has_tensors(module):
            module = controls.CHANGES[control](module, kernels.generator(self.options.seed, path))
            if control == "random":
                self.fresh.add(path)
        if rule is not None and rule.plain is not None:
            self.merged.add(f"{path}.gain")
        if node is self.stem.convolutions[0] and isinstance(module, nn.Conv2d):
            module = adapted_convolution(module, self.stem.parts, self.options.in_channels, self.traced.name)
        if self.options.stem == "inflate1" and node in self.stem.convolutions and isinstance(module, nn.Conv2d):
            module = at_stride_one(module)
        lifted = rules.lift_module(module, operand, self._turned(module, path), *others)
        fresh_norm = self.options.stem in FRESH_STEMS and node in self.stem.norms
        if isinstance(lifted, Chain) and (control == "scratch" or fresh_norm):
            for _, layer in lifted.modules:
                if _has_tensors(layer):
                    controls.restart(layer, kernels.generator(self.options.seed, path))
                    self.fresh.add(path)
        return self.writer.write(lifted, path, role)

    def _turned(self, module: nn.Module | None, path: str = "") -> Options:
        """The options for one operation: with axes in turn, each kernel wider than 1×1 has the next of z, x, y; with
        axes by pattern, that of its layer's name.

        No axis is the depth of the whole network then, so that windows without a kernel are as deep as wide.
        """
        options = self.options
        if options.axis in kernels.AXES:
            return options
        if isinstance(module, KERNELS):
            axis = axis_of(options.axis, path) if isinstance(options.axis, dict) else "zxy"[self._turns % 3]
            self._turns += module.kernel_size != (1, 1)
            return replace(options, axis=axis or "z")
        return replace(options, axis="z", rule="repeat" if options.rule == "center" else options.rule)

    def _role(self, node: fx.Node, module: nn.Module, operand: Value) -> str:
        if node in self.stem.nodes:
            return "input"
        if (operand.kind == "vector" and node in self._head) or (operand.kind == "voxels" and node is self._scores):
            return "output"
        return "norm" if rules.is_norm(module) else "body"

    # ------------------------------------------------------------------------------------------ stem and head

    def _fresh_stem(self, node: fx.Node, value: Value) -> Value:
        conv = self.traced.module(node)
        assert isinstance(conv, nn.Conv2d)
        lifted, stride = fresh_convolution(conv, self._turned(None))
        path = str(node.target)
        controls.restart(lifted, kernels.generator(self.options.seed, path))
        self.fresh.add(path)
        return self.writer.write(rules.on(value, lifted, stride=stride), path, "input")

    def _full_resolution(self, value: Value) -> Value:
        """The first part of the stem `full`, whose map at stride 1 is one of the stages; the input for other stems."""
        if self.options.stem != "full":
            return value
        conv = self.traced.module(self.stem.convolutions[-1])
        assert isinstance(conv, nn.Conv2d)
        path, layers = self.writer.tree.free("full"), full_resolution(conv, self._turned(None))
        value = self._finest[path] = self.writer.write(rules.on(value, layers), path, "input")
        for name, layer in layers.named_children():
            controls.restart(layer, kernels.generator(self.options.seed, f"{path}.{name}"))
            self.writer.roles[f"{path}.{name}"] = "input"
            self.fresh.add(f"{path}.{name}")
        return value

    def _fresh_head(self, features: Value, path: str, width: int, role: str) -> Value:
        """The head that was asked for, and the features as it sees them."""
        options = self.options
        if options.head in ("cosine", "etf"):
            features = replace(features, node=self.writer.graph.call_function(unit_length, (features.node,)))
        draw = kernels.generator(options.seed, path)
        dtype = next(self.traced.network.parameters()).dtype
        head = fresh_head(options.head, width, int(options.num_classes or 0), draw, dtype)
        self._features = features
        self.fresh.add(path)
        return self.writer.write(rules.on(features, head), path, role)

    def _finish(self, node: fx.Node, made: dict[fx.Node, Value]) -> None:
        (result,) = node.args
        value = self._values.get(result) if isinstance(result, fx.Node) else None
        if value is None or value.kind not in ("voxels", "vector"):
            raise LiftError(
                f"cannot lift {self.traced.name}: its forward returns {result!r}; expected one tensor of class scores"
            )
        if self._last_linear is None:
            value = self._append_head(value, result, made)
        stages = {name: stage.node for name, stage in self._finest.items()}
        for name in stage_modules(self.traced, self.options.until):
            stage = made.get(self.traced.outputs.get(name))  # type: ignore[arg-type]
            if stage is not None and stage.kind == "voxels" and stage.axes != "BM":
                stages[name] = stage.node
        layers = {path: made.get(traced) for path, traced in self.traced.outputs.items()}
        for path, layer in {**self._finest, **layers}.items():
            if layer is not None and layer.node is not None and layer.kind in ("voxels", "vector"):
                layer.node.meta.setdefault(LAYERS, []).append(path)
        output: dict[str, Any] = {"stages": stages, "logits": value.node}
        if self._features is not None:
            output["features"] = self._features.node
        self.writer.graph.output(output)
        self.writer.graph.lint()

    def _append_head(self, value: Value, result: Any, made: Mapping[fx.Node, Value]) -> Value:
        """Give a network that ends without a classifier the one that was asked for."""
        if self.options.num_classes is None:
            self._features = value if value.kind == "vector" else None
            return value
        if value.kind == "voxels" and self._scores is not None:
            return value
        if value.kind == "voxels":
            raise InputError(
                f"{self.traced.name} gives a feature map and does not end in a convolution that num_classes could "
                "replace. Use num_classes=None to keep the map, or put a classifier behind it: nn.Sequential(network, "
                "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1)), whose last layer num_classes replaces"
            )
        logger.info("%s has no classifier: a fresh linear layer follows it", self.traced.name)
        path = self.writer.tree.free("head")
        self.classifier = path
        return self._fresh_head(value, path, self._width(result, made), "output")

    def _width(self, result: Any, made: Mapping[fx.Node, Value]) -> int:
        """Channels of what the 2D network gives."""
        channels, place = image_channels(self.traced, self.stem), 1
        if self.options.until is not None:  # before the pooling the rules know which axis has the channels
            result = self.traced.outputs[self.options.until]
            place = made[result].axes.index("C")
        return shape_of(self.traced, result, channels)[place]

    def _error(self, node: fx.Node, reason: Unsupported) -> LiftError:
        if refused := refusal_of_attention(self.traced, self.traced.name):
            return refused
        module = self.traced.module(node)
        what = f"module {node.target} ({type(module).__name__})" if module is not None else f"operation {node.name}"
        if module is None and node.meta.get("nn_module_stack"):
            what += f" in module {list(node.meta['nn_module_stack'])[-1]}"
        if reason.works:
            where = f"It works with {' and '.join(f'substrate={name!r}' for name in reason.works)}."
        else:
            operation = rules.spelled(type(module) if module is not None else node.target)
            where = (
                "It works on no substrate, sparse or dense; the operations with a rule are listed in "
                f"image2point/lifting/rules/table.py, and image2point.register_rule({operation}, rule) adds one."
            )
        return LiftError(f"cannot lift {self.traced.name} at {what}: {reason}. {where}")


def _is_wide(module: nn.Module | None) -> bool:
    return isinstance(module, KERNELS) and module.kernel_size != (1, 1)


def _has_tensors(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
