"""The sections of the page, from its results to the provenance of its runs: what each shows, and says of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from image2point.report import charts, figures, map_figures, maps, page_tables
from image2point.report.arms import Arm
from image2point.report.boxes import cloud_boxes, scene_boxes
from image2point.report.class_tables import class_table, pair_table
from image2point.report.provenance import details
from image2point.report.scene_figures import confusion_panels

DEFINITIONS = (
    "NC1 is tr(Σ_W\u00a0Σ_B†)/C, CDNV the class-distance normalised variance, NCC acc. the accuracy of the nearest "
    "training class mean; all of pre-classifier features in evaluation mode. Lower NC1 and CDNV mean tighter classes; "
    "both depend on the number of samples, so that arms compare by their share of the null, the same with permuted "
    "labels. Time is that of a whole run, measurements included."
)
COLLAPSE = (
    "Collapse with the chosen weights. Null: the same with labels permuted within the split, ± s.d. over permutations, "
    "and the measure as a share of it; measures that are not corrected depend on the number of samples, and compare by "
    "that share"
)
DISAGREE = (
    "NC1 and CDNV may disagree. NC1 weighs directions by the pseudo-inverse of Σ_B: variance within classes counts "
    "most along the directions in which class means differ least, and not at all where they do not differ; it is an "
    "average over all classes. CDNV is a mean over pairs of classes, of their variance in all directions over the "
    "squared distance of their means: one close pair dominates it, but not its median."
)


class Sections:
    """The sections in order; they number their tables and figures and collect what the script draws."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        self.arms = arms
        self.figures: dict[str, figures.Figure] = {}
        self.numbers = {"Table": 0, "Figure": 0}
        self.headings: list[str] = []
        self.repeated = any(len(arm.runs) > 1 for arm in arms)

    def warnings(self) -> str:
        """What the runs warned of, and a choice by few samples of those that knew no such warning."""
        told: dict[str, list[str]] = {}
        for arm in self.arms:
            for run in arm.runs:
                summary = run.summary
                chosen = summary.chosen_by == "validation" and run.settings.get("training.epochs") != 1
                few = arm.display.noisy_choice(summary.data.validation_clouds or 0) if chosen else []
                for text in dict.fromkeys((*summary.warnings, *few)):
                    told.setdefault(text, []).append(summary.name)
        several = sum(len(arm.runs) for arm in self.arms) > 1
        lines = []
        for text, runs in told.items():
            who = f" of {', '.join(runs)}" if several else ""
            lines.append(f'<p class="warning"><b>Warning{escape(who)}:</b> {escape(text)}.</p>')
        return "".join(lines)

    def results(self) -> str:
        note = f"The arms side by side, with the chosen weights{self._spreads()} {DEFINITIONS}"
        table = page_tables.arms_table(self.arms)
        return f"{self._heading('Results')}{self._caption('Table', note)}{table}"

    def learning(self) -> str:
        note = (
            "Scores and loss over epochs. Training values are collected during the epoch, with augmentation; "
            "the others are taken in evaluation mode after it." + self._bands()
        )
        shown = charts.learning_charts(self.arms)
        panels = [figures.curve_panel(chart, 320) for chart in shown]
        for chart, panel in zip(shown, panels, strict=True):
            if chart.quantity == self.arms[0].display.curves[0]:
                panel.figure["data"] += figures.chosen_marks(self.arms)
        legend = self._legend(charts.splits_of(shown))
        return f"{self._heading('Learning')}{self._caption('Figure', note)}{legend}{self._two('learning', panels)}"

    def collapse(self) -> str:
        shown = charts.collapse_charts(self.arms)
        parts = [self._heading("Collapse")]
        if shown:
            note = "Collapse of the pre-classifier features over epochs; epoch 0 is the lifted network before training."
            parts += [
                self._caption("Figure", note + self._bands()),
                self._legend(charts.splits_of(shown)),
                f'<div class="panels">{self._panels("collapse", map(figures.curve_panel, shown))}</div>',
            ]
        if table := page_tables.collapse_table(self.arms):
            parts += [self._caption("Table", COLLAPSE + self._spreads(), "gap"), table]
            parts.append(f'<p class="caption">{page_tables.formula(DISAGREE)}</p>')
        elif not shown:
            parts.append("<p>These runs did not measure collapse.</p>")
        return "".join(parts)

    def depth(self) -> str:
        note = (
            "Collapse by layer, the first on top, and by epoch, as far as layers were measured; epoch 0 is the lifted "
            "network before training. Feature maps count as their mean over voxels."
        )
        return self._heats("depth", maps.depth(self.arms), note)

    def geometry(self) -> str:
        views = maps.planes(self.arms)
        if not views:
            return ""
        note = (
            "Cosines between centred class means with the chosen weights, of those with the classifier's centred rows, "
            "and of the simplex frame in which collapse ends. Classes are ordered by similarity: the leaves of an "
            "average-linkage tree over the cosines of the training means."
        )
        grams = [map_figures.heat_panel(heat) for heat in maps.cosines(self.arms)]
        parts = [self._heading("Where classes lie"), self._caption("Figure", note + self._first_runs())]
        parts.append(self._two("cosines", grams))
        note = (
            "Features in the plane of the first two principal axes of the training class means (PCA on the means), the "
            f"same for train and test; at most {maps.MOST_POINTS:,} samples of each. Outlined: "
            "class means. The square holds them all, and along each axis what lies within 1.5 interquartile ranges of "
            "the quartiles."
        )
        parts += [
            self._caption("Figure", note + self._first_runs(), "gap"),
            self._two("plane", [map_figures.plane_panel(view) for view in views]),
            *dict.fromkeys(map(map_figures.plane_key, views)),
        ]
        return "".join(parts)

    def per_class(self) -> str:
        panel = figures.class_panel(self.arms)
        what = self.arms[0].display.by_class
        note = f"{what} by class, with the chosen weights, hardest class at the bottom. {panel.meaning}"
        note += " Bars: ± 1 s.d. over runs." if self.repeated else ""
        return (
            f"{self._heading('Classes')}{self._caption('Figure', note)}{self._legend(())}"
            f"<figure>{self._plot('per-class', panel.figure, panel.height)}</figure>"
        )

    def confusion(self) -> str:
        table = class_table(self.arms)
        if not table:
            return ""
        noun = self.arms[0].display.counted
        ignored = max(run.confusion.ignored for arm in self.arms for run in arm.runs if run.confusion)
        note = f"The test {noun}s of each class, and how many of them each arm has right{self._spreads()}"
        note += f" {ignored:,} more {noun}s are ignored." if ignored else ""
        parts = [self._caption("Table", note, "gap"), table]
        note = f"What the {noun}s of each class (rows) were taken for (columns), in per cent of the class."
        note += " Over all runs of an arm." if self.repeated else ""
        parts += [self._caption("Figure", note, "gap"), self._two("confusion", confusion_panels(self.arms))]
        if pairs := pair_table(self.arms):
            note = f"The classes that are taken for others most often, and how many {noun}s that are"
            note += ", over all runs of an arm." if self.repeated else "."
            if any(run.answers for arm in self.arms for run in arm.runs):
                note += " The clouds to look at are those of which the network was surest"
                note += ", first what most runs confuse so." if self.repeated else "."
                note += " All are in predictions.csv of the run."
            parts += [self._caption("Table", note, "gap"), pairs]
        return "".join(parts)

    def clouds(self) -> str:
        if boxes := cloud_boxes(self.arms, self._plot):
            note = (
                "Test clouds, and what each arm calls them: ✓ for the right class, ✗ and a name for another. "
                "Drag to turn, scroll to zoom."
            )
            return f"{self._heading('Clouds')}{self._caption('Figure', note)}{boxes}"
        if boxes := scene_boxes(self.arms, self._plot):
            note = (
                "Test scenes, with at most 4,096 points of each: their true classes, the predicted ones, or where the "
                "two differ. Drag to turn, scroll to zoom; the arms turn together." + self._first_runs()
            )
            return f"{self._heading('Scenes')}{self._caption('Figure', note)}{boxes}"
        return ""

    def moved(self) -> str:
        note = (
            "What moved: parameters by their role in the network, by origin (inflated from a 2D kernel, copied as they "
            "are, or fresh), and how many of them the policy let training change."
        )
        parts = [self._heading("Parameters"), self._caption("Table", note), page_tables.moved_table(self.arms)]
        if marks := charts.tuned(self.arms):
            note = "What each arm made of what it trained: the test score over the number of parameters that train."
            note += " Bars: ± 1 s.d. over runs." if self.repeated else ""
            parts += [self._caption("Figure", note, "gap"), self._legend(())]
            parts.append(self._two("tuned", [figures.tuned_panel(marks, self.arms)]))
        return "".join(parts)

    def filled(self) -> str:
        note = (
            "The numbers that policy depth learnt: by how much the 2D kernel of each layer, the first on top, fills "
            "each slice of the depth, from the middle one. Rule repeat begins at 1 in all, mean at 1 / K, center at 1 "
            "in slice 0."
        )
        return self._heats("filled", maps.filled(self.arms), note)

    def provenance(self) -> str:
        runs = [run for arm in self.arms for run in arm.runs]
        choice = ""
        if table := page_tables.trials_table(self.arms):
            noun = self.arms[0].display.noun
            tried = (
                f"Learning rates that the runs tried, and the score of their validation {noun}s at the best epoch of "
                f"each trial, a short training. Test {noun}s played no part."
            )
            choice = self._caption("Table", tried) + table
        note = "The runs one by one; below, what each recorded of its weights, data and environment, and its config."
        return (
            f"{self._heading('Provenance')}{choice}{self._caption('Table', note)}{page_tables.runs_table(self.arms)}"
            f'<div class="records">{"".join(map(details, runs))}</div>'
        )

    def contents(self) -> str:
        """Links to the sections that were made."""
        links = "".join(f'<a href="#{_anchor(heading)}">{heading}</a>' for heading in self.headings)
        return f'<nav class="contents" aria-label="Contents">{links}</nav>'

    def _heading(self, text: str) -> str:
        self.headings.append(text)
        return f'<h2 id="{_anchor(text)}">{text}</h2>'

    def _caption(self, kind: str, text: str, extra: str = "") -> str:
        self.numbers[kind] += 1
        return f'<p class="caption {extra}"><b>{kind} {self.numbers[kind]}.</b> {page_tables.formula(text.strip())}</p>'

    def _spreads(self) -> str:
        return ": mean ± sample standard deviation over the runs of an arm." if self.repeated else "."

    def _bands(self) -> str:
        return " Lines are means over the runs of an arm, bands ± 1 s.d." if self.repeated else ""

    def _first_runs(self) -> str:
        return " Of each arm, its first run." if self.repeated else ""

    def _heats(self, name: str, heats: Sequence[maps.Heat], note: str) -> str:
        if not heats:
            return ""
        panels = [map_figures.heat_panel(heat) for heat in heats]
        return self._caption("Figure", note + self._first_runs(), "gap") + self._two(name, panels)

    def _two(self, name: str, panels: Sequence[figures.Panel]) -> str:
        return f'<div class="panels two">{self._panels(name, panels)}</div>'

    def _legend(self, splits: Sequence[str]) -> str:
        arms = "".join(
            f'<button type="button" data-arm="{index}" aria-pressed="true" title="Hide or show in every figure">'
            f"{page_tables.named(index, arm.label)}</button>"
            for index, arm in enumerate(self.arms)
            if len(self.arms) > 1
        )
        dashes = {"solid": "", "dash": "7 4", "dot": "1.5 3"}
        lines = "".join(
            '<span class="split"><svg width="28" height="6" aria-hidden="true"><path d="M0 3H28" '
            f'stroke-dasharray="{dashes[figures.DASHES[split]]}"/></svg>{split}</span>'
            for split in splits
        )
        if not arms and not lines:
            return ""
        return f'<div class="legend">{arms}<span class="gap"></span>{lines}</div>'

    def _panels(self, name: str, panels: Iterable[figures.Panel]) -> str:
        return "".join(
            f"<figure><figcaption><b>{escape(panel.title)}</b>"
            f'<span class="meaning">{page_tables.formula(panel.meaning)}</span></figcaption>'
            f"{self._panel(f'{name}-{index}', panel)}</figure>"
            for index, panel in enumerate(panels)
        )

    def _panel(self, name: str, panel: figures.Panel) -> str:
        drawn = self._plot(name, panel.figure, panel.height, panel.least)
        return page_tables.scrolling(drawn) if panel.least else drawn

    def _plot(self, name: str, figure: figures.Figure, height: int, least: int = 0) -> str:
        self.figures[name] = figure
        least_width = f"; min-width: {least}px" if least else ""
        return f'<div class="plot" id="{name}" style="height: {height}px{least_width}"></div>'


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")
