"""The oracle: every metric by an independent float64 two-pass computation, short and obvious, in numpy."""

from __future__ import annotations

import itertools

import numpy as np


def moments(features: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Per class: count, mean, Σ‖h−μ‖², scatter, Σ‖h−μ‖²(h−μ), Σ‖h−μ‖⁴, each from the stored samples."""
    features = np.asarray(features).astype(np.float64)
    dim = features.shape[1]
    out = {
        "count": np.zeros(num_classes, dtype=np.int64),
        "mean": np.zeros((num_classes, dim)),
        "squares": np.zeros(num_classes),
        "scatter": np.zeros((num_classes, dim, dim)),
        "cubes": np.zeros((num_classes, dim)),
        "fourths": np.zeros(num_classes),
    }
    for c in range(num_classes):
        samples = features[labels == c]
        if len(samples):
            mean = samples.mean(0)
            out["count"][c], out["mean"][c] = len(samples), mean
            out["squares"][c] = ((samples - mean) ** 2).sum()
            out["scatter"][c] = (samples - mean).T @ (samples - mean)
            norms = ((samples - mean) ** 2).sum(1)
            out["cubes"][c], out["fourths"][c] = norms @ (samples - mean), norms @ norms
    return out


def metrics(
    features: np.ndarray, labels: np.ndarray, num_classes: int, weight: np.ndarray | None = None
) -> dict[str, float]:
    m, dim = moments(features, labels, num_classes), np.asarray(features).shape[1]
    present = np.flatnonzero(m["count"])
    n, mean, squares = m["count"][present], m["mean"][present], m["squares"][present]
    C = len(present)
    M = mean - mean.mean(0)
    several = n > 1  # what speaks of variability looks at these classes alone
    K = int(several.sum())
    within, between = m["scatter"].sum(0) / n[several].sum(), np.full((dim, dim), np.nan)
    order, raw = None, np.nan
    if K > 1:
        apart = mean[several] - mean[several].mean(0)
        between = apart.T @ apart / K
        values, vectors = np.linalg.eigh(between)
        order = [k for k in np.argsort(values)[::-1][: K - 1] if values[k] > 1e-12 * values.max()]
        inverse = vectors[:, order] @ np.diag(1 / values[order]) @ vectors[:, order].T
        raw = np.trace(within @ inverse)

    variance = squares / n
    with np.errstate(divide="ignore", invalid="ignore"):
        unbiased = squares / (n - 1)
    symmetric, ordered, directional, corrected, distances = [], [], [], [], []
    undefined = 0
    for i, j in itertools.permutations(range(C), 2):
        delta = mean[i] - mean[j]
        d2 = delta @ delta
        if several[i] and several[j]:
            ordered.append(variance[i] / d2)
            directional.append(delta @ m["scatter"][present[i]] @ delta / n[i] / d2**2)
        if i < j:
            distances.append(np.sqrt(d2))
            if not (several[i] and several[j]):
                undefined += 1
                continue
            symmetric.append((variance[i] + variance[j]) / (2 * d2))
            d2 = d2 - unbiased[i] / n[i] - unbiased[j] / n[j]
            if d2 > 0:
                corrected.append((unbiased[i] + unbiased[j]) / (2 * d2))
            else:
                undefined += 1
    spectrum = np.linalg.svd(np.asarray(features).astype(np.float64), compute_uv=False)
    direction = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    out = {
        "samples": n.sum(),
        "present": C,
        "absent": num_classes - C,
        "singletons": (n == 1).sum(),
        "contributing": K,
        "nc1": raw / K if K else np.nan,
        "nc1_raw": raw,
        "between_rank": np.nan if order is None else len(order),
        "nc1_trace_ratio": np.trace(within) / np.trace(between),
        "discrimination": 1 - max(direction[i] @ direction[j] for i, j in itertools.combinations(range(C), 2)),
        "rank_nuclear": spectrum.sum() ** 2 / (spectrum**2).sum(),
        "rank_95": np.argmax(np.cumsum(spectrum) >= 0.95 * spectrum.sum()) + 1,
        "cdnv": np.mean(symmetric) if symmetric else np.nan,
        "cdnv_asymmetric": np.mean(ordered) if ordered else np.nan,
        "cdnv_directional": np.mean(directional) if directional else np.nan,
        "cdnv_corrected": np.mean(corrected) if len(corrected) == K * (K - 1) // 2 > 0 else np.nan,
        "cdnv_corrected_undefined": undefined,
        "min_class_distance": np.min(distances),
    }
    for name, rows in (("nc2", M), ("nc2_w", None if weight is None else weight[present])):
        if rows is not None:
            norms = np.linalg.norm(rows, axis=1)
            cosines = [rows[i] @ rows[j] / norms[i] / norms[j] for i, j in itertools.permutations(range(C), 2)]
            gram = rows @ rows.T
            etf = (np.eye(C) - 1 / C) / np.sqrt(C - 1)
            out[f"{name}_equinorm"] = norms.std() / norms.mean()
            out[f"{name}_equiangle"] = np.mean(np.abs(np.array(cosines) + 1 / (C - 1)))
            out[f"{name}_etf"] = np.linalg.norm(gram / np.linalg.norm(gram) - etf)
    if C == 2:  # two centred means are opposite, whatever they are
        out |= {"nc2_equinorm": np.nan, "nc2_equiangle": np.nan, "nc2_etf": np.nan}
    if weight is not None:
        W = weight[present]
        out["nc3"] = ((W / np.linalg.norm(W) - M / np.linalg.norm(M)) ** 2).sum()
    return {name: float(value) for name, value in out.items()}


def simplex(num_classes: int, dim: int, norm: float = 1.0) -> np.ndarray:
    """Vertices [C, d] of a simplex equiangular tight frame around 0, at distance `norm`."""
    vertices = np.eye(num_classes) - 1 / num_classes
    vertices *= norm / np.linalg.norm(vertices, axis=1, keepdims=True)
    return np.pad(vertices, ((0, 0), (0, dim - num_classes)))


def noise(dim: int, sigma: float) -> np.ndarray:
    """2d points [2d, d] with mean exactly 0 and covariance (1/n) exactly σ² I."""
    axis = sigma * np.sqrt(dim) * np.eye(dim)
    return np.concatenate([axis, -axis])


def around(means: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features [C·n, d] and labels [C·n]: the same offsets [n, d] around each mean [C, d]."""
    features = (means[:, None, :] + offsets).reshape(-1, means.shape[1])
    return features, np.repeat(np.arange(len(means)), len(offsets))
