"""What a policy adds to the layers of a lifted network that otherwise stay as they are, and how it is folded away.

An addition is a module here that says which layers take it, gives it to them, so that the network computes what it did
before, and folds it away.
"""

from image2point.lifting.additions.together import add, added, as_folded, check, fold

__all__ = ["add", "added", "as_folded", "check", "fold"]
