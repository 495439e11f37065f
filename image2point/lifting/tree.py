"""The modules of a lifted network, as a tree under the 2D network's names."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from image2point.lifting.blocks import Block, block_like


class Tree:
    """Modules that are put in place one by one; blocks around them are made as they are needed.

    Attributes:
        root: holds the 3D modules.
    """

    def __init__(self, network: nn.Module) -> None:
        self.root = nn.Module()
        self._network = network

    def place(self, path: str, content: nn.Module | Tensor) -> None:
        """Put a layer, a parameter or a buffer under a name."""
        parent, _, leaf = path.rpartition(".")
        module = self._block(parent)
        if isinstance(content, nn.Parameter):
            module.register_parameter(leaf, content)
        elif isinstance(content, Tensor):
            module.register_buffer(leaf, content)
        else:
            module.add_module(leaf, content)

    def free(self, name: str, parent: str = "") -> str:
        """A path in `parent` of that name, or of one like it that no module of the 2D or 3D network has."""
        taken = {n for n, _ in self._network.get_submodule(parent).named_children()}
        taken |= {n for n, _ in self._block(parent).named_children()}
        while name in taken:
            name += "_"
        return f"{parent}.{name}" if parent else name

    def unchanged(self, path: str) -> bool:
        """Put in place a layer that changes nothing in 3D; False where one that does something has that name."""
        module = self._block(path)
        return isinstance(module, Block) and not module._modules

    def order(self) -> None:
        """Bring the children of every block into the order that they have in the 2D network.

        Where that would change the order of the parameters, which an optimizer's state follows, they stay, unless they
        are counted.
        """
        for path, block in self.root.named_modules():
            if path and not isinstance(block, Block):
                continue
            order = [n for n, _ in self._network.get_submodule(path).named_children()]
            names = sorted(block._modules, key=lambda n: order.index(n) if n in order else len(order))
            if isinstance(block, nn.Sequential | nn.ModuleList) or _heavy(block, names) == _heavy(
                block, block._modules
            ):
                block._modules = {name: block._modules[name] for name in names}

    def _block(self, path: str) -> nn.Module:
        parent, _, leaf = path.rpartition(".")
        if not path:
            return self.root
        module = self._block(parent)
        if leaf not in module._modules:
            module.add_module(leaf, block_like(self._network.get_submodule(path)))
        return module._modules[leaf]  # type: ignore[return-value]


def _heavy(block: nn.Module, names: Iterable[str]) -> list[str]:
    return [name for name in names if next(block._modules[name].parameters(), None) is not None]  # type: ignore[union-attr]
