"""Every public layer, in every case it names, has every property."""

from __future__ import annotations

import pytest

import flowzoo.layers
from flowzoo.layers import FlowLayer
from tests.harness import PROPERTIES, Subject, subjects_of

LAYERS = [
    value
    for name in flowzoo.layers.__all__
    if isinstance(value := getattr(flowzoo.layers, name), type) and issubclass(value, FlowLayer)
]
# Bases that cannot stand alone: public layers derive from them, and they name no case.
ABSTRACT = [cls for cls in LAYERS if cls is FlowLayer or (not cls.cases() and cls.__subclasses__())]
CONCRETE = [cls for cls in LAYERS if cls not in ABSTRACT]
SUBJECTS = [subject for cls in CONCRETE for subject in subjects_of(cls)]


@pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)
def test_every_layer_says_how_it_is_tested(cls: type[FlowLayer]) -> None:
    cases = cls.cases()
    assert cases, f"{cls.__name__}.cases() is empty"
    assert any(case.condition_shape for case in cases) or cls.__name__ in ("Invert",), (
        "no case has a condition"
    )
    assert cls.__doc__ and "log" in cls.__doc__.lower() or cls.__name__ == "Invert", "say what the log-det is"


# Layers that take seconds to trace: what the default run tries of their cases. Steps of a solver are unrolled
# in case 0 as in 1 (whose gradients are another method) and 3 (an image); case 2 adapts them.
BRIEFLY = {
    "ContinuousFlow": {1: ("gradients",), 2: ("inverse", "log_det"), 3: ("log_det",)},
    "CircularCoupling": {2: ("shapes",), 3: ("shapes",)},
}


def _is_slow(subject: Subject, check: str) -> bool:
    """Of a layer's further cases what takes seconds to trace is slow."""
    briefly = BRIEFLY.get(subject.cls.__name__, {}).get(subject.index)
    if briefly is not None:
        return check not in briefly
    return check in ("graph_and_xla", "tfp_view") and subject.index > 0


def _checks() -> list[object]:
    """Every property of every case."""
    return [
        pytest.param(
            subject,
            check,
            id=f"{subject.cls.__name__}-{subject.index}-{check}",
            marks=pytest.mark.slow if _is_slow(subject, check) else (),
        )
        for subject in SUBJECTS
        for check in PROPERTIES
    ]


@pytest.mark.parametrize(("subject", "check"), _checks())
def test_property(subject: Subject, check: str) -> None:
    PROPERTIES[check](subject)
