"""Models distilled to one Euler step: they sample, and have no density."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.bijectors import FlowBijector, FlowDistribution
from flowzoo.models.guided import GuidedModel


@keras.saving.register_keras_serializable("flowzoo")
class Distillable(GuidedModel):
    """Base of continuous models that `flowzoo.models.rectify.distill` can turn into a single step.

    With `one_step` x = z + f(z, 0): a function of noise that nothing makes one-to-one, and an Euler step back
    from x is not its inverse. What asks for a latent or a density raises ValueError, `sample` and
    `from_latent` go on, and an export has these two alone.

    Attributes:
        one_step: whether it was distilled; a family sets it before it calls `Flow.__init__`.
    """

    one_step: bool = False

    @property
    def has_density(self) -> bool:
        """Whether there are log_prob and latents of data: not in one step."""
        return not self.one_step

    def needs_density(self, what: str) -> None:
        """Raise ValueError, which names what was asked for, where there is no density."""
        if self.one_step:
            raise ValueError(
                f"{self.name} is distilled to one Euler step, which has no inverse: it has sample and "
                f"from_latent, and no {what}. Ask the model that it was distilled from."
            )

    def raw_log_prob(self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor) -> tf.Tensor:
        """Return log p(x), for use inside graphs."""
        self.needs_density("log_prob")
        return super().raw_log_prob(x, condition, seed)

    def raw_to_latent(self, x: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        """Return f^-1(x), for use inside graphs."""
        self.needs_density("to_latent")
        return super().raw_to_latent(x, condition)

    def raw_sample_and_log_prob(
        self, n: tf.Tensor, condition: tf.Tensor | None, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw n samples with their log_prob, for use inside graphs."""
        self.needs_density("log_prob")
        return super().raw_sample_and_log_prob(n, condition, temperature, seed)

    def raw_nfe(self, x: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        """Return the evaluations of the velocity that log p(x) takes, for use inside graphs."""
        self.needs_density("log_prob, whose evaluations nfe counts")
        return super().raw_nfe(x, condition)

    def distribution(self, condition: Any = None) -> FlowDistribution:
        """Return the flow as a `tfp.distributions.Distribution`. See `Flow`."""
        self.needs_density("distribution")
        return super().distribution(condition)

    def bijector(self, condition: Any = None) -> FlowBijector:
        """Return the flow's map as a `tfp.bijectors.Bijector`. See `Flow`."""
        self.needs_density("bijector")
        return super().bijector(condition)

    def orders(
        self, guidance: float | None = None, solver: str | None = None, steps: int | None = None
    ) -> tuple[dict[str, Any], tuple[str, int]]:
        """Return orders of a solution. See `GuidedModel`; in one step no other solver may be asked for."""
        found, key = super().orders(guidance, solver, steps)
        if self.one_step and key != ("euler", 1):
            raise ValueError(
                f"{self.name} is distilled to one Euler step: its velocity means nothing at other times. "
                f"Received: solver={key[0]!r}, steps={key[1]}"
            )
        return found, key


def checked_one_step(one_step: bool, solver: str, steps: int) -> bool:
    """Return `one_step`, else raise.

    Raises:
        TypeError: it is no bool.
        ValueError: the solver is not one Euler step.
    """
    if not isinstance(one_step, bool):
        raise TypeError(f"one_step takes True or False. Received: {one_step!r}")
    if one_step and (solver, steps) != ("euler", 1):
        raise ValueError(
            f"one_step=True asks for solver='euler' and steps=1. Received: solver={solver!r}, steps={steps!r}"
        )
    return one_step
