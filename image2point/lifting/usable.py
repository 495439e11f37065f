"""What a lifted network is beside its layers: something that can be saved, shared, and asked about raw points."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from image2point.errors import InputError

if TYPE_CHECKING:
    from image2point.inference.clouds import CloudClass
    from image2point.inference.scene import SceneLabels
    from image2point.inference.usage import Usage
    from image2point.lifting.artefact import Facts
    from image2point.lifting.settings import Settings


Folding = TypeVar("Folding", bound="Usable")


class Usable:
    """The part of `LiftedNetwork` that is about its use. `image2point.load` gives a saved network back."""

    _usage: Usage | None = None
    _facts: Facts | None = None
    _policy: str | None = None
    _made: Settings = {}  # noqa: RUF012  (of networks that earlier versions pickled; never changed in place)

    @property
    def usage(self) -> Usage | None:
        """How raw points become this network's input; None where nobody said it yet."""
        return self._usage

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the scores; empty where nobody gave them any."""
        return () if self._usage is None else self._usage.classes

    def use(self, **fields: Any) -> None:
        """Say how raw points become this network's input, and what its classes are called.

        fields: those of `inference.usage.Usage`: voxel_size, classes, features ("xyz"), scaling, up, normals, points,
        normalise (False), near_origin (False), tiles. What is not named stays as it was.

        Raises InputError on unknown fields, and where the number of classes or of input channels is another than the
        network's.
        """
        from image2point.datasets.features import feature_width
        from image2point.inference.usage import usage_of

        usage = usage_of(fields) if self._usage is None else self._usage.changed(fields)
        options = self._lifting.options  # type: ignore[attr-defined]
        layer = self.get_submodule(self._classifier) if self._classifier else None  # type: ignore[attr-defined]
        scores = getattr(layer, "out_features", options.num_classes)
        if usage.classes and scores is not None and len(usage.classes) != scores:
            raise InputError(f"classes: expected {scores} names, one for each score, found {len(usage.classes)}")
        if twice := sorted({name for name in usage.classes if usage.classes.count(name) > 1}):
            raise InputError(f"classes: expected names that differ, found {', '.join(twice)} more than once")
        if (width := feature_width(usage.features)) != options.in_channels:
            raise InputError(
                f"features: {', '.join(usage.features)} are {width} input channels, but the network was lifted for "
                f"{options.in_channels}"
            )
        self._usage = usage

    def predict(self, clouds: Any) -> list[CloudClass] | list[SceneLabels]:
        """What the network says of raw clouds.

        clouds: a list of arrays or tensors [P, 3], of `datasets.Cloud`, of PyG's Data (`pos`, and `normal`, `colour`
        and the like where the features need them) or of Open3D's point clouds; or a PyG Batch.

        Of a network that gives a vector per cloud: for each its class (`.label`, `.name`, `.probabilities` [C]). Of a
        segmenter: for each its `.labels` [P], and `.probabilities(number)[:]` [P] of one class. Points become voxels
        as `use` says; the clouds have the units and axes of those that the network was trained on.

        Raises InputError where nobody said how, and for clouds that are none or lack what the features need.

        >>> import numpy as np, image2point as i2p
        >>> net = i2p.lift("test_resnet", weights="random", num_classes=2)
        >>> net.use(voxel_size=0.2, classes=["ball", "box"])
        >>> net.predict([np.random.default_rng(0).random((200, 3))])[0].name in net.classes
        True
        """
        from image2point.datasets.in_memory import clouds_of
        from image2point.inference.clouds import classify, label

        if self._usage is None:
            raise InputError(
                "this network was not told how points become its input; say it once, as in "
                "net.use(voxel_size=0.05, classes=[...]), before net.predict or net.save"
            )
        clouds = clouds_of(clouds)
        lifting = self._lifting  # type: ignore[attr-defined]
        if lifting.decoder:
            return label(self, clouds, self._usage)  # type: ignore[arg-type]
        return classify(self, clouds, self._usage, lifting.options.substrate)  # type: ignore[arg-type]

    def save(
        self, folder: str | Path, scores: Mapping[str, float] | None = None, licence: str | None = None, **use: Any
    ) -> Path:
        """Write the network to a folder: `weights.safetensors`, and `network.json` with all that it takes to make and
        to use it again. `image2point.load(folder)` gives it back.

        Args:
            folder: made where it is missing; a network that was saved there before is replaced.
            scores: what it is worth, by name; of a network that was loaded and is unchanged, those that it had.
            licence: under which the weights may be used; None for that of the 2D weights, where it is known.
            use: as in `use`.

        Raises:
            InputError: as `use` does; where modules were added, replaced or set otherwise, but for a linear classifier
                of another number of classes; where two tensors are one; where the folder holds the weights of
                something else.

        >>> import tempfile, image2point as i2p
        >>> net = i2p.lift("test_resnet", weights="random", num_classes=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = net.save(f"{folder}/mine", voxel_size=0.2, classes=["ball", "box"])
        ...     i2p.load(f"{folder}/mine").classes
        ('ball', 'box')
        """
        from image2point.lifting.artefact import save

        if use:
            Usable.use(self, **use)
        return save(self, folder, scores, licence)  # type: ignore[arg-type]

    def push_to_hub(self, repository: str, private: bool = False, **saving: Any) -> str:
        """Save the network and upload it, with a model card, to OWNER/NAME on the Hugging Face hub; gives its address.

        `image2point.load("hf:OWNER/NAME")` gives it back. saving: as in `save`.

        Raises InputError as `save` does, and where the hub cannot be reached or refuses.
        """
        from image2point.lifting.hub import push

        return push(lambda folder: Usable.save(self, folder, **saving), repository, private)

    def fold(self: Folding) -> Folding:
        """A copy that computes the same with plain layers: what `freeze` added is in their weights and biases.

        Adapters stay: they have an activation, and are plain layers themselves.
        """
        from image2point.lifting import additions
        from image2point.lifting.settings import changing

        folded: Any = copy.deepcopy(self)
        with changing(folded):
            folded._lifting = additions.fold(folded, folded._lifting, folded._roles)
        folded.renew_program()
        return folded


YIELDING = ("usage", "classes", "use", "predict", "save", "push_to_hub", "fold")
"""What gives way to a child module of that name: networks have layers that are called so."""


class _Yielding:
    """A member of `Usable`, or the child module of its name where the network has one."""

    def __init__(self, name: str) -> None:
        self.name, self.__wrapped__ = name, vars(Usable)[name]

    def __get__(self, net: Any, kind: type | None = None) -> Any:
        held = {} if net is None else net.__dict__.get("_modules", {})
        return held[self.name] if self.name in held else self.__wrapped__.__get__(net, kind)


for _name in YIELDING:
    setattr(Usable, _name, _Yielding(_name))
