"""The pages of the tutorials, from `docs/tutorials/*.py` (notebooks in jupytext's percent form).

    python scripts/notebooks.py            # execute all, and write each page with what it printed and drew
    python scripts/notebooks.py lift_and_look
    python scripts/notebooks.py --unexecuted    # text and code alone, where a page is missing or older than its script

The pages lie beside the scripts, and are not kept in git. Each notebook runs in an empty folder.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"
ORDER = ("lift_and_look", "own_folder", "label_scene", "watch_collapse")
NOT_EXECUTED = "!!! note\n    Nothing was executed for this page: `make notebooks` writes it with its output.\n\n"


def notebook(name: str, execute: bool) -> Any:
    """The notebook of that name; executed, it has its outputs. An error in a cell is raised, with its traceback."""
    import jupytext
    from nbclient import NotebookClient

    found = jupytext.read(TUTORIALS / f"{name}.py")
    if execute:
        os.environ["OPEN3D_DISABLE_WEB_VISUALIZER"] = "true"  # it would say on the page that it is there
        with tempfile.TemporaryDirectory() as folder:
            place = {"metadata": {"path": folder}}
            NotebookClient(found, timeout=None, kernel_name="python3", resources=place).execute()
    return found


def write_page(name: str, content: Any, executed: bool) -> Path:
    """Write `NAME.md`, and its figures to `NAME_files/`."""
    from nbconvert import MarkdownExporter

    from image2point import files

    places = {"unique_key": name, "output_files_dir": f"{name}_files"}
    text, resources = MarkdownExporter().from_notebook_node(content, places)
    for file, data in resources["outputs"].items():
        (TUTORIALS / file).parent.mkdir(exist_ok=True)
        (TUTORIALS / file).write_bytes(data)
    text = re.sub(r"</pre>\s*<pre[^>]*>", "", text)  # each line that a run prints is an output of its own
    title, _, rest = text.strip().partition("\n\n")
    files.write_text(TUTORIALS / f"{name}.md", f"{title}\n\n{'' if executed else NOT_EXECUTED}{rest}\n")
    return TUTORIALS / f"{name}.md"


def is_current(name: str) -> bool:
    """Whether there is a page, and not one of an older script."""
    script, page = TUTORIALS / f"{name}.py", TUTORIALS / f"{name}.md"
    return page.exists() and page.stat().st_mtime >= script.stat().st_mtime


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *ORDER], default=[], metavar="NAME", help="; ".join(ORDER))
    parser.add_argument("--unexecuted", action="store_true", help="write what is missing, without executing anything")
    asked = parser.parse_args(arguments)
    for name in asked.names or ORDER:
        if asked.unexecuted and is_current(name):
            continue
        started = time.monotonic()
        content = notebook(name, execute=not asked.unexecuted)
        took = time.monotonic() - started
        print(write_page(name, content, not asked.unexecuted), *([] if asked.unexecuted else [f"{took:.0f} s"]))


if __name__ == "__main__":
    main()
