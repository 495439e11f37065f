"""Plans that are made ahead: those that a network asks for, the same as it makes itself, moved in one piece."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from voxel_samples import random_voxels

from image2point.voxels import Sites, Window, neighbour_table
from image2point.voxels.ahead import Wanted, asked_of, make_ahead

STEM, BODY, POOL = Window((3, 3, 3), 2, (1, 1, 1)), Window((3, 3, 3), 1, (1, 1, 1)), Window((3, 3, 3), 2, (1, 1, 1))


def ask(sites: Sites) -> list[Tensor]:
    """What a small network asks for."""
    half = sites.coarsen(2)
    quarter = half.coarsen(2)
    tables = neighbour_table(sites, STEM), neighbour_table(half, BODY), neighbour_table(half, POOL)
    return [*(table.reads for table in tables), sites.parents(2), half.parents(2), quarter.batch, quarter.counts]


@pytest.fixture
def sites() -> Sites:
    return random_voxels(1, clouds=3, points=40, edge=0.1).sites


def fresh(sites: Sites) -> Sites:
    return Sites(sites.coordinates, sites.batch_size, 1, sites.origin, sites.voxel_size)


def test_the_same_as_when_needed(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ask(sites)
    wanted = pickle.loads(pickle.dumps(asked_of(sites)))
    assert wanted == Wanted((STEM,), (), ((2, Wanted((BODY, POOL), (), ((2, Wanted((), ("batch", "counts"), ())),))),))
    made = pickle.loads(pickle.dumps(make_ahead(fresh(sites), wanted)))

    def none(*_: object) -> None:
        raise AssertionError("made again")

    plan = Sites.plan
    monkeypatch.setattr(Sites, "plan", lambda self, key, build: plan(self, key, none))
    for ours, theirs in zip(ask(made), expected, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    quarter = made.coarsen(2).coarsen(2)
    assert quarter.finest is made.coordinates and quarter.stride == 4 and torch.equal(quarter.origin, sites.origin)


def test_everything_moves_in_one_copy(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(sites)
    made = make_ahead(fresh(sites), asked_of(sites))
    moves: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: moves.append(self) or self.clone())
    pinned = made.pin_memory()
    assert len(moves) == 1
    tensors = [pinned.coordinates, *ask(pinned)]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    assert all(tensor.data_ptr() % 64 == moves[0].data_ptr() % 64 for tensor in tensors)
    for ours, theirs in zip(tensors, [sites.coordinates, *ask(sites)], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("move", [lambda s: s.to("meta"), Sites.in_one_piece], ids=["to", "in_one_piece"])
def test_what_is_no_tensor_stays_behind(sites: Sites, move: Callable[[Sites], Sites]) -> None:
    _ = sites.keys, sites.centres, sites.counts
    assert set(move(sites)._plans) == {"counts", "bounds", "batch"}
