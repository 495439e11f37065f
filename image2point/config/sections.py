"""The fields of a config: frozen sections, each field with its type, its default and what it means."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from image2point.config.choosing import Choose
from image2point.config.data import Data
from image2point.config.frozen import Count, CountOrZero, NotNegative, Positive, Section, Seed, as_text, is_folder_name
from image2point.config.lifting import Network
from image2point.config.task_settings import task_problem
from image2point.config.teaching import Teacher
from image2point.errors import InputError
from image2point.roles import read_policy

Split = Literal["train", "test"]
Tracker = Literal["mlflow", "trackio", "wandb"]
TrainedRole = Literal["input", "norm", "body", "output", "decoder", "depth", "lora", "ssf", "adapter"]
"""What `training.lr_by_role` can name: `roles.ROLES`, `roles.DECODER`, and what policies add."""


def _policy(value: Any) -> Any:
    try:
        read_policy(value)
    except InputError as error:
        raise ValueError(f"finetune.policy = {value!r}: {error}") from None
    return value


class Finetune(Section):
    """What may move during training."""

    policy: Annotated[str, BeforeValidator(_policy)] = "io+norm"
    """What trains: stem and head (`io`), with the running statistics of the norms (`io+stats`), with the norms
    themselves (`io+norm`), everything (`all`), the last layer only (`head`), or nothing (`none`). `layer:NAME`: stem,
    head and one block (`layer:layer4.2`); `scl:NAME`: the same, with a skip connection from that block to the
    features before the head; `layer:auto`, `scl:auto`: the block whose training collapses these features most.
    Joined to `io`, `io+stats`, `io+norm`, `layer:NAME` or `scl:NAME` by a `+`: `bias`, the biases of the norms;
    `depth`, the numbers by which each 2D kernel fills the depth; `lora:R`, a change of rank R of each 2D kernel;
    `ssf`, a scale and a shift per channel; `adapter:R`, a branch of R channels behind each block."""
    candidates: tuple[str, ...] = ()
    """Blocks among which `auto` chooses; empty for all."""
    probe_epochs: Count = 1
    """Epochs of training on each candidate before its collapse is compared."""


class Training(Section):
    """The optimisation."""

    epochs: CountOrZero = 100
    """Passes over the training set; 0 only measures."""
    batch_size: Count = 32
    """Clouds per step, over all processes together."""
    batch_voxels: Count | None = None
    """Voxels per step, in place of a number of clouds: batches are cut so that they are nearly equal and have at least
    so many on average, by the voxels of the clouds without augmentation. Scoring goes by `batch_size`."""
    accumulate: Count = 1
    """Parts in which a batch goes through the network, one after the other, before the step that it is for: their
    gradients add up to that of the batch, and memory is that of a part. Norms that follow the batch follow the part."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimizer."""
    lr: Positive = 0.1
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; beta 1 of AdamW."""
    nesterov: bool = False
    """Nesterov's form of the momentum (SGD)."""
    lr_by_role: dict[TrainedRole, Positive] = Field(default_factory=dict)
    """Factors on the learning rate, by what is trained: a role (`output: 10`), or what a policy added (`depth: 5`)."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate for each layer between a parameter's and the head, the layers as timm groups them."""
    weight_decay: NotNegative = 1e-4
    """Weight decay of every trainable parameter."""
    weight_decay_by_role: dict[TrainedRole, NotNegative] = Field(default_factory=dict)
    """Weight decay of what it names, in place of `weight_decay`: roles, and what a policy added."""
    l2_sp: NotNegative = 0.0
    """Strength of a pull towards the weights that training begins with, on every parameter that comes from the 2D
    network, in place of its weight decay (L2-SP: Li et al. 2018)."""
    feature_penalty: NotNegative = 0.0
    """Weight in the loss of the mean squared length of the features before the classifier."""
    complexity_penalty: NotNegative = 0.0
    """Weight in the loss of the geometric complexity of the features before the classifier (Munn et al. 2024)."""
    collapse_penalty: NotNegative = 0.0
    """Weight in the loss of the variance within classes over the squared distance between class means, of the features
    of each batch before the classifier."""
    head_first: CountOrZero = 0
    """Epochs in which the head alone trains, as under the policy `head`, before all that the policy names (LP-FT: Kumar
    et al. 2022). A stem that is `auto` is lifted then."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights over the steps (timm's, which begins with a short memory).
    The average is what is scored, chosen and saved; 0 for none."""
    swa: CountOrZero = 0
    """Epochs at the end whose last weights are averaged (stochastic weight averaging: Izmailov et al. 2018). From the
    first of them on, the average is what is scored, chosen and saved; 0 for none."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    step_per: Literal["epoch", "iteration"] = "iteration"
    """How often the learning rate moves; the whole schedule is counted in this unit."""
    warmup_epochs: NotNegative = 0.0
    """Epochs over which the learning rate climbs linearly to its peak."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target spread evenly over the classes."""
    loss_at: Literal["voxels", "points"] = "voxels"
    """Segmentation: the loss is over voxels, each with the class that most of its points have (the first of the classes
    where several are equal), or over points, each with the scores of its voxel."""
    class_weights: Literal["none", "inverse_sqrt", "effective_number"] = "none"
    """Segmentation: weights of the classes in the loss, from the points of the training split: 1 / square root of their
    number, or (1 - b) / (1 - b^n) with 1 / (1 - b) the median number (Cui et al. 2019). Their mean over points is 1."""
    lovasz: NotNegative = 0.0
    """Segmentation: weight of the Lovász-softmax loss (Berman et al. 2018), added to the cross-entropy."""
    gradient_clip: Positive | None = None
    """Largest norm of the whole gradient; null leaves it."""
    precision: Annotated[Literal["32", "16-mixed", "bf16-mixed", "64"], BeforeValidator(as_text)] = "32"
    """Arithmetic of the network."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; `auto` takes a GPU where there is one."""
    devices: Count = 1
    """Processes on this machine, one per GPU."""
    nodes: Count = 1
    """Machines."""
    sharding: Literal["none", "blocks"] = "none"
    """What each of several processes keeps of what trains and of the optimizer's state: all of it (DDP), or (`blocks`)
    a part, the parameters of each block put together where it runs (FSDP), for less memory."""
    workers: CountOrZero = 0
    """Processes that prepare batches, per training process; the result is the same for any number."""
    threads: CountOrZero = 0
    """CPU threads per process; 0 leaves torch's choice. Results are bit-identical at a fixed number only."""
    recalibrate: CountOrZero = 512
    """Training clouds from which the running statistics of the norms that follow the batch are taken again, without
    labels or augmentation, before anything is scored or measured; 0 leaves what training left. It costs a forward
    pass over so many clouds each time."""
    checkpoint_every_minutes: NotNegative = 10.0
    """Time between checkpoints; 0 writes one after every step."""
    graphs: Literal["none", "auto"] = "none"
    """Whether steps are recorded as CUDA graphs and replayed, so that a GPU does not wait for the host: `auto`, where
    that is possible, and it is told where it is not. Batches are padded for that, which changes results by rounding,
    and what dropout draws. Tried on a CPU with a stand-in alone: it has not run on a GPU yet."""
    trackers: tuple[Tracker, ...] = ()
    """Where each row of `metrics.csv` goes besides TensorBoard. Each is an extra of its name: `image2point[mlflow]`."""

    @property
    def feature_penalties(self) -> tuple[str, ...]:
        """The settings that ask for a penalty on the features before the classifier."""
        names = ("feature_penalty", "complexity_penalty", "collapse_penalty")
        return tuple(name for name in names if getattr(self, name))

    @model_validator(mode="after")
    def _possible(self) -> Training:
        if self.epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"training.warmup_epochs = {self.warmup_epochs:g} must be less than training.epochs = {self.epochs}; "
                "for so few epochs give training.warmup_epochs=0 too"
            )
        if self.head_first and self.head_first >= self.epochs:
            raise ValueError(
                f"training.head_first = {self.head_first} must be less than training.epochs = {self.epochs}, or "
                "only the head would train; that is finetune.policy=head"
            )
        if self.head_first and self.devices * self.nodes > 1:
            raise ValueError("training.head_first changes what trains on the way, which needs one process")
        needs_all = {
            "ema": self.ema,
            "swa": self.swa,
            "graphs": self.graphs == "auto",
            "precision": self.precision == "16-mixed",
        }
        if wrong := [name for name, on in needs_all.items() if on and self.sharding == "blocks"]:
            raise ValueError(
                f"training.sharding = blocks leaves no process all of what trains, which training.{wrong[0]} = "
                f"{getattr(self, wrong[0])} needs; leave one of them out"
            )
        if self.swa > self.epochs:
            raise ValueError(f"training.swa = {self.swa} must be at most training.epochs = {self.epochs}")
        if self.swa and self.ema:
            raise ValueError("training.ema and training.swa both average the weights; set one of them")
        if self.swa and not self.recalibrate:
            raise ValueError(
                "training.swa needs training.recalibrate: the running statistics of the norms are not those of an "
                "average of weights"
            )
        if wrong := [name for name in self.feature_penalties if self.devices * self.nodes > 1]:
            raise ValueError(f"training.{wrong[0]} is taken of a whole batch, so it needs one process")
        if self.complexity_penalty and self.precision == "16-mixed":
            raise ValueError(
                "training.complexity_penalty differentiates twice: it needs a precision other than 16-mixed"
            )
        if self.accumulate > 1 and self.batch_voxels is not None:
            raise ValueError(
                "training.accumulate divides batches of a number of clouds, and training.batch_voxels makes them of "
                "voxels; lower batch_voxels, or leave it out"
            )
        if self.accumulate > 1 and (self.collapse_penalty or self.lovasz):
            what = "collapse_penalty" if self.collapse_penalty else "lovasz"
            raise ValueError(
                f"training.{what} is no sum over clouds, so that training.accumulate would change it; leave one out"
            )
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"training.accumulate = {self.accumulate} parts of training.batch_size = {self.batch_size}: a part "
                "needs a cloud or more"
            )
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ValueError("training.nesterov = true needs training.optimizer = sgd with a momentum above 0")
        return self


