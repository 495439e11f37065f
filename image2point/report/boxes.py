"""Clouds and scenes of the page with what the arms say about them, as HTML around the plots that the page draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from image2point.report.arms import Arm
from image2point.report.cloud_figures import clouds
from image2point.report.figures import Figure
from image2point.report.page_tables import named
from image2point.report.scene_figures import VIEWS, scene_figure, shown_scenes, view_key

Plot = Callable[[str, Figure, int], str]
"""The HTML of a figure, from its name and its height in pixels."""


def cloud_boxes(arms: Sequence[Arm], plot: Plot) -> str:
    """Test clouds with the class that each arm gives them; '' where none were kept."""
    boxes = []
    for index, cloud in enumerate(clouds(arms)):
        said = "".join(
            f"<li>{named(place, arm.label)}{_verdict(cloud.label, verdict)}</li>"
            for place, (arm, verdict) in enumerate(zip(arms, cloud.verdicts, strict=True))
        )
        boxes.append(
            f'<figure class="cloud">{plot(f"cloud-{index}", cloud.figure, 250)}<img class="still" alt="">'
            f"<figcaption><b>{escape(cloud.label)}</b><ul>{said}</ul></figcaption></figure>"
        )
    return f'<div class="panels clouds">{"".join(boxes)}</div>' if boxes else ""


def scene_boxes(arms: Sequence[Arm], plot: Plot) -> str:
    """Test scenes in the colours of their classes, once for each arm, under buttons that choose what is shown of all;
    '' where none were kept."""
    classes = arms[0].first.summary.data.classes
    boxes = []
    for row, scenes in enumerate(shown_scenes(arms)):
        for index, (arm, scene) in enumerate(zip(arms, scenes, strict=True)):
            if scene is None:
                continue
            right = "no labels" if scene.accuracy is None else f"{100 * scene.accuracy:.1f} % right"
            drawn = plot(f"scene-{row}-{index}", scene_figure(scene, len(classes)), 330)
            boxes.append(
                f'<figure class="cloud scene" data-scene="{row}">{drawn}<img class="still" alt=""><figcaption><ul><li>'
                f'<b>Scene {scene.number}</b>{named(index, arm.label)}<span class="said">{right}</span></li></ul>'
                "</figcaption></figure>"
            )
    if not boxes:
        return ""
    buttons = "".join(
        f'<button type="button" data-view="{view}" aria-pressed="{str(view == "truth").lower()}">{view}</button>'
        for view in VIEWS
    )
    wide = " two" if len(arms) != 3 else ""
    return (
        f'<div class="legend views">{buttons}</div>{view_key(classes)}'
        f'<div class="panels clouds{wide}">{"".join(boxes)}</div>'
    )


def _verdict(label: str, verdict: Sequence[tuple[str, int]]) -> str:
    """'✓' for a run that names the class, '✗ chair' for one that calls it a chair; counted where more runs saw it."""
    if not verdict:
        return '<span class="said">not stored</span>'
    runs = sum(count for _, count in verdict)
    words = []
    for name, count in verdict:
        if name == label:
            words.append('<span class="right">✓' + (f" {count}/{runs}" if runs > 1 else "") + "</span>")
        else:
            words.append(f'<span class="wrong">✗ {escape(name)}' + (f" ×{count}" if count > 1 else "") + "</span>")
    return f'<span class="said">{" ".join(words)}</span>'
