"""How a TarFlow is sampled: plainly, with guidance, with denoising."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from flowzoo import random
from flowzoo.bijectors import FlowDistribution
from flowzoo.layers.transformer_autoregressive import TransformerAutoregressive
from flowzoo.models import checks
from flowzoo.models.base import Flow
from flowzoo.models.guidance import checked_guidance
from flowzoo.models.tarflow_arguments import checked_denoise


class _Sampling(Flow):
    """The sampling of `TarFlow`, a class of its own for the length of the file alone."""

    condition_dropout: float
    guidance: float
    noise_std: float
    denoises: bool

    @property
    def samples_from_latent(self) -> bool:
        """Whether `sample` is `from_latent` of what the base draws: not with guidance or denoising."""
        return not self.guidance and not self.denoises

    @property
    def samples_in_one_pass(self) -> bool:
        """Whether samples are scored in the pass that draws them: not with guidance or denoising."""
        return self.samples_from_latent

    # -- pure tensor functions of sampling ------------------------------------------------------------

    def raw_sample(
        self, n: tf.Tensor, condition: tf.Tensor | None, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Draw n samples as the constructor's `guidance` and `denoise` say; for use inside graphs."""
        if self.guidance:
            x = self.raw_guided_sample(n, condition, temperature, seed, self.guidance)
        else:
            x = self.raw_plain_sample(n, condition, temperature, seed)
        return self.raw_denoise(x, condition) if self.denoises else x

    def raw_plain_sample(
        self, n: tf.Tensor, condition: tf.Tensor | None, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Draw n samples without guidance and denoising."""
        return super().raw_sample(n, condition, temperature, seed)

    def raw_guided_sample(
        self,
        n: tf.Tensor,
        condition: tf.Tensor | None,
        temperature: tf.Tensor,
        seed: tf.Tensor,
        guidance: Any,
    ) -> tf.Tensor:
        """Draw n samples with guidance, without denoising."""
        x = self.raw_draw(n, condition, temperature, seed)
        for layer in self.chain.chained:
            if isinstance(layer, TransformerAutoregressive):
                x = layer.guided_forward(x, condition, guidance)
            else:
                x = layer.flow_forward(x, condition)[0]
        return self.as_data(x)

    def raw_denoise(self, x: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        """Return x + noise_std^2 d log p(x) / dx."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            log_prob = self.raw_log_prob(x, condition, random.as_seed(0))
        return x + self.noise_std**2 * tape.gradient(log_prob, x)

    def raw_sample_and_log_prob(
        self, n: tf.Tensor, condition: tf.Tensor | None, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw n samples with their log_prob, that of the model without guidance and denoising."""
        if self.samples_in_one_pass:
            return self.raw_plain_sample_and_log_prob(n, condition, temperature, seed)
        x = self.raw_sample(n, condition, temperature, seed)
        return x, self.raw_log_prob(tf.cast(x, self.compute_dtype), condition, random.as_seed(0))

    def raw_plain_sample_and_log_prob(
        self, n: tf.Tensor, condition: tf.Tensor | None, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw n samples with their log_prob, without guidance and denoising."""
        return super().raw_sample_and_log_prob(n, condition, temperature, seed)

    # -- what users call ------------------------------------------------------------------------------

    def sample(
        self,
        n: Any,
        condition: Any = None,
        temperature: Any = 1.0,
        seed: Any = None,
        *,
        guidance: Any = None,
        denoise: bool | None = None,
    ) -> tf.Tensor:
        """Draw n samples.

        Args:
            n: number of samples, an integer of at least 0.
            condition: [n, *condition_shape], or one for all.
            temperature: spread of the base, above 0.
            seed: an integer, an int32 pair or a Keras SeedGenerator; None draws afresh at each call, in a
                `tf.function` of your own at each run (`keras.utils.set_random_seed` makes that repeat).
            guidance: w, at least -1 (without the condition); None for the constructor's.
            denoise: move noisy samples to the expectation of clean data; None for the constructor's.

        Returns:
            A tensor of shape [n, *event_shape]: whole numbers (uint8) for a discrete flow.

        Raises:
            ValueError: as `Flow.sample`; guidance without `condition_dropout`, denoising without `noise_std`.
            TypeError: n is not an integer, denoise not a boolean.
        """
        weight, denoise = self._orders(guidance, denoise)
        n, given, temperature, seed = self._draw_arguments(n, condition, temperature, seed)
        drawn = {"n": n, "condition": given, "temperature": temperature, "seed": seed}
        if weight:
            scale = tf.constant(weight, self.compute_dtype)
            x = self._graphs._call("guided_sample", **drawn, guidance=scale)
        else:
            x = self._graphs._call("plain_sample", **drawn)
        return self._graphs._call("denoise", x=x, condition=given) if denoise else x

    def sample_and_log_prob(
        self,
        n: Any,
        condition: Any = None,
        temperature: Any = 1.0,
        seed: Any = None,
        *,
        guidance: Any = None,
        denoise: bool | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw n samples with their log_prob, always that of the model without guidance and denoising.

        Arguments and errors: as `sample`. With either the samples are scored in a pass of their own.
        """
        weight, denoise = self._orders(guidance, denoise)
        if not weight and not denoise:
            arguments = self._draw_arguments(n, condition, temperature, seed)
            return self._graphs._call(
                "plain_sample_and_log_prob",
                **dict(zip(("n", "condition", "temperature", "seed"), arguments, strict=True)),
            )
        x = self.sample(n, condition, temperature, seed, guidance=weight, denoise=denoise)
        given = checks.condition(self, condition, tf.shape(x)[0])
        return x, self._graphs.log_prob(tf.cast(x, self.compute_dtype), given, random.as_seed(0))

    def _orders(self, guidance: Any, denoise: Any) -> tuple[float, bool]:
        """Return the weight of guidance and whether to denoise, the constructor's where None."""
        weight = self.guidance if guidance is None else checked_guidance(guidance, self.condition_dropout)
        denoise = self.denoises if denoise is None else checked_denoise(denoise, self.noise_std)
        return weight, denoise

    def denoise(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Return the expectation of the clean data under the model, x + noise_std^2 d log p(x) / dx.

        Args:
            x: noisy data, [batch, *event_shape].
            condition: [batch, *condition_shape], or one for all.

        Raises:
            ValueError: the flow has no noise; as `log_prob`.
        """
        checked_denoise(True, self.noise_std)
        x = checks.data(self, x)
        return self._graphs._call("denoise", x=x, condition=checks.condition(self, condition, tf.shape(x)[0]))

    def distribution(self, condition: Any = None) -> FlowDistribution:
        """Return the flow, without guidance and denoising, as a TFP distribution. See `Flow`."""
        if not self.guidance and not self.denoises:
            return super().distribution(condition)
        if condition is None:
            checks.condition(self, None)  # raises if the flow needs one
        return FlowDistribution(_Plain(self), condition, name=self.name)


class _Plain:
    """A view of a TarFlow whose samples have the density that log_prob gives."""

    def __init__(self, flow: _Sampling) -> None:
        self._flow = flow

    def __getattr__(self, name: str) -> Any:
        return getattr(self._flow, name)

    def sample(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        return self._flow.sample(*args, **kwargs, guidance=0.0, denoise=False)

    def sample_and_log_prob(self, *args: Any, **kwargs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return self._flow.sample_and_log_prob(*args, **kwargs, guidance=0.0, denoise=False)
