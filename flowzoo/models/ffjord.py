"""FFJORD: continuous flows trained by maximum likelihood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from flowzoo.layers.actnorm import ActNorm
from flowzoo.layers.base import FlowLayer, Shape
from flowzoo.layers.chain import Chain
from flowzoo.layers.continuous import ContinuousFlow
from flowzoo.layers.multiscale import Reshape, Split, Squeeze
from flowzoo.models.continuous import ContinuousModel, traces_exactly
from flowzoo.models.preprocessing import preprocessing_layers
from flowzoo.networks.velocity import ConcatSquash, ConvConcatSquash, TimeMLP, Velocity
from flowzoo.ode import ADAPTIVE

NETWORKS = ("concat_squash", "mlp")


@keras.saving.register_keras_serializable("flowzoo")
class FFJORD(ContinuousModel):
    """Continuous flows: dx/dt = f(x, t, condition) from the latent to the data, log p by the trace integral.

    log p(x) = log p_base(z) - integral of tr(df/dx) dt along the path from z to x. `num_flows` such
    flows follow each other, each with an act-norm. Images may have levels: flows, a squeeze, flows, and
    a split that lets half the channels go. Both directions cost the same, NFE evaluations of f (`nfe`):
    a sample without its density needs f alone, a density also the trace.

    With the exact trace (vectors of up to 16 entries by default) log_prob is the density up to the error
    of the solver. With Hutchinson's estimator it is an unbiased estimate of it whose noise is a function
    of the user's own example and `seed`: it repeats, and does not depend on the batch; the mean over
    seeds comes closer. `sample_and_log_prob` then scores its samples as `log_prob` does, in a second
    solution. Training draws new noise at each step.

    With solver="dopri5" an example that needs more than `max_steps` steps gets NaN inside graphs and in
    exports, and a FloatingPointError from the methods called eagerly. Accuracy and gradients of the
    solvers: `flowzoo.layers.ContinuousFlow`. Weights do not depend on the solver.

    Args:
        event_shape: shape of one example; (height, width, channels) for images.
        condition_shape: shape of one condition, or None.
        num_classes: number of classes, where the condition is a class label.
        num_flows: continuous flows in a row: of a vector, or of each place on a level of an image.
        hidden_units: hidden layers of the velocity of a vector.
        network: velocity of a vector, "mlp" or "concat_squash", which learns more slowly at the same size.
        num_levels: levels of an image.
        filters: channels of the hidden layers of the velocity of an image.
        activation: of the hidden layers, smooth; with "tanh" it learns far more slowly than with "silu".
        solver: "rk4", "euler", "midpoint", "heun" or "dopri5".
        steps: of the fixed-step solvers.
        rtol: relative tolerance of "dopri5".
        atol: absolute tolerance of "dopri5".
        max_steps: largest number of steps that "dopri5" attempts.
        end_time: length of the time of each flow.
        trace: "exact", "hutchinson" or "auto": exact for vectors of up to 16 entries.
        noise: of Hutchinson's estimator, "rademacher" or "gaussian".
        gradient: "backprop", "adjoint" or "auto" (adjoint for "dopri5").
        kinetic: weight in the training loss of the integral of |f|^2, in nats (RNODE).
        jacobian: weight in the training loss of the integral of the squared Frobenius norm of df/dx.
        base: as `Flow`: "normal", {"name": "mixture", "components": 5} ...
        preprocessing: see `flowzoo.models.preprocessing`.
        num_values: number of values of discrete data; None if continuous; "auto": 256 for images.
        alpha: of the logit.
        **kwargs: of `Flow` (name, dtype).

    Raises:
        ValueError: an unknown name, or a number out of range.
        FloatingPointError: (methods called eagerly) "dopri5" did not arrive within `max_steps`.

    References:
        Grathwohl et al., FFJORD (2019), https://arxiv.org/abs/1810.01367, equations 4, 7 and 8, algorithm
        1; Finlay et al., How to Train Your Neural ODE (2020), https://arxiv.org/abs/2002.02798, on the
        two penalties.
    """

    family: ClassVar[str | None] = "ffjord"
    small: ClassVar[dict[str, Any]] = {"hidden_units": (16,), "filters": (16,), "steps": 4}

    def __init__(
        self,
        event_shape: Shape,
        condition_shape: Shape | None = None,
        num_classes: int | None = None,
        num_flows: int = 1,
        hidden_units: Sequence[int] = (64, 64, 64),
        network: str = "mlp",
        num_levels: int = 1,
        filters: Sequence[int] = (64, 64, 64),
        activation: str = "silu",
        solver: str = "rk4",
        steps: int = 16,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        max_steps: int = 1000,
        end_time: float = 1.0,
        trace: str = "auto",
        noise: str = "rademacher",
        gradient: str = "auto",
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        base: Any = "normal",
        preprocessing: Any = "auto",
        num_values: int | str | None = "auto",
        alpha: float = 0.05,
        **kwargs: Any,
    ) -> None:
        solving_arguments: dict[str, Any] = {
            "solver": solver,
            "steps": steps,
            "rtol": rtol,
            "atol": atol,
            "max_steps": max_steps,
            "end_time": end_time,
            "noise": noise,
            "gradient": gradient,
        }
        arguments = {
            "num_flows": num_flows,
            "hidden_units": list(hidden_units),
            "network": network,
            "num_levels": num_levels,
            "filters": list(filters),
            "activation": activation,
            **solving_arguments,
            "trace": trace,
            "kinetic": kinetic,
            "jacobian": jacobian,
            "base": base,
            "preprocessing": preprocessing,
            "num_values": num_values,
            "alpha": alpha,
        }
        _check(network, kinetic, jacobian)
        image = len(event_shape) == 3
        self.exact_trace = traces_exactly(trace, event_shape)
        self.adaptive = solver == ADAPTIVE
        self.penalty_weights = (float(kinetic), float(jacobian))

        def velocity() -> Velocity:
            if image:
                return ConvConcatSquash(filters, activation)
            return (TimeMLP if network == "mlp" else ConcatSquash)(hidden_units, activation)

        def flows() -> list[FlowLayer]:
            found: list[FlowLayer] = []
            for _ in range(num_flows):
                trace = "exact" if self.exact_trace else "hutchinson"
                found += [ContinuousFlow(velocity(), trace=trace, **solving_arguments), ActNorm()]
            return found

        layers: list[FlowLayer] = [_level(tuple(event_shape), num_levels, flows)] if image else flows()
        layers += [] if len(event_shape) in (1, 3) else [Reshape()]
        layers += preprocessing_layers(preprocessing, event_shape, num_values, alpha)
        super().__init__(
            layers, event_shape, condition_shape, num_classes, base=base, family_arguments=arguments, **kwargs
        )

    def training_losses(
        self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor, *others: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return -log p(x) of each example with the two penalties, and without."""
        if not any(self.penalty_weights):
            return super().training_losses(x, condition, seed)
        log_prob, orders = self._scored(x, condition, seed, penalties=True)
        kinetic, jacobian = self.penalty_weights
        penalty = kinetic * tf.add_n(orders.kinetic) + jacobian * tf.add_n(orders.jacobian)
        return penalty - log_prob, -log_prob

    @property
    def _arrives_if(self) -> str:
        return "Raise max_steps, loosen rtol and atol, or train with kinetic= and jacobian= above 0."


def _check(network: str, kinetic: float, jacobian: float) -> None:
    if network not in NETWORKS:
        raise ValueError(f"network takes one of {', '.join(NETWORKS)}. Received: {network!r}")
    for name, value in (("kinetic", kinetic), ("jacobian", jacobian)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < np.inf:
            raise ValueError(f"{name} takes a number of at least 0. Received: {value!r}")


def _level(shape: Shape, levels: int, flows: Callable[[], list[FlowLayer]]) -> Chain:
    """Return the layers of this level and all inside it, for images of `shape`."""
    height, width, channels = shape
    if levels <= 1 or height % 2 or width % 2:
        return Chain(flows())
    inner = _level((height // 2, width // 2, 2 * channels), levels - 1, flows)
    return Chain([Split(inner, "none"), *flows(), Squeeze(), *flows()])
