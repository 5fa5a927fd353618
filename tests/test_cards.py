"""What a card says of its figures, in words that cannot be misread."""

from __future__ import annotations

from typing import Any

import pytest

import flowzoo
from flowzoo.cards import compared_text, difference

SOURCE = "Some flow, some paper, table 1"


def _figures(value: float, published: float, unit: str = "bits_per_dim") -> tuple[Any, Any]:
    return {"value": value, "unit": unit}, {"value": published, "unit": unit, "source": SOURCE}


@pytest.mark.parametrize(
    ("value", "published", "unit", "signed", "words"),
    [
        (1.148, 1.05, "bits_per_dim", "+0.098", "0.098 bits/dim worse than 1.05"),
        (1.7388, 1.89, "bits_per_dim", "-0.151", "0.151 bits/dim better than 1.89"),
        # Nats of negative log_prob, below zero where densities are high.
        (-12.5, -13.09, "nats", "+0.590", "0.590 nats worse than -13.09"),
        (-13.5, -13.09, "nats", "-0.410", "0.410 nats better than -13.09"),
    ],
)
def test_a_card_says_whether_a_figure_is_beaten(
    value: float, published: float, unit: str, signed: str, words: str
) -> None:
    metric, figure = _figures(value, published, unit)
    assert difference(metric, figure) == signed
    assert compared_text(metric, figure) == f"{words} ({signed}; lower is better)"


@pytest.mark.parametrize("error", [-4e-4, 0.0, 4e-4])
def test_a_difference_below_the_last_digit_is_none(error: float) -> None:
    metric, figure = _figures(1.05 + error, 1.05)
    assert difference(metric, figure) == "+0.000"
    assert compared_text(metric, figure) == "the same as 1.05 to three digits"


def test_figures_in_different_units_are_not_compared() -> None:
    metric, figure = _figures(1.05, 1.05)
    assert difference({**metric, "unit": "nats"}, figure) is None
    assert compared_text({**metric, "unit": "nats"}, figure) is None


def _published(name: str) -> list[str]:
    return [line for line in str(flowzoo.info(name)).splitlines() if line.startswith("Published:")]


def test_the_cards_of_entries_compare_with_each_published_figure() -> None:
    [glow] = _published("glow_mnist")
    assert glow.startswith("Published:     1.05 bits/dim (Glow on MNIST, ")
    assert " bits/dim worse than 1.05 (+0." in glow
    [maf] = _published("maf_mnist")
    assert " bits/dim better than 1.89 (-0." in maf
    nsf = _published("nsf_mnist")
    assert [" better than " in line for line in nsf] == [True, True, False]
    assert " worse than 0.97 (+0." in nsf[2]


def test_cards_as_values_give_the_difference_as_a_number() -> None:
    card = flowzoo.info("glow_mnist").to_dict()
    [figure] = card["published"]
    assert figure["difference"] == round(card["measured"]["metric"]["value"] - figure["value"], 3) > 0
    assert [figure["difference"] for figure in flowzoo.info("glow_cifar10").to_dict()["published"]] == [None]


def test_the_card_of_an_entry_without_weights_compares_nothing() -> None:
    lines = _published("glow_cifar10")
    assert lines and all("measured" not in line and line.endswith(")") for line in lines)
