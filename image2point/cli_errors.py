"""How commands end: bad input in one line on stderr and exit code 2, an interruption in exit code 130."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

from image2point.errors import InputError, printable
from image2point.storage import by_url

# Trouble with the machine rather than the program: told in one line, like bad input.
MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.ELOOP,
}  # fmt: skip


class Commands(TyperGroup):
    """Commands that end so."""

    def make_context(self, *args: Any, **extra: Any) -> Any:  # a Context of click, which newer typers carry inside
        with _told():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _told():
            return super().invoke(ctx)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _complain("stopped")
        raise typer.Exit(130) from None
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        _complain(by_url(str(error) if code == 130 else f"error: {_reason(error)}"))
        raise typer.Exit(code) from None


def _exit_code(error: Exception) -> int | None:
    """The exit code of an error that is told in one line; None for the others, which are faults of the program."""
    if isinstance(error, InputError) or _misused(error):
        return 2
    if isinstance(error, OSError):
        return 2 if error.errno in MACHINE else None
    # The modules below are heavy; an error of theirs can only come from where they are loaded already.
    known = {
        "image2point.training.interrupt": ("Interrupted", 130),
        "image2point.collapse.inputs": ("StatisticsError", 2),
    }
    for module, (name, code) in known.items():
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return code
    return None


def _misused(error: Any) -> bool:
    """Whether click could not use the arguments; a command without any prints its help, which is an error there too."""
    return getattr(error, "ctx", None) is not None and type(error).__name__ != "NoArgsIsHelpError"


def _reason(error: Any) -> str:
    if _misused(error):
        setting = str(getattr(error, "option_name", "")).lstrip("-")
        hint = f"; settings go without dashes: {setting}=VALUE" if "." in setting else ""
        return f"{error.format_message().rstrip('.')}{hint} (see {error.ctx.command_path} --help)"
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return " ".join(str(error).split())


def _complain(line: str) -> None:
    # Of several processes of one run, the first speaks for all.
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0:
        with suppress(OSError):  # of a terminal that was closed
            print(printable(line), file=sys.stderr)
