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
from flowzoo.models.guided import GuidedModel
from flowzoo.networks.base import positive_int

_log = logging.getLogger(__name__)


def preview_conditions(model: Any, num: int) -> np.ndarray | None:
    """Return class labels in turn, zeros for another condition, or None without one."""
    if model.num_classes:
        return np.arange(num) % model.num_classes
    return np.zeros(model.condition_shape, "float32") if model.condition_shape else None


def preview_samples(model: Any, seed: int, temperature: float = 1.0) -> np.ndarray:
    """Draw what a preview shows: 64 images, or 2000 points.

    Images of flow matching take 20 steps of "midpoint": with "dopri5" they would take minutes on a CPU.
    """
    num = 64 if len(model.event_shape) == 3 else 2000
    few = num == 64 and isinstance(model, GuidedModel) and model.adaptive
    options = {"solver": "midpoint", "steps": 20} if few else {}
    return np.asarray(model.sample(num, preview_conditions(model, num), temperature, seed, **options))


def clear_previews(folder: Path) -> None:
    """Delete what `Previews` wrote for an earlier training: its epochs are not those of the next.

    Args:
        folder: as of `Previews`.
    """
    for path in (*folder.glob("previews/epoch_*.png"), *folder.glob("tensorboard/events.out.tfevents.*")):
        path.unlink(missing_ok=True)


class Previews(keras.callbacks.Callback):
    """Draw samples of the same noise every few epochs, and write the logs of each epoch.

    `folder/previews/epoch_0010.png` and so on, and `folder/tensorboard` for `tensorboard --logdir`.

    Args:
        folder: where to write.
        every: epochs between two previews.
        seed: of their noise.
        temperature: at which they are drawn.
    """

    def __init__(self, folder: Path, every: int, seed: int = 0, temperature: float = 1.0) -> None:
        super().__init__()
        self._folder, self._every = Path(folder), positive_int("previews", every)
        self._seed, self._temperature = seed, temperature
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
        due = (epoch + 1) % self._every == 0
        samples = preview_samples(self.model, self._seed, self._temperature) if due else None
        if self._writer is not None:
            self._log_for_tensorboard(epoch, logs or {}, samples)
        if samples is not None:
            path = self._folder / "previews" / f"epoch_{epoch + 1:04d}.png"
            plots.preview(samples, path, maximum=plots.white(self.model.num_values))

    def _log_for_tensorboard(self, epoch: int, logs: dict[str, Any], samples: np.ndarray | None) -> None:
        with self._writer.as_default(step=epoch + 1):
            for name, value in logs.items():
                tf.summary.scalar(name, value)
            if samples is not None and samples.ndim == 4 and samples.shape[-1] in (1, 3):
                tf.summary.image(
                    "samples", samples / np.float32(plots.white(self.model.num_values)), max_outputs=16
                )
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
