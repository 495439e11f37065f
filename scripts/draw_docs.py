"""Draw the pictures of docs/concepts from what the package computes: `python scripts/draw_docs.py` (seconds).

They are SVGs of 460 units, so that they read on a phone, and follow the light or dark scheme of the page around them.
"""

from __future__ import annotations

from pathlib import Path

import torch

from image2point.collapse import Statistics, UnconstrainedFeatures, metrics
from image2point.files import write_text
from image2point.lifting.kernels import RULES, inflate
from image2point.roles import POLICIES

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"
STYLE = """<style>
svg { --ink: #1f2328; --soft: #59636e; --rule: #c4cad1; --plus: #c2410c; --minus: #1d4ed8; --third: #15803d;
      font: 13px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e6edf3; --soft: #9aa4af; --rule: #4b535d; --plus: #fb923c; --minus: #7aa2ff; --third: #4ade80; }
}
text { fill: var(--ink); } .soft { fill: var(--soft); font-size: 12px; } .middle { text-anchor: middle; }
.small { font-size: 11px; }
.cell { stroke: var(--rule); } .plus { fill: var(--plus); } .minus { fill: var(--minus); }
.third { fill: var(--third); }
.line { stroke: var(--rule); fill: none; } .empty { fill: none; stroke: var(--soft); stroke-dasharray: 3 3; }
.full { fill: var(--minus); stroke: var(--minus); } .moves { fill: none; stroke: var(--plus); stroke-width: 2.5; }
.mean { stroke: var(--ink); stroke-width: 2; fill: none; }
</style>"""


def inflation() -> str:
    """The slices along the depth that each rule makes of one 2D kernel."""
    kernel = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])
    parts = [_text(0, 64, "W, 3×3"), _grid(96, 14, kernel)]
    parts += [_text(216, 44, "rows along x, columns along y,"), _text(216, 62, "depth along z")]
    parts += [_text(141 + 124 * k, 134, f"k = {k}", "soft middle") for k in range(3)]
    for row, rule in enumerate(RULES):
        top = 144 + 104 * row
        slices = inflate(kernel[None, None], rule, "z")[0, 0]
        parts.append(_text(0, top + 50, rule))
        parts += [_grid(96 + 124 * k, top, slices[:, :, k]) for k in range(3)]
    return _svg(144 + 104 * len(RULES), "A 3×3 kernel and the three slices that each rule makes of it", parts)


def policies() -> str:
    """What trains under each policy, layer by layer, and which norms follow the batch."""
    layers = [("conv", "input"), ("norm", "input"), *[("conv", "body"), ("norm", "norm")] * 2, ("linear", "output")]
    places = [96 + 52 * i for i in range(len(layers))]
    names = ((122, "stem"), (252, "body"), (428, "head"))
    parts = [_text(x, 14, name, "middle") for x, name in names]
    parts += [_text(x + 20, 32, kind, "soft middle") for x, (kind, _) in zip(places, layers, strict=True)]
    for row, (name, policy) in enumerate(POLICIES.items()):
        top = 42 + 34 * row
        parts.append(_text(0, top + 17, name))
        for x, (kind, role) in zip(places, layers, strict=True):
            trains = "full" if role in policy.trainable else "empty"
            parts.append(f'<rect class="{trains}" x="{x}" y="{top}" width="40" height="24" rx="4"/>')
            if kind == "norm" and role in policy.statistics:
                parts.append(f'<rect class="moves" x="{x - 3.5}" y="{top - 3.5}" width="47" height="31" rx="7"/>')
    foot = 42 + 34 * len(POLICIES) + 16
    parts += [f'<rect class="full" x="0" y="{foot}" width="24" height="15" rx="3"/>', _text(32, foot + 12, "trains")]
    parts += [f'<rect class="empty" x="96" y="{foot}" width="24" height="15" rx="3"/>', _text(128, foot + 12, "frozen")]
    parts += [f'<rect class="moves" x="196" y="{foot}" width="24" height="15" rx="4"/>']
    parts += [_text(228, foot + 12, "statistics follow the batch")]
    return _svg(foot + 20, "Which layers train, and which norms follow the batch, under each policy", parts)


