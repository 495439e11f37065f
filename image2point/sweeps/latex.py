"""A table for LaTeX that needs no package: it compiles with what every LaTeX has."""

from __future__ import annotations

from collections.abc import Sequence

from image2point.errors import one_line

_MARKS = {
    **{character: f"\\{character}" for character in "_%&#$" + "{}"},
    **{character: f"${character}$" for character in "<>|"},
    **{character: f"{{{character}}}" for character in "[]*"},  # read as options of the line break before them
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': "''", "`": r"{\char96}",
    "–": "--", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "†": r"$\dagger$", "→": r"$\rightarrow$", "·": r"$\cdot$",
    "≤": r"$\leq$", "≥": r"$\geq$", "…": r"\dots{}",
}  # fmt: skip
_LETTERS = frozenset(
    "àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝŁłŒœŠšŽžČčĆćŃńŚśŹźŻżŐőŰűŘřĚěŮůĎďŤťŇňĞğİıŞş"
)
"""Beyond ASCII, what plain LaTeX sets."""


def latex_text(text: str) -> str:
    """Text with LaTeX's own characters escaped. Letters that plain LaTeX lacks are written by their code.

    >>> print(latex_text("io+norm_50% [a] ± → é 猫"))
    io+norm\\_50\\% {[}a{]} $\\pm$ $\\rightarrow$ é U+732B
    """
    return "".join(map(_letter, one_line(text, 2000)))


def _letter(character: str) -> str:
    if character in _MARKS:
        return _MARKS[character]
    return character if character.isascii() or character in _LETTERS else f"U+{ord(character):04X}"


def latex_number(mean: str, spread: str | None = None, bold: bool = False, dagger: bool = False) -> str:
    r"""A number in mathematics, the mean bold on demand.

    >>> print(latex_number("62.3", "3.2", bold=True))
    $\mathbf{62.3} \pm 3.2$
    >>> print(latex_number("3.1e-05", dagger=True))
    $3.1 \cdot 10^{-5}{}^\dagger$
    """
    shown = rf"\mathbf{{{_power(mean)}}}" if bold else _power(mean)
    error = rf" \pm {_power(spread)}" if spread is not None else ""
    return f"${shown}{error}{'{}^' + chr(92) + 'dagger' if dagger else ''}$"


def _power(number: str) -> str:
    digits, mark, power = number.partition("e")
    return rf"{digits} \cdot 10^{{{int(power)}}}" if mark else digits


def latex_table(
    groups: Sequence[tuple[str, int]], headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str, words: int
) -> str:
    """A table with its caption. `groups`: headings that span so many columns, above `headings`; both and `caption` are
    plain text, the cells of `rows` are LaTeX. The first `words` columns are flush left, the others flush right."""
    kinds = "l" * words + "r" * (len(headings) - words)
    lines = [r"% It needs no package.", r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{kinds}}}", r"\hline"]
    if groups:
        at, spans, rules = 1, [], []
        for name, count in groups:
            spans.append(rf"\multicolumn{{{count}}}{{c}}{{{latex_text(name)}}}" if name else " & " * (count - 1))
            rules += [rf"\cline{{{at}-{at + count - 1}}}"] if name else []
            at += count
        lines += [" & ".join(spans) + r" \\", *rules]
    lines += [" & ".join(map(latex_text, headings)) + r" \\", r"\hline"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    lines += [r"\hline", r"\end{tabular}", rf"\caption{{{latex_text(caption)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"
