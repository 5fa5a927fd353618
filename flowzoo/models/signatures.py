"""The signatures of an exported flow: what a server computes, with every tensor named and described."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from flowzoo import random
from flowzoo.models import requests

DEFAULT = "serving_default"


@dataclasses.dataclass(frozen=True)
class Signature:
    """What one signature computes.

    Attributes:
        inputs: names of its inputs, without the condition, which every signature of a conditional flow takes.
        outputs: names of its outputs.
        description: what it computes, in a sentence.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    description: str


_DRAWN = ("num_samples", "seed", "temperature")
SIGNATURES = {
    "log_prob": Signature(
        ("x",),
        ("log_prob",),
        "log p(x), or log p(x | condition), of each example in nats; of whole numbers the dequantisation "
        "bound on their log-probability, with noise that is a function of the example alone.",
    ),
    "anomaly_score": Signature(
        ("x",),
        ("anomaly_score",),
        "-log_prob of each example in nats: the higher, the more anomalous.",
    ),
    "to_latent": Signature(
        ("x",), ("z",), "z = f^-1(x), the latent of each example; of whole numbers that of the bin's middle."
    ),
    "from_latent": Signature(("z",), ("x",), "x = f(z), the example of each latent."),
    "sample": Signature(_DRAWN, ("x",), "num_samples examples drawn from the model."),
    "sample_and_log_prob": Signature(
        _DRAWN, ("x", "log_prob"), "num_samples examples drawn from the model, and log p of each in nats."
    ),
}

_LABEL = "Class labels from 0 to {last}, one an example or one for all."
_TEXTS = {
    "x": "Examples: {domain}.",
    "z": "Latents, finite.",
    "num_samples": "How many to draw, from 0 to {most}.",
    "seed": "Any two numbers; the same give the same samples.",
    "temperature": "Spread of the base, above 0; 1 is the model itself, below 1 gives likelier samples.",
    "condition": "Finite numbers, one row an example or one row for all.",
    "log_prob": "Nats; -infinity where the density is below what the precision expresses.",
    "anomaly_score": "Nats; the higher, the more anomalous.",
}


def names_of(flow: Any) -> tuple[str, ...]:
    """Return the signatures that a flow has: those that draw alone where it has no density."""
    return tuple(SIGNATURES) if flow.has_density else ("sample", "from_latent")


def default_of(flow: Any) -> str:
    """Return the signature that answers where a request names none."""
    return "log_prob" if flow.has_density else "sample"


def input_specs(flow: Any) -> dict[str, tf.TensorSpec]:
    """Return the inputs of the signatures by name."""
    dtype = flow.compute_dtype
    specs = {
        "x": tf.TensorSpec([None, *flow.event_shape], flow.data_dtype, "x"),
        "z": tf.TensorSpec([None, *flow.latent_shape], dtype, "z"),
        "num_samples": tf.TensorSpec([], tf.int32, "num_samples"),
        "seed": tf.TensorSpec([2], tf.int32, "seed"),
        "temperature": tf.TensorSpec([], tf.float32, "temperature"),
    }
    if flow.condition_shape is not None:
        kind = tf.int32 if flow.num_classes else dtype
        specs["condition"] = tf.TensorSpec([None, *flow.condition_shape], kind, "condition")
    return specs


def output_specs(flow: Any) -> dict[str, tf.TensorSpec]:
    """Return the outputs of the signatures by name."""
    dtype = flow.compute_dtype
    return {
        "x": tf.TensorSpec([None, *flow.event_shape], flow.data_dtype, "x"),
        "z": tf.TensorSpec([None, *flow.latent_shape], dtype, "z"),
        "log_prob": tf.TensorSpec([None], dtype, "log_prob"),
        "anomaly_score": tf.TensorSpec([None], dtype, "anomaly_score"),
    }


def describe(flow: Any) -> dict[str, Any]:
    """Return what the signatures compute and each of their tensors as plain JSON values.

    A size of null in a shape is any size, 0 included.
    """
    texts = {**_TEXTS, "condition": _LABEL if flow.num_classes else _TEXTS["condition"]}

    def tensor(spec: tf.TensorSpec) -> dict[str, Any]:
        text = texts[spec.name].format(
            most=requests.most_samples(flow), last=(flow.num_classes or 1) - 1, domain=_data_text(flow)
        )
        return {"dtype": spec.dtype.name, "shape": spec.shape.as_list(), "description": text}

    given, made = input_specs(flow), output_specs(flow)
    signatures = {
        name: {
            "description": signature.description,
            "inputs": {key: tensor(given[key]) for key in _input_names(flow, name)},
            "outputs": {key: tensor(made[key]) for key in signature.outputs},
        }
        for name, signature in SIGNATURES.items()
        if name in names_of(flow)
    }
    return {"model": flow.name, "default": default_of(flow), "signatures": signatures}


