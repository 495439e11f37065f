"""What was run, in plain words: the title of the page and its first paragraph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from image2point.report.arms import Arm
from image2point.report.summary import Network, Summary
from image2point.tasks.display import Display

CONTROLS = {
    "random": "a control, every kernel of the body was redrawn at random with that kernel's own variance "
    "and its norms were reset",
    "shuffled": "a control, the spatial entries of each kernel of the body were permuted, and all else was kept",
    "scratch": "a control, every kernel was drawn afresh and nothing was taken from the 2D network but its form",
}


def title(arms: Sequence[Arm]) -> str:
    """Networks and datasets of the arms, in one line."""
    summaries = [arm.first.summary for arm in arms]
    networks = _any_of(summary.network.name for summary in summaries)
    return f"{networks}, lifted to 3D and fine-tuned on {_any_of(summary.data.name for summary in summaries)}"


def statement(arms: Sequence[Arm]) -> str:
    """One paragraph: what was run, on what, how often, and how it was scored."""
    summaries = [arm.first.summary for arm in arms]
    controls = [
        f"In the arm “{arm.label}”, {CONTROLS[arm.first.summary.network.control]}."
        for arm in arms
        if arm.first.summary.network.control in CONTROLS
    ]
    taught = [
        f"In the arm “{arm.label}”, it learnt from {teacher.taken:,} more training clouds too, of {teacher.clouds:,} "
        f"that a teacher ({teacher.network}) labelled: those that it is sure of."
        for arm in arms
        if (teacher := arm.first.summary.teacher) is not None
    ]
    every = [run.summary for arm in arms for run in arm.runs]
    return " ".join(
        [
            _lifted(summaries),
            _tuned(summaries, arms),
            *controls,
            *taught,
            _scored(every, arms[0].display),
            _repeated(arms),
        ]
    )


def _lifted(summaries: Sequence[Summary]) -> str:
    networks = [summary.network for summary in summaries]
    return (
        f"{_any_of(network.name for network in networks)}, a 2D network "
        f"(weights: {_any_of(network.weights for network in networks)}), was lifted to 3D {_part(networks)}"
        f"(rule: {_any_of(network.rule for network in networks)}; "
        f"depth axis: {_any_of(_axis(network.axis) for network in networks)}; "
        f"stem: {_any_of(network.stem for network in networks)}; "
        f"head: {_any_of(network.head for network in networks)}) "
        f"and run on {_any_of(network.substrate for network in networks)} voxels "
        f"of size {_any_of(f'{summary.data.voxel_size:g}' for summary in summaries)}."
    )


def _part(networks: Sequence[Network]) -> str:
    """Which part of it, where it is not the whole in every run."""
    parts = [f"up to its part {network.until}" if network.until else "as a whole" for network in networks]
    return f"{_any_of(parts)} " if any(network.until for network in networks) else ""


def _axis(axis: str | Mapping[str, str]) -> str:
    if isinstance(axis, str):
        return axis
    return "the first that matches of " + ", ".join(f"{value} for {pattern}" for pattern, value in axis.items())


def _tuned(summaries: Sequence[Summary], arms: Sequence[Arm]) -> str:
    data = [summary.data for summary in summaries]
    classes, names = _any_of(str(len(each.classes)) for each in data), _any_of(each.name for each in data)
    goal = arms[0].display.goal.format(classes=classes, data=names)
    shots = _any_of(str(each.shots) for each in data if each.shots)
    return (
        f"It was fine-tuned {goal}, "
        f"from {_any_of(f'{each.train_clouds:,}' for each in data)} training {arms[0].display.noun}s"
        + (f", {shots} per class" if shots else "")
        + f" (policy: {_any_of(summary.policy for summary in summaries)})"
        + (f", in {len(arms)} arms: {'; '.join(arm.label for arm in arms)}." if len(arms) > 1 else ".")
    )


def _scored(summaries: Sequence[Summary], display: Display) -> str:
    ways = {summary.chosen_by for summary in summaries}
    if ways == {"validation"}:
        held_out = _any_of(f"{summary.data.validation_clouds or 0:,}" for summary in summaries)
        how = f"of the epoch that was best on {held_out} validation {display.noun}s cut from train"
    elif ways == {"last epoch"}:
        how = "of the last epoch"
    else:
        how = f"chosen by {_any_of(sorted(ways))}"
    test = _any_of(f"{summary.data.test_clouds:,}" for summary in summaries)
    return (
        f"{display.scored} is on {test} test {display.noun}s, with the weights {how}; "
        "no choice was made on the test set."
    )


def _repeated(arms: Sequence[Arm]) -> str:
    who = "Each arm" if len(arms) > 1 else "It"
    seeds = [sorted(run.summary.seed for run in arm.runs) for arm in arms]
    alike = all(each == seeds[0] for each in seeds)
    if all(len(each) == 1 for each in seeds):
        return f"{who} was run once, " + (f"with seed {seeds[0][0]}." if alike else "not all with the same seed.")
    if alike:
        often = f"{who} was run with {len(seeds[0])} seeds ({', '.join(map(str, seeds[0]))})"
    else:
        often = f"Runs, each with a seed of its own: {'; '.join(f'{arm.label}: {len(arm.runs)}' for arm in arms)}"
    return f"{often}; values are means ± sample standard deviations over them."


def _any_of(values: Iterable[str]) -> str:
    """'a', 'a or b', 'a, b or c': each value once, in order of appearance; '' where there is none."""
    distinct = list(dict.fromkeys(values))
    return " or ".join(filter(None, [", ".join(distinct[:-1]), *distinct[-1:]]))
