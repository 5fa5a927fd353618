"""The kernel distance between two sets of faces, on features of a network whose weights come in a wheel.

Features: the 256 numbers before the outputs of MTCNN's last network (the wheel `mtcnn`, MIT; Zhang et al.,
Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks (2016),
https://arxiv.org/abs/1604.02878), which tells faces from other things and finds eyes, nose and mouth.
Pictures are resized to its 48x48 pixels. Each feature is standardised by the training faces.

Distance: the unbiased estimate of the squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, as in
Bińkowski et al., Demystifying MMD GANs (2018), https://arxiv.org/abs/1801.01401, equation 4 and section 4
(KID). These are not Inception's features: the figure compares with real faces against real faces, and with
nothing that others publish.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

_SIZE = 48


@functools.cache
def _network() -> Any:
    from mtcnn.stages import StageONet

    return StageONet().model


def features(x: np.ndarray) -> np.ndarray:
    """Return [n, 256] of pictures [n, height, width, 3] of uint8."""
    import tensorflow as tf

    network, parts = _network(), []
    for i in range(0, len(x), 256):
        hidden = tf.image.resize(tf.cast(x[i : i + 256], tf.float32), (_SIZE, _SIZE), antialias=True)
        hidden = (hidden - 127.5) / 128
        for layer in network.layers:
            if layer.name == "fc6-1":
                break
            hidden = layer(hidden)
        parts.append(np.asarray(hidden))
    return np.concatenate(parts).astype("float64")


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Return the unbiased estimate between features [m, d] and [n, d]; it may be below zero."""
    size = a.shape[1]

    def kernel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return (u @ v.T / size + 1) ** 3

    def within(u: np.ndarray) -> float:
        matrix = kernel(u, u)
        return float((matrix.sum() - np.trace(matrix)) / (len(u) * (len(u) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


class KernelDistance:
    """Distances to reference faces, all in the units that `train` standardises.

    Args:
        train: faces [n, height, width, 3] of uint8, at least some hundreds.
        reference: the faces that samples are compared with.
    """

    def __init__(self, train: np.ndarray, reference: np.ndarray) -> None:
        raw = features(train)
        self._mean, self._std = raw.mean(0), raw.std(0) + 1e-6
        self._reference = self._standard(reference)
        self.size = len(reference)

    def _standard(self, x: np.ndarray) -> np.ndarray:
        return (features(x) - self._mean) / self._std

    def __call__(self, x: np.ndarray, folds: int = 5) -> tuple[float, float]:
        """Return the distance of `x` and its standard error, over disjoint parts of `x`."""
        found = self._standard(x)
        parts = [squared_mmd(part, self._reference) for part in np.array_split(found, folds)]
        return squared_mmd(found, self._reference), float(np.std(parts, ddof=1) / np.sqrt(folds))
