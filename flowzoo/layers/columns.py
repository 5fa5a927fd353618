"""Tables whose columns have supports of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo.layers.base import FlowLayer, LayerCase, Shape, constant_log_det
from flowzoo.layers.domain import ColumnsDomain, Domain
from flowzoo.layers.support import Box, Positive

_ACCEPTED = (
    '"real", "positive", ["positive", "softplus"], "unit_interval" or ["box", low, high]. Angles take '
    'preprocessing="angle" in a flow of angles alone, or ["box", -pi, pi], which knows no seam'
)


@keras.saving.register_keras_serializable("flowzoo")
class Columns(FlowLayer):
    """Take each column of a table to all numbers by the layer of its support: `Positive`, `Box` or none.

    log |det dx/dz| is the sum of the columns'. Both directions cost one elementwise pass.

    Args:
        columns: a support a column: "real", "positive" (["positive", "softplus"] by the other transform of
            `Positive`), "unit_interval" or ["box", low, high].
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: an unknown support, or (when built) events that are not vectors of so many entries.
    """

    def __init__(self, columns: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(columns, list | tuple) or not columns:
            raise ValueError(f"columns takes a list with a support a column. Received: {columns!r}")
        self.columns = [_plain(column) for column in columns]
        groups: dict[Any, list[int]] = {}
        for index, column in enumerate(self.columns):
            kind = "box" if column[0] in ("box", "unit_interval") else tuple(column)
            groups.setdefault(kind, []).append(index)
        self._groups = list(groups.values())
        # One layer a kind of support, on all its columns at once; None leaves numbers as they are.
        self.parts = [self._layer([self.columns[index] for index in group]) for group in self._groups]

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return all supports, and two of them for the integral."""
        box = ("box", 0, 10)
        every = ["real", "positive", ["box", 0, 10], ["positive", "softplus"], "unit_interval"]
        return [
            LayerCase({"columns": every}, (5,), support=("real", "positive", box, "positive", "unit")),
            LayerCase(
                {"columns": [["box", 0, 10], "real"]}, (2,), condition_shape=(2,), support=(box, "real")
            ),
        ]

    def _layer(self, columns: list[list[Any]]) -> FlowLayer | None:
        kind = columns[0][0]
        if kind == "real":
            return None
        if kind == "positive":
            return Positive(*columns[0][1:], dtype=self.dtype_policy)
        bounds = [column[1:] if column[0] == "box" else [0.0, 1.0] for column in columns]
        return Box([low for low, _ in bounds], [high for _, high in bounds], dtype=self.dtype_policy)

    @property
    def domain(self) -> Domain | None:  # type: ignore[override]
        """What each column allows."""
        found = [self._layer([column]) for column in self.columns]
        return ColumnsDomain([None if layer is None else layer.build_for((1,)).domain for layer in found])

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        if event_shape != (len(self.columns),):
            raise ValueError(
                f"columns names the supports of {len(self.columns)} columns: it takes events of the shape "
                f"({len(self.columns)},). Received: event_shape={event_shape}"
            )
        for group, layer in zip(self._groups, self.parts, strict=True):
            if layer is not None:
                layer.build_for((len(group),))

    def _run(self, value: tf.Tensor, method: str) -> tuple[tf.Tensor, tf.Tensor]:
        results, total = [], constant_log_det(0.0, value)
        for group, layer in zip(self._groups, self.parts, strict=True):
            part = tf.gather(value, group, axis=-1)
            if layer is not None:
                part, log_det = getattr(layer, method)(part)
                total += log_det
            results.append(part)
        order = np.argsort(np.concatenate(self._groups))
        return tf.gather(tf.concat(results, axis=-1), order, axis=-1), total

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._run(z, "flow_forward")

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._run(x, "flow_inverse")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "columns": self.columns}


def _plain(column: Any) -> list[Any]:
    """Return a support as a list of its kind and its arguments, else raise ValueError."""
    parts = [column] if isinstance(column, str) else column
    if isinstance(parts, list | tuple) and parts:
        kind, *arguments = parts
        if (kind in ("real", "unit_interval") and not arguments) or (
            kind == "positive" and len(arguments) <= 1
        ):
            return [kind, *arguments]
        if kind == "box" and len(arguments) == 2:
            return [kind, *map(float, arguments)]
    raise ValueError(f"A column takes {_ACCEPTED}. Received: {column!r}")
