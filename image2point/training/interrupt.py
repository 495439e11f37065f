"""Ctrl-C, SIGTERM and SIGHUP ask the loop to stop at the next step; a second one stops at once."""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType
from typing import Any

from image2point.runs import Run

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks to stop: Ctrl-C, a scheduler, a terminal that is closed."""


def asked_to_stop() -> tuple[signal.Signals, ...]:
    """Those of `SIGNALS` that are heard here: under `nohup`, a terminal that is closed stops nothing.

    >>> signal.SIGTERM in asked_to_stop()
    True
    """
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return SIGNALS[:2] if ignored else SIGNALS


class Interrupted(Exception):
    """The run stopped on request, its state is on disk; the message says how to go on."""


def stopped(where: str, command: str, run: Run) -> Interrupted:
    """The exception that says where a run stopped and how to go on; command: `transfer` or `pretrain`."""
    return Interrupted(
        f"stopped {where}; continue with: image2point {command} {run.config} --runs {run.path.parent} --resume"
    )


class StopSignal:
    """Context manager. While it is active, `requested` turns true at the first of `SIGNALS`."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in asked_to_stop():
            with suppress(ValueError):  # where this is not the main thread, which alone may set handlers
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
