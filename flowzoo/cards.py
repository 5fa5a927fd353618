"""Model cards: what was measured, as JSON, and the card as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNITS = {"bits_per_dim": "bits/dim", "nats": "nats"}


def card_text(card: Mapping[str, Any]) -> str:
    """Return a card (`ModelInfo.to_dict()`) as text.

    Args:
        card: the card's values.
    """
    measured = card.get("measured")
    lines = [card["name"], "=" * len(card["name"]), card["description"], ""]
    lines += _architecture(card, measured)
    lines += _data(card, measured)
    lines += _measured(card, measured)
    for title, key in (("Limits", "limits"), ("Notes", "notes"), ("Citation", "citation")):
        if card.get(key):
            lines += [f"{title}:", *(f"  - {text}" for text in card[key])]
    return "\n".join(lines)


def _architecture(card: Mapping[str, Any], measured: Mapping[str, Any] | None) -> list[str]:
    model = card["model"]
    arguments = ", ".join(f"{key}={value}" for key, value in model["args"].items())
    shape = model["event_shape"] or "given at build"
    lines = [f"Architecture:  {model['family']}({arguments})", f"Event shape:   {shape}"]
    if model["num_classes"]:
        lines.append(f"Condition:     class label of {model['num_classes']}")
    elif model["condition_shape"]:
        lines.append(f"Condition:     shape {model['condition_shape']}")
    if measured:
        lines.append(f"Parameters:    {measured['parameters']:,}")
    if card["temperature"] != 1:
        lines.append(f"Draw at:       temperature {card['temperature']:g}, as samples.png is")
    return lines


def _data(card: Mapping[str, Any], measured: Mapping[str, Any] | None) -> list[str]:
    data = card["data"]
    lines = [f"Data:          {data['source'] if data else 'your own'} ({card['data_licence']})"]
    if measured and measured.get("data", {}).get("sizes"):
        sizes = ", ".join(f"{split} {size}" for split, size in measured["data"]["sizes"].items())
        lines.append(f"Split:         {sizes}")
    return lines


def _measured(card: Mapping[str, Any], measured: Mapping[str, Any] | None) -> list[str]:
    lines = []
    if measured:
        metric, training = measured["metric"], measured["training"]
        lines.append(f"Measured:      {metric_text(metric)}")
        if truth := measured.get("truth"):
            lines.append(f"To the truth:  {truth_text(truth)}")
        if given := measured.get("given_conditions"):
            lines.append(f"Integrals:     {masses_text(given)}")
        if nfe := measured.get("nfe"):
            lines.append(f"Evaluations:   {nfe_text(nfe)}")
        lines.append(
            f"Training:      {training['epochs']} epochs, {training['seconds']:.0f} s on "
            f"{training['hardware']}, seed {training['seed']}"
        )
        if anew := measured.get("stored_anew"):
            lines.append(f"Stored anew:   {stored_text(measured['weights_dtype'], anew, metric)}")
        lines.append(f"Versions:      {', '.join(f'{k} {v}' for k, v in measured['versions'].items())}")
    else:
        lines.append(f"Weights:       none are published. Train: flowzoo train {card['name']}")
    for figure in card["published"]:
        text = published_text(figure, measured["metric"] if measured else None, "measured")
        lines.append(f"Published:     {text}")
    if card["sha256"]:
        lines.append(f"SHA-256:       {card['sha256']} (of SHA256SUMS)")
    lines.append(f"Licence:       {card['licence']} (weights)")
    return lines


def published_text(figure: Mapping[str, Any], metric: Mapping[str, Any] | None, what: str) -> str:
    """Return a published figure in words, and by how much a metric, which is called `what`, differs."""
    text = f"{figure['value']:g} {UNITS[figure['unit']]} ({figure['source']})"
    beside = compared_text(metric, figure) if metric else None
    return f"{text}; {what}: {beside}" if beside else text


def difference(metric: Mapping[str, Any], figure: Mapping[str, Any]) -> str | None:
    """Return measured less published with its sign, to three digits; None for figures in different units.

    Both are negative log-likelihoods, of which lower is better: "-0.151" is better, "+0.098" worse.
    """
    if metric["unit"] != figure["unit"]:
        return None
    return f"{round(metric['value'] - figure['value'], 3) + 0.0:+.3f}"


def compared(metric: Mapping[str, Any] | None, figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return published figures, each with its `difference` as a number (None where there is none)."""
    signed = [None if metric is None else difference(metric, figure) for figure in figures]
    return [
        {**figure, "difference": None if one is None else float(one)}
        for figure, one in zip(figures, signed, strict=True)
    ]


def compared_text(metric: Mapping[str, Any], figure: Mapping[str, Any]) -> str | None:
    """Return in words by how much what was measured is better or worse than a published figure."""
    signed = difference(metric, figure)
    if signed is None:
        return None
    if signed == "+0.000":
        return f"the same as {figure['value']:g} to three digits"
    better = "better" if signed.startswith("-") else "worse"
    return (
        f"{signed[1:]} {UNITS[figure['unit']]} {better} than {figure['value']:g} ({signed}; lower is better)"
    )


def nfe_text(nfe: Mapping[str, Any]) -> str:
    """Return in words how often a continuous flow evaluates its velocity."""
    return (
        f"{nfe['log_prob']:.4g} of the velocity a log_prob, {nfe['sample']:.4g} a sample "
        f"(means over {nfe['num_examples']} examples)"
    )


def truth_text(truth: Mapping[str, Any]) -> str:
    """Return in words how far a flow in the plane is from the known density."""
    return (
        f"KL(truth || flow) {truth['kl']:.4f} nats, integral of the flow's density {truth['mass']:.5f} "
        f"(quadrature of {truth['cells']} x {truth['cells']} cells; entropy of the truth "
        f"{truth['entropy']:.4f} nats)"
    )


def masses_text(given: Mapping[str, Any]) -> str:
    """Return in words what a flow's density in the plane integrates to given conditions."""
    return (
        f"{min(given['masses']):.5f} to {max(given['masses']):.5f}, of the density given each of "
        f"{len(given['masses'])} conditions (quadrature of {given['cells']} x {given['cells']} cells)"
    )


def stored_text(weights_dtype: str, anew: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """Return in words how weights came to be stored in another type than they were published in at first."""
    before = anew["from"]
    return (
        f"as {weights_dtype} on {anew['made']}, from {before['weights_dtype']} "
        f"({before['value']:.4f} {UNITS[metric['unit']]})"
    )


def metric_text(metric: Mapping[str, Any]) -> str:
    """Return a measured metric in words: value, unit, standard error, split, examples, seed."""
    error = f" ± {metric['standard_error']:.2g}" if metric.get("standard_error") else ""
    nats = " of negative log_prob" if metric["unit"] == "nats" else ""
    return (
        f"{metric['value']:.4f}{error} {UNITS[metric['unit']]}{nats} on {metric['num_examples']:,} examples "
        f"of the {metric['split']} split (noise seed {metric['seed']})"
    )
