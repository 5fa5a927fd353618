"""The true densities of the seeded distributions in the plane, to hold a trained flow against.

A density takes points `[N, 2]` and returns log p in nats, float64 `[N]`. Noisy curves have no closed form:
their density is the mean of the noise's density over points along the curve, much closer together than the
noise is wide.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LogDensity = Callable[[np.ndarray], np.ndarray]

# Points along a curve for each width of the noise. The midpoint rule then errs by 1e-3 at the curve's ends
# and by nothing that float64 shows between them.
NODES_A_WIDTH = 6
_CHUNK = 2**22


def gaussian_mixture(centres: np.ndarray, noise: float, weights: np.ndarray | None = None) -> LogDensity:
    """Returns the density of round Gaussians.

    Args:
        centres: Their means, `[K, 2]`.
        noise: Their standard deviation.
        weights: Their weights, `[K]`; None for equal ones.

    Returns:
        log sum_k w_k N(x; c_k, noise^2 I) of points.
    """
    weights = np.full(len(centres), 1.0) if weights is None else weights
    log_weights = np.log(weights / weights.sum()) - np.log(2 * np.pi * noise**2)

    def log_density(x: np.ndarray) -> np.ndarray:
        rows = max(1, _CHUNK // len(centres))
        parts = [_log_mixture(x[i : i + rows], centres, noise, log_weights) for i in range(0, len(x), rows)]
        return np.concatenate(parts) if parts else np.zeros(0)

    return log_density


def _log_mixture(x: np.ndarray, centres: np.ndarray, noise: float, log_weights: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    # |x - c|^2 by its three terms: one matrix product instead of an array of all differences.
    square = (x**2).sum(1)[:, None] - 2 * x @ centres.T + (centres**2).sum(1)
    logits = log_weights - square / (2 * noise**2)
    top = logits.max(axis=1, keepdims=True)
    return top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))


def noisy_curve(curve: Callable[[np.ndarray], np.ndarray], noise: float) -> LogDensity:
    """Returns the density of a uniform parameter's point on a curve with Gaussian noise.

    Args:
        curve: Takes parameters in (0, 1), `[K]`, to points of one or more branches of equal weight, `[M, 2]`.
        noise: The standard deviation of the noise in both coordinates.
    """
    fine = curve(np.linspace(0.001, 1, 1000)).reshape(-1, 1000, 2)
    length = 1000 * np.max(np.linalg.norm(np.diff(fine, axis=1), axis=-1))
    nodes = int(np.ceil(NODES_A_WIDTH * length / noise))
    return gaussian_mixture(curve((np.arange(nodes) + 0.5) / nodes), noise)


def board(squares: np.ndarray, side: float) -> LogDensity:
    """Returns the uniform density on squares: -inf outside.

    Args:
        squares: The lower left corners, `[K, 2]`.
        side: The length of a side.
    """
    level = -np.log(len(squares) * side**2)

    def log_density(x: np.ndarray) -> np.ndarray:
        inside = [((x >= corner) & (x < corner + side)).all(axis=1) for corner in squares]
        return np.where(np.any(inside, axis=0), level, -np.inf)

    return log_density


def bent_spokes(arms: int, radial: float, tangential: float, rate: float) -> LogDensity:
    """Returns the density of `pinwheel`.

    A point is x = 2 R(k) R(rate e^a) (a, b), with a ~ N(1, radial^2), b ~ N(0, tangential^2) and R a
    rotation, by a turn k / arms or by an angle. |det dx/d(a, b)| = 4 |1 - rate e^a b|, and p(x) sums over
    the arms and over all (a, b) that lead to x: the roots of one equation in a.
    """
    grid = np.linspace(1 - 7 * radial, 1 + 7 * radial, 1401)
    angles = 2 * np.pi * np.arange(arms) / arms

    def unbent(x: np.ndarray, a: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
        turn = angle + rate * np.exp(a)
        cos, sin = np.cos(turn), np.sin(turn)
        return cos * x[:, :1] + sin * x[:, 1:], cos * x[:, 1:] - sin * x[:, :1]

    def roots(x: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the points of which an arm has roots, by row, and the roots to about 1e-12."""
        miss = unbent(x, grid[None], angle)[0] - grid
        row, column = np.nonzero(np.signbit(miss[:, :-1]) != np.signbit(miss[:, 1:]))
        low, high = grid[column], grid[column + 1]
        negative = np.signbit(miss[row, column])
        for _ in range(36):
            middle = (low + high) / 2
            found = unbent(x[row], middle[:, None], angle)[0][:, 0] - middle
            left = np.signbit(found) == negative
            low, high = np.where(left, middle, low), np.where(left, high, middle)
        return row, (low + high) / 2

    def density(x: np.ndarray) -> np.ndarray:
        total = np.zeros(len(x))
        for angle in angles:
            row, a = roots(x, angle)
            b = unbent(x[row], a[:, None], angle)[1][:, 0]
            exponent = -((a - 1) ** 2) / (2 * radial**2) - b**2 / (2 * tangential**2)
            jacobian = 4 * np.abs(1 - rate * np.exp(a) * b) * 2 * np.pi * radial * tangential
            np.add.at(total, row, np.exp(exponent) / jacobian / arms)
        return total

    def log_density(x: np.ndarray) -> np.ndarray:
        halves = np.asarray(x, np.float64) / 2
        rows = _CHUNK // len(grid)
        parts = [density(halves[i : i + rows]) for i in range(0, len(x), rows)]
        with np.errstate(divide="ignore"):
            return np.log(np.concatenate(parts)) if parts else np.zeros(0)

    return log_density
