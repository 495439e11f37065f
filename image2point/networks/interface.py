"""What training and measuring ask of a network, whether it sees images or voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from image2point.networks.layer_names import Rows


def features_before(classifier: nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What a classifier takes while `run` computes the class scores [n, classes], features [n, p]; and these scores.

    >>> import torch
    >>> layer = nn.Linear(2, 3)
    >>> features, scores = features_before(layer, lambda: layer(torch.ones(1, 2)))
    >>> features.tolist(), list(scores.shape)
    ([[1.0, 1.0]], [1, 3])
    """
    seen: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        scores = run()
    finally:
        hook.remove()
    return seen[0], scores


@contextmanager
def modes_kept(network: nn.Module | Network) -> Iterator[None]:
    """Afterwards every module has the mode that it had: `train` and `eval` set all of them alike.

    >>> net = nn.Sequential(nn.BatchNorm1d(2).eval())
    >>> with modes_kept(net):
    ...     _ = net.train()
    >>> net.training, net[0].training
    (True, False)
    """
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Network(Protocol):
    """An `nn.Module` whose scores are a linear layer's, on features that can be had apart.

    `ImageNetwork` (images [n, 3, S, S]) and `LiftedNetwork` (voxels) are such networks. The first five members are
    its own; the others are those of any module.
    """

    def embed(self, x: Any) -> tuple[Tensor, Tensor]:
        """Features before the classifier [n, p], and class scores [n, classes]."""
        ...

    def linear_classifier(self) -> tuple[Tensor, Tensor | None]:
        """Weight [classes, p] and bias [classes] (or None): in eval mode, scores = features · weightᵀ + bias."""
        ...

    def layer_names(self) -> tuple[str, ...]:
        """The layers that can be observed, in the order of computation; the last is `features`."""
        ...

    def block_names(self) -> tuple[str, ...]:
        """The blocks among the layers (`networks.layer_names.blocks`), and `features`."""
        ...

    def observe(self, names: Sequence[str], per_site: bool = False) -> Callable[[Any], dict[str, Rows]]:
        """A function that runs the network on a batch and gives the rows of the named layers.

        A row is the mean over the pixels or occupied voxels of a sample, or with `per_site` each one of them.
        Raises InputError on a name that no layer has.
        """
        ...

    training: bool

    def __call__(self, x: Any) -> Tensor: ...
    def train(self, mode: bool = True) -> nn.Module: ...
    def eval(self) -> nn.Module: ...
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, nn.Parameter]]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...
