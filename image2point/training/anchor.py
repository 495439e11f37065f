"""L2-SP: parameters that come from the 2D network are pulled towards their start, and not towards zero.

Source: Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", 2018.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from image2point.lifting import LiftedNetwork
from image2point.training import sharding


def begun(network: Any) -> frozenset[str]:
    """Names of the parameters whose values come from the 2D network or an earlier training, and are not fresh.

    >>> import image2point as i2p
    >>> net = i2p.lift("test_resnet", weights="random", num_classes=4)
    >>> sorted(name for name in begun(net) if name.startswith("layer1.0.bn1")), "fc.weight" in begun(net)
    (['layer1.0.bn1.bias', 'layer1.0.bn1.weight'], False)
    """
    assert isinstance(network, LiftedNetwork)
    return frozenset(record.name for record in network._lifting.parameters if record.origin != "fresh")


class Anchor:
    """Adds strength · (w − w₀) to the gradient of each parameter that trains and has begun as w₀.

    That is the gradient of strength / 2 · ‖w − w₀‖², where the optimizer has that of its weight decay: SGD sees it as
    a part of the gradient, behind the clipping; AdamW moves by it apart from the gradient, by the learning rate times
    strength. A step that a scaler of gradients leaves out does not pull.

    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> anchor = Anchor({"weight": layer.weight}, optimizer, 0.5)
    >>> with torch.no_grad():
    ...     _ = layer.weight.add_(2.0)
    >>> layer.weight.grad = torch.zeros(1, 1)
    >>> optimizer.step()
    >>> round(float((layer.weight - anchor.start["weight"]).detach()), 3)  # 2 − 0.1 · 0.5 · 2
    1.9
    """

    def __init__(self, parameters: dict[str, Any], optimizer: torch.optim.Optimizer, strength: float) -> None:
        self.start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._of = {parameter: self.start[name] for name, parameter in parameters.items()}
        self._strength, self._apart = strength, isinstance(optimizer, torch.optim.AdamW)
        optimizer.register_step_pre_hook(self._pull)

    def tensors(self) -> dict[str, Tensor]:
        """The start, whole."""
        return {name: sharding.whole(tensor) for name, tensor in self.start.items()}

    def restore(self, start: dict[str, Tensor]) -> None:
        """Take the start of a run that goes on."""
        for name, tensor in start.items():
            self.start[name].copy_(sharding.part(tensor, self.start[name]))

    @torch.no_grad()
    def _pull(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            moving = [p for p in group["params"] if p in self._of and p.grad is not None]
            if not moving:
                continue
            start = [self._of[parameter] for parameter in moving]
            if self._apart:
                torch._foreach_lerp_(moving, start, group["lr"] * self._strength)
            else:
                away = torch._foreach_sub(moving, start)
                torch._foreach_add_([parameter.grad for parameter in moving], away, alpha=self._strength)
