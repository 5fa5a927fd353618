"""TFP's view of our layers: a bijector and a distribution that hold nothing of their own."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from flowzoo import random

tfb = tfp.bijectors
tfd = tfp.distributions


class _NoCache:
    """Stands in for TFP's bijector cache, which returns stale values after a weight update.

    It also loses gradients: a value found in the cache was computed outside the current tape.
    """

    def __init__(self, bijector: tfb.Bijector) -> None:
        self._bijector = bijector

    def forward(self, x: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._bijector._forward(x, **kwargs)

    def inverse(self, y: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._bijector._inverse(y, **kwargs)

    def forward_attributes(self, x: tf.Tensor, **kwargs: Any) -> dict[str, tf.Tensor]:
        return {}

    inverse_attributes = forward_attributes


def _flatten_batch(x: tf.Tensor, event_ndims: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Merge all leading dimensions of `x` into one; return it and what they were."""
    x = tf.convert_to_tensor(x)
    if x.shape.rank is None:
        raise ValueError("A flow takes tensors of known rank: tf.ensure_shape(x, [None, ...]) says it.")
    shape = tf.shape(x)
    split = x.shape.rank - event_ndims
    return tf.reshape(x, tf.concat([[-1], shape[split:]], 0)), shape[:split]


def _spread(condition: tf.Tensor | None, condition_ndims: int, batch: tf.Tensor) -> tf.Tensor | None:
    """Broadcast a condition of batch shape [] or [..., b] to the batch shape, flattened."""
    if condition is None:
        return None
    shape = tf.shape(condition)
    event = shape[condition.shape.rank - condition_ndims :]
    spread = tf.broadcast_to(condition, tf.concat([batch, event], 0))
    return tf.reshape(spread, tf.concat([[-1], event], 0))


def _variables(owner: Any) -> tuple[Any, ...]:
    """Return the variables of a flow or layer as those of TensorFlow.

    An attribute that holds them is where a `tf.Module` looks: `trainable_variables` of a view, and of what
    TFP builds from it, are then those of the flow, and not none.
    """
    values = [variable.value for variable in owner.variables]
    return tuple(value for value in values if not isinstance(value, tf.Tensor))  # as in a StatelessScope


