"""What a policy adds to the layers of a lifted network that otherwise stay as they are, and how it is folded away.

An addition is a module here with `add`, which starts where the network computes what it did before, and `fold`.
"""

from image2point.lifting.additions.together import add, added, fold, untie

__all__ = ["add", "added", "fold", "untie"]
