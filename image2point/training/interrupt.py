"""Ctrl-C and SIGTERM ask the loop to stop at the next step; a second one stops at once."""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """The run stopped on request, its state is on disk; the message says how to go on."""


class StopSignal:
    """Context manager. While it is active, `requested` turns true at the first SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
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