class FlowBijector(tfb.Bijector):
    """A `tfb.Bijector` over anything with `flow_forward` and `flow_inverse`; forward is latent to data.

    Any leading batch dimensions are taken. The log-determinants are those of the whole event. Value
    and log-determinant are two calls in TFP's interface, so asking for both costs two passes; our
    own layers and models return them from one.
    """

    def __init__(
        self, layer: Any, condition: Any = None, name: str = "flow_bijector", scaler: Any = None
    ) -> None:
        """Wrap a built layer.

        Args:
            layer: an object with `event_shape`, `latent_shape`, `condition_shape`, `flow_forward`
                and `flow_inverse`; its weights stay its own.
            condition: a tensor of shape [..., *condition_shape], broadcast against the batch.
            name: of the bijector.
            scaler: a built layer whose inverse makes of a condition what `layer` takes, at each call.
        """
        parameters = dict(locals())
        self._layer, self._scaler = layer, scaler
        self._of_layer = _variables(layer)
        self._condition = None if condition is None else tf.convert_to_tensor(condition)
        super().__init__(
            forward_min_event_ndims=len(layer.latent_shape),
            inverse_min_event_ndims=len(layer.event_shape),
            dtype=tf.as_dtype(layer.compute_dtype),
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> dict[str, Any]:
        def ndims(bijector: FlowBijector, x_event_ndims: int) -> int:
            more = x_event_ndims - len(bijector._layer.latent_shape)
            return len(bijector._layer.condition_shape or ()) + more

        return {"condition": tfp.util.ParameterProperties(event_ndims=ndims, event_ndims_tensor=ndims)}

    @property
    def _cache(self) -> _NoCache:  # pyright: ignore
        return _NoCache(self)

    def _run(self, method: Any, value: tf.Tensor, shape: tuple[int, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        flat, batch = _flatten_batch(value, len(shape))
        ndims = len(self._layer.condition_shape or ())
        condition = _spread(self._condition, ndims, batch)
        if self._scaler is not None:
            condition = self._scaler.flow_inverse(condition)[0]
        result, log_det = method(flat, condition)
        result = tf.reshape(result, tf.concat([batch, tf.shape(result)[1:]], 0))
        return result, tf.reshape(log_det, batch)

    def _forward(self, x: tf.Tensor) -> tf.Tensor:
        return self._run(self._layer.flow_forward, x, self._layer.latent_shape)[0]

    def _forward_log_det_jacobian(self, x: tf.Tensor) -> tf.Tensor:
        return self._run(self._layer.flow_forward, x, self._layer.latent_shape)[1]

    def _inverse(self, y: tf.Tensor) -> tf.Tensor:
        return self._run(self._layer.flow_inverse, y, self._layer.event_shape)[0]

    def _inverse_log_det_jacobian(self, y: tf.Tensor) -> tf.Tensor:
        return self._run(self._layer.flow_inverse, y, self._layer.event_shape)[1]

    def _exchange(self, shape: Any, taken: tuple[int, ...], given: tuple[int, ...]) -> tf.TensorShape:
        shape = tf.TensorShape(shape)
        return shape[: shape.rank - len(taken)].concatenate(given)

    def _forward_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return self._exchange(shape, self._layer.latent_shape, self._layer.event_shape)

    def _inverse_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return self._exchange(shape, self._layer.event_shape, self._layer.latent_shape)

    def _forward_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        kept = tf.shape(shape)[0] - len(self._layer.latent_shape)
        return tf.concat([shape[:kept], tf.constant(self._layer.event_shape, tf.int32)], 0)

    def _inverse_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        kept = tf.shape(shape)[0] - len(self._layer.event_shape)
        return tf.concat([shape[:kept], tf.constant(self._layer.latent_shape, tf.int32)], 0)


class FlowDistribution(tfd.Distribution):
    """A `tfd.Distribution` over a `Flow`: one pass for log_prob, one for a sample with its log_prob."""

    def __init__(self, flow: Any, condition: Any = None, name: str = "flow_distribution") -> None:
        """Wrap a flow.

        Args:
            flow: a `flowzoo.Flow`; its weights stay its own.
            condition: a tensor of shape [*batch_shape, *condition_shape]; its leading dimensions are
                the distribution's batch shape.
            name: of the distribution.
        """
        parameters = dict(locals())
        self._flow = flow
        self._of_flow = _variables(flow)
        self._condition = None if condition is None else tf.convert_to_tensor(condition)
        dtype = tf.as_dtype(flow.compute_dtype)
        full = tfd.FULLY_REPARAMETERIZED
        smooth = flow.base.reparameterized and not flow.discrete
        super().__init__(
            dtype=dtype,
            reparameterization_type=full if smooth else tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> dict[str, Any]:
        def ndims(distribution: FlowDistribution) -> int:
            return len(distribution._flow.condition_shape or ())

        return {"condition": tfp.util.ParameterProperties(event_ndims=ndims, event_ndims_tensor=ndims)}

    def _batch_shape(self) -> tf.TensorShape:
        if self._condition is None:
            return tf.TensorShape([])
        return self._condition.shape[: self._condition.shape.rank - len(self._flow.condition_shape)]

    def _batch_shape_tensor(self) -> tf.Tensor:
        if self._condition is None:
            return tf.zeros([0], tf.int32)
        ndims = self._condition.shape.rank - len(self._flow.condition_shape)
        return tf.shape(self._condition)[:ndims]

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape(self._flow.event_shape)

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant(self._flow.event_shape, tf.int32)

    def _default_event_space_bijector(self) -> tfb.Bijector | None:
        """Return what maps all of R^n to where data lie, for samplers: of bounded data the flow's own map."""
        flow = self._flow
        if flow.discrete:
            return None
        unbounded = flow.domain is None and flow.data_range is None
        # The latents of a uniform base are not all of R^n either.
        return tfb.Identity() if unbounded or flow.base.kind == "uniform" else flow.bijector(self._condition)

    def _spread(self, batch: tf.Tensor) -> tf.Tensor | None:
        return _spread(self._condition, len(self._flow.condition_shape or ()), batch)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        flat, batch = _flatten_batch(value, len(self._flow.event_shape))
        full = tf.broadcast_dynamic_shape(batch, self._batch_shape_tensor())
        event = tf.shape(flat)[1:]
        value = tf.broadcast_to(tf.reshape(flat, tf.concat([batch, event], 0)), tf.concat([full, event], 0))
        flat = tf.reshape(value, tf.concat([[-1], event], 0))
        return tf.reshape(self._flow.log_prob(flat, self._spread(full)), full)

    def _draw(self, sample_shape: tf.Tensor, seed: Any, with_log_prob: bool) -> Any:
        batch = tf.concat([sample_shape, self._batch_shape_tensor()], 0)
        # TFP gives integers to a stateful generator; here the same seed repeats, as in Flow.sample.
        pair = random.as_seed(seed)
        draw = self._flow.sample_and_log_prob if with_log_prob else self._flow.sample
        out = draw(tf.reduce_prod(batch), condition=self._spread(batch), seed=pair)
        x, log_prob = out if with_log_prob else (out, None)
        x = tf.cast(tf.reshape(x, tf.concat([batch, self._event_shape_tensor()], 0)), self.dtype)
        return (x, tf.reshape(log_prob, batch)) if with_log_prob else x

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        return self._draw(tf.reshape(n, [1]), seed, with_log_prob=False)

    def _sample_and_log_prob(self, sample_shape: Any, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        shape = tf.reshape(tf.cast(sample_shape, tf.int32), [-1])
        return self._draw(shape, seed, with_log_prob=True)
