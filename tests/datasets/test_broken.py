"""Each broken file or folder ends in one line that names it; each table of the docs is what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken import CASES, Case, message

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bad_input.md"


def test_there_are_enough_and_no_two_are_alike() -> None:
    assert len(CASES) >= 60 and len({case.what for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_one_line_that_names_the_file(tmp_path: Path, case: Case) -> None:
    text = message(case, tmp_path)
    assert "\n" not in text and 10 < len(text) < 700
    assert str(tmp_path) not in text
    named = any(path.name in text for path in tmp_path.rglob("*")) or "missing" in text or "nowhere" in text
    assert named, text


def test_the_docs_have_every_case(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    missing = [case.what for case in CASES if f"| {case.what} |" not in page]
    assert not missing, f"run scripts/bad_input_table.py: {missing}"
