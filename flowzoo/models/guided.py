"""Continuous models whose solver, steps and guidance may be chosen at each sampling."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from flowzoo.bijectors import FlowDistribution
from flowzoo.models import checks
from flowzoo.models.continuous import ContinuousModel, check_steps
from flowzoo.models.guidance import checked_guidance
from flowzoo.ode import FixedSolver, make_solver


@keras.saving.register_keras_serializable("flowzoo")
class GuidedModel(ContinuousModel):
    """Base of continuous models with classifier-free guidance, which concerns their samples alone.

    log_prob, to_latent, from_latent, bijector and distribution are those of the conditional model without
    guidance. Of a model made under a mixed policy `sample` by a solver of fixed steps computes hidden layers
    in bfloat16; all else, which has to invert, or whose solver measures its error, computes in float32.

    A family sets both attributes before it calls `Flow.__init__`, and has the arguments of its solver among
    its own.

    Attributes:
        guidance: the weight of guidance in `sample`; 0 for none.
        condition_dropout: probability with which training dropped the condition; 0 allows no guidance.
    """

    guidance: float = 0.0
    condition_dropout: float = 0.0

    def raw_sample(
        self,
        n: tf.Tensor,
        condition: tf.Tensor | None,
        temperature: tf.Tensor,
        seed: tf.Tensor,
        **orders: Any,
    ) -> tf.Tensor:
        """Draw n samples with the model's guidance; `orders` as `flowzoo.ode.scope.Solving`."""
        orders.setdefault("guidance", self.guidance or None)
        solver = orders.get("solver")
        orders.setdefault("mixed", isinstance(solver, FixedSolver) if solver else not self.adaptive)
        return self.raw_from_latent(self.raw_draw(n, condition, temperature, seed), condition, **orders)

    @property
    def samples_from_latent(self) -> bool:
        """Whether `sample` is `from_latent` of what the base draws: not so with guidance."""
        return not self.guidance

    @property
    def samples_in_one_pass(self) -> bool:
        """Whether a sample and its log_prob come from one solution: not so with guidance."""
        return super().samples_in_one_pass and not self.guidance

    def sample(
        self,
        n: Any,
        condition: Any = None,
        temperature: Any = 1.0,
        seed: Any = None,
        *,
        guidance: float | None = None,
        solver: str | None = None,
        steps: int | None = None,
    ) -> tf.Tensor:
        """Draw n samples. See `Flow`; the additional arguments stand for the model's own in this call.

        Each kind of solver and number of steps is traced once. Guidance doubles the cost.

        Args:
            n: number of samples, an integer of at least 0.
            condition: [n, *condition_shape], or one for all.
            temperature: spread of the noise, above 0.
            seed: an integer, an int32 pair or a Keras SeedGenerator; None draws afresh at each call, in a
                `tf.function` of your own at each run (`keras.utils.set_random_seed` makes that repeat).
            guidance: weight of classifier-free guidance, at least -1 (no condition); 0 for none.
            solver: "rk4", "euler", "midpoint", "heun" or "dopri5".
            steps: of the fixed-step solvers.

        Raises:
            ValueError: as `Flow.sample`, an unknown solver, steps below 1 or of "dopri5", which chooses its
                own, or guidance of a model that was not trained for it.
            TypeError: n is not an integer.
        """
        if guidance is None and solver is None and steps is None:
            return super().sample(n, condition, temperature, seed)
        orders, key = self.orders(guidance, solver, steps)
        weight = orders.pop("guidance")
        names = ("n", "condition", "temperature", "seed")
        given = dict(zip(names, self._draw_arguments(n, condition, temperature, seed), strict=True))
        if weight is not None:
            given["guidance"] = tf.constant(weight, self.compute_dtype)

        def draw(n: Any, condition: Any, temperature: Any, seed: Any, weight: Any = None) -> tf.Tensor:
            return self.raw_sample(n, condition, temperature, seed, guidance=weight, **orders)

        return self._graphs.run(("sample", weight is not None, *key), draw, **given)

    def sample_and_log_prob(
        self,
        n: Any,
        condition: Any = None,
        temperature: Any = 1.0,
        seed: Any = None,
        *,
        guidance: float | None = None,
        solver: str | None = None,
        steps: int | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw n samples with their log_prob; arguments and errors as `sample`.

        The log_prob is the model's own, without guidance and by its own solver: with an argument that stands
        for one of the model's it costs a solution of its own.
        """
        if guidance is None and solver is None and steps is None:
            return super().sample_and_log_prob(n, condition, temperature, seed)
        x = self.sample(n, condition, temperature, seed, guidance=guidance, solver=solver, steps=steps)
        return x, self.log_prob(x, condition)

    def orders(
        self, guidance: float | None = None, solver: str | None = None, steps: int | None = None
    ) -> tuple[dict[str, Any], tuple[str, int]]:
        """Return orders (see `flowzoo.ode.scope`) with None as the model's own, and what names the solver.

        Raises:
            ValueError: as `sample`.
        """
        weight = checked_guidance(self.guidance if guidance is None else guidance, self.condition_dropout)
        own = self.arguments
        name = own["solver"] if solver is None else solver
        check_steps(name, steps)
        steps = own["steps"] if steps is None else steps
        made = make_solver(name, steps, own["rtol"], own["atol"], own["max_steps"])
        FixedSolver(steps=steps)  # raises for steps that are no positive integer
        return {"solver": made, "guidance": weight or None}, (name, steps)

    def distribution(self, condition: Any = None) -> FlowDistribution:
        """Return the flow, without guidance, as a `tfp.distributions.Distribution`. See `Flow`."""
        if not self.guidance:
            return super().distribution(condition)
        checks.leading(self, condition)  # raises
        return FlowDistribution(Unguided(self), condition, name=self.name)


class Unguided:
    """A model whose samples follow the density that it has, seen from outside: `FlowDistribution` asks."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def sample(self, n: Any, condition: Any = None, temperature: Any = 1.0, seed: Any = None) -> tf.Tensor:
        """Draw n samples without guidance."""
        return self._model.sample(n, condition, temperature, seed, guidance=0.0)

    def sample_and_log_prob(
        self, n: Any, condition: Any = None, temperature: Any = 1.0, seed: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draw n samples without guidance, with their log_prob."""
        return self._model.sample_and_log_prob(n, condition, temperature, seed, guidance=0.0)
