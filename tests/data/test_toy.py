"""The distributions in the plane are the documented ones."""

from __future__ import annotations

import numpy as np
import pytest

from flowzoo.data import list_sources, open_source


@pytest.mark.parametrize("name", list_sources("toy"))
def test_seed_and_size(name):
    x = open_source(name, num_examples=50).x
    assert x.shape == (50, 2) and x.dtype == np.float32
    assert (open_source(name, num_examples=50, seed=1).x != x).any()


def test_moons():
    moons = open_source("moons", noise=0.0)
    upper, lower = moons.x[moons.condition == 0], moons.x[moons.condition == 1]
    np.testing.assert_allclose(np.linalg.norm(upper, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(lower - [1, 0.5], axis=1), 1, atol=1e-6)
    assert upper[:, 1].min() >= 0 and lower[:, 1].max() <= 0.5
    assert abs(len(upper) - 5000) < 300


def test_circles():
    circles = open_source("circles", noise=0.0, factor=0.3)
    radius = np.linalg.norm(circles.x, axis=1)
    np.testing.assert_allclose(radius, np.where(circles.condition == 0, 1, 0.3), atol=1e-6)


def test_checkerboard():
    cells = np.floor(open_source("checkerboard").x / 2).astype(int) + 2
    assert ((cells >= 0) & (cells < 4)).all() and (cells.sum(axis=1) % 2 == 0).all()
    counts = np.bincount(cells @ [4, 1], minlength=16)
    assert (counts > 0).sum() == 8 and abs(counts[counts > 0] - 1250).max() < 200


def test_eight_gaussians():
    source = open_source("eight_gaussians", num_examples=40000)
    for label in range(8):
        points = source.x[source.condition == label]
        centre = 2 * np.array([np.cos(label * np.pi / 4), np.sin(label * np.pi / 4)])
        np.testing.assert_allclose(points.mean(axis=0), centre, atol=0.02)
        np.testing.assert_allclose(points.std(axis=0), 0.2, atol=0.01)


def test_rings():
    rings = open_source("rings", noise=0.0)
    np.testing.assert_allclose(np.linalg.norm(rings.x, axis=1), 0.75 * (rings.condition + 1), atol=1e-5)


def test_two_spirals():
    spirals = open_source("two_spirals", noise=0.0)
    x = spirals.x * (1 - 2 * spirals.condition[:, None])
    angle = np.pi * np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(x, np.linalg.norm(x, axis=1)[:, None] * _unit(angle), atol=1e-5)
    assert angle.max() <= 3 * np.pi + 1e-5


def test_swiss_roll():
    x = open_source("swiss_roll", noise=0.0).x
    angle = 5 * np.linalg.norm(x, axis=1)
    assert 1.5 * np.pi - 1e-4 <= angle.min() and angle.max() <= 4.5 * np.pi + 1e-4
    np.testing.assert_allclose(x, angle[:, None] / 5 * _unit(angle), atol=1e-4)


def test_pinwheel():
    source = open_source("pinwheel", num_examples=20000, rate=0.0)
    for label in range(5):
        angle = 2 * np.pi * label / 5
        along = source.x[source.condition == label] @ _unit(np.array([angle, angle + np.pi / 2])).T
        np.testing.assert_allclose(along.mean(axis=0), [2, 0], atol=0.05)
        np.testing.assert_allclose(along.std(axis=0), [0.6, 0.2], atol=0.02)


def _unit(angle):
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _grid(source) -> tuple[np.ndarray, float]:
    """Return the centres of 200 by 200 cells that the edges of the board do not cut, and a cell's area."""
    low, high = np.floor(source.x.min(axis=0) - 0.5), np.ceil(source.x.max(axis=0) + 0.5)
    axes = [a + (b - a) * (np.arange(200) + 0.5) / 200 for a, b in zip(low, high, strict=True)]
    cell = float(np.prod((high - low) / 200))
    return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2), cell


# Curves of many points, whose density at 40,000 places takes seconds: others are made in the same way.
MANY_POINTS = ("pinwheel", "rings", "two_spirals")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in MANY_POINTS else name
        for name in list_sources("toy")
    ],
)
def test_the_density_is_that_of_the_points(name):
    source = open_source(name, num_examples=20000)
    points, cell = _grid(source)
    log_p = source.log_density(points)
    p = np.exp(log_p) * cell
    assert abs(p.sum() - 1) < 1e-3
    # The mean of log p over the points is the negative entropy: a density of other points would miss it.
    entropy = -np.sum(p[p > 0] * log_p[p > 0]) / p.sum()
    score = -source.log_density(source.x[:2000])
    assert abs(score.mean() - entropy) < 5 * score.std() / np.sqrt(len(score)) + 0.01
    # And so would the share of the points in each of 36 squares.
    low, width = points.min(axis=0), np.ptp(points, axis=0) / 6
    squares = [np.minimum((x - low) // width, 5).astype(int) @ [6, 1] for x in (points, source.x)]
    shares = np.bincount(squares[0], p, 36), np.bincount(squares[1], minlength=36) / len(source.x)
    np.testing.assert_allclose(shares[1], shares[0], atol=0.015)


@pytest.mark.parametrize("name", ["moons", "eight_gaussians", "two_spirals"])
def test_no_density_without_noise(name):
    assert open_source(name, num_examples=10, noise=0.0).log_density is None


def test_a_wrong_density_is_caught():
    points = open_source("moons", num_examples=20000)
    wrong = open_source("moons", noise=0.06).log_density
    grid, cell = _grid(points)
    p = np.exp(wrong(grid)) * cell
    score = -wrong(points.x[:2000])
    entropy = -np.sum(p * wrong(grid)) / p.sum()
    assert abs(score.mean() - entropy) > 5 * score.std() / np.sqrt(len(score)) + 0.01
