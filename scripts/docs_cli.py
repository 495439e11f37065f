"""The page of commands, as typer writes it, with the whole first paragraph of each command in the lists.

python scripts/docs_cli.py > docs/reference/cli.md
"""

from __future__ import annotations

from typing import Any

import typer
from typer.cli import get_docs_for_click

from image2point import cli


def page() -> str:
    """The text of `docs/reference/cli.md`."""
    root = typer.main.get_command(cli.app)
    _say_all(root)
    context = typer.Context(root, info_name="image2point")
    return get_docs_for_click(obj=root, ctx=context, name="image2point", title="Command line").strip() + "\n"


def _say_all(group: Any) -> None:
    """Typer cuts the help of a command after 45 characters, unless it has a short one."""
    for command in getattr(group, "commands", {}).values():
        command.short_help = " ".join((command.help or "").partition("\n\n")[0].split())
        _say_all(command)


if __name__ == "__main__":
    print(page(), end="")
