"""What the demo showed, in words: computed from its runs, whatever they gave."""

from __future__ import annotations

import math
from collections.abc import Mapping

from image2point.report.read import Record
from image2point.tasks.display import DISPLAYS


def story(arms: Mapping[str, Record], real: str) -> list[str]:
    """The closing lines of the demo: what was compared, what won, whether that is what theory says, what to do next.

    arms: by the names of the demo's configs: `imagenet` and `random`, and `all` and `scratch` where they ran. real: the
    shipped config to go on with. Two scores of whole clouds count as different where they are two standard errors
    apart, each cloud being right or wrong. Scores of points are named as they are: points of a scene are alike, and
    scenes are few.
    """
    first = arms["imagenet"].summary
    display = DISPLAYS[first.task]
    score, noun = display.scores[0], display.noun
    values = {name: float(run.summary.final[score.key]) for name, run in arms.items()}
    clouds = first.data.test_clouds if display.whole else None
    many, of_all = first.parameters.trainable, 100 * first.parameters.trainable / first.parameters.total
    lines = [
        f"Compared: one network, {first.network.name}, lifted from images to voxels and fine-tuned on "
        f"{first.data.train_clouds:,} {noun}s of {len(first.data.classes)} classes; the first two arms differ in "
        f"nothing but what their frozen kernels hold. IO+norm trains stem, head and norms, {many:,} parameters "
        f"({of_all:.1f} %).",
        f"Frozen kernels from ImageNet {_against(values['imagenet'], values['random'], clouds)} frozen random ones: "
        f"{_percent(values['imagenet'])} against {_percent(values['random'])}. {_theory(values, clouds)}",
    ]
    if "scratch" in arms:
        every = arms["scratch"].summary.parameters.trainable
        lines.append(
            f"With all {every:,} parameters trained, ImageNet's weights "
            f"{_against(values['all'], values['scratch'], clouds)} fresh ones: {_percent(values['all'])} against "
            f"{_percent(values['scratch'])}. {_few(values, clouds, first.data.train_clouds)} The {of_all:.1f} "
            f"% of IO+norm {_against(values['imagenet'], values['scratch'], clouds)} fresh weights of which all train; "
            "they save memory and time per step."
        )
    if text := _collapse(arms):
        lines.append(text)
    lines.append(
        "One seed of made-up clouds proves nothing. Next, with the docs of the repository: your own data "
        f"(docs/start.md), or the same on real clouds, image2point transfer {real}; docs/results.md has what was "
        "measured on those."
    )
    return lines


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _apart(one: float, other: float, clouds: int | None) -> bool | None:
    """Whether two shares of right answers over so many clouds differ; None where nobody can say from one run."""
    if clouds is None:
        return None
    return abs(one - other) > 2 * math.sqrt((one * (1 - one) + other * (1 - other)) / clouds)


def _against(one: float, other: float, clouds: int | None) -> str:
    """How one score stands to another.

    >>> _against(0.6, 0.3, 100), _against(0.31, 0.3, 100), _against(0.3, 0.4, None)
    ('beat', 'cannot be told from', 'score lower than')
    """
    if _apart(one, other, clouds) is False:
        return "cannot be told from"
    if clouds is None:
        return "score like" if one == other else "score higher than" if one > other else "score lower than"
    return "beat" if one > other else "fall behind"


def _theory(values: Mapping[str, float], clouds: int | None) -> str:
    if values["imagenet"] > values["random"] and _apart(values["imagenet"], values["random"], clouds) is not False:
        return "That is what Xu et al. (2022) report: what kernels learnt of pictures is of use for shapes."
    return "Xu et al. (2022) report that ImageNet's are better; this run does not show it."


def _few(values: Mapping[str, float], clouds: int | None, train: int) -> str:
    if values["all"] > values["scratch"] and _apart(values["all"], values["scratch"], clouds) is not False:
        return f"So images help where clouds are few, here {train:,}."
    return "That images help where clouds are few, this run does not show."


def _collapse(arms: Mapping[str, Record]) -> str:
    """Whether the arm of the best test score has the tightest classes; '' where no collapse was measured."""
    score = DISPLAYS[arms["imagenet"].summary.task].scores[0].key
    cdnv = {}
    for name, run in arms.items():
        share = run.summary.collapse.get("test", {}).get("cdnv_over_null")
        if share is None:
            return ""
        cdnv[name] = float(f"{share:.2g}")  # as it is printed: what differs by less is not told apart
    best = max(arms, key=lambda name: float(arms[name].summary.final[score]))
    tightest = [name for name in cdnv if cdnv[name] == min(cdnv.values())]
    told = ", ".join(f"{arms[name].summary.arm} {share:g}" for name, share in cdnv.items())
    meaning = "CDNV: how far a class spreads against its distance to others; as a share of what permuted labels give"
    if best not in tightest:
        agrees = "The best arm does not have the tightest classes: collapse and accuracy are not the same thing."
    elif len(tightest) > 1:
        agrees = "The best arm's classes are as tight as another's, to these digits."
    else:
        agrees = "The best arm has the tightest classes, as neural collapse would have it."
    return f"Test features ({meaning}): {told}. {agrees}"
