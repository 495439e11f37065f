"""A point network on the clouds of a config: the row of a peer beside those of lifted networks.

    python scripts/point_network.py CONFIG --rows FOLDER [section.field=value ...]

PointNet++ with one scale, of PyTorch Geometric's layers (`PointNetConv`), from fresh weights. It has the config's
training clouds, augmentation and test clouds. Its learning rate is one of --lr, chosen by successive halving: trainings
of `choose.epochs` epochs, judged on the clouds that `choose.clouds` sets apart. Centres (the farthest points) and their
nearest neighbours are found once, on the clouds as they are stored. A row for each seed is added to FOLDER/rows.json,
and one that is there for the same epochs and rates is not made again.
Needs PyTorch Geometric: pip install torch_geometric.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from image2point.collapse import measure_features, null
from image2point.config import Config, load_config
from image2point.datasets.class_split import Labelled
from image2point.datasets.recipe import Recipe
from image2point.errors import InputError
from image2point.files import finite, write_text
from image2point.jobs.ingredients import load_splits, make_recipe
from image2point.jobs.lr_choice import clouds_to_choose_by
from image2point.training.batches import shuffled

CENTRES, NEIGHBOURS = (128, 32), 24
MEASURES = ("nc1", "cdnv_median", "nc1_trace_ratio_corrected")


@dataclass(frozen=True)
class Graph:
    """Of one cloud: two levels of centres [m], rows of the level below, and their neighbours [m, K] there."""

    centres: tuple[np.ndarray, ...]
    neighbours: tuple[np.ndarray, ...]


def graph_of(points: np.ndarray) -> Graph:
    """The centres and neighbours of a cloud [P, 3]."""
    centres, neighbours = [], []
    for count in CENTRES:
        rows = farthest(points, min(count, len(points)))
        found = cKDTree(points).query(points[rows], k=min(NEIGHBOURS, len(points)))[1]
        centres.append(rows)
        neighbours.append(found.reshape(len(rows), -1))
        points = points[rows]
    return Graph(tuple(centres), tuple(neighbours))


def farthest(points: np.ndarray, count: int) -> np.ndarray:
    """Rows of so many points [P, 3], each the farthest from those before; the first row is the first."""
    rows, nearest = [0], np.full(len(points), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, ((points - points[rows[-1]]) ** 2).sum(1))
        rows.append(int(nearest.argmax()))
    return np.array(rows)


class PointNetwork(nn.Module):
    """Two levels of `PointNetConv`, a maximum over the cloud, and a head with dropout."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        try:
            from torch_geometric.nn import MLP, PointNetConv
        except ImportError:
            raise InputError(
                "PyTorch Geometric is not installed; install it with: pip install torch_geometric"
            ) from None
        widths = ([3, 64, 64, 128], [128 + 3, 128, 128, 256])
        self.levels = nn.ModuleList([PointNetConv(MLP(each), add_self_loops=False) for each in widths])
        self.whole = MLP([256 + 3, 256, 512, 1024])
        self.head = MLP([1024, 512, 256, classes], dropout=0.5, norm=None)

    def embed(self, points: Tensor, of_cloud: Tensor, levels: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Features [B, 1024] of points [N, 3]; of_cloud [m]: of the last centres. levels: centres and edges of each."""
        from torch_geometric.nn import global_max_pool

        x = None
        for conv, (centres, edges) in zip(self.levels, levels, strict=True):
            below, points = points, points[centres]
            x = conv((x, None), (below, points), edges)
        return global_max_pool(self.whole(torch.cat([x, points], dim=1)), of_cloud)

    def forward(self, *batch: Any) -> Tensor:
        return self.head(self.embed(*batch))


@dataclass
class Clouds:
    """Clouds with their graphs, which are found when first asked for."""

    samples: Labelled
    recipe: Recipe

    def __post_init__(self) -> None:
        self.graphs: dict[int, Graph] = {}

    def batch(self, rows: np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """What `PointNetwork` takes of these clouds; with an epoch, augmented."""
        points, graphs = [], []
        for row in map(int, rows):
            cloud = self.samples[row]
            if row not in self.graphs:
                self.graphs[row] = graph_of(cloud.points)
            graphs.append(self.graphs[row])
            points.append(self.recipe.prepare(cloud, f"{self.samples.name} cloud {row}", epoch, row).points)
        levels, sizes = [], [len(each) for each in points]
        for level in range(len(CENTRES)):
            starts = np.cumsum([0, *sizes[:-1]])
            own = [graph.centres[level] for graph in graphs]
            around = [graph.neighbours[level] for graph in graphs]
            centres = np.concatenate([rows + start for rows, start in zip(own, starts, strict=True)])
            source = np.concatenate([(each + start).ravel() for each, start in zip(around, starts, strict=True)])
            target = np.repeat(np.arange(len(centres)), np.concatenate([[a.shape[1]] * len(a) for a in around]))
            levels.append((torch.as_tensor(centres), torch.as_tensor(np.stack([source, target]))))
            sizes = [len(each) for each in own]
        of_cloud = torch.as_tensor(np.repeat(np.arange(len(rows)), sizes))
        return torch.as_tensor(np.concatenate(points), dtype=torch.float32), of_cloud, levels


def train(config: Config, clouds: Clouds, lr: float, epochs: int, said: str) -> PointNetwork:
    """A network trained with Adam and one cosine, from fresh weights."""
    torch.manual_seed(config.seed)
    network, labels = PointNetwork(len(clouds.samples.classes)), torch.as_tensor(clouds.samples.labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, weight_decay=config.training.weight_decay)
    steps = epochs * len(shuffled(len(labels), config.training.batch_size, config.seed, 0))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        losses = []
        for rows in shuffled(len(labels), config.training.batch_size, config.seed, epoch):
            loss = nn.functional.cross_entropy(network(*clouds.batch(rows, epoch)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"{said}, epoch {epoch + 1}/{epochs}  loss {np.mean(losses):.4f}", flush=True)
    return network.eval()


@torch.no_grad()
def answers(network: PointNetwork, clouds: Clouds) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and logits, batch by batch."""
    for rows in np.array_split(np.arange(len(clouds.samples)), -(-len(clouds.samples) // 32)):
        features = network.embed(*clouds.batch(rows))
        yield features, network.head(features)


def accuracy(network: PointNetwork, clouds: Clouds) -> float:
    logits = torch.cat([found for _, found in answers(network, clouds)])
    return float((logits.argmax(1) == torch.as_tensor(clouds.samples.labels)).float().mean())


def row_of(config: Config, rates: Sequence[float], epochs: int) -> dict[str, Any]:
    """Choose, train, score: the row of a seed, with the keys of a run's."""
    start, recipe, splits = time.perf_counter(), make_recipe(config), load_splits(config.data)
    own = Clouds(splits.train, recipe)
    judging = clouds_to_choose_by(config, splits)
    assert judging is not None
    judges, scores, left = Clouds(judging, recipe), dict[float, float](), list(rates)
    for short in config.choose.epochs:
        for lr in left:
            scores[lr] = accuracy(train(config, own, lr, short, f"seed {config.seed}, trial {lr:g}"), judges)
        left = sorted(left, key=lambda lr: -scores[lr])[: -(-len(left) // 2)]
    lr = left[0]
    network = train(config, own, lr, epochs, f"seed {config.seed}")
    test = Clouds(splits.test, recipe)
    features, logits = (torch.cat(each) for each in zip(*answers(network, test), strict=True))
    labels = torch.as_tensor(splits.test.labels)
    found, (mean, sd) = measure_features(features, labels, MEASURES), null(features, labels, ["nc1"])["nc1"]
    size = sum(p.numel() for p in network.parameters())
    return {
        "arm": "PointNet++ of PyG", "policy": "all, fresh", "control": "peer", "seed": config.seed, "epochs": epochs,
        "rates": list(rates),
        "trainable": size, "parameters": size, "chosen_lr": lr, "trials": [[each, scores[each]] for each in rates],
        "test_accuracy": float((logits.argmax(1) == labels).float().mean()), **found, "nc1_null": mean,
        "nc1_null_sd": sd, "seconds": round(time.perf_counter() - start),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", help="a config of clouds with labels, `data.shots`, and `choose`")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of weights, order and shots alike")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--lr", type=float, nargs="+", default=[0.0003, 0.001, 0.003, 0.01], help="rates to choose from"
    )
    parser.add_argument("--rows", type=Path, required=True, metavar="FOLDER", help="add the rows to FOLDER/rows.json")
    given = parser.parse_args()
    path = given.rows / "rows.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    try:
        for seed in given.seeds:
            if not any((row["seed"], row["epochs"], row["rates"]) == (seed, given.epochs, given.lr) for row in rows):
                config = load_config(given.config, [*given.overrides, f"seed={seed}", f"data.shot_seed={seed}"])
                if not config.choose.lr:
                    raise InputError(f"{given.config}: expected `choose`, by which the learning rate is chosen")
                torch.set_num_threads(config.training.threads or torch.get_num_threads())
                rows.append(row_of(config, given.lr, given.epochs))
                write_text(path, json.dumps(finite(rows), indent=1))
                print(f"seed {seed}: test accuracy {100 * rows[-1]['test_accuracy']:.2f} %", flush=True)
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
