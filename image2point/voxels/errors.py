"""The exception of this package."""

from __future__ import annotations


class VoxelError(ValueError):
    """Points, coordinates or grids that cannot be used; the message says what was expected, found and where."""
