"""The lifted network: a module tree with the 2D network's names, and the program that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from torch import Tensor, fx, nn

from image2point.errors import InputError
from image2point.lifting.fuse import fuse
from image2point.lifting.heads import effective
from image2point.lifting.observe import block_layers, layers, observer
from image2point.lifting.records import Lifting
from image2point.networks.layer_names import Rows
from image2point.voxels import DenseVoxels, Voxels, VoxelTensor

Program: TypeAlias = Callable[[Any, Voxels], dict[str, Any]]


class LiftedNetwork(nn.Module):
    """A 3D network over voxels, made by `image2point.lift`.

    Its state dict has the 2D network's names (`layer1.0.conv1.weight`). A child module may have any name, even one
    of an attribute here: children live in the state dict, attributes on the object.

    Attributes:
        graph: the program, a `torch.fx.Graph`.
        lifting: the record of where every parameter comes from.
        roles: role of each module: input, norm, body or output.
    """

    def __init__(
        self, root: nn.Module, graph: fx.Graph, lifting: Lifting, roles: dict[str, str], classifier: str | None
    ) -> None:
        super().__init__()
        self._modules.update(root._modules)
        self.graph, self.lifting, self.roles = graph, lifting, roles
        self._classifier = classifier
        self._held: frozenset[str] = frozenset()
        self._program: Program
        self._scoring: Program
        self.renew_program()

    def forward(self, x: Voxels) -> Tensor:
        """Class scores [B, classes] of a batch of clouds."""
        return self.execute(self._scoring, x)["logits"]

    def forward_features(self, x: Voxels) -> dict[str, Voxels]:
        """Feature maps of every stage, finest first, by stage name."""
        return self._run(x)["stages"]

    def embed(self, x: Voxels) -> tuple[Tensor, Tensor]:
        """Features before the classifier [B, p], and class scores [B, classes].

        Under the head `cosine` the features are those that its linear part sees, of length 1.

        Raises:
            InputError: where the network gives no vector per cloud.
        """
        result = self.execute(self._scoring, x)
        if "features" not in result:
            raise InputError(f"{self.lifting.network} has no global pooling, so it gives no feature vector per cloud")
        return result["features"], result["logits"]

    @property
    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """Weight [classes, p] and bias [classes] (or None) of the linear layer that the head is in eval mode.

        What the head has besides is folded in (`lifting.heads`): with it, a batch norm on the scores by its running
        statistics; the scale and the unit rows of a cosine head. So, in eval mode, scores = features · weightᵀ + bias
        on what `embed` gives.

        Raises:
            InputError: where the network ends without one.
        """
        if self._classifier is None:
            raise InputError(f"{self.lifting.network} was lifted without a classifier; give num_classes to add one")
        layer = self.get_submodule(self._classifier)
        assert isinstance(layer, nn.Linear)
        return effective(layer)

    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers that can be observed, in the order of computation; see `lifting.observe.layers`."""
        return tuple(dict.fromkeys(layers(self)))

    def block_names(self) -> tuple[str, ...]:
        """The blocks that can be observed, in order, and `features`."""
        return block_layers(self)

    def observe(self, names: Sequence[str], per_site: bool = False) -> Callable[[Voxels], dict[str, Rows]]:
        """A function that gives the rows of the named layers on voxels; see `lifting.observe.observer`."""
        return observer(self, names, per_site)

    def get_submodule(self, target: str) -> nn.Module:
        """The module of that path, by children alone: one may have the name of an attribute here."""
        first, _, rest = target.partition(".")
        child = self._modules.get(first)
        if child is None:
            return super().get_submodule(target)
        return child.get_submodule(rest)

    def train(self, mode: bool = True) -> LiftedNetwork:
        """Set the mode, except of the modules that are held in eval."""
        super().train(mode)
        if self._held:
            for name, module in self.named_modules():
                if name in self._held:
                    module.training = False
        return self

    def hold_in_eval(self, names: Iterable[str]) -> None:
        """Keep the named modules in eval mode from now on, whatever `train` says; replaces what was held before."""
        self._held = frozenset(names)
        self.train(self.training)

    def _run(self, x: Voxels) -> dict[str, Any]:
        """Everything: stages, features and scores, of one pass."""
        return self.execute(self._program, x)

    def renew_program(self) -> None:
        """Make the programs again, after a change of `graph`."""
        self._program = self.program(copy_of(self.graph))
        self._scoring = self.program(without_stages(self.graph))

    def program(self, graph: fx.Graph) -> Program:
        """The program of a graph over this network's modules. The graph is used up: chains become one node (`fuse`)."""
        return _compiled(fuse(graph, self))

    def execute(self, program: Program, x: Voxels) -> dict[str, Any]:
        """Run a program over this network's modules: its own, or one made of its graph (`lifting.observe`)."""
        self._check(x)
        if self.lifting.options.substrate == "dense" and isinstance(x, VoxelTensor):
            x = x.dense()
        return program(_Children(self._modules), x)

    def _check(self, x: Voxels) -> None:
        if isinstance(x, VoxelTensor):
            channels = x.features.shape[1]
        elif isinstance(x, DenseVoxels):
            channels = x.grid.shape[1]
        elif isinstance(x, Tensor) and x.ndim == 5:
            channels = x.shape[1]
        else:
            found = f"a tensor {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"a lifted network takes a VoxelTensor, DenseVoxels or a grid [B, C, X, Y, Z], found {found}; "
                "`image2point.voxelize` makes voxels from points"
            )
        wanted = self.lifting.options.in_channels
        if channels != wanted:
            raise InputError(
                f"{self.lifting.network} was lifted for {wanted} input channels, but the voxels carry {channels}; "
                f"lift with in_channels={channels} or give other features"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_program", "_scoring")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.renew_program()  # compiled code cannot be copied


class _Children:
    """The children as attributes, apart from the network's own, for generated code."""

    def __init__(self, modules: dict[str, nn.Module | None]) -> None:
        self.__dict__ = modules


def _compiled(graph: fx.Graph) -> Program:
    """The program that a graph describes: (children as attributes, voxels) → what the graph returns."""
    code = graph.python_code(root_module="self")
    namespace = dict(code.globals)
    exec(code.src, namespace)
    return namespace["forward"]


def copy_of(graph: fx.Graph) -> fx.Graph:
    """The same nodes and the same output."""
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    return copy


def without_stages(graph: fx.Graph) -> fx.Graph:
    """The same nodes, but the stages are not returned: so each is freed as soon as no layer needs it any more."""
    copy, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    copy.graph_copy(graph, copies)
    (output,) = graph.find_nodes(op="output")
    (result,) = output.args
    assert isinstance(result, dict)
    scores = {name: copies[node] for name, node in result.items() if name != "stages"}
    copy.output(scores)
    return copy
