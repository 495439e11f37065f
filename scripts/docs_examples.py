"""For the API pages: examples (`>>>`) in docstrings become code; Markdown would take them for quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe


def fenced(text: str) -> str:
    """Put each example that stands in the text, with what it prints, into a fence; indented ones are moved out.

    >>> print(fenced("Adds.\\n\\n>>> 1 + 1\\n2"))
    Adds.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    lines: list[str] = []
    inside, indent = False, ""
    for line in [*text.split("\n"), ""]:
        begins = re.match(r"( *)>>> ", line)
        if begins and not inside:
            inside, indent = True, begins[1]
            lines += ["", f"{indent}```pycon"] if lines and lines[-1].strip() else [f"{indent}```pycon"]
        elif inside and not line.strip():
            inside = False
            lines.append(f"{indent}```")
        lines.append(line)
    return "\n".join(lines[:-1])


class Examples(griffe.Extension):
    """Griffe calls it for every object that it has read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