class Collapse(Section):
    """When the collapse of class features is measured, on which splits."""

    every: CountOrZero = 5
    """Measure before training and after every this many epochs; 0 only at the end."""
    at: tuple[CountOrZero, ...] = ()
    """Further epochs at which to measure."""
    layers: tuple[str, ...] = ()
    """Layers whose collapse is measured as well, to `layers.csv`: names, patterns such as `layer1.*`, or `blocks`."""
    splits: tuple[Split, ...] = ("train", "test")
    """What is measured during training. Test features are only measured, never used to choose."""
    final: tuple[Split, ...] = ("train", "test")
    """What is measured at the end, with the chosen weights."""
    voxels_per_class: Count = 64
    """Segmentation: the voxels of each class and scene of which it is measured, drawn at random."""

    @model_validator(mode="after")
    def _possible(self) -> Collapse:
        for name in ("splits", "final"):
            if getattr(self, name) == ("test",):
                raise ValueError(f"collapse.{name} = [test] lacks train, whose class centres the measures of test need")
        return self


class Report(Section):
    """What the run keeps for its report."""

    examples: CountOrZero = 12
    """Test clouds stored with their predictions."""
    html: bool = True
    """Write report.html at the end."""


class Config(Section):
    """One run of `image2point transfer`."""

    command: ClassVar[str] = "transfer"

    name: Annotated[str, BeforeValidator(as_text)] = "run"
    """Name of the run and of its directory; the config file's own name unless given."""
    arm: Annotated[str, BeforeValidator(as_text)] = ""
    """Label in tables and plots; the name unless given."""
    task: Literal["classification", "segmentation"] = "classification"
    """What is asked of the network: one class per cloud, or one per point."""
    seed: Seed = 777
    """Seed of fresh weights, the order of the data and augmentation."""
    network: Network = Network()
    finetune: Finetune = Finetune()
    data: Data = Data()
    training: Training = Training()
    choose: Choose = Choose()
    teacher: Teacher = Teacher()
    collapse: Collapse = Collapse()
    report: Report = Report()

    @property
    def label(self) -> str:
        return self.arm or self.name

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if not is_folder_name(self.name):
            raise ValueError(f"name = {self.name!r} must be a plain folder name")
        if self.finetune.policy == "none" and self.training.epochs:
            raise ValueError(
                f"finetune.policy = none trains nothing but training.epochs = {self.training.epochs}; "
                "set training.epochs=0 or another policy"
            )
        if self.training.head_first and self.finetune.policy in ("head", "none"):
            raise ValueError(
                f"training.head_first = {self.training.head_first} trains the head before the rest, and "
                f"finetune.policy = {self.finetune.policy} trains no rest"
            )
        if problem := self._idle():
            raise ValueError(problem)
        usual = {"data": Data(), "training": Training(), "collapse": Collapse()}
        if problem := task_problem(self, usual):
            raise ValueError(problem)
        if self.choose.lr and self.choose.epochs[-1] > self.training.epochs:
            raise ValueError(
                f"choose.epochs = {list(self.choose.epochs)}: a trial should not be longer than the run, which has "
                f"training.epochs = {self.training.epochs}"
            )
        if self.teacher.network is not None and (self.task != "classification" or self.data.shots is None):
            raise ValueError(
                "teacher.network labels the training clouds that data.shots leaves over, in the task classification; "
                "set data.shots, or leave the teacher out"
            )
        if self.choose.clouds and self.data.shots is None:
            raise ValueError(
                f"choose.clouds = {self.choose.clouds} takes clouds that data.shots leaves over, and there are no "
                "shots; leave it out and set data.validation"
            )
        return self

    def _idle(self) -> str:
        """What is wrong where a penalty on the features would change nothing, or a frozen head alone would train; empty
        where all does something."""
        policy, head, asked = self.finetune.policy, self.network.head, self.training.feature_penalties
        if asked and policy == "head":
            return f"training.{asked[0]} changes features, and finetune.policy = head trains nothing before the head"
        if "feature_penalty" in asked and head in ("cosine", "etf"):
            return f"training.feature_penalty shortens features, and network.head = {head} reads them at length 1"
        if head == "etf" and (policy == "head" or self.training.head_first):
            what = "finetune.policy = head" if policy == "head" else "training.head_first"
            return f"{what} trains the head alone, and of network.head = etf nothing trains but one scale"
        return ""

    def to_yaml(self) -> str:
        """The resolved config, every field included; `load_config` reads it back unchanged."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
