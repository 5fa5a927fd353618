"""What a recipe adds to Keras's fit."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import flowzoo
from flowzoo.data import Source
from flowzoo.layers import DiagonalScaling
from flowzoo.models import Flow
from flowzoo.training.callbacks import RoundTrip, StopOnNaN


class Lossy(DiagonalScaling):
    """A layer whose two directions are not inverse to each other."""

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        x, log_det = super()._forward(z, condition)
        return tf.round(x * 8) / 8, log_det


def normal(num: int = 64) -> Source:
    return Source(x=np.random.default_rng(0).normal(size=(num, 3)).astype("float32"))


@pytest.mark.parametrize(("layer", "inverts"), [(DiagonalScaling, True), (Lossy, False)])
def test_the_round_trip_is_logged_and_a_lossy_flow_is_warned_of(
    layer: Any, inverts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trip = RoundTrip(normal(), conditional=False)
    trip.set_model(Flow([layer()], event_shape=(3,)))
    logs: dict[str, Any] = {}
    with caplog.at_level(logging.WARNING, logger="flowzoo.training.callbacks"):
        trip.on_epoch_end(0, logs)
    assert (logs["val_round_trip"] < 1e-5) == inverts
    assert ("errs by" in caplog.text) != inverts


def test_a_recipe_logs_the_round_trip_of_each_epoch(tmp_path: Any) -> None:
    result = flowzoo.train("test_nice", out=tmp_path, epochs=2, limit=256, verbose=0)
    assert result.history["val_round_trip"] == [0.0, 0.0]  # digits come back exactly
    trained = flowzoo.info("test_nice").to_dict()["measured"]["training"]
    assert trained["epochs"] > 2


def test_training_ends_at_a_loss_that_is_no_number() -> None:
    with pytest.raises(FloatingPointError, match="epoch 3 is nan"):
        StopOnNaN().on_epoch_end(2, {"loss": float("nan")})
