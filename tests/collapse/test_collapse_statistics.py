"""Statistics: the same numbers whatever the batching, order, parts and precision; storage; errors."""

from __future__ import annotations

import os
from pathlib import Path

import collapse_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from image2point.collapse import Statistics, StatisticsError, metrics

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def draw(
    seed: int, n: int = 90, num_classes: int = 5, dim: int = 6, offset: float = 0.0, dtype: str = "float64"
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, n)
    centres = 3.0 * rng.normal(size=(num_classes, dim))
    return (offset + centres[labels] + rng.normal(size=(n, dim))).astype(dtype), labels


def streamed(
    features: np.ndarray, labels: np.ndarray, num_classes: int, batch: int, parts: int, covariance: str = "class"
) -> Statistics:
    moments = 4 if covariance == "class" else 2
    pieces = [Statistics(num_classes, features.shape[1], covariance, moments=moments) for _ in range(parts)]
    for turn, start in enumerate(range(0, len(features), batch)):
        pieces[turn % parts].update(features[start : start + batch], labels[start : start + batch])
    while len(pieces) > 1:  # as a tree, the way processes would reduce
        pieces = [a.merge(b) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
    return pieces[0]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 100),
    parts=st.sampled_from([1, 2, 4]),
    kind=st.sampled_from([("float64", 0.0), ("float32", 100.0), ("float16", 100.0), ("float64", 1e4)]),
)
def test_agrees_with_two_passes_whatever_batching_order_and_parts(
    seed: int, batch: int, parts: int, kind: tuple[str, float]
) -> None:
    features, labels = draw(seed, offset=kind[1], dtype=kind[0])
    order = np.random.default_rng(seed + 1).permutation(len(labels))
    weight = np.random.default_rng(seed + 2).normal(size=(5, 6))
    S = streamed(features[order], labels[order], 5, batch, parts)

    expected = reference.moments(features, labels, 5)
    assert torch.equal(S.count, torch.tensor(expected["count"]))
    for name in ("mean", "squares", "scatter", "cubes", "fourths"):
        ours = S.state()[name].numpy()
        np.testing.assert_allclose(ours, expected[name], rtol=1e-9, atol=1e-9 * np.abs(expected[name]).max())

    found = metrics(S, (weight, None))
    known = reference.metrics(features, labels, 5, weight)
    assert found.keys() == known.keys()
    for name, value in known.items():
        assert found[name] == pytest.approx(value, rel=1e-9, nan_ok=True), name


@pytest.mark.parametrize("covariance", ["none", "pooled", "class"])
def test_covariances_agree(covariance: str) -> None:
    features, labels = draw(3, offset=100.0, dtype="float16")
    full = streamed(features, labels, 5, 17, 4, "class")
    S = streamed(features, labels, 5, 17, 4, covariance)
    assert full.scatter is not None
    torch.testing.assert_close(S.squares, full.squares, rtol=1e-12, atol=0)
    torch.testing.assert_close(full.scatter.diagonal(dim1=1, dim2=2).sum(1), full.squares, rtol=1e-12, atol=0)
    if covariance == "pooled":
        assert S.scatter is not None
        torch.testing.assert_close(S.scatter, full.scatter.sum(0), rtol=1e-12, atol=1e-9)


