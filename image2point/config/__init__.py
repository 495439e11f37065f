"""Typed experiment configuration.

A config file may name another one under `base:` (relative to itself) and then lists only what differs. On top
come `key=value` overrides from the command line, with dots for nesting: `data.shots=10`.
"""

from image2point.config.read import changes, from_values, load, schema
from image2point.config.sections import Config, Data, Training

__all__ = ["Config", "Data", "Training", "changes", "from_values", "load", "schema"]
