"""What families of continuous flows share: how their equation is solved, and what is said when it is not."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Self, cast

import keras
import tensorflow as tf

from flowzoo import random
from flowzoo.layers.base import Shape, event_size
from flowzoo.layers.continuous import EXACT_UP_TO, TRACES
from flowzoo.models import checks
from flowzoo.models.base import Flow
from flowzoo.ode import ADAPTIVE, FixedSolver
from flowzoo.ode.scope import Solving, solving


def traces_exactly(trace: str, event_shape: Shape) -> bool:
    """Say whether a family takes the exact trace: where "auto" decides, for vectors of up to 16 entries.

    Raises:
        ValueError: `trace` is neither "auto", "exact" nor "hutchinson".
    """
    if trace not in TRACES:
        raise ValueError(f"trace takes one of {', '.join(TRACES)}. Received: {trace!r}")
    small = len(event_shape) != 3 and event_size(tuple(event_shape)) <= EXACT_UP_TO
    return trace == "exact" or (trace == "auto" and small)


def check_steps(solver: str, steps: int | None) -> None:
    """Refuse a number of steps that would have no effect.

    Raises:
        ValueError: steps are given for "dopri5".
    """
    if solver == ADAPTIVE and steps is not None:
        raise ValueError(
            f"steps is for solvers of fixed steps (solver='midpoint', say): {ADAPTIVE!r} chooses its own. "
            f"Received: steps={steps!r}"
        )


@keras.saving.register_keras_serializable("flowzoo")
class ContinuousModel(Flow):
    """Base of families whose layers are `flowzoo.layers.ContinuousFlow`s, alone or among others.

    It keys the noise of Hutchinson's estimator to the user's own example and `seed`, leaves the trace out
    where no density is asked for, counts evaluations (`nfe`, `sampling_nfe`), and raises FloatingPointError
    from methods called eagerly where "dopri5" did not arrive within `max_steps` (inside graphs and in exports
    the result is NaN).

    A family sets two attributes before it calls `Flow.__init__`, and has `max_steps` among its arguments.

    Attributes:
        exact_trace: whether all its log-determinants are exact; with Hutchinson's estimator
            `sample_and_log_prob` scores its samples as `log_prob` does, in a second solution.
        adaptive: whether its solver chooses its steps.
    """

    exact_trace: bool = False
    adaptive: bool = False

    # -- pure tensor functions ----------------------------------------------------------------------

    def _scored(
        self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor, **options: Any
    ) -> tuple[tf.Tensor, Solving]:
        """Return log_prob and what the continuous layers reported."""
        with solving(example=x, seed=seed, **options) as orders:
            return super().raw_log_prob(x, condition, seed), orders

    def raw_log_prob(self, x: tf.Tensor, condition: tf.Tensor | None, seed: tf.Tensor) -> tf.Tensor:
        """Return log p(x), with Hutchinson's noise keyed to `x` and `seed`; for use inside graphs."""
        return self._scored(x, condition, seed)[0]

    def raw_from_latent(self, z: tf.Tensor, condition: tf.Tensor | None, **orders: Any) -> tf.Tensor:
        """Return f(z) without any trace, in `data_dtype`; `orders` as `flowzoo.ode.scope.Solving`."""
        return self._moved(z, condition, **orders)[0]

    def _moved(self, z: tf.Tensor, condition: tf.Tensor | None, **orders: Any) -> tuple[tf.Tensor, Solving]:
        """Return f(z) without any trace, and what the continuous layers reported."""
        with solving(log_det=False, **orders) as found:
            return super().raw_from_latent(z, condition), found

    def raw_before_rounding(self, z: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        """Return f(z) before it is rounded, without any trace."""
        with solving(log_det=False):
            return super().raw_before_rounding(z, condition)

    def raw_to_latent(self, x: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        """Return f^-1(x) without any trace (the middle of the bin if discrete)."""
        with solving(log_det=False):
            return super().raw_to_latent(x, condition)

    def raw_sample_and_log_prob(
        self, n: tf.Tensor, condition: tf.Tensor | None, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw n samples with their log_prob: one solution with the exact trace, else two."""
        if self.samples_in_one_pass:
            return super().raw_sample_and_log_prob(n, condition, temperature, seed)
        x = self.raw_sample(n, condition, temperature, seed)
        return x, self.raw_log_prob(tf.cast(x, self.compute_dtype), condition, random.as_seed(0))

    @property
    def samples_in_one_pass(self) -> bool:
        """Whether a sample and its log_prob come from one solution, with the exact trace."""
        return self.exact_trace and not self.discrete

    def raw_nfe(self, x: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
        """Return the evaluations of the velocity that log p(x) takes, for use inside graphs."""
        return _counted(self._scored(x, condition, random.as_seed(0), count=True)[1], x)

    def raw_sampling_nfe(
        self, n: tf.Tensor, condition: tf.Tensor | None, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Return the evaluations of the velocity that n samples take, for use inside graphs."""
        z = self.raw_draw(n, condition, temperature, seed)
        return _counted(self._moved(z, condition, count=True)[1], z)

    # -- what users call ----------------------------------------------------------------------------

    def with_solver(self, solver: str | None = None, steps: int | None = None) -> Self:
        """Return a flow of the same weights that solves its equation in another way.

        This one stays as it is. Fewer steps are quicker, and data come back from their latents with a larger
        error.

        Args:
            solver: "rk4", "euler", "midpoint", "heun" or "dopri5"; None keeps this one's.
            steps: of the fixed-step solvers; None keeps this one's.

        Raises:
            ValueError: an unknown solver, or steps below 1 or of "dopri5", which chooses its own.
        """
        check_steps(self.arguments["solver"] if solver is None else solver, steps)
        changes = {
            key: value for key, value in {"solver": solver, "steps": steps}.items() if value is not None
        }
        if solver == ADAPTIVE and self.arguments["gradient"] == "backprop":
            changes["gradient"] = "auto"  # an adaptive solver has no other
        made = type(self).from_config({**self.get_config(), **changes})
        made.set_weights(self.get_weights())
        made.seed, made.trainable = self.seed, self.trainable
        return made

    def nfe(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Return how often log_prob evaluates the velocity for each example.

        Args:
            x: data, [batch, *event_shape].
            condition: [batch, *condition_shape], or one for all.

        Returns:
            An int32 tensor of shape [batch], summed over the flows. With fixed steps it is steps times the
            stages of the method; with "dopri5" 2 and 6 an attempted step, and a batch waits for its largest.

        Raises:
            ValueError: as `log_prob`.
        """
        x = checks.data(self, x)
        return self._graphs._call("nfe", x=x, condition=checks.condition(self, condition, tf.shape(x)[0]))

    def sampling_nfe(
        self, n: Any, condition: Any = None, temperature: Any = 1.0, seed: Any = None
    ) -> tf.Tensor:
        """Return how often `sample`, without guidance, evaluates the velocity for each of n samples.

        Arguments and errors: as `sample`. The result is as that of `nfe`.
        """
        names = ("n", "condition", "temperature", "seed")
        given = dict(zip(names, self._draw_arguments(n, condition, temperature, seed), strict=True))
        return self._graphs._call("sampling_nfe", **given)

    def golden_log_prob(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Return what golden values hold: of images with "dopri5" a coarse log_prob, two Euler steps.

        Each weight counts in it as in log_prob, whose hundreds of evaluations would make loading an image
        model take minutes on a CPU.
        """
        if not self.adaptive or len(self.event_shape) != 3:
            return super().golden_log_prob(x, condition)
        x = checks.data(self, x)
        given = {"x": x, "condition": checks.condition(self, condition, tf.shape(x)[0])}

        def coarse(x: tf.Tensor, condition: tf.Tensor | None) -> tf.Tensor:
            return self._scored(x, condition, random.as_seed(0), solver=FixedSolver("euler", 2))[0]

        return self._graphs.run("golden_log_prob", coarse, **given)

    def no_result(self, key: Hashable) -> str:
        """Say why a function gave NaN: the end of the steps, where the solver chooses them."""
        if not (self.adaptive if isinstance(key, str) else ADAPTIVE in cast(tuple, key)):
            return super().no_result(key)
        return (
            f"{self.name}: some examples need more than max_steps={self.arguments['max_steps']} steps, or "
            f"have no finite path: the velocity is stiff or explodes. {self._arrives_if}"
        )

    @property
    def _arrives_if(self) -> str:
        """What helps where the equation cannot be solved."""
        return "Raise max_steps, or loosen rtol and atol."


def _counted(orders: Solving, examples: tf.Tensor) -> tf.Tensor:
    """Return the evaluations that the layers reported, summed, for each of the examples, int32 [batch]."""
    batch = tf.shape(examples)[:1]
    return tf.add_n([tf.zeros(batch, tf.int32), *(tf.broadcast_to(count, batch) for count in orders.nfe)])
