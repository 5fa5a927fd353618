"""Flow: layers on a base distribution, as a Keras model with a density."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, cast

import keras
import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.bijectors import FlowBijector, FlowDistribution
from flowzoo.distributions import BaseDistribution, make_base
from flowzoo.distributions.making import base_argument
from flowzoo.layers.base import FlowLayer, Shape, event_size, flow_dtype
from flowzoo.layers.chain import Chain
from flowzoo.layers.checkpointing import Checkpointed
from flowzoo.layers.domain import Domain
from flowzoo.layers.preprocessing import Dequantize
from flowzoo.models import checks, requests
from flowzoo.models.condition_scaling import make_condition_scaler
from flowzoo.models.dtypes import as_dtype, check_dtypes, own_policy
from flowzoo.models.graphs import Graphs
from flowzoo.models.saved_model import write_saved_model
from flowzoo.models.shapes import checked_shape, condition_shapes
from flowzoo.models.trainable import Trainable

LN2 = float(np.log(2.0))


@keras.saving.register_keras_serializable("flowzoo")
class Flow(Trainable, Checkpointed, keras.Model):
    """A normalizing flow: x = f(z) with z from a base distribution, as a Keras model.

    log p(x) = log p_base(f^-1(x)) + log |det df^-1/dx|, in nats, of the user's own data: what brings
    the data to a good scale (`Standardize`, `Dequantize`, `Logit`) is a layer with its log-determinant
    like any other. `model(x)` and `model.predict(x)` give log_prob.

    If the layer next to the data is `Dequantize`, the flow is discrete: it takes whole numbers, samples
    whole numbers, and log_prob is the dequantisation bound on their log-probability. The noise of the
    bound is a function of each example and `seed`; None stands for the seed 0, so that a score depends
    on the example alone.

    Args:
        layers: FlowLayers from latent to data (the last is next to the data), or one FlowLayer.
        event_shape: shape of one example.
        condition_shape: shape of one condition; None for an unconditional flow. Conditions of any scale are
            taken: the first data that the flow is trained on set a mean and a standard deviation for each
            entry of their last axis, by which the layers see them standardised (`condition_scaler`).
        num_classes: number of classes, where the condition is a class label; `condition_shape` is then ().
        base: a name ("normal", "student_t" ...), a name with arguments ({"name": "mixture",
            "components": 5}), or a `flowzoo.distributions.BaseDistribution`.
        name: of the model.
        family_arguments: what a family's constructor was given besides shapes and name; a family is
            saved by these instead of by its layers.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: a layer cannot take the shape or computes in another dtype, or both kinds of condition are
            given.
        TypeError: a layer is not a FlowLayer.

    References:
        Papamakarios et al., Normalizing Flows for Probabilistic Modeling and Inference (2021),
        https://arxiv.org/abs/1912.02762.
    """

    # Whether fit compiles with XLA when compile() is left to decide, by device type.
    prefers_xla: ClassVar[dict[str, bool]] = {"CPU": False, "GPU": True}
    # A family names itself, and the arguments of an instance small enough to try it out with.
    family: ClassVar[str | None] = None
    small: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        layers: Sequence[FlowLayer] | FlowLayer,
        event_shape: Shape,
        condition_shape: Shape | None = None,
        num_classes: int | None = None,
        base: BaseDistribution | dict[str, Any] | str = "normal",
        name: str | None = None,
        family_arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["dtype"] = flow_dtype(kwargs.get("dtype"))
        super().__init__(name=name, **kwargs)
        if isinstance(layers, dict | FlowLayer):
            layers = [layers]
        self.chain = Chain(layers, name="chain")
        self.base = make_base(base)
        check_dtypes(self.compute_dtype, [*self.chain.chained, self.base])
        self._own_policy = own_policy(self.compute_dtype)
        self.event_shape = checked_shape("event_shape", event_shape)
        self.num_classes = num_classes
        self.condition_shape, inner = condition_shapes(condition_shape, num_classes)
        self.chain.build_for(self.event_shape, inner)
        self.condition_scaler = make_condition_scaler(
            inner if num_classes is None else None, self.compute_dtype
        )
        self.latent_shape = self.chain.latent_shape
        self.base.build_for(self.latent_shape)
        last = self.chain.chained[-1] if self.chain.chained else None
        self.num_values = last.num_values if isinstance(last, Dequantize) else None
        self._family_arguments = (
            json.dumps(family_arguments, default=base_argument) if family_arguments is not None else None
        )
        self._graphs = Graphs(self)
        self.built = True

    # -- what it is -------------------------------------------------------------------------------

    @property
    def discrete(self) -> bool:
        """Whether the flow models whole numbers through dequantisation."""
        return self.num_values is not None

    @property
    def data_range(self) -> tuple[float, float] | None:
        """The interval in which data must lie, or None."""
        return self.chain.data_range

    @property
    def domain(self) -> Domain | None:
        """The set in which data must lie where it is no interval with both ends, or None."""
        return self.chain.domain

    @property
    def data_dtype(self) -> str:
        """The dtype of samples: uint8 (int32 beyond 256 values) for a discrete flow, else the flow's."""
        if self.num_values is None:
            return self.compute_dtype
        return "uint8" if self.num_values <= 256 else "int32"

    @property
    def has_density(self) -> bool:
        """Whether there are log_prob and latents of data; a flow distilled to one step has neither."""
        return True

    @property
    def samples_from_latent(self) -> bool:
        """Whether `sample` is `from_latent` of what the base draws, and nothing else."""
        return True

    @property
    def samples_in_one_pass(self) -> bool:
        """Whether `sample_and_log_prob` costs less than `sample` and then `log_prob`."""
        return True

    @property
    def event_size(self) -> int:
        """Number of entries of one example."""
        return event_size(self.event_shape)

    @property
    def arguments(self) -> dict[str, Any]:
        """What a family's constructor was given, defaults included, besides shapes and name."""
        return json.loads(self._family_arguments) if self._family_arguments else {}

    # -- pure tensor functions: traced, exported, differentiated ------------------------------------

    def raw_log_prob(self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor) -> tf.Tensor:
        """Return log p(x) of tensors that were checked; for use inside graphs."""
        if self.discrete:
            z, log_det = self._noisy_inverse(x, condition, seed)
        else:
            z, log_det = self.chain.flow_inverse(x, condition)
        return self.base.log_prob(z, condition) + log_det

    def _noisy_inverse(
        self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        *inner, dequantize = self.chain.chained
        x, total = dequantize.noisy_inverse(x, seed)
        for layer in reversed(inner):
            x, log_det = layer.flow_inverse(x, condition)
            total += log_det
        return x, total

    def raw_from_latent(self, z: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        """Return f(z) of tensors that were checked, in `data_dtype`."""
        return self.as_data(self.chain.flow_forward(z, condition)[0])

    def as_data(self, x: tf.Tensor) -> tf.Tensor:
        """Return what the layers gave as data in `data_dtype`."""
        return tf.cast(requests.before_rounding(x), self.data_dtype)

    def raw_before_rounding(self, z: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        """Return f(z) as it is before a discrete flow rounds it: x gives back x + 1/2 where f is exact."""
        if not self.discrete:
            return self.chain.flow_forward(z, condition)[0]
        *inner, dequantize = self.chain.chained
        for layer in inner:
            z, _ = layer.flow_forward(z, condition)
        return z * dequantize.num_values

    def raw_to_latent(self, x: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        """Return f^-1(x) of tensors that were checked (the middle of the bin if discrete)."""
        return self.chain.flow_inverse(x, condition)[0]

    def raw_draw(
        self, n: tf.Tensor, condition: tf.Tensor | None, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Draw n latents."""
        shape = tf.concat([tf.reshape(n, [1]), tf.constant(self.latent_shape, tf.int32)], 0)
        z = self.base.sample(shape, seed, temperature, condition)
        return tf.ensure_shape(z, [None, *self.latent_shape])

    def raw_sample(
        self, n: tf.Tensor, condition: tf.Tensor | None, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Draw n samples."""
        return self.raw_from_latent(self.raw_draw(n, condition, temperature, seed), condition)

    def raw_sample_and_log_prob(
        self, n: tf.Tensor, condition: tf.Tensor | None, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw n samples with their log_prob; one pass if the flow is continuous."""
        z = self.raw_draw(n, condition, temperature, seed)
        x, log_det = self.chain.flow_forward(z, condition)
        if self.discrete:
            return self.as_data(x), self.raw_log_prob(x, condition, random.as_seed(0))
        return x, self.base.log_prob(z, condition) - log_det

    # -- what users call --------------------------------------------------------------------------

    def log_prob(self, x: Any, condition: Any = None, seed: Any = None) -> tf.Tensor:
        """Return log p(x | condition) in nats.

        Args:
            x: data, [batch, *event_shape].
            condition: [batch, *condition_shape], or one for all.
            seed: of the dequantisation noise of a discrete flow, an integer or an int32 pair; None is 0.

        Returns:
            A tensor of shape [batch]. For a discrete flow: the dequantisation bound on the
            log-probability of the whole numbers, with one draw of noise.

        Raises:
            ValueError: wrong shape, NaN or infinity, values out of range, a missing condition.
            TypeError: `x` holds no numbers.
            FloatingPointError: (eager calls, as of all methods here) the result is NaN or +infinity: `x` lies
                too far from the data. -infinity is a result, where a density is 0 or below what floats hold.
        """
        x = checks.data(self, x)
        condition = checks.condition(self, condition, tf.shape(x)[0])
        return self._graphs.log_prob(x, condition, random.as_seed(0 if seed is None else seed))

    def golden_log_prob(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Return the log_prob that a published folder keeps of a few examples, compared at each load."""
        return self.log_prob(x, condition)

    def bits_per_dim(self, x: Any, condition: Any = None, seed: Any = None) -> tf.Tensor:
        """Return -log_prob / (D ln 2), [batch]; arguments and errors as `log_prob`.

        Raises:
            ValueError: the flow is continuous, for which bits per dimension have no meaning.
        """
        if not self.discrete:
            raise ValueError(
                f"{self.name} models continuous data: its log_prob is a density, and bits per dimension "
                f"are defined for discrete data. Build the flow with num_values=, or use log_prob (nats)."
            )
        return -self.log_prob(x, condition, seed) / (self.event_size * LN2)

    def sample(self, n: Any, condition: Any = None, temperature: Any = 1.0, seed: Any = None) -> tf.Tensor:
        """Draw n samples.

        Args:
            n: number of samples, an integer of at least 0.
            condition: [n, *condition_shape], or one for all.
            temperature: spread of the base, above 0; below 1 gives likelier and less varied samples. What
                it means is the base's (`model.base`); a uniform base takes 1 alone.
            seed: an integer, an int32 pair or a Keras SeedGenerator; None draws afresh at each call, in a
                `tf.function` of your own at each run (`keras.utils.set_random_seed` makes that repeat).

        Returns:
            A tensor of shape [n, *event_shape]: whole numbers (uint8) for a discrete flow.

        Raises:
            ValueError: negative n, temperature not above 0, a missing or misshapen condition.
            TypeError: n is not an integer.
        """
        return self._graphs.sample(*self._draw_arguments(n, condition, temperature, seed))

    def sample_and_log_prob(
        self, n: Any, condition: Any = None, temperature: Any = 1.0, seed: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw n samples with their log_prob (at temperature 1); arguments and errors as `sample`.

        A continuous flow gives both from one pass; a discrete one scores its samples as `log_prob` does.
        """
        return self._graphs.sample_and_log_prob(*self._draw_arguments(n, condition, temperature, seed))

    @tf.autograph.experimental.do_not_convert
    def _draw_arguments(self, n: Any, condition: Any, temperature: Any, seed: Any) -> tuple[Any, ...]:
        n = checks.number_of_samples(n)
        temperature = checks.temperature(temperature, self.compute_dtype)
        self.base.check_temperature(temperature)
        return n, checks.condition(self, condition, n), temperature, random.as_seed(seed)

    def to_latent(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Return z = f^-1(x), [batch, *latent_shape]; for a discrete flow that of the middle of the bin.

        Arguments and errors: as `log_prob`.
        """
        x = checks.data(self, x)
        return self._graphs.to_latent(x, checks.condition(self, condition, tf.shape(x)[0]))

    def from_latent(self, z: Any, condition: Any = None) -> tf.Tensor:
        """Return x = f(z), [batch, *event_shape]; for a discrete flow whole numbers (uint8).

        Args:
            z: latents, [batch, *latent_shape].
            condition: [batch, *condition_shape], or one for all.

        Raises:
            ValueError: wrong shape, NaN or infinity, a missing condition.
        """
        z = checks.latent(self, z)
        return self._graphs.from_latent(z, checks.condition(self, condition, tf.shape(z)[0]))

    def before_rounding(self, z: Any, condition: Any = None) -> tf.Tensor:
        """Return f(z) as it is before a discrete flow rounds it down; else as `from_latent`.

        The latent of whole numbers x gives back x + 1/2, the middle of the bin, as far as float32 goes: the
        difference is the flow's round-trip error, which rounding hides.
        """
        z = checks.latent(self, z)
        return self._graphs.before_rounding(z, checks.condition(self, condition, tf.shape(z)[0]))

    def no_result(self, key: Hashable) -> str:
        """Say why a function has no finite result, for the FloatingPointError of its eager calls.

        Args:
            key: the function: its name, or what begins with it.
        """
        name = key if isinstance(key, str) else cast(tuple, key)[0]
        return (
            f"{self.name}: {name} is not finite. What it was given lies too far from the data for "
            f"{self.compute_dtype}, or the weights are not finite."
        )

    # -- TFP's views --------------------------------------------------------------------------------

    def distribution(self, condition: Any = None) -> FlowDistribution:
        """Return the flow as a `tfp.distributions.Distribution`.

        Args:
            condition: [*batch_shape, *condition_shape]; its leading dimensions become the batch shape.
        """
        checks.leading(self, condition)  # raises
        return FlowDistribution(self, condition, name=self.name)

    def bijector(self, condition: Any = None) -> FlowBijector:
        """Return the flow's map as a `tfp.bijectors.Bijector` (forward: latent to data).

        Args:
            condition: as `distribution`.
        """
        return FlowBijector(self.chain, checks.leading(self, condition), scaler=self.condition_scaler)

    # -- Keras --------------------------------------------------------------------------------------

    def call(self, inputs: Any, condition: Any = None) -> tf.Tensor:
        """Return `log_prob`; `inputs` may be a pair (x, condition)."""
        if isinstance(inputs, tuple | list):
            inputs, condition = inputs
        return self.log_prob(inputs, condition)

    def export(self, filepath: Any, *, weights_dtype: str = "float32", overwrite: bool = False) -> None:
        """Write a SavedModel that TensorFlow Serving takes.

        Its signatures are `log_prob` (also `serving_default`), `anomaly_score` (-log_prob), `sample`,
        `sample_and_log_prob`, `to_latent` and `from_latent`, with named inputs and outputs, described in
        assets.extra/signatures.json, and any batch size; a flow without a density has `sample` (by default)
        and `from_latent`. The graph checks its inputs: a wrong request ends in an InvalidArgument error and
        never in NaN. `flowzoo.export` adds what a server wants beside it.

        Args:
            filepath: the folder to write, `out/1` say; it appears whole or not at all.
            weights_dtype: "float32", or "float16" or "bfloat16" to store matrices and kernels in half, or
                "int8" to store the large ones of them in a quarter (see `flowzoo.quantization`).
            overwrite: replace a folder that is there.

        Raises:
            FileExistsError: `filepath` exists and `overwrite` is False.
            OSError: it cannot be written.
            ValueError: an unknown `weights_dtype`.
        """
        write_saved_model(self, filepath, weights_dtype=weights_dtype, overwrite=overwrite)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal model."""
        config = {
            "event_shape": self.event_shape,
            "condition_shape": None if self.num_classes else self.condition_shape,
            "num_classes": self.num_classes,
            "name": self.name,
            "dtype": self._own_policy,
        }
        if self._family_arguments is not None:
            return {**config, **self.arguments}
        serialize = keras.saving.serialize_keras_object
        layers = [serialize(layer) for layer in self.chain.chained]
        return {**config, "layers": layers, "base": serialize(self.base)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Flow:
        """Make a model from its config; its weights are then loaded or set."""
        with as_dtype(config.get("dtype")) as dtype:
            return cls(**{**config, "dtype": dtype})
