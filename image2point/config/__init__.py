"""Typed experiment configuration.

A config file may name another one under `base:` (relative to itself) and then lists only what differs. On top
come `key=value` overrides from the command line, with dots for nesting: `data.shots=10`.
"""

from image2point.config.data import Data
from image2point.config.pretraining import Images, Pretrain
from image2point.config.reading import (
    changes,
    from_values,
    from_values_as,
    load_config,
    load_config_as,
    load_run_config,
    read,
    resolve,
    resolve_as,
    schema,
)
from image2point.config.sections import Config, Training
from image2point.config.shipped import find, shipped

__all__ = [
    "Config",
    "Data",
    "Images",
    "Pretrain",
    "Training",
    "changes",
    "find",
    "from_values",
    "from_values_as",
    "load_config",
    "load_config_as",
    "load_run_config",
    "read",
    "resolve",
    "resolve_as",
    "schema",
    "shipped",
]
