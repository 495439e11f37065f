"""Whoever makes the features and scores, one process or several: the numbers are the same."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rooms import segmenting
from study_values import TRANSFER
from tiny_runs import run_transfer, tiny
from typer.testing import CliRunner

from image2point.cli import app
from image2point.errors import InputError
from image2point.experiments import measure, rank
from image2point.experiments.study import run_study
from image2point.units import ALONE, Crew


@dataclass(frozen=True)
class Here(Crew):
    """Does in this process what others would do, with what would be sent to them; counts what it did."""

    done: tuple[list[Any], ...] = ([],)

    def results(self, make: Callable[[], Callable[[Any], Any]], units: Sequence[Any]) -> Iterator[Any]:
        do = pickle.loads(pickle.dumps(make))()
        for unit in units:
            self.done[0].append(unit)
            yield do(pickle.loads(pickle.dumps(unit)))


@pytest.fixture(params=["here", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("local", "ray"))])
def crew(request: pytest.FixtureRequest) -> Crew:
    if request.param == "ray":
        pytest.importorskip("ray", reason="ray is not installed (the extra `ray`)")
    return Here(1, done=([],)) if request.param == "here" else Crew(2, request.param)


def numbers(values: object) -> Iterator[float]:
    """All numbers in what JSON holds, but for times."""
    if isinstance(values, dict):
        values = [value for name, value in values.items() if "seconds" not in name]
    if isinstance(values, list | tuple):
        for value in values:
            yield from numbers(value)
    elif isinstance(values, int | float):
        yield float(values)


def check(alone: object, together: object, crew: Crew, least: int, units: int) -> None:
    one, other = list(numbers(alone)), list(numbers(together))
    assert other == pytest.approx(one, rel=1e-9, nan_ok=True) and len(one) >= least
    if isinstance(crew, Here):
        assert len(crew.done[0]) == units


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_transfer(tiny("training.epochs=1"), tmp_path_factory.mktemp("clouds")).path


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scenes = "data.synthetic_scenes={train: 4, test: 9, rays: 400, kinds: [room]}"
    config = segmenting("data.name=synthetic_scenes", scenes, "training.epochs=1", "collapse.voxels_per_class=5")
    return run_transfer(config, tmp_path_factory.mktemp("scenes")).path


def measured(path: Path, crew: Crew, **settings: Any) -> dict[str, Any]:
    subject = measure.open_subject(path)
    found = measure.measure(subject, ["layer1.0", "features"], ["train", "test"], crew=crew, **settings)
    return measure.to_dict(subject, found)["on"]


@pytest.mark.parametrize("per_site", [False, True])
def test_layers_of_clouds(run: Path, crew: Crew, per_site: bool) -> None:
    alone, together = (measured(run, each, per_site=per_site, permutations=2) for each in (ALONE, crew))
    passes = 2 if per_site else 1  # the means first, unless features are kept
    check(alone, together, crew, 40, units=passes * (-(-12 // 4) + -(-6 // 4)))


def test_layers_of_scenes(segmentation: Path, crew: Crew) -> None:
    alone, together = (measured(segmentation, each, permutations=2) for each in (ALONE, crew))
    check(alone, together, crew, 40, units=1 + 3)


@pytest.fixture
def transfer(tmp_path: Path) -> Path:
    path = tmp_path / "transfer.yaml"
    path.write_text(yaml.safe_dump(TRANSFER))
    return path


def test_candidates(transfer: Path, crew: Crew) -> None:
    candidates = rank.from_models(["test_resnet=random", "test_resnet=random,rule=mean"], ["random"])
    alone, together = (rank.rank_candidates(transfer, candidates, crew=each) for each in (ALONE, crew))
    assert [each.name for each in together] == [*candidates]
    parts = [rank.to_dict(transfer, (), "train", 5, found)["candidates"] for found in (alone, together)]
    check(*parts, crew, 40, units=4)


def test_few_shot_episodes(transfer: Path, crew: Crew) -> None:
    episodes = {"ways": [2], "shots": [1, 2], "queries": 3, "episodes": 20, "classifiers": ["ncc", "ridge"]}
    study = transfer.parent / "study.yaml"
    study.write_text(
        yaml.safe_dump({"kind": "few-shot", "transfer": "transfer.yaml", "seeds": [1], "episodes": episodes})
    )
    rows = []
    for each in (ALONE, crew):
        place = run_study(study, (), transfer.parent / "out", each)
        rows.append(json.loads((place / "rows.json").read_text()))
    novel, batch = 3 * (4 + 3), TRANSFER["training"]["batch_size"]
    # Before the training this process measures alone; both stages deal out the two kinds of episodes.
    check(*rows, crew, 100, units=-(-novel // batch) + 2 * 2)


def test_a_study_without_a_network_takes_no_processes(tmp_path: Path) -> None:
    path = tmp_path / "ufm.yaml"
    path.write_text(yaml.safe_dump({"kind": "unconstrained", "classes": [4], "ratios": [1], "seeds": [0]}))
    with pytest.raises(InputError, match="no network that processes could run"):
        run_study(path, (), tmp_path, Crew(2))


def test_commands_pass_them_on(transfer: Path) -> None:
    """What cannot be said of `--executor` is found where the processes would be started."""
    for arguments in (
        ("measure", transfer, "--layers", "features", "--on", "train"),
        ("rank", transfer, "--model", "test_resnet=random"),
    ):
        result = CliRunner().invoke(app, [*map(str, arguments), "--processes", "2", "--executor", "nobody"])
        assert result.exit_code == 2 and "executor: expected one of local, ray, found 'nobody'" in result.output
