"""Seeded distributions in the plane: the first thing to try a flow on, since the density can be drawn.

The three splits are independent draws, each of `num_examples` points, from streams of their own of the seed.
Each source knows its true density (`Source.log_density`), unless its points lie on a line for want of noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from flowzoo.data import densities
from flowzoo.data.catalog import register_source
from flowzoo.data.options import Amount, Count, Seed
from flowzoo.data.source import SPLITS, Source
from flowzoo.data.splits import random_state

_toy_source = partial(register_source, kind="toy", licence="CC0-1.0 (generated)")


def _random(name: str, split: str, seed: int) -> np.random.RandomState:
    return random_state(seed, SPLITS.index(split), zlib.crc32(name.encode()))


def _points(
    x: np.ndarray,
    log_density: densities.LogDensity | None,
    labels: np.ndarray | None = None,
    num_classes: int | None = None,
) -> Source:
    condition = None if labels is None else labels.astype(np.int32)
    x = x.astype(np.float32)
    return Source(x=x, condition=condition, num_classes=num_classes, log_density=log_density)


def _noisy(curve: Callable[[np.ndarray], np.ndarray], noise: float) -> densities.LogDensity | None:
    # Without noise the points lie on a line: there is no density.
    return densities.noisy_curve(curve, noise) if noise else None


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


@_toy_source("moons", origin="Two interleaved half circles.")
def moons(split: str, *, seed: Seed = 0, num_examples: Count = 10000, noise: Amount = 0.05) -> Source:
    """Two half circles of radius 1 that reach into each other; the label is the moon.

    The upper one is centred at (0, 0), the lower one at (1, 0.5); the angle is uniform, and Gaussian noise of
    standard deviation `noise` is added to both coordinates.
    """
    random = _random("moons", split, seed)
    label = random.randint(0, 2, num_examples)
    x = _polar(np.ones(num_examples), np.pi * random.uniform(size=num_examples))
    lower = np.array([1.0, 0.5]) - x
    x = np.where(label[:, None] == 0, x, lower)
    return _points(x + noise * random.normal(size=x.shape), _noisy(_both_moons, noise), label, 2)


def _both_moons(u: np.ndarray) -> np.ndarray:
    upper = _polar(np.ones(len(u)), np.pi * u)
    return np.concatenate([upper, np.array([1.0, 0.5]) - upper])


@_toy_source("circles", origin="Two circles with one centre.")
def circles(
    split: str, *, seed: Seed = 0, num_examples: Count = 10000, noise: Amount = 0.05, factor: Amount = 0.5
) -> Source:
    """Two circles about the origin, of radius 1 (label 0) and `factor` (label 1).

    The angle is uniform, and Gaussian noise of standard deviation `noise` is added to both coordinates.
    """
    random = _random("circles", split, seed)
    label = random.randint(0, 2, num_examples)
    x = _polar(np.where(label == 0, 1.0, factor), random.uniform(0, 2 * np.pi, num_examples))
    curve = partial(_rings, radii=(1.0, factor))
    return _points(x + noise * random.normal(size=x.shape), _noisy(curve, noise), label, 2)


def _rings(u: np.ndarray, radii: Sequence[float]) -> np.ndarray:
    return np.concatenate([_polar(np.full(len(u), radius), 2 * np.pi * u) for radius in radii])


@_toy_source("checkerboard", origin="Every other square of a 4 by 4 board.")
def checkerboard(split: str, *, seed: Seed = 0, num_examples: Count = 10000) -> Source:
    """Uniform on eight squares of a 4 by 4 checkerboard that covers [-4, 4] both ways.

    The density is 1/32 on the squares, whose sides are 2, and 0 elsewhere: ln(32) = 3.466 nats of entropy.
    """
    random = _random("checkerboard", split, seed)
    column, half = random.randint(0, 4, num_examples), random.randint(0, 2, num_examples)
    corner = np.stack([column, 2 * half + column % 2], axis=-1)
    squares = np.array([[i, 2 * j + i % 2] for i in range(4) for j in range(2)])
    density = densities.board(2.0 * squares - 4.0, 2.0)
    return _points(2.0 * (corner + random.uniform(size=corner.shape)) - 4.0, density)


@_toy_source("eight_gaussians", origin="A ring of eight Gaussians.")
def eight_gaussians(
    split: str, *, seed: Seed = 0, num_examples: Count = 10000, noise: Amount = 0.2, radius: Amount = 2.0
) -> Source:
    """Eight Gaussians of equal weight, evenly spaced on a circle of `radius`; the label is the Gaussian.

    Each has the standard deviation `noise` in both coordinates; the first is centred at (radius, 0).
    """
    random = _random("eight_gaussians", split, seed)
    label = random.randint(0, 8, num_examples)
    x = _polar(np.full(num_examples, radius), label * (np.pi / 4))
    centres = _polar(np.full(8, radius), np.arange(8) * (np.pi / 4))
    density = densities.gaussian_mixture(centres, noise) if noise else None
    return _points(x + noise * random.normal(size=x.shape), density, label, 8)


@_toy_source("pinwheel", origin="Five curved arms.")
def pinwheel(
    split: str,
    *,
    seed: Seed = 0,
    num_examples: Count = 10000,
    arms: Count = 5,
    radial: Amount = 0.3,
    tangential: Amount = 0.1,
    rate: Amount = 0.25,
) -> Source:
    """Gaussians that are drawn out along `arms` spokes and bent; the label is the arm.

    A point of an arm has the radius 1 + `radial` ε₁ and the offset `tangential` ε₂ across the spoke. It is
    then turned by the arm's angle plus `rate` exp(radius), and the whole is doubled in size.
    """
    random = _random("pinwheel", split, seed)
    label = random.randint(0, arms, num_examples)
    x = random.normal(size=(num_examples, 2)) * [radial, tangential] + [1.0, 0.0]
    angle = 2 * np.pi * label / arms + rate * np.exp(x[:, 0])
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], axis=-1)
    density = densities.bent_spokes(arms, radial, tangential, rate) if radial and tangential else None
    return _points(2.0 * turned, density, label, arms)


@_toy_source("two_spirals", origin="Two spirals wound into each other.")
def two_spirals(
    split: str, *, seed: Seed = 0, num_examples: Count = 10000, noise: Amount = 0.1, turns: Amount = 1.5
) -> Source:
    """Two Archimedean spirals of `turns` turns, mirrored through the origin; the label is which.

    The angle is 2π `turns` √u for uniform u, so that points lie nearly evenly along the arm; the radius is
    3 √u, and Gaussian noise of standard deviation `noise` is added to both coordinates.
    """
    random = _random("two_spirals", split, seed)
    label = random.randint(0, 2, num_examples)
    x = _spiral(random.uniform(size=num_examples), turns) * (1 - 2 * label[:, None])
    density = _noisy(partial(_both_spirals, turns=turns), noise)
    return _points(x + noise * random.normal(size=x.shape), density, label, 2)


def _both_spirals(u: np.ndarray, turns: float) -> np.ndarray:
    one = _spiral(u, turns)
    return np.concatenate([one, -one])


def _spiral(u: np.ndarray, turns: float) -> np.ndarray:
    way = np.sqrt(u)
    return _polar(3.0 * way, 2 * np.pi * turns * way)


@_toy_source("rings", origin="Four rings with one centre.")
def rings(
    split: str, *, seed: Seed = 0, num_examples: Count = 10000, noise: Amount = 0.08, count: Count = 4
) -> Source:
    """`count` circles about the origin with the radii 3 k / `count`, k = 1 … `count`; the label is the ring.

    The rings have equal weight, so inner ones are denser. The angle is uniform, and Gaussian noise of
    standard deviation `noise` is added to both coordinates.
    """
    random = _random("rings", split, seed)
    label = random.randint(0, count, num_examples)
    x = _polar(3.0 * (label + 1) / count, random.uniform(0, 2 * np.pi, num_examples))
    curve = partial(_rings, radii=[3.0 * (k + 1) / count for k in range(count)])
    return _points(x + noise * random.normal(size=x.shape), _noisy(curve, noise), label, count)


@_toy_source("swiss_roll", origin="A rolled-up line.")
def swiss_roll(split: str, *, seed: Seed = 0, num_examples: Count = 10000, noise: Amount = 0.1) -> Source:
    """One spiral: the angle t is uniform on [1.5π, 4.5π], and the radius is t / 5.

    Gaussian noise of standard deviation `noise` is added to both coordinates.
    """
    random = _random("swiss_roll", split, seed)
    x = _roll(random.uniform(size=num_examples))
    return _points(x + noise * random.normal(size=x.shape), _noisy(_roll, noise))


def _roll(u: np.ndarray) -> np.ndarray:
    angle = np.pi * (1.5 + 3.0 * u)
    return _polar(angle / 5.0, angle)
