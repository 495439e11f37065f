"""The exception of this package."""

from __future__ import annotations

from image2point.errors import InputError


class VoxelError(InputError):
    """Points, coordinates or grids that cannot be used; the message says what was expected, found and where."""