def collapse() -> str:
    """Free features of three classes under gradient descent on cross-entropy with decay: steps 0, 100 and 300."""
    problem = UnconstrainedFeatures((20, 20, 20), dim=2)
    draw = torch.Generator().manual_seed(1)
    free = [torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((60, 2), (3, 2))]
    free = [tensor.requires_grad_() for tensor in (*free, torch.zeros(3, dtype=torch.float64))]
    optimizer = torch.optim.SGD(free, lr=1.0)
    shown = []
    for step in range(301):
        if step in (0, 100, 300):
            shown.append((step, free[0].detach().clone()))
        optimizer.zero_grad()
        problem.objective(*free).backward()
        optimizer.step()
    parts: list[str] = []
    for place, (step, features) in enumerate(shown):
        parts += _panel(156 * place, step, features, problem.labels)
    return _svg(210, "Features of three classes gather around means that form a triangle", parts)


def _panel(left: float, step: int, features: torch.Tensor, labels: torch.Tensor) -> list[str]:
    """Features [N, 2] about their mean, with the class means, at one scale of its own."""
    classes = ("plus", "minus", "third")
    centred = features - features.mean(0)
    place = (centred / centred.norm(dim=1).max() * 66).tolist()
    found = metrics(Statistics(3, 2).update(features, labels))
    parts = [f'<rect class="line" x="{left}" y="22" width="146" height="146" rx="4"/>']
    for (x, y), label in zip(place, labels.tolist(), strict=True):
        parts.append(_mark(classes[label], left + 73 + x, 95 - y))
    means = torch.stack([torch.tensor(place)[labels == c].mean(0) for c in range(3)]).tolist()
    spokes = "".join(f"M{left + 73} 95L{left + 73 + x:.1f} {95 - y:.1f}" for x, y in means)
    parts.append(f'<path class="mean" d="{spokes}"/>')
    parts.append(_text(left + 73, 14, f"step {step:,}", "middle"))
    parts.append(_text(left + 73, 186, f"CDNV {found['cdnv']:.2g}", "middle"))
    parts.append(_text(left + 73, 204, f"NC1 {found['nc1']:.2g}", "middle"))
    return parts


def _mark(kind: str, x: float, y: float) -> str:
    """A circle, a square or a triangle: classes differ in form as well as in colour."""
    if kind == "plus":
        return f'<circle class="plus" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    if kind == "minus":
        return f'<rect class="minus" x="{x - 2.7:.1f}" y="{y - 2.7:.1f}" width="5.4" height="5.4"/>'
    return f'<path class="third" d="M{x - 3.5:.1f} {y + 3:.1f}h7l-3.5 -6.5z"/>'


def _grid(left: float, top: float, values: torch.Tensor) -> str:
    """A table of numbers, coloured by sign and size."""
    parts = []
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            x, y = left + 30 * j, top + 30 * i
            kind = "plus" if value > 0 else "minus"
            shade = f'class="cell {kind}" fill-opacity="{abs(value) / 2 * 0.7:.2f}"'
            parts.append(f'<rect {shade} x="{x}" y="{y}" width="30" height="30"/>')
            number = f"{value:.2g}".replace("0.", ".").replace("-", "−")
            parts.append(_text(x + 15, y + 19, number, "soft small middle" if not value else "small middle"))
    return "".join(parts)


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}"{f" class={kind!r}" if kind else ""}>{words}</text>'.replace("'", '"')


def _svg(height: float, title: str, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 -4 468 {height + 8:g}" width="468" role="img">'
    return "\n".join([head, f"<title>{title}</title>", STYLE, *parts, "</svg>", ""])


DRAWINGS = {"inflation.svg": inflation, "policies.svg": policies, "collapse.svg": collapse}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        write_text(FIGURES / name, draw())
        print(f"docs/figures/{name}")
