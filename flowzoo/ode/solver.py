"""From a name to a solver."""

from __future__ import annotations

import difflib

from flowzoo.ode.adaptive import AdaptiveSolver
from flowzoo.ode.fixed import METHODS, FixedSolver
from flowzoo.ode.solution import Solution

ADAPTIVE = "dopri5"
SOLVERS = (*METHODS, ADAPTIVE)

Solver = FixedSolver | AdaptiveSolver

__all__ = ["ADAPTIVE", "SOLVERS", "Solution", "Solver", "make_solver"]


def make_solver(
    name: str, steps: int = 8, rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 1000
) -> Solver:
    """Return a solver by its name.

    Args:
        name: "euler", "midpoint", "heun", "rk4" (fixed steps) or "dopri5" (adaptive).
        steps: of the fixed-step solvers.
        rtol: relative tolerance of the adaptive solver.
        atol: absolute tolerance of the adaptive solver.
        max_steps: largest number of steps that the adaptive solver attempts.

    Raises:
        ValueError: an unknown name, or a number out of range (of either kind of solver).
    """
    if name not in SOLVERS:
        near = difflib.get_close_matches(str(name), SOLVERS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"solver takes one of {', '.join(SOLVERS)}.{hint} Received: {name!r}")
    adaptive = AdaptiveSolver(rtol, atol, max_steps)
    return adaptive if name == ADAPTIVE else FixedSolver(name, steps)
