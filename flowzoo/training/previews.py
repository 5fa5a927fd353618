"""What a training has come to, as it goes: samples as PNG, logs and samples for TensorBoard."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo import plots

_log = logging.getLogger(__name__)


class Previews(keras.callbacks.Callback):
    """Draw samples of the same noise every few epochs, and write the logs of each epoch.

    `folder/previews/epoch_0010.png` and so on, and `folder/tensorboard` for `tensorboard --logdir`.

    Args:
        folder: where to write.
        every: epochs between two previews.
        num: samples of a preview: 64 images, or 2000 points.
        temperature: of the samples.
        seed: of their noise.
    """

    def __init__(
        self, folder: Path, every: int, num: int | None = None, temperature: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        self._folder, self._every, self._num = Path(folder), every, num
        self._temperature, self._seed = temperature, seed
        self._writer: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Make the folders."""
        (self._folder / "previews").mkdir(parents=True, exist_ok=True)
        if importlib.util.find_spec("tensorboard") is None:
            _log.warning("no logs for TensorBoard: it is not installed (pip install 'flowzoo[tensorboard]')")
            self._writer = None
        else:
            self._writer = tf.summary.create_file_writer(str(self._folder / "tensorboard"))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the logs, and draw if it is time."""
        samples = self._samples() if (epoch + 1) % self._every == 0 else None
        if self._writer is not None:
            self._log_for_tensorboard(epoch, logs or {}, samples)
        if samples is not None:
            path = self._folder / "previews" / f"epoch_{epoch + 1:04d}.png"
            plots.preview(samples, path, maximum=self._white)

    def _log_for_tensorboard(self, epoch: int, logs: dict[str, Any], samples: np.ndarray | None) -> None:
        with self._writer.as_default(step=epoch + 1):
            for name, value in logs.items():
                tf.summary.scalar(name, value)
            if samples is not None and samples.ndim == 4 and samples.shape[-1] in (1, 3):
                tf.summary.image("samples", samples / np.float32(self._white), max_outputs=16)
        self._writer.flush()

    @property
    def _white(self) -> float:
        return self.model.num_values - 1 if self.model.discrete else 1.0

    def _samples(self) -> np.ndarray:
        num = self._num or (64 if len(self.model.event_shape) == 3 else 2000)
        condition = np.arange(num) % self.model.num_classes if self.model.num_classes else None
        if self.model.condition_shape and condition is None:
            condition = np.zeros(self.model.condition_shape, "float32")
        return np.asarray(self.model.sample(num, condition, self._temperature, self._seed))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
