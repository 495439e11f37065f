"""The one exception for bad input: what a user gave, not what the program did wrong."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Something that the user supplied cannot be used.

    The message says what was expected, what was found, where, and what to do. The command line prints it
    in one line and ends with exit code 2.
    """


def one_line(text: object, most: int = 150) -> str:
    """Text from a file or another package as a message gives it: on one line, without control characters, not long."""
    return printable(" ".join(str(text).split()))[:most]


def printable(text: object) -> str:
    r"""`text` with its control characters written out, so that printing it cannot steer a terminal.

    >>> printable("chair\x1b[2J")
    'chair\\x1b[2J'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names as a message gives them: the first few, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
