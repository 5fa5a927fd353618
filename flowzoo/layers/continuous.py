"""Continuous flows: the latent moves to the data along an ordinary differential equation."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.layers.base import FlowLayer, LayerCase, Shape, constant_log_det, event_size
from flowzoo.networks.velocity import ConcatSquash, ConvConcatSquash, TimeMLP, Velocity, as_velocity
from flowzoo.ode import ADAPTIVE, AdaptiveSolver, make_solver, solve_with_adjoint
from flowzoo.ode.adjoint import solve_augmented
from flowzoo.ode.divergence import NOISES, Divergence, exact_divergence, example_noise, hutchinson_divergence
from flowzoo.ode.scope import Solving, current

TRACES = ("auto", "exact", "hutchinson")
GRADIENTS = ("auto", "backprop", "adjoint")
# Up to this many entries the exact trace is the default.
EXACT_UP_TO = 16
# Noise of Hutchinson's estimator must not repeat that of dequantisation, which has the same seed.
_STREAM = 0x0DE


@keras.saving.register_keras_serializable("flowzoo")
class ContinuousFlow(FlowLayer):
    """Move along dx/dt = f(x, t, condition) from the latent at t = 0 to the data at t = T.

    log |det dx/dz| = integral from 0 to T of tr(df/dx) dt, the instantaneous change of variables; the
    inverse integrates from T to 0 and has the negative. Both directions solve one equation for value and
    log-determinant together, and cost the same: NFE evaluations of f (`nfe`), each with the trace:

    * "exact": D forward and D backward passes of f, D the size of an event; the default up to 16;
    * "hutchinson": one of each, for an unbiased estimate e df/dx e with noise e that stays the same along
      the path. The noise is a function of the example and a seed, so that an estimate repeats: within a
      `flowzoo.models.FFJORD` of the user's own example, else of what the layer gets, with seed 0 (so that
      the two directions then have different noise, and log-determinants that agree in the mean alone).

    Solvers: "euler", "midpoint", "heun" and "rk4" take `steps` equal steps. "dopri5" chooses its own for
    each example, within `rtol` and `atol`; it has adjoint gradients alone. An example for which it needs
    more than `max_steps` gets NaN, and a FloatingPointError where the call is eager.

    Gradients: "backprop" goes through the solver, exact for what was computed, with memory that grows with
    the steps; "adjoint" solves a second equation backwards (`flowzoo.ode.solve_with_adjoint`) in memory
    that does not. "auto" is backprop for fixed steps and adjoint for "dopri5".

    Accuracy: a discretised flow is not the inverse of its discretised inverse. With "rk4" the solution
    (value, log-determinant) errs as steps^-4 and the round trip as steps^-5. Measured in float32 on the
    trained entry `test_ffjord` (200 moons, against float64 at a tolerance of 1e-10), the largest errors of
    round trip and log_prob: with the default 16 steps 3e-6 and 1e-4, with 6 steps 3e-4 and 7e-3, with
    "dopri5" at its default tolerance 2e-4 and 2e-4. A velocity that turns more sharply needs more steps:
    solve with "dopri5" to see whether a result moves. Weights do not depend on the solver, which may be
    chosen anew when a flow is built.

    Args:
        velocity: f, a `flowzoo.networks.velocity.Velocity`; a `ConcatSquash`, or for images a
            `ConvConcatSquash`, when None.
        solver: "rk4", "euler", "midpoint", "heun" or "dopri5".
        steps: of the fixed-step solvers.
        rtol: relative tolerance of "dopri5".
        atol: absolute tolerance of "dopri5".
        max_steps: largest number of steps that "dopri5" attempts.
        end_time: T.
        trace: "exact", "hutchinson" or "auto": exact for events of up to 16 entries.
        noise: of Hutchinson's estimator, "rademacher" or "gaussian".
        gradient: "backprop", "adjoint" or "auto".
        **kwargs: of `FlowLayer`.

    Raises:
        ValueError: an unknown name, a number out of range, or backprop with "dopri5".
        TypeError: `velocity` is not a Velocity.
        FloatingPointError: (eager calls) "dopri5" did not arrive within `max_steps`.

    References:
        Chen et al., Neural Ordinary Differential Equations (2018), https://arxiv.org/abs/1806.07366,
        equation 8; Grathwohl et al., FFJORD (2019), https://arxiv.org/abs/1810.01367, equations 2 to 4
        and 8.
    """

    def __init__(
        self,
        velocity: Velocity | None = None,
        solver: str = "rk4",
        steps: int = 16,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        max_steps: int = 1000,
        end_time: float = 1.0,
        trace: str = "auto",
        noise: str = "rademacher",
        gradient: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.velocity = as_velocity(velocity)
        for name, value, known in (
            ("trace", trace, TRACES),
            ("noise", noise, NOISES),
            ("gradient", gradient, GRADIENTS),
        ):
            if value not in known:
                raise ValueError(f"{name} takes one of {', '.join(known)}. Received: {value!r}")
        if gradient == "backprop" and solver == ADAPTIVE:
            raise ValueError(
                f"gradient='backprop' is for fixed steps: {ADAPTIVE!r} has adjoint gradients. "
                f"Received: solver={solver!r}, gradient={gradient!r}"
            )
        if isinstance(end_time, bool) or not isinstance(end_time, int | float) or not 0 < end_time < np.inf:
            raise ValueError(f"end_time takes a positive number. Received: {end_time!r}")
        self.arguments = {
            "solver": solver,
            "steps": steps,
            "rtol": rtol,
            "atol": atol,
            "max_steps": max_steps,
            "end_time": float(end_time),
            "trace": trace,
            "noise": noise,
            "gradient": gradient,
        }
        self.end_time = float(end_time)
        self.solver = make_solver(solver, steps, rtol, atol, max_steps)
        self.trace, self.noise = trace, noise
        self.adjoint = gradient == "adjoint" or (gradient == "auto" and solver == ADAPTIVE)

    @classmethod
    def cases(cls) -> list[LayerCase]:
        """Return fixed and adaptive steps, both gradients, vectors and images, with and without condition."""
        tight = {"solver": ADAPTIVE, "rtol": 3e-11, "atol": 3e-11, "end_time": 0.1}
        short = {"end_time": 0.06, "steps": 12}
        return [
            LayerCase({"velocity": ConcatSquash((4,)), **short}, (1,)),
            LayerCase(
                {"velocity": TimeMLP((6,)), **short, "steps": 16, "gradient": "adjoint"},
                (3,),
                condition_shape=(2,),
            ),
            LayerCase({"velocity": ConcatSquash((6,)), **tight}, (3,), condition_shape=(2,)),
            LayerCase({"velocity": ConvConcatSquash((3,)), **short}, (2, 2, 1), condition_shape=(2,)),
        ]

    def _build(self, event_shape: Shape, condition_shape: Shape | None) -> None:
        if self.velocity is None:
            self.velocity = ConvConcatSquash() if len(event_shape) == 3 else ConcatSquash()
        self.velocity.build_for(event_shape, event_shape, 1, condition_shape, self.dtype_policy)
        if self.trace == "auto":
            self.exact = event_size(event_shape) <= EXACT_UP_TO
        else:
            self.exact = self.trace == "exact"

    # -- the equation -----------------------------------------------------------------------------

    def _divergence(
        self, field: Any, x: tf.Tensor, time: tf.Tensor, condition: Any, noise: Any
    ) -> Divergence:
        if noise is None:
            return exact_divergence(field, x, time, condition)
        return hutchinson_divergence(field, x, time, condition, noise)

    def _dynamics(self, orders: Solving, noise: Any, conditional: bool) -> tuple[Any, int]:
        """Return the function (time, x, rest) to dx/dt and rates, and the number of rates.

        `rest` holds the condition, if any, and the weights, so that it is a function of its arguments
        alone: tensors that it captured would get no gradient from the adjoint method.
        """
        weights = self.velocity.trainable_variables
        # Read now: the adjoint method runs the dynamics again when the orders are no longer in force.
        field = self.velocity.velocity if orders.guidance is None else self.velocity.guided(orders.guidance)
        block = self.velocity.mixed if orders.mixed else contextlib.nullcontext

        def dynamics(time: tf.Tensor, x: tf.Tensor, rest: Any) -> tuple[tf.Tensor, tf.Tensor]:
            condition = rest[0] if conditional else None
            values = rest[1:] if conditional else rest
            with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))), block():
                if not orders.log_det:
                    return field(x, time, condition), tf.zeros_like(
                        tf.reshape(x, [-1, event_size(self.event_shape)])[:, :0]
                    )
                found = self._divergence(field, x, time, condition, noise)
            rates = [found.trace]
            if orders.penalties:
                axes = list(range(1, x.shape.rank))
                rates += [tf.reduce_sum(tf.square(found.velocity), axes), found.frobenius]
            return found.velocity, tf.stack(rates, axis=-1)

        return dynamics, 0 if not orders.log_det else 3 if orders.penalties else 1

    def _noise(self, x: tf.Tensor, orders: Solving) -> tf.Tensor | None:
        index, orders.index = orders.index, orders.index + 1
        if self.exact or not orders.log_det:
            return None
        seed = random.fold_in(random.fold_in(orders.seed, _STREAM), index)
        example = x if orders.example is None else orders.example
        return example_noise(self.noise, example, seed, self.event_shape, x.dtype)

    def _move(
        self, value: tf.Tensor, condition: tf.Tensor | None, start: float, end: float
    ) -> tuple[tf.Tensor, tf.Tensor]:
        orders = current()
        noise = self._noise(value, orders)
        dynamics, rates = self._dynamics(orders, noise, condition is not None)
        weights = [tf.convert_to_tensor(weight) for weight in self.velocity.trainable_variables]
        rest = [*([] if condition is None else [condition]), *weights]
        solver = orders.solver or self.solver
        if (self.adjoint or isinstance(solver, AdaptiveSolver)) and not orders.count:
            moved, integrals = solve_with_adjoint(dynamics, solver, value, rest, rates, start, end)
        else:
            moved, integrals, nfe, _ = solve_augmented(dynamics, solver, value, rest, rates, start, end)
            orders.nfe.append(nfe)
        self._check_arrival(moved)
        if orders.penalties and orders.log_det:
            sign = 1.0 if end > start else -1.0
            orders.kinetic.append(sign * integrals[:, 1])
            orders.jacobian.append(sign * integrals[:, 2])
        return moved, integrals[:, 0] if orders.log_det else constant_log_det(0.0, value)

    def _check_arrival(self, moved: tf.Tensor) -> None:
        """Raise where an eager call met the end of its steps; inside a graph NaN says so."""
        if not tf.executing_eagerly() or tf.is_symbolic_tensor(moved):
            return
        axes = tuple(range(1, moved.shape.rank))
        bad = np.flatnonzero(np.isnan(np.asarray(moved)).any(axis=axes))
        if bad.size:
            raise FloatingPointError(
                f"{self.name}: {bad.size} of {len(moved)} examples have no finite path (the first: "
                f"{bad[0]}). The velocity is stiff, explodes or is not finite; a looser tolerance or more "
                f"steps may do. Received: {self.arguments}"
            )

    def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._move(z, condition, 0.0, self.end_time)

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return self._move(x, condition, self.end_time, 0.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        velocity = keras.saving.serialize_keras_object(self.velocity)
        return {**super().get_config(), "velocity": velocity, **self.arguments}