def test_very_unequal_classes_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = draw(4, n=400, num_classes=7)
    labels = np.where(labels < 6, 0, labels)
    labels[:4] = [1, 2, 3, 4]  # singletons beside one class of most samples; class 5 is absent
    whole = Statistics(7, 6, "class").update(features, labels)
    monkeypatch.setattr("image2point.collapse.inputs.BLOCK", 64)  # 10 rows at a time
    blocked = Statistics(7, 6, "class").update(features, labels)
    expected = reference.moments(features, labels, 7)
    for S in (whole, blocked, blocked.merge(Statistics(7, 6, "class")), Statistics(7, 6, "class").merge(whole)):
        assert S.scatter is not None
        np.testing.assert_allclose(S.scatter.numpy(), expected["scatter"], rtol=1e-10, atol=1e-10)
        assert S.absent.tolist() == [5]
        assert S.singletons.tolist() == [1, 2, 3, 4]
        assert S.means[5].isnan().all()
        assert not S.means[:5].isnan().any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_type_is_widened_first(dtype: torch.dtype, device: str) -> None:
    features, labels = draw(5, offset=100.0)
    given = torch.tensor(features, dtype=dtype, device=device).requires_grad_()
    S = Statistics(5, 6, device=device).update(given, torch.tensor(labels, dtype=torch.int32, device=device))
    T = Statistics(5, 6).update(given.detach().cpu().double(), labels)
    for name, tensor in S.state().items():
        assert tensor.dtype in (torch.float64, torch.int64)
        assert tensor.device.type == device
        torch.testing.assert_close(tensor.cpu(), T.state()[name], rtol=1e-12, atol=0)
    assert metrics(S)["nc1"] == pytest.approx(metrics(T)["nc1"], rel=1e-10)


def test_update_and_merge_leave_their_inputs_alone() -> None:
    features, labels = draw(6)
    original = features.copy()
    a = Statistics(5, 6).update(features[:50], labels[:50])
    b = Statistics(5, 6).update(features[50:], labels[50:])
    before = {name: tensor.clone() for name, tensor in a.state().items()}
    merged = a.merge(b)
    assert np.array_equal(features, original)
    assert all(torch.equal(before[name], tensor) for name, tensor in a.state().items())
    merged.update(features, labels)
    assert all(torch.equal(before[name], tensor) for name, tensor in a.state().items())


def test_empty_batch_adds_nothing() -> None:
    S = Statistics(5, 6).update(torch.empty(0, 6), torch.empty(0, dtype=torch.int64))
    assert S.count.sum() == 0
    assert S.absent.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("covariance", "moments"), [("none", 2), ("pooled", 2), ("class", 2), ("class", 4)])
def test_state_and_file_round_trip(covariance: str, moments: int, tmp_path: Path) -> None:
    features, labels = draw(7)
    S = Statistics(5, 6, covariance, moments=moments).update(features[:70], labels[:70])
    path = tmp_path / "new folder" / "features.safetensors"
    S.save(path)
    assert os.listdir(path.parent) == [path.name]  # no temporary file is left
    for copy in (Statistics.load(path), Statistics.from_state(S.state())):
        assert (copy.num_classes, copy.dim, copy.covariance, copy.moments) == (5, 6, covariance, moments)
        assert all(torch.equal(tensor, S.state()[name]) for name, tensor in copy.state().items())
        copy.update(features[70:], labels[70:])
        expected = reference.moments(features, labels, 5)["squares"]
        np.testing.assert_allclose(copy.squares.numpy(), expected, rtol=1e-12)
    assert S.count.sum() == 70


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "S.safetensors"
    Statistics(5, 6).save(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Statistics(3, 2).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(StatisticsError, match=r"absent\.safetensors"):
        Statistics.load(tmp_path / "absent.safetensors")
    broken = tmp_path / "broken.safetensors"
    Statistics(5, 6).save(broken)
    broken.write_bytes(broken.read_bytes()[:-8])
    with pytest.raises(StatisticsError, match=r"broken\.safetensors"):
        Statistics.load(broken)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2, 2)}, foreign)
    with pytest.raises(StatisticsError, match=r"foreign\.safetensors: expected a file written by"):
        Statistics.load(foreign)


