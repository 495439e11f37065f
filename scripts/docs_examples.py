"""For the API pages: examples (`>>>`) in docstrings become code; Markdown would take them for quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe


def fenced(text: str) -> str:
    """Put each example that stands in the text, with what it prints, into a fence; indented ones are moved out.

    >>> fenced("Adds.\\n    >>> 1 + 1\\n    2").split("\\n")
    ['Adds.', '', '```pycon', '>>> 1 + 1', '2', '```', '']
    """
    lines: list[str] = []
    indent: int | None = None  # of the example that the line is part of
    for line in [*text.split("\n"), ""]:
        begins = re.match(r" *(?=>>> )", line)
        if begins and indent is None:
            indent = begins.end()
            lines += ["", "```pycon"] if lines and lines[-1].strip() else ["```pycon"]
        elif indent is not None and not line.strip():
            indent = None
            lines.append("```")
        lines.append(line[indent or 0 :])
    return "\n".join(lines[:-1])


class Examples(griffe.Extension):
    """Griffe calls it for every object that it has read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
