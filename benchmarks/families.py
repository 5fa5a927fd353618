"""What is compared: the same sizes for both libraries, where they have the same parts."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of flow.

    Attributes:
        name: in the table of results.
        layers: transforms in a row.
        hidden: hidden units, for each hidden layer.
        learning_rate: at the start; it falls to zero along a cosine.
        speed: the share of the table's steps that it is given.
        checks: how often in the training the validation rows are scored; the best weights are kept.
    """

    name: str
    layers: int
    hidden: tuple[int, ...]
    learning_rate: float = 1e-3
    speed: float = 1.0
    checks: int = 8


FAMILIES = {
    family.name: family
    for family in (
        Family("maf", 5, (128, 128)),
        Family("nsf_coupling", 5, (128, 128)),
        Family("nsf_autoregressive", 5, (128, 128)),
        # An adaptive solver costs seconds a step on a CPU.
        Family("ffjord", 1, (64, 64, 64), learning_rate=3e-3, speed=0.25, checks=1),
        Family("flow_matching", 1, (128, 128, 128), learning_rate=2e-3, speed=4.0, checks=1),
    )
}
# The exact trace costs as many passes as there are columns; beyond this many both estimate it in training.
EXACT_TRACE_UP_TO = 9
CLIP_NORM = 5.0
