"""Where scripts outside the package have imported `load_timm` from; its home is `image2point.networks.timm_import`."""

from image2point.networks.timm_import import load_timm

__all__ = ["load_timm"]
