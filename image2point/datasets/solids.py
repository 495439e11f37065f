"""Twenty-four kinds of solid: each a function from a random generator to a mesh, whose details it draws.

z is up. Sizes and positions are arbitrary: whoever uses a solid scales it. What tells the classes apart is meant
to be local shape and topology (edges, corners, holes, gaps, what stands on what), not how the mass is spread.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from image2point.datasets.meshes import Mesh, blocks, join, revolve, sweep

Random = np.random.Generator

ROUND = 32  # segments of bodies that are meant to be round
UP = np.array([0.0, 0.0, 1.0])


def cylinder(rng: Random) -> Mesh:
    return revolve(_pillar(), ROUND)


def triangular_prism(rng: Random) -> Mesh:
    return revolve(_pillar(), 3)


def box(rng: Random) -> Mesh:
    return blocks(np.ones((1, 1, 1)), *(np.array([-1.0, 1.0]),) * 3)


def star_prism(rng: Random) -> Mesh:
    points = int(rng.integers(4, 7))
    return revolve(_pillar(), 2 * points, radii=np.tile([1.0, rng.uniform(0.4, 0.6)], points))


def cone(rng: Random) -> Mesh:
    return revolve(np.array([(0, 0), (1, 0), (0, 1)]), ROUND)


def pyramid(rng: Random) -> Mesh:
    return revolve(np.array([(0, 0), (1, 0), (0, 1)]), 4)


def bipyramid(rng: Random) -> Mesh:
    return revolve(np.array([(0, -1), (1, rng.uniform(-0.3, 0.3)), (0, 1)]), 4)


def ellipsoid(rng: Random) -> Mesh:
    angle = np.linspace(-np.pi / 2, np.pi / 2, 17)
    return revolve(np.stack([np.cos(angle), np.sin(angle)], axis=1), ROUND)


def torus(rng: Random) -> Mesh:
    angle = 2 * np.pi * np.arange(12) / 12
    thickness = rng.uniform(0.2, 0.45)
    return revolve(np.stack([1 + thickness * np.cos(angle), thickness * np.sin(angle)], axis=1), ROUND, closed=True)


def tube(rng: Random) -> Mesh:
    bore = rng.uniform(0.5, 0.85)
    return revolve(np.array([(1, -1), (1, 1), (bore, 1), (bore, -1)]), ROUND, closed=True)


def hourglass(rng: Random) -> Mesh:
    waist, middle = rng.uniform(0.08, 0.3), rng.uniform(-0.25, 0.25)
    return revolve(np.array([(0, -1), (1, -1), (waist, middle), (1, 1), (0, 1)]), ROUND)


def bowl(rng: Random) -> Mesh:
    """A half sphere with a wall, open to the top."""
    angle = np.linspace(-np.pi / 2, rng.uniform(-0.1, 0.4), 10)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return revolve(np.concatenate([arc, rng.uniform(0.8, 0.92) * arc[::-1]]), ROUND)


def spring(rng: Random) -> Mesh:
    turns = rng.uniform(2.5, 4.5)
    angle = np.linspace(0, 2 * np.pi * turns, int(16 * turns))
    hand = rng.choice([-1.0, 1.0])
    path = np.stack([np.cos(angle), hand * np.sin(angle), np.linspace(-1, 1, len(angle))], axis=1)
    return sweep(path, rng.uniform(0.08, 0.16), UP)


def knot(rng: Random) -> Mesh:
    """The trefoil."""
    t = 2 * np.pi * np.arange(72) / 72
    hand = rng.choice([-1.0, 1.0])
    path = np.stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -hand * np.sin(3 * t)], axis=1)
    return sweep(path, rng.uniform(0.3, 0.5), UP, closed=True)


def chain(rng: Random) -> Mesh:
    """Two rings, one through the other."""
    t = 2 * np.pi * np.arange(24) / 24
    cosine, sine, nought = np.cos(t), np.sin(t), np.zeros(24)
    thickness, offset = rng.uniform(0.12, 0.24), rng.uniform(0.85, 1.15)
    flat = sweep(np.stack([cosine, sine, nought], axis=1), thickness, UP, closed=True)
    path = np.stack([cosine + offset, nought, sine], axis=1)
    return join(flat, sweep(path, thickness, np.array([0.0, 1.0, 0.0]), closed=True))


def mug(rng: Random) -> Mesh:
    """A cup with a bottom, and a handle at its side."""
    wall, reach = rng.uniform(0.8, 0.92), rng.uniform(0.5, 0.8)
    cup = revolve(np.array([(0, -1), (1, -1), (1, 1), (wall, 1), (wall, -0.85), (0, -0.85)]), ROUND)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 14)
    path = np.stack([1 + reach * np.cos(angle), np.zeros(14), rng.uniform(0.5, 0.8) * np.sin(angle)], axis=1)
    return join(cup, sweep(path, rng.uniform(0.1, 0.18), np.array([0.0, 1.0, 0.0])))


def l_beam(rng: Random) -> Mesh:
    return _beam(["#.", "##"], "-=", "-=", rng)


def t_beam(rng: Random) -> Mesh:
    return _beam(["###", ".#."], "=-=", "=-", rng)


def u_beam(rng: Random) -> Mesh:
    return _beam(["#.#", "###"], "-=-", "-=", rng)


def h_beam(rng: Random) -> Mesh:
    return _beam(["#.#", "###", "#.#"], "-=-", "=-=", rng)


def stairs(rng: Random) -> Mesh:
    steps = int(rng.integers(3, 6))
    filled = np.tril(np.ones((steps, steps)))[:, None, :]
    lines = np.arange(steps + 1.0)
    return blocks(filled, lines, np.array([0.0, rng.uniform(0.6, 1.2) * steps]), lines)


def table(rng: Random) -> Mesh:
    """A top on four legs."""
    return blocks(_legs_and_slab(), *_furniture_lines(rng), _lines([rng.uniform(1, 2.5), rng.uniform(0.15, 0.3)]))


def chair(rng: Random) -> Mesh:
    """A seat on four legs, and a back."""
    filled = np.concatenate([_legs_and_slab(), np.zeros((3, 3, 1))], axis=2)
    filled[0, :, 2] = 1
    heights = [rng.uniform(0.8, 1.4), rng.uniform(0.15, 0.3), rng.uniform(0.8, 1.6)]
    return blocks(filled, *_furniture_lines(rng), _lines(heights))


def frame(rng: Random) -> Mesh:
    """The twelve edges of a box, as bars."""
    end = np.array([1, 0, 1])
    filled = end[:, None, None] + end[:, None] + end >= 2
    bar = rng.uniform(0.12, 0.3)
    return blocks(filled, *(_lines([bar, rng.uniform(1, 2), bar]) for _ in range(3)))


SOLIDS: dict[str, Callable[[Random], Mesh]] = {
    maker.__name__: maker
    for maker in (
        cylinder, triangular_prism, box, star_prism, cone, pyramid, bipyramid, ellipsoid, torus, tube,
        hourglass, bowl, spring, knot, chain, mug, l_beam, t_beam, u_beam, h_beam, stairs, table, chair,
        frame,
    )
}  # fmt: skip


def _pillar() -> np.ndarray:
    return np.array([(0, -1), (1, -1), (1, 1), (0, 1)])


def _lines(widths: list[float]) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(widths)])


def _beam(rows: list[str], x: str, y: str, rng: Random) -> Mesh:
    """A profile along z, drawn with # from the top row down.

    `x` (left to right) and `y` (bottom up) say which columns and rows are walls, "-", and which are wide, "=".
    """
    filled = np.array([[mark == "#" for mark in row] for row in rows[::-1]]).T[:, :, None]
    thickness = {"-": (0.3, 0.6), "=": (0.8, 1.4)}
    across, along = (_lines([rng.uniform(*thickness[mark]) for mark in marks]) for marks in (x, y))
    return blocks(filled, across, along, np.array([0.0, rng.uniform(2, 4)]))


def _legs_and_slab() -> np.ndarray:
    """[3, 3, 2]: four legs at the corners, a full slab on them."""
    end = np.array([1, 0, 1])
    return np.concatenate([(end[:, None] * end)[:, :, None], np.ones((3, 3, 1))], axis=2)


def _furniture_lines(rng: Random) -> tuple[np.ndarray, np.ndarray]:
    leg = rng.uniform(0.12, 0.3)
    return _lines([leg, rng.uniform(0.8, 1.8), leg]), _lines([leg, rng.uniform(0.8, 1.8), leg])
