"""Runs of `training.sharding`, one after another, in each process that torchrun starts (`test_sharding.py`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny_runs import interrupt_at, run_transfer

from image2point.config import load_config
from image2point.training.interrupt import Interrupted

if __name__ == "__main__":
    for config, place, resume in json.loads(sys.argv[1]):
        with pytest.MonkeyPatch.context() as patch:
            if place:
                interrupt_at(patch, place)
            try:
                run_transfer(load_config(config), Path(config).parent, resume)
            except Interrupted:
                assert place
            else:
                assert not place