def _data_text(flow: Any) -> str:
    if flow.data_range is not None:
        kind = "whole numbers" if flow.num_values else "numbers"
        return "{} from {:g} to {:g}".format(kind, *flow.data_range)
    return "finite numbers" if flow.domain is None else requests.accepted(flow.domain, flow.event_shape)


def make_signatures(flow: Any, bind: Callable[[Callable], Callable]) -> dict[str, Callable]:
    """Return the functions of an export by name.

    Args:
        flow: the flow.
        bind: makes of a function of the flow one that computes with the export's copies of its weights.
    """
    names = names_of(flow)
    computations = {name: compute for name, compute in _computations(flow).items() if name in names}
    made = {name: _trace(flow, name, bind, compute) for name, compute in computations.items()}

    @bind
    def draw(**given: tf.Tensor) -> tf.Tensor:
        given = requests.checked(flow, given)
        n, temperature = given["num_samples"], tf.cast(given["temperature"], flow.compute_dtype)
        with requests.guarded():
            z = flow.raw_draw(n, given.get("condition"), temperature, given["seed"])
            return requests.finite(z, "x")

    # What others compute is stored once.
    def sample(*values: tf.Tensor) -> dict[str, tf.Tensor]:
        z = draw(**dict(zip(_input_names(flow, "sample"), values, strict=True)))
        return made["from_latent"](z, *values[len(_DRAWN) :])

    def anomaly_score(*values: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"anomaly_score": -made["log_prob"](*values)["log_prob"]}

    def sample_and_log_prob(*values: tf.Tensor) -> dict[str, tf.Tensor]:
        x = made["sample"](*values)["x"]
        return {"x": x, **made["log_prob"](x, *values[len(_DRAWN) :])}

    composed: list[Callable] = [anomaly_score]
    composed += [sample] if flow.samples_from_latent else []
    composed += [] if flow.samples_in_one_pass else [sample_and_log_prob]
    for function in (function for function in composed if function.__name__ in names):
        name = function.__name__
        made[name] = tf.function(function, input_signature=_input_signature(flow, name), autograph=False)
    return {DEFAULT: made[default_of(flow)], **{name: made[name] for name in names}}


def _computations(flow: Any) -> dict[str, Callable]:
    """Return what is computed from the checked inputs, by signature: a tensor an output."""

    def log_prob(x: tf.Tensor, condition: tf.Tensor | None = None) -> tuple[tf.Tensor, ...]:
        return (requests.log_density(flow.raw_log_prob(x, condition, random.as_seed(0))),)

    def to_latent(x: tf.Tensor, condition: tf.Tensor | None = None) -> tuple[tf.Tensor, ...]:
        return (requests.finite(flow.raw_to_latent(x, condition), "z"),)

    def from_latent(z: tf.Tensor, condition: tf.Tensor | None = None) -> tuple[tf.Tensor, ...]:
        return (requests.finite(flow.raw_from_latent(z, condition), "x"),)

    def sample(
        num_samples: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor, condition: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        temperature = tf.cast(temperature, flow.compute_dtype)
        return (requests.finite(flow.raw_sample(num_samples, condition, temperature, seed), "x"),)

    def sample_and_log_prob(
        num_samples: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor, condition: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, ...]:
        temperature = tf.cast(temperature, flow.compute_dtype)
        x, density = flow.raw_sample_and_log_prob(num_samples, condition, temperature, seed)
        return requests.finite(x, "x"), requests.log_density(density)

    functions = (log_prob, to_latent, from_latent, sample, sample_and_log_prob)
    return {function.__name__: function for function in functions}


def _input_names(flow: Any, name: str) -> tuple[str, ...]:
    names = SIGNATURES[name].inputs
    return names if flow.condition_shape is None else (*names, "condition")


def _input_signature(flow: Any, name: str) -> list[tf.TensorSpec]:
    specs = input_specs(flow)
    return [specs[key] for key in _input_names(flow, name)]


def _trace(flow: Any, name: str, bind: Callable[[Callable], Callable], compute: Callable) -> Callable:
    """Make one signature: it checks its inputs, and gives its outputs by name."""
    names, outputs = _input_names(flow, name), SIGNATURES[name].outputs

    def signature(*values: tf.Tensor) -> dict[str, tf.Tensor]:
        given = requests.checked(flow, dict(zip(names, values, strict=True)))
        with requests.guarded():
            return dict(zip(outputs, compute(**given), strict=True))

    return tf.function(bind(signature), input_signature=_input_signature(flow, name), autograph=False)
