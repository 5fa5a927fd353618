"""Weights for TensorFlow's own checkpoints."""

from __future__ import annotations

from typing import Any


class Checkpointed:
    """Says to `tf.train.Checkpoint` which weights a Keras layer or model has, those of lists of layers too.

    Keras does not tell TensorFlow what is in its lists, so that a checkpoint of layers in a list would hold
    nothing, and restore nothing, without a word. Weights are named by their place in `weights`.
    """

    built: bool
    weights: list[Any]

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        children = super()._trackable_children(save_type, **kwargs)
        if save_type != "checkpoint" or not self.built:
            return children
        own = {f"weights_{index}": weight.value for index, weight in enumerate(self.weights)}
        return {**children, **own}
