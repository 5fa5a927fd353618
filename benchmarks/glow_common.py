"""What both sides of `benchmarks.normflows_glow` share: numpy and the standard library alone."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

COOLDOWN = 0.3  # the fraction of all steps in which the learning rate falls to 0, as `Trapezoid`
ADAM_EPSILON = 1e-7
INIT_IMAGES = 2048  # what the act-norms are set from, on both sides
SCORE_BATCH = 100
BLOCKS = 3  # residual blocks of a network of RealNVP


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is the same for both sides.

    Attributes:
        steps: of training, on which the learning rate depends.
        batch: images a step.
        size: height and width.
        levels: L.
        num_steps: K, steps of a level; of RealNVP the couplings of each kind on a level.
        filters: hidden channels of flowzoo's networks; the peer's are chosen to give as many parameters.
        bits: of a value: 8, or 5 as in Glow.
        learning_rate: of Adam, at its highest.
        warmup: steps in which it rises.
        clip_norm: of the gradient of the loss in nats an image.
        checks: how often the validation images are looked at.
        split_prior: flowzoo's: "learned", or "none".
        tf32: whether a GPU may round the factors of products to 10 bits.
        family: "glow", or "realnvp".
    """

    steps: int
    batch: int
    size: int
    levels: int
    num_steps: int
    filters: int
    bits: int = 8
    learning_rate: float = 1e-3
    warmup: int = 0
    clip_norm: float = 50.0
    checks: int = 5
    split_prior: str = "learned"
    tf32: bool = False
    family: str = "glow"

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0: `flowzoo.training.optimizers.Trapezoid`."""
        rise = (step + 1) / max(1, self.warmup)
        fall = (self.steps - step) / max(COOLDOWN * self.steps, 1.0)
        return self.learning_rate * min(rise, 1.0, max(fall, 0.0))

    def quantised(self, x: np.ndarray) -> np.ndarray:
        """Return the upper `bits` of bytes: floor(x / 8) for 5."""
        return x >> (8 - self.bits)


# -- parameters ---------------------------------------------------------------------------------------


def _network(channels: int, hidden: int) -> int:
    """Count the weights of 3×3, 1×1 and 3×3 convolutions, from half of the channels to two numbers each."""
    first = 9 * (channels // 2) * hidden + hidden
    return first + hidden * hidden + hidden + 9 * hidden * channels + channels


def parameters(setting: Setting, hidden: int, side: str) -> int:
    """Count the trainable weights of a side with so many hidden channels.

    Both libraries keep the triangular factors of a 1×1 convolution as whole squares; the unused halves count.
    """
    prior = side == "flowzoo" and setting.split_prior == "learned"
    total = (_realnvp if setting.family == "realnvp" else _glow)(setting, hidden, prior)
    return total + (2 * 3 * setting.size**2 if side == "normflows" else 0)


def _glow(setting: Setting, hidden: int, prior: bool) -> int:
    """Count the weights of Glow, with a network for the prior of each split or without."""
    total, channels = 0, 3
    for level in range(setting.levels):
        channels *= 4
        step = _network(channels, hidden) + 2 * channels**2 + channels + 2 * channels
        total += setting.num_steps * step
        total += _network(channels, hidden) if prior and level < setting.levels - 1 else 0
        channels //= 2
    return total


def _residual(seen: int, channels: int, hidden: int) -> int:
    """Count the weights of a residual network, which makes two numbers for each of the channels."""
    first, last = 9 * seen * hidden + hidden, 2 * (9 * channels * hidden + channels)
    return first + BLOCKS * (10 * hidden**2 + 2 * hidden) + last


def _realnvp(setting: Setting, hidden: int, prior: bool) -> int:
    """Count the weights of RealNVP, with a network for the prior of each split or without."""
    total, channels = 0, 3
    for level in range(setting.levels):
        last = level == setting.levels - 1  # has one checkerboard more, and neither channels nor a split
        total += (setting.num_steps + last) * (_residual(channels, channels, hidden) + 2 * channels)
        if not last:
            channels *= 2  # of half of the squeezed image
            halves = _residual(channels, channels, hidden)
            total += setting.num_steps * (halves + 4 * channels) + (halves if prior else 0)
    return total


def matched_hidden(setting: Setting) -> int:
    """Return the hidden channels with which normflows' parameters come closest to flowzoo's."""
    wanted = parameters(setting, setting.filters, "flowzoo")
    candidates = range(1, 2 * setting.filters + 16)
    return min(candidates, key=lambda hidden: abs(parameters(setting, hidden, "normflows") - wanted))


# -- images -------------------------------------------------------------------------------------------


def _differences(x: np.ndarray) -> np.ndarray:
    """Return bytes that compress to half: differences of colours, then of columns and of rows, modulo 256."""
    x = x.copy()
    x[..., 0] -= x[..., 1]
    x[..., 2] -= x[..., 1]
    x[:, :, 1:] = x[:, :, 1:] - x[:, :, :-1]
    x[:, 1:] = x[:, 1:] - x[:, :-1]
    return x


def _undone(x: np.ndarray) -> np.ndarray:
    """Undo `_differences`."""
    x = np.cumsum(np.cumsum(x, axis=1, dtype=np.uint8), axis=2, dtype=np.uint8)
    x[..., 0] += x[..., 1]
    x[..., 2] += x[..., 1]
    return x


@dataclasses.dataclass(frozen=True)
class Faces:
    """Images `[N, size, size, 3]` of bytes: the train split without its mirror images, and validation."""

    train: np.ndarray
    validation: np.ndarray

    def save(self, path: Path) -> None:
        """Write both splits, without loss, to about 54 MB at 64×64."""
        np.savez_compressed(path, train=_differences(self.train), validation=_differences(self.validation))

    @classmethod
    def load(cls, path: Path) -> Faces:
        """Read what `save` wrote."""
        with np.load(path) as found:
            return cls(_undone(found["train"]), _undone(found["validation"]))

    def batches(self, setting: Setting, seed: int) -> Iterator[np.ndarray]:
        """Yield the images of each step: whole passes over the images and their mirror images, shuffled."""
        rng, left = np.random.default_rng(seed), np.zeros(0, int)
        for _ in range(setting.steps):
            while len(left) < setting.batch:
                left = np.concatenate([left, rng.permutation(2 * len(self.train))])
            rows, left = left[: setting.batch], left[setting.batch :]
            x = self.train[rows % len(self.train)]
            mirrored = (rows >= len(self.train))[:, None, None, None]
            yield setting.quantised(np.where(mirrored, x[:, :, ::-1], x))


# -- one run ------------------------------------------------------------------------------------------


class Side(Protocol):
    """A model with its optimizer, of one library."""

    parameters: int

    def adapt(self, x: np.ndarray) -> None:
        """Set the act-norms from images."""

    def train(self, batches: Iterator[np.ndarray], number: int, until: float) -> int:
        """Take `number` steps, or as many as end before `time.perf_counter()` is `until`; say how many."""

    def bits_per_dim(self, x: np.ndarray) -> float:
        """Return the mean bits per dimension of images, uniformly dequantised once."""


def run(
    build: Callable[[Setting, int], Side], setting: Setting, faces: Faces, seed: int, deadline: float
) -> Any:
    """Train one model from a seed, and return what was measured.

    The deadline, in seconds from here, holds for building, compiling, training and the looks at the
    validation images between; the last look comes on top. The seconds a step leave out the first step, which
    compiles.
    """
    began = time.perf_counter()
    side, validation = build(setting, seed), setting.quantised(faces.validation)
    side.adapt(setting.quantised(faces.train[:INIT_IMAGES]))
    found: dict[str, Any] = {
        "seed": seed,
        "parameters": side.parameters,
        "start": side.bits_per_dim(validation),
    }
    batches, done, seconds = faces.batches(setting, seed), 0, 0.0
    start = time.perf_counter()
    done += side.train(batches, 1, float("inf"))
    found |= {"first_step_seconds": time.perf_counter() - start, "curve": []}
    for check in range(1, setting.checks + 1):
        wanted = max(1, setting.steps * check // setting.checks - done)
        start = time.perf_counter()
        taken = side.train(islice(batches, wanted), wanted, began + deadline)
        seconds += time.perf_counter() - start
        done += taken
        look = {"step": done, "seconds": seconds, "bits_per_dim": side.bits_per_dim(validation)}
        found["curve"].append(look)
        print(f"seed {seed}: {look}", flush=True)
        if taken < wanted:
            break
    rest = {"steps": done, "seconds": seconds, "seconds_a_step": seconds / max(1, done - 1)}
    total = time.perf_counter() - began
    return {**found, **rest, "bits_per_dim": found["curve"][-1]["bits_per_dim"], "total_seconds": total}


def processor() -> str:
    """Return the name and the number of cores of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"
