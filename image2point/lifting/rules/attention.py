"""Attention over channels; whatever is a plain sequence of pooling, 1×1 convolutions and a gate needs no rule."""

from __future__ import annotations

from typing import Any

from image2point.lifting.attention import EfficientChannelAttention, RadixSoftmax
from image2point.lifting.records import Options
from image2point.lifting.rules.values import Chain, Value, need, on


def efficient_channel_attention(module: Any, x: Value, options: Options) -> Chain:
    """ECA, and its circular form."""
    need(x.kind == "voxels" and x.axes == "BCHW", "channel attention of pooled features")
    second = getattr(module, "conv2", None)
    circular = int(getattr(module, "padding", 0))
    act = getattr(module, "act", None)
    return on(x, EfficientChannelAttention(module.conv, act, second, module.gate, circular))


def radix_softmax(module: Any, x: Value, options: Options) -> Chain:
    """The softmax of split attention."""
    need(x.kind == "vector", "a radix softmax before global pooling")
    return on(x.with_axes("BC"), RadixSoftmax(module.radix, module.cardinality))