def bad(row: int, value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    features = torch.zeros(4, 3, dtype=dtype)
    features[row, 1] = value
    return features


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(4, 3), [0, 1, 2, 1], r"expected 0\.\.1 for 2 classes, found 2 in row 2"),
        (torch.zeros(4, 3), [0, 1, 1, -1], "found -1 in row 3"),
        (torch.zeros(4, 3), [0.0, 1.0, 1.0, 0.0], "expected an integer dtype, found torch.float64"),
        (torch.zeros(4, 3), [True, False, True, False], "expected an integer dtype, found torch.bool"),
        (torch.zeros(4, 3), [0, 1, 1], r"labels: expected shape \[4\].*found \[3\]"),
        (torch.zeros(4, 3), [[0], [1], [1], [0]], r"labels: expected shape \[4\].*found \[4, 1\]"),
        (bad(2, torch.nan), [0, 1, 1, 0], "found nan in row 2, column 1"),
        (bad(3, -torch.inf), [0, 1, 1, 0], "found -inf in row 3, column 1"),
        (bad(1, 1e5).half(), [0, 1, 1, 0], "found inf in row 1, column 1"),
        (torch.zeros(4, 5), [0, 1, 1, 0], r"features: expected shape \[n, 3\], found \[4, 5\]"),
        (torch.zeros(3), [0, 1, 1], r"features: expected shape \[n, 3\], found \[3\]"),
        (torch.zeros(4, 3, dtype=torch.int64), [0, 1, 1, 0], "features: expected a floating-point dtype"),
        ([["a", "b", "c"]], [0], "features: expected a numeric tensor"),
    ],
)
def test_bad_batches_say_where_and_add_nothing(features: object, labels: object, message: str) -> None:
    S = Statistics(2, 3).update(torch.randn(8, 3), [0, 1] * 4)
    before = {name: tensor.clone() for name, tensor in S.state().items()}
    with pytest.raises(StatisticsError, match=message):
        S.update(features, labels)
    assert all(torch.equal(before[name], tensor) for name, tensor in S.state().items())


def test_the_row_of_a_bad_feature_counts_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image2point.collapse.inputs.BLOCK", 9)
    features = torch.zeros(50, 3)
    features[41, 2] = torch.nan
    with pytest.raises(StatisticsError, match="row 41, column 2"):
        Statistics(2, 3).update(features, torch.zeros(50, dtype=torch.int64))


def test_impossible_requests() -> None:
    with pytest.raises(StatisticsError, match="num_classes ≥ 1"):
        Statistics(0, 3)
    with pytest.raises(StatisticsError, match="one of none, pooled, class, found 'full'"):
        Statistics(2, 3, "full")
    with pytest.raises(StatisticsError, match="dim 3 and 4"):
        Statistics(2, 3).merge(Statistics(2, 4))
    with pytest.raises(StatisticsError, match="covariance 'pooled' and 'none'"):
        Statistics(2, 3).merge(Statistics(2, 3, "none"))
    with pytest.raises(StatisticsError, match="moments 2 and 4"):
        Statistics(2, 3, "class").merge(Statistics(2, 3, "class", moments=4))
    with pytest.raises(StatisticsError, match=r'4 together with covariance="class"; found 4 with .*\'pooled\''):
        Statistics(2, 3, moments=4)
    with pytest.raises(StatisticsError, match=r"moments: expected 2, or 4 .*found 3"):
        Statistics(2, 3, "class", moments=3)
    with pytest.raises(StatisticsError, match="device 'warp'"):
        Statistics(2, 3, device="warp")


def test_a_device_without_float64_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(*args: object, **options: object) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(StatisticsError, match=r"device 'mps' cannot hold them.*use device='cpu'"):
        Statistics(2, 3, device="mps")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"squares": torch.tensor([1.0, -1.0]).double()}, "squares holds a negative"),
        ({"mean": torch.full((2, 3), torch.nan).double()}, "mean holds a negative, infinite or NaN"),
        ({"count": torch.zeros(2)}, "expected count .* of torch.int64"),
        ({"squares": torch.zeros(3).double()}, r"expected squares \[2\]"),
        ({"scatter": torch.zeros(4, 4).double()}, r"expected scatter \[3, 3\]"),
        ({"mean": torch.zeros(3).double()}, "expected tensors count"),
        ({"scatter": torch.zeros(2, 3, 3).double(), "cubes": torch.zeros(2, 3).double()}, "fourths is missing"),
    ],
)
def test_bad_states(change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        Statistics.from_state({**Statistics(2, 3).state(), **change})
