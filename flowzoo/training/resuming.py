"""Going on with a training that was stopped: its whole state in one file, written at the end of an epoch."""

from __future__ import annotations

import io
import json
import logging
import time
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from flowzoo.errors import DataError
from flowzoo.files import write_atomic
from flowzoo.training.callbacks import AverageWeights, Clock, KeepWeights, Patience

_log = logging.getLogger(__name__)


class SaveState(keras.callbacks.Callback):
    """Write the state of a training at the end of epochs; placed after all callbacks that it saves.

    Weights, what the optimizer knows, the kept weights, logs and times are saved, not the order of the data
    and the noise: these follow from the seed and the step.

    Args:
        path: the file, an .npz; it is whole at any moment.
        recipe: what makes the training what it is, as JSON text; another recipe cannot go on from it.
        average: of the recipe, or None without.
        keep: of the recipe.
        clock: of the recipe.
        patience: of the recipe, or None without.
        every: seconds that must have passed since the last writing.
    """

    def __init__(
        self,
        path: Path,
        recipe: str,
        average: AverageWeights | None,
        keep: KeepWeights,
        clock: Clock,
        patience: Patience | None,
        every: float = 60.0,
    ) -> None:
        super().__init__()
        self._path, self._recipe, self._every = Path(path), recipe, every
        self._average, self._keep, self._clock, self._patience = average, keep, clock, patience
        self._logs: list[dict[str, float]] = []
        self._last = time.monotonic()

    # -- going on -------------------------------------------------------------------------------------

    def restore(self, model: Any) -> int:
        """Give a compiled model the state in the file, if there is one.

        Args:
            model: as it was when the training began.

        Returns:
            How many epochs are done; 0 without a file.

        Raises:
            DataError: the file is of another recipe or another model, or cannot be read.
        """
        if not self._path.is_file():
            return 0
        arrays = self._read()
        about = json.loads(str(arrays.pop("about")))
        if about["recipe"] != self._recipe:
            raise DataError(
                f"{self._path} is the state of a training with another recipe, seed or data: train without "
                f"resuming, or delete the file."
            )
        model.optimizer.build(model.trainable_variables)
        for name, variables in (("weight", model.weights), ("optimizer", model.optimizer.variables)):
            values = [arrays[key] for key in _numbered(name, arrays)]
            if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
                raise DataError(f"{self._path} does not fit the model: it was made by another version.")
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        kept = [arrays[key] for key in _numbered("kept", arrays)]
        self._keep.restore(kept or None, about["best_value"], about["best_epoch"])
        self._clock.epochs = list(about["seconds"])
        self._logs = list(about["logs"])
        if self._patience is not None:
            self._patience.set_model(model)
            for epoch, logs in enumerate(self._logs):
                self._patience.on_epoch_end(epoch, logs)
        _log.info("going on after epoch %d, from %s", len(self._logs), self._path)
        return len(self._logs)

    def _read(self) -> dict[str, np.ndarray]:
        try:
            with np.load(self._path, allow_pickle=False) as content:
                return dict(content)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{self._path} cannot be read ({error}): delete it and train anew.") from error

    @property
    def history(self) -> dict[str, list[float]]:
        """The logs of all epochs, by name."""
        names = dict.fromkeys(name for logs in self._logs for name in logs)
        return {name: [logs[name] for logs in self._logs if name in logs] for name in names}

    # -- saving ---------------------------------------------------------------------------------------

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the logs, and write the state if it is time."""
        self._logs.append({key: float(value) for key, value in (logs or {}).items()})
        if time.monotonic() - self._last >= self._every:
            self._write()
            self._last = time.monotonic()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Delete the file: what is trained needs no state."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        arrays = {f"weight_{i}": w for i, w in enumerate(self._trained_weights())}
        arrays |= {f"optimizer_{i}": v.numpy() for i, v in enumerate(self.model.optimizer.variables)}
        arrays |= {f"kept_{i}": w for i, w in enumerate(self._keep.weights or [])}
        about = {
            "recipe": self._recipe,
            "logs": self._logs,
            "seconds": self._clock.epochs,
            "best_value": self._keep.best_value,
            "best_epoch": self._keep.best_epoch,
        }
        buffer = io.BytesIO()
        np.savez(buffer, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, buffer.getvalue())

    def _trained_weights(self) -> list[np.ndarray]:
        """Return the weights of training, also while their average is in the model."""
        weights = self.model.get_weights()
        if self._average is None or self._average.trained is None:
            return weights
        places = {id(weight): place for place, weight in enumerate(self.model.weights)}
        for variable, value in zip(self.model.trainable_variables, self._average.trained, strict=True):
            weights[places[id(variable)]] = value
        return weights


def _numbered(name: str, arrays: dict[str, np.ndarray]) -> list[str]:
    return sorted(
        (key for key in arrays if key.startswith(f"{name}_")), key=lambda key: int(key.rpartition("_")[2])
    )
