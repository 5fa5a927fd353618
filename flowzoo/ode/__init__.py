"""Ordinary differential equations: solvers, the adjoint method and estimates of the divergence."""

from __future__ import annotations

from flowzoo.ode.adaptive import AdaptiveSolver
from flowzoo.ode.adjoint import solve_with_adjoint
from flowzoo.ode.fixed import METHODS, FixedSolver
from flowzoo.ode.solver import ADAPTIVE, SOLVERS, Solution, make_solver

__all__ = [
    "ADAPTIVE",
    "METHODS",
    "SOLVERS",
    "AdaptiveSolver",
    "FixedSolver",
    "Solution",
    "make_solver",
    "solve_with_adjoint",
]
