"""A trained entry stored anew: other weights, measured anew, and a card that says where they come from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import flowzoo
from flowzoo import manifest, quantization, registry, weights, zoo
from flowzoo.cli.republish import republish as command
from flowzoo.data import open_source
from flowzoo.errors import CorruptWeightsError, DataError
from flowzoo.paths import packaged
from flowzoo.republish import republish

ENTRY = "test_maf"


@pytest.fixture(autouse=True)
def _small_matrices_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The entries of the tests are small, and what the user's own folders hold does not count here."""
    monkeypatch.setattr(quantization, "SMALLEST", 64)
    monkeypatch.setenv("FLOWZOO_HOME", str(tmp_path / "home"))


def _card(folder: Path) -> Any:
    return weights.read_card(folder)


def test_an_entry_is_stored_in_eight_bits(tmp_path: Path) -> None:
    original = packaged("saved_models") / ENTRY  # type: ignore[operator]
    made = CliRunner().invoke(
        _app(), [ENTRY, "--weights-dtype", "int8", "--out", str(tmp_path), "--json"], catch_exceptions=False
    )
    folder = tmp_path / ENTRY
    said = json.loads(made.stdout.splitlines()[-1])
    assert said["sha256"] == manifest.sha256_of(folder / "SHA256SUMS") and Path(said["path"]) == folder
    before, after = _card(original), _card(folder)
    assert {p.name for p in folder.iterdir()} == {p.name for p in original.iterdir()}
    for key in ("training", "versions", "made", "data", "parameters", "name"):
        assert after[key] == before[key], key
    for key in ("model", "data", "training"):
        assert after["config"][key] == before["config"][key], key
    assert after["weights_dtype"] == after["config"]["weights"]["dtype"] == "int8"
    anew = after["stored_anew"]
    assert anew["from"] == {
        "weights_dtype": before["weights_dtype"],
        "value": before["metric"]["value"],
        "sha256": registry.get_config(ENTRY).weights.sha256,
    }
    assert anew["hardware"] and anew["versions"]["tensorflow"] and anew["made"] > before["made"]

    flow = flowzoo.load(f"path:{folder}")  # with its own golden values
    source = open_source("moons", "test")
    measured = -np.mean(np.asarray(flow.log_prob(source.x, source.condition), "float64"))
    metric, old = after["metric"], before["metric"]
    np.testing.assert_allclose(metric["value"], measured, rtol=1e-6)
    assert metric["value"] != old["value"] and abs(metric["value"] - old["value"]) < 0.05
    assert metric["value_in_float32"] == old["value_in_float32"]
    assert (metric["num_examples"], metric["seed"]) == (old["num_examples"], old["seed"])
    assert after["round_trip"] != before["round_trip"]


def _app() -> typer.Typer:
    app = typer.Typer()
    app.command()(command)
    return app


def test_the_same_type_gives_the_same_weights(tmp_path: Path) -> None:
    original = packaged("saved_models") / ENTRY  # type: ignore[operator]
    folder = republish(ENTRY, weights_dtype=_card(original)["weights_dtype"], out=tmp_path)
    for a, b in zip(*(weights.read_variables(place / "1") for place in (original, folder)), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    np.testing.assert_allclose(
        _card(folder)["metric"]["value"], _card(original)["metric"]["value"], rtol=1e-5
    )
    text = str(zoo.ModelInfo(ENTRY, registry.get_config(ENTRY), _card(folder), None, None))
    assert "Stored anew:   as float32 on" in text and "from float32" in text
    with pytest.raises(FileExistsError):
        republish(ENTRY, weights_dtype="int8", out=tmp_path)
    assert _card(folder)["weights_dtype"] == "float32"


@pytest.mark.slow
def test_evaluations_are_counted_anew(tmp_path: Path) -> None:
    folder = republish("test_ffjord", weights_dtype="float16", out=tmp_path)
    assert _card(folder)["nfe"] == {"log_prob": 24.0, "sample": 24.0, "num_examples": 64}


def test_what_cannot_be_compared_or_trusted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="weights_dtype takes .*int8"):
        republish(ENTRY, weights_dtype="int4", out=tmp_path / "out")
    folder = tmp_path / "first"
    shutil.copytree(packaged("saved_models") / ENTRY, folder)  # type: ignore[operator]
    card = _card(folder)
    card["metric"]["num_examples"] -= 1
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(CorruptWeightsError, match=r"card\.json"):
        republish(ENTRY, weights_dtype="int8", out=tmp_path / "out", source=folder)
    weights.write_manifest(folder)
    with pytest.raises(DataError, match="different data"):
        republish(ENTRY, weights_dtype="int8", out=tmp_path / "out", source=folder)
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.setattr("flowzoo.measure.LARGEST_ROUND_TRIP", 1e-12)
    with pytest.raises(FloatingPointError, match="does not invert"):
        republish(ENTRY, weights_dtype="int8", out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
