"""The distance of a flow in the plane from the known truth, and what is refused at publishing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import flowzoo
from flowzoo import measure, quadrature, registry
from flowzoo.data import Source, open_source
from flowzoo.data.densities import gaussian_mixture
from flowzoo.layers import ActNorm, DiagonalScaling
from flowzoo.models import Flow, families
from flowzoo.models.continuous import ContinuousModel


def normal_source(mean: float, sd: float) -> Source:
    rng = np.random.default_rng(0)
    x = (mean + sd * rng.normal(size=(4000, 2))).astype("float32")
    return Source(x=x, name="normal", log_density=gaussian_mixture(np.array([[mean, mean]]), sd))


def normal_flow() -> Flow:
    flow = Flow([DiagonalScaling()], event_shape=(2,))
    flow.trainable_weights[0].assign([0.0, 0.0])
    return flow


def test_the_divergence_of_two_normals() -> None:
    mean, sd = 0.3, 0.8
    found = quadrature.divergence(normal_flow(), normal_source(mean, sd), cells=200)
    # KL(N(m, s^2) || N(0, 1)) for each of the two entries, in closed form.
    assert found["kl"] == pytest.approx(2 * (-np.log(sd) + (sd**2 + mean**2 - 1) / 2), abs=1e-4)
    assert found["entropy"] == pytest.approx(np.log(2 * np.pi * np.e * sd**2), abs=1e-4)
    assert found["mass"] == pytest.approx(1, abs=1e-4) and found["true_mass"] == pytest.approx(1, abs=1e-6)


def test_no_divergence_without_a_truth_or_in_more_dimensions() -> None:
    unknown = Source(x=np.zeros((4, 2), "float32"))
    with pytest.raises(ValueError, match="of known density"):
        quadrature.divergence(normal_flow(), unknown)
    with pytest.raises(ValueError, match=r"event_shape=\(3,\)"):
        quadrature.divergence(Flow([ActNorm()], event_shape=(3,)), open_source("moons", num_examples=10))


@pytest.mark.parametrize("cells", [0, -3, 2.5, True])
def test_cells_are_counted(cells) -> None:
    source = Source(
        x=np.eye(2, dtype="float32"), condition=np.arange(2), num_classes=2, log_density=lambda x: x[:, 0]
    )
    with pytest.raises(ValueError, match="cells takes an integer of at least 1"):
        quadrature.divergence(normal_flow(), source, cells)
    conditional = flowzoo.build("maf", (2,), num_classes=2, num_layers=1, hidden_units=(4,))
    with pytest.raises(ValueError, match="cells takes an integer of at least 1"):
        quadrature.masses(conditional, source, cells)


def test_what_does_not_invert_or_integrate_is_not_published() -> None:
    good = {"round_trip": {"largest_error": 1e-5}, "metric": {"unit": "nats"}, "truth": {"mass": 1.0004}}
    measure.check_published("x_y", good)
    with pytest.raises(FloatingPointError, match="does not invert"):
        measure.check_published("x_y", {**good, "round_trip": {"largest_error": 0.02}})
    with pytest.raises(FloatingPointError, match="does not invert"):
        measure.check_published("x_y", {**good, "round_trip": {"largest_error": float("nan")}})
    with pytest.raises(FloatingPointError, match="integrates to 1.01"):
        measure.check_published("x_y", {**good, "truth": {"mass": 1.01}})
    with pytest.raises(FloatingPointError, match="integrates to nan"):
        measure.check_published("x_y", {**good, "truth": {"mass": float("nan")}})
    given = {"conditions": [0, 1], "masses": [1.0, 0.9995]}
    measure.check_published("x_y", {**good, "given_conditions": given})
    with pytest.raises(FloatingPointError, match="given the condition 1 integrates to 0.98"):
        measure.check_published("x_y", {**good, "given_conditions": {**given, "masses": [1.0, 0.98]}})


class MisscaledGivenOne(DiagonalScaling):
    """Its density given the class 1 is half as large as it should be."""

    def _inverse(self, x: tf.Tensor, condition: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_det = super()._inverse(x, condition)
        return z, log_det - np.log(2) * tf.cast(condition[:, 1], log_det.dtype)


@pytest.mark.parametrize(("layer", "given_one"), [(DiagonalScaling, 1.0), (MisscaledGivenOne, 0.5)])
def test_the_mass_given_each_condition(layer: type[DiagonalScaling], given_one: float) -> None:
    flow = Flow([layer()], event_shape=(2,), num_classes=2)
    flow.trainable_weights[0].assign([0.0, 0.0])
    source = normal_source(0.0, 1.0)
    labelled = dataclasses.replace(source, condition=np.arange(4000, dtype="int32") % 2, num_classes=2)
    found = quadrature.masses(flow, labelled)
    assert found["conditions"] == [0, 1]
    # A finer look at what is off.
    assert found["cells"] == (quadrature.COARSE_CELLS if given_one == 1 else quadrature.CELLS)
    assert found["masses"] == pytest.approx([1.0, given_one], abs=1e-4)
    with pytest.raises(ValueError, match="with conditions"):
        quadrature.masses(flow, source)


def test_of_many_conditions_some_are_taken() -> None:
    flow = Flow([DiagonalScaling()], event_shape=(2,), condition_shape=(1,))
    numbers = np.linspace(0, 1, 4000, dtype="float32")[:, None]
    found = quadrature.masses(flow, dataclasses.replace(normal_source(0.0, 1.0), condition=numbers), cells=50)
    assert len(found["masses"]) == quadrature.MOST_CONDITIONS
    assert (found["conditions"][0], found["conditions"][-1]) == ([0.0], [1.0])


def _in_the_plane(name: str) -> bool:
    """Say so by the config alone: building every model takes half a minute."""
    model = registry.get_config(name).model
    return model.event_shape == (2,) and model.num_classes is None


PLANE = [name for name in flowzoo.list_models(pretrained=True) if _in_the_plane(name)]


def _marked(name: str) -> object:
    """62,500 points take seconds through splines, and ten and more through a continuous flow's equation."""
    family = families()[registry.get_config(name).model.family]
    takes_long = issubclass(family, ContinuousModel) or family.family == "nsf" and name != "nsf_moons"
    return pytest.param(name, marks=pytest.mark.slow) if takes_long else name


@pytest.mark.parametrize("name", [_marked(name) for name in PLANE])
def test_trained_densities_in_the_plane_integrate_to_one(name: str) -> None:
    entry = registry.get_config(name)
    source = open_source(entry.data.source, "test", **{**entry.data.options, "num_examples": 5000})
    found = quadrature.divergence(flowzoo.load(name), source, cells=250)
    assert found["mass"] == pytest.approx(1, abs=3e-3)  # a coarser grid than that of the card
    truth = flowzoo.info(name).to_dict()["measured"]["truth"]
    assert found["kl"] == pytest.approx(truth["kl"], abs=0.02) and 0 <= truth["kl"] < 0.25
    assert abs(truth["mass"] - 1) < 1e-3
