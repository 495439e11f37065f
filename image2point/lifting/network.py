"""The lifted network: a module tree with the 2D network's names, and the program that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from image2point.errors import InputError
from image2point.lifting import additions, eager
from image2point.lifting.blocks import OwnNorms, assign_regions
from image2point.lifting.heads import effective
from image2point.lifting.observe import (
    block_layers,
    copied,
    layer_nodes,
    observing,
    rows_per_cloud,
    rows_per_voxel,
)
from image2point.lifting.programs import Program, Region
from image2point.lifting.records import Lifting
from image2point.lifting.regions import Call, graph_of, returning, rows_of
from image2point.lifting.settings import changing, settings
from image2point.lifting.usable import YIELDING, Usable
from image2point.networks.interface import features_before, modes_kept
from image2point.networks.layer_names import Rows
from image2point.voxels import DenseVoxels, Voxels, VoxelTensor
from image2point.voxels.modules import kernels_compared

_OWN = ("graph", "lifting", "roles", "classifier")
"""Attributes that give way to a child module of that name."""

_HEADS = ("fc", "head", "classifier")
"""What networks call their classifier."""

_HABITS = ("get_classifier", "reset_classifier")
"""What a timm network has besides."""

Found = TypeVar("Found")

_RESULTS = {
    "scores": ("logits",),
    "embedding": ("features", "logits"),
    "maps": ("stages",),
    "everything": ("stages", "features", "logits"),
}


class LiftedNetwork(Usable, OwnNorms):
    """A 3D network over voxels, made by `image2point.lift`.

    Its state dict has the 2D network's names (`layer1.0.conv1.weight`), and its blocks are modules as there
    (`lifting.blocks`): `net.layer4[-1]` can be called and can have hooks.

    Attributes:
        graph: the program, a `torch.fx.Graph` with a node per layer.
        lifting: the record of where every parameter comes from.
        roles: role of each module: input, norm, body or output.
        classifier: what `linear_classifier` gives.

    A child module of one of these names comes first, and so does one that is called as what a network can do as a whole
    (`classes`, `predict`): of an EfficientNet, `classifier` is the module.

    >>> import image2point, torch
    >>> net = image2point.lift("resnet10t", weights="random", num_classes=5).eval()
    >>> voxels = image2point.voxelize([torch.rand(100, 3)], 0.1)
    >>> seen = []
    >>> handle = net.layer4[-1].register_forward_hook(lambda block, given, result: seen.append(result.features))
    >>> net(voxels).shape, seen[0].shape[1]
    (torch.Size([1, 5]), 512)
    """

    def __init__(
        self,
        root: nn.Module,
        graph: fx.Graph,
        lifting: Lifting,
        roles: dict[str, str],
        classifier: str | None,
        calls: dict[str, list[Call]],
    ) -> None:
        super().__init__()
        for name in root._modules:
            if hasattr(type(self), name) and name not in YIELDING:
                raise InputError(
                    f"{lifting.network} has a child module {name!r}, a name that lifted networks need for a method; "
                    "give it another one"
                )
        self._modules.update(root._modules)
        self._parameters.update(root._parameters)
        self._buffers.update(root._buffers)
        self._graph, self._lifting, self._roles = graph, lifting, roles
        self._classifier, self._calls = classifier, calls
        self._held: frozenset[str] = frozenset()
        self._regions: dict[str, Region]
        self._programs: dict[str, Program]
        self.renew_program()
        self._made = settings(self)

    def __getattr__(self, name: str) -> Any:
        """A child, a parameter or a buffer; else what this network has under that name itself."""
        held = any(name in self.__dict__.get(kind, ()) for kind in ("_modules", "_parameters", "_buffers"))
        if name in _OWN and not held:
            return self.linear_classifier() if name == "classifier" else self.__dict__[f"_{name}"]
        if name in _HABITS and self._classifier:
            raise AttributeError(
                f"a lifted network has no {name}: its classifier is net.{self._classifier}, to which another module "
                "can be assigned, and `lift(..., num_classes=N)` makes one of N classes"
            )
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign; InputError where a module is to be a classifier under a name that the network does not call."""
        held = self.__dict__.get("_modules", {})
        if isinstance(value, nn.Module) and name in _HEADS and name not in held and self.__dict__.get("_classifier"):
            raise InputError(
                f"{self._lifting.network} calls no module {name!r}, so it would do nothing: the classifier is "
                f"net.{self._classifier}; assign to that"
            )
        super().__setattr__(name, value)

    def forward(self, x: Voxels) -> Tensor:
        """Class scores [B, classes] of a batch of clouds."""
        return self._run(x, "scores")["logits"]

    def forward_features(self, x: Voxels) -> dict[str, Voxels]:
        """Feature maps of every stage, finest first, by stage name."""
        return self._run(x, "maps")["stages"]

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The stages, in the order of `forward_features`, as timm describes them: `num_chs` (channels), `reduction`
        (stride: the edge of one of its voxels in input voxels) and `module` (the stage's name).

        The network runs once on a single voxel to see them.
        """
        info = []
        for name, stage in self._on_one_voxel(self.forward_features).items():
            assert isinstance(stage, DenseVoxels)
            info.append({"num_chs": stage.grid.shape[1], "reduction": stage.stride, "module": name})
        return info

    def _on_one_voxel(self, function: Callable[[Voxels], Found]) -> Found:
        """What a function of this network gives for one occupied cell of a grid, in eval mode and without gradients."""
        like = next(self.parameters())
        cell = like.new_ones(1, self._lifting.options.in_channels, 1, 1, 1)
        with modes_kept(self), torch.no_grad():
            self.eval()
            return function(DenseVoxels(cell, cell[:, :1].bool()))

    def embed(self, x: Voxels) -> tuple[Tensor, Tensor]:
        """Features before the classifier [B, p], and class scores [B, classes].

        Under the heads `cosine` and `etf` the features are those that their linear part sees, of length 1.

        Raises:
            InputError: where the network gives no vector per cloud.
        """
        layer = self._classifier or ""
        if any(layer.startswith(f"{block}.") for block in self._programs["scores"].called(self)):
            # The features never leave the block of the classifier.
            return features_before(self.get_submodule(layer), lambda: self.forward(x))
        result = self._run(x, "embedding")
        if "features" not in result:
            raise InputError(f"{self._lifting.network} has no global pooling, so it gives no feature vector per cloud")
        return result["features"], result["logits"]

    def linear_classifier(self) -> tuple[Tensor, Tensor | None]:
        """Weight [classes, p] and bias [classes] (or None) of the linear layer that the head is in eval mode.

        What the head has besides is folded in (`lifting.heads`): with it, a batch norm on the scores by its running
        statistics; the scale and the unit rows of the heads `cosine` and `etf`. So, in eval mode,
        scores = features · weightᵀ + bias on what `embed` gives.

        Raises:
            InputError: where the network ends without one.
        """
        if self._classifier is None:
            raise InputError(f"{self._lifting.network} was lifted without a classifier; give num_classes to add one")
        layer = self.get_submodule(self._classifier)
        if not isinstance(layer, nn.Linear):
            raise InputError(
                f"net.{self._classifier} is a {type(layer).__name__} by now, not one linear layer; measures of the "
                "classifier need a torch.nn.Linear there"
            )
        return effective(layer)

    def layer_names(self) -> tuple[str, ...]:
        """Names of all layers that can be observed, in the order in which they are computed.

        They are the 2D network's module names, at any depth (`layer1`, `layer1.0`, `layer1.0.conv1`), and `features`. A
        layer that the paper's stem replaced gives the output of the stem.
        """
        return tuple(layer_nodes(self._graph))

    def block_names(self) -> tuple[str, ...]:
        """The blocks that can be observed, in order, and `features`."""
        return block_layers(self)

    def observe(self, names: Sequence[str], per_site: bool = False) -> Callable[[Voxels], dict[str, Rows]]:
        """A function that runs the network and gives the rows of the named layers.

        A layer has one row per cloud, the mean of its map over the occupied voxels, or with `per_site` one row per
        occupied voxel. Each map is reduced where it is computed, and nothing after the last of the layers runs. Blocks
        with hooks are called as modules.

        Raises:
            InputError: on a name that no layer has; when it runs, on a layer inside a block that has a hook.
        """
        reduce = rows_per_voxel if per_site else rows_per_cloud
        program = self.program(observing(self._graph, names, reduce, self._lifting.network))
        return lambda x: self.execute(program, x)

    def observe_maps(self, names: Sequence[str]) -> Callable[[Voxels], dict[str, Voxels]]:
        """A function that runs the network and gives the maps of the named layers, voxels with their sites.

        Raises:
            InputError: as `observe` does.
        """
        program = self.program(observing(self._graph, names, copied, self._lifting.network))
        return lambda x: self.execute(program, x)

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

    def _add(self, addition: str, block: str) -> None:
        """Add parameters to the layers outside of a block, in place (`lifting.additions`)."""
        with changing(self):
            self._lifting = additions.add(self, addition, block)

    def _run(self, x: Voxels, what: str = "everything") -> dict[str, Any]:
        """The named results of one pass."""
        return self.execute(self._programs[what], x)

    def renew_program(self) -> None:
        """Make the programs again, after a change of `graph`."""
        self._regions = assign_regions(self, returning(self._graph, ["logits"]), self._calls)
        self._programs = {what: Program(self._graph, self._regions, names) for what, names in _RESULTS.items()}

    def program(self, graph: fx.Graph) -> Program:
        """The program of a graph over this network's modules."""
        return Program(graph, self._regions)

    def execute(self, program: Program, x: Voxels) -> dict[str, Any]:
        """Run a program over this network's modules: its own, or one made of its graph (`lifting.observe`)."""
        if torch.compiler.is_compiling() and isinstance(x, VoxelTensor) and eager.take_out():
            return eager.call(self.execute, program, x)
        self._check(x)
        if self._lifting.options.substrate == "dense" and isinstance(x, VoxelTensor):
            x = x.dense()
        if torch.compiler.is_compiling():
            return program(self, x)
        with kernels_compared(self):
            return program(self, x)

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
        wanted = self._lifting.options.in_channels
        if channels != wanted:
            raise InputError(
                f"{self._lifting.network} was lifted for {wanted} input channels, but the voxels carry {channels}; "
                f"lift with in_channels={channels} or give other features"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_programs": None, "_graph": rows_of(self._graph)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_graph": graph_of(state["_graph"])})
        self._programs = {what: Program(self._graph, self._regions, names) for what, names in _RESULTS.items()}
