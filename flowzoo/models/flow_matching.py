"""Flow matching: continuous flows trained by regression on the velocity of given paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from flowzoo import random
from flowzoo.layers.base import FlowLayer, Shape
from flowzoo.layers.continuous import ContinuousFlow
from flowzoo.layers.multiscale import Reshape
from flowzoo.models.continuous import traces_exactly
from flowzoo.models.couplings import couple
from flowzoo.models.flow_matching_arguments import (
    check_base,
    check_coupling,
    make_velocity,
)
from flowzoo.models.guidance import checked_dropout, checked_guidance
from flowzoo.models.one_step import Distillable, checked_one_step
from flowzoo.models.preprocessing import preprocessing_layers, resolve_num_values
from flowzoo.models.probability_paths import make_path
from flowzoo.models.replicas import Part
from flowzoo.networks.guidance import Guided
from flowzoo.networks.velocity import Velocity
from flowzoo.ode import ADAPTIVE
from flowzoo.ode.divergence import example_noise

# Streams of an example's noise: the latent, the time, whether the condition is dropped, the pair drawn.
# Dequantisation has the seed itself, Hutchinson's estimator 0x0DE.
_LATENT, _TIME, _DROP, _PAIR = 0xF10, 0xF11, 0xF12, 0xF13


@keras.saving.register_keras_serializable("flowzoo")
class FlowMatching(Distillable):
    """Flow matching: dx/dt = f(x, t, condition) from noise at t = 0 to data at t = 1, learned by regression.

    Training draws a noise z for each example x (after preprocessing) and a time t, goes to the place x_t on
    a path from z to x, and regresses f on the velocity u_t there:

        loss = mean over examples, t and entries of (f(x_t, t, condition) - u_t)^2.

    No equation is solved: a step costs one evaluation of f. The minimiser moves the normal distribution to
    that of the data, with log p(x) = log N(z; 0, I) - integral of tr(df/dx) dt as for `FFJORD`; its
    log_prob, samples, solvers, NFE and errors are those described there.

    `loss` and `val_loss` are this regression loss, not nats: it has no unit, it never reaches 0 (paths
    cross), and its noise is large. Nats come from `model.log_prob`. The noise, the time and the pairs are
    functions of each example and the seed: new at each step of training, the same at each evaluation.
    In training equal examples of a batch get noise of their own. With a minibatch coupling the pairs also
    depend on the batch (examples of weight zero included): under several replicas each gathers all of it.

    Paths ("ot", "vp", "rectified"): `flowzoo.models.probability_paths`. With "ot" and "vp" the model's
    density at t = 1 is that of the data blurred by `sigma_min` standard deviations.

    Couplings (`flowzoo.models.couplings`): "exact" and "sinkhorn" give the noises of a batch to its
    examples by optimal transport, for straighter paths. Noise must not move between conditions, or the model
    samples another conditional distribution than it learned: with class labels the transport is one within
    each class of the batch, and with any other condition a coupling is refused. "exact" takes SciPy's
    assignment on the host (2 ms at a batch of 256, 12 ms at 512) and is not compiled by XLA.

    Guidance: with `condition_dropout` the network also learns to go without its condition (all zeros, with
    an indicator unless it is a class label: `flowzoo.networks.Guided`), and `sample` can follow
    (1 + w) f(x, t, c) - w f(x, t, none). log_prob, to_latent, from_latent, bijector and distribution are
    always those of the conditional model without guidance, also that log_prob which
    `sample_and_log_prob` gives for guided samples: what is sampled with guidance has no density here.

    Few steps: straighten the paths by `flowzoo.models.rectify.reflow`, then distil them into one Euler step
    (`distill`). What is distilled has `sample` and `from_latent` alone (`flowzoo.models.one_step`).

    Args:
        event_shape: shape of one example; (height, width, channels) for images.
        condition_shape: shape of one condition, or None.
        num_classes: number of classes, where the condition is a class label.
        path: "ot" (straight, at constant speed), "vp" (variance-preserving diffusion) or "rectified".
        sigma_min: standard deviation of the noise left at t = 1, on the scale of the preprocessed data.
        coupling: "independent", "exact" or "sinkhorn".
        entropy: of "sinkhorn", relative to the mean cost.
        condition_dropout: probability with which training drops an example's condition.
        guidance: w, the weight of classifier-free guidance in `sample`, at least -1; 0 for none.
        network: velocity of a vector, "mlp" or "concat_squash".
        image_network: velocity of an image, "unet" or "conv".
        hidden_units: hidden layers of the velocity of a vector.
        filters: channels of each level of "unet", or of each hidden layer of "conv".
        blocks: residual blocks on a level of "unet".
        attention: whether the lowest level of "unet" has self-attention.
        activation: of the hidden layers, smooth.
        solver: "rk4", "euler", "midpoint", "heun" or "dopri5".
        steps: of the fixed-step solvers.
        rtol: relative tolerance of "dopri5".
        atol: absolute tolerance of "dopri5".
        max_steps: largest number of steps that "dopri5" attempts.
        trace: "exact", "hutchinson" or "auto": exact for vectors of up to 16 entries.
        noise: of Hutchinson's estimator, "rademacher" or "gaussian".
        gradient: of log_prob, "backprop", "adjoint" or "auto" (adjoint for "dopri5").
        one_step: whether the model is one Euler step, learned from pairs by `distill`, without a density. It
            asks for solver="euler" and steps=1.
        preprocessing: see `flowzoo.models.preprocessing`; "auto" is "symmetric" for discrete data, else
            "standardize". The regression weighs all places alike, and the logit's long tails at black and
            white would take most of it; on [-1, 1] the spread of images is about that of the noise.
        num_values: number of values of discrete data; None if continuous; "auto": 256 for images.
        alpha: of the logit, with preprocessing="logit".
        **kwargs: of `Flow` (name, dtype).

    Raises:
        ValueError: an unknown name, a number out of range, a base other than the standard normal, a coupling
            with a condition that is no class label, guidance or dropout without a condition, guidance
            without dropout, `one_step` with another solver, or one asked for a density.
        FloatingPointError: (methods called eagerly) "dopri5" did not arrive within `max_steps`.

    References:
        Lipman et al., Flow Matching for Generative Modeling (2022), https://arxiv.org/abs/2210.02747,
        equations 9 and 18 to 23; Liu et al., Flow Straight and Fast (2022),
        https://arxiv.org/abs/2209.03003; Tong et al. (2023), https://arxiv.org/abs/2302.00482; Ho & Salimans
        (2022), https://arxiv.org/abs/2207.12598.
    """

    family: ClassVar[str | None] = "flow_matching"
    small: ClassVar[dict[str, Any]] = {
        "hidden_units": (16,),
        "image_network": "conv",
        "filters": (16,),
        "steps": 4,
    }
    loss_in_nats: ClassVar[bool] = False

    def __init__(
        self,
        event_shape: Shape,
        condition_shape: Shape | None = None,
        num_classes: int | None = None,
        path: str = "ot",
        sigma_min: float = 1e-3,
        coupling: str = "independent",
        entropy: float = 0.05,
        condition_dropout: float = 0.0,
        guidance: float = 0.0,
        network: str = "mlp",
        image_network: str = "unet",
        hidden_units: Sequence[int] = (128, 128, 128),
        filters: Sequence[int] = (64, 128, 128),
        blocks: int = 2,
        attention: bool = True,
        activation: str = "silu",
        solver: str = "rk4",
        steps: int = 32,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        max_steps: int = 1000,
        trace: str = "auto",
        noise: str = "rademacher",
        gradient: str = "auto",
        one_step: bool = False,
        preprocessing: str = "auto",
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
            "noise": noise,
            "gradient": gradient,
        }
        network_arguments: dict[str, Any] = {
            "network": network,
            "image_network": image_network,
            "hidden_units": list(hidden_units),
            "filters": list(filters),
            "blocks": blocks,
            "attention": attention,
            "activation": activation,
        }
        arguments = {
            "path": path,
            "sigma_min": sigma_min,
            "coupling": coupling,
            "entropy": entropy,
            "condition_dropout": condition_dropout,
            "guidance": guidance,
            **network_arguments,
            **solving_arguments,
            "trace": trace,
            "one_step": one_step,
            "preprocessing": preprocessing,
            "num_values": num_values,
            "alpha": alpha,
        }
        check_base(kwargs.pop("base", "normal"))
        conditional = condition_shape is not None or num_classes is not None
        check_coupling(coupling, entropy, conditional and num_classes is None)
        self.exact_trace = traces_exactly(trace, event_shape)
        self.adaptive = solver == ADAPTIVE
        self.one_step = checked_one_step(one_step, solver, steps)
        self.probability_path = make_path(path, sigma_min)
        self.coupling, self.entropy = coupling, float(entropy)
        self.condition_dropout = checked_dropout(condition_dropout, conditional)
        self.guidance = checked_guidance(guidance, self.condition_dropout)
        velocity = make_velocity(len(event_shape) == 3, **network_arguments)
        if self.condition_dropout:
            velocity = Guided(velocity, indicator=num_classes is None)
        exact = "exact" if self.exact_trace else "hutchinson"
        layers: list[FlowLayer] = [ContinuousFlow(velocity, trace=exact, **solving_arguments)]
        layers += [] if len(event_shape) in (1, 3) else [Reshape()]
        if preprocessing == "auto" and resolve_num_values(num_values, event_shape):
            preprocessing = "symmetric"
        layers += preprocessing_layers(preprocessing, event_shape, num_values, alpha)
        super().__init__(
            layers, event_shape, condition_shape, num_classes, family_arguments=arguments, **kwargs
        )

    # -- training -----------------------------------------------------------------------------------

    @property
    def prefers_xla(self) -> dict[str, bool]:  # type: ignore[override]
        """Whether fit compiles with XLA by itself: on a GPU, but for a coupling on the host."""
        return {"CPU": False, "GPU": self.coupling != "exact"}

    def compile(self, *args: Any, jit_compile: bool | str = "auto", **kwargs: Any) -> None:
        """Configure training; see `Flow.compile`.

        Raises:
            ValueError: XLA is asked for with coupling="exact", or what `Flow.compile` refuses.
        """
        if jit_compile is True and self.coupling == "exact":
            raise ValueError(
                "coupling='exact' is computed on the host, which XLA cannot compile: leave jit_compile to "
                "'auto', or take coupling='sinkhorn'. Received: jit_compile=True"
            )
        super().compile(*args, jit_compile=jit_compile, **kwargs)

    @property
    def velocity(self) -> Velocity:
        """The network f."""
        return self.chain.chained[0].velocity

    def from_whole_batch(
        self, part: Part, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Return the noise of each example where a coupling of the whole batch decides it."""
        alone = self.coupling == "independent" or self.lesson is not None
        return () if alone else (self._coupled(x, condition, seed, part),)

    def _latent_noise(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        seed = random.fold_in(seed, _LATENT)
        return example_noise("gaussian", x, seed, self.latent_shape, self.compute_dtype)

    def _coupled(
        self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor, part: Part | None = None
    ) -> tf.Tensor:
        """Return the noise of each example: coupled over `part`'s whole batch, or over `x` alone.

        Each replica gathers the batch (noise, goals, labels) and computes the same coupling of it.
        """
        goal = tf.stop_gradient(self.preprocessed(x, condition, seed))
        z, uniform = self._latent_noise(x, seed), one_uniform(x, seed, _PAIR, goal.dtype)
        labels = condition if self.num_classes else None
        if part is None:
            return couple(self.coupling, z, goal, labels, uniform, self.entropy)
        z, goal, uniform = part.gather(z), part.gather(goal), part.gather(uniform)
        labels = None if labels is None else part.gather(labels)
        return part.take(couple(self.coupling, z, goal, labels, uniform, self.entropy))

    def example_loss(
        self,
        x: tf.Tensor,
        condition: tf.Tensor | None,
        seed: tf.Tensor,
        *others: tf.Tensor,
    ) -> tf.Tensor:
        """Return the regression loss of each example, [batch]: the mean over its entries.

        Without the noise that `from_whole_batch` returns a coupling is one of the examples in `x`.
        With a `lesson` the examples are its pairs.
        """
        if self.lesson is not None:
            return self.lesson.loss(self, x, condition, seed)
        self.needs_density("loss of data: it learns from pairs (flowzoo.models.rectify.distill)")
        goal = tf.stop_gradient(self.preprocessed(x, condition, seed))
        z = others[0] if others else self._coupled(x, condition, seed)
        time = one_uniform(x, seed, _TIME, goal.dtype)
        kept = None
        if self.condition_dropout:
            kept = one_uniform(x, seed, _DROP, goal.dtype) >= self.condition_dropout
        return self.velocity_loss(tf.stop_gradient(z), goal, time, condition, kept)

    def velocity_loss(
        self,
        z: tf.Tensor,
        goal: tf.Tensor,
        time: tf.Tensor,
        condition: tf.Tensor | None,
        kept: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Return the regression loss of pairs, [batch], for use inside graphs.

        Args:
            z: noise, [batch, *latent_shape].
            goal: where the path from z ends, of the same shape: preprocessed data.
            time: [batch].
            condition: as the layers take it, or None.
            kept: bool [batch], whose condition is kept; None keeps all.
        """
        place = self.probability_path(z, goal, time)
        with self.velocity.mixed():
            if kept is None:
                velocity = self.velocity.velocity(place.point, time, condition)
            else:
                velocity = self.velocity.dropped(place.point, time, condition, kept)
        axes = list(range(1, goal.shape.rank))
        return tf.reduce_mean(tf.square(velocity - place.velocity), axes)

    def preprocessed(self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor) -> tf.Tensor:
        """Return data as the velocity sees them at t = 1, with dequantisation noise if discrete."""
        outer = list(self.chain.chained[1:])
        if self.discrete:
            x = outer.pop().noisy_inverse(x, seed)[0]
        for layer in reversed(outer):
            x = layer.flow_inverse(x, condition)[0]
        return x

    def _set_from_data(self, x: tf.Tensor, condition: tf.Tensor | None) -> None:
        for layer in reversed(self.chain.chained[1:]):  # nothing in the velocity is: spare its solution
            x = layer.data_init(x, condition)


def one_uniform(x: tf.Tensor, seed: tf.Tensor, stream: int, dtype: Any) -> tf.Tensor:
    """Return a number in [0, 1) for each example, [batch]."""
    uniform = random.example_uniform(x, random.fold_in(seed, stream), dtype)
    return tf.reshape(uniform, [-1, int(np.prod(x.shape[1:], dtype="int64"))])[:, 0]
