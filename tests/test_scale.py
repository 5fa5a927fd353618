"""docs/scale.md: its Python runs, its recipe is one, and its arithmetic is that of the entry."""

from __future__ import annotations

import contextlib
import io
import math
import re
from pathlib import Path

import pytest
import yaml

from flowzoo import registry
from flowzoo.config import parse_config

SCALE = Path(__file__).resolve().parent.parent / "docs" / "scale.md"
TEXT = SCALE.read_text(encoding="utf-8")
WORDS = " ".join(TEXT.split())


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_its_python_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, said = {"__name__": "scale"}, io.StringIO()
    with contextlib.redirect_stdout(said):
        for block in blocks("python"):
            exec(compile(block, str(SCALE), "exec"), names)  # noqa: S102
    assert "(32, 8)" in said.getvalue()
    assert len(names["history"].history["data_wait_share"]) == 2


def test_its_recipe_is_the_entrys_for_a_larger_batch():
    entry = registry.get_config("glow_celeba").model_dump(mode="json")
    given = yaml.safe_load(blocks("yaml")[0])["training"]
    planned = parse_config({**entry, "training": given}, "docs/scale.md").training
    k = planned.batch_size / entry["training"]["batch_size"]
    optimizer = entry["training"]["optimizer"]
    assert k == 8
    assert planned.optimizer.learning_rate == pytest.approx(
        optimizer["learning_rate"] * math.sqrt(k), rel=1e-3
    )
    assert planned.ema == pytest.approx(entry["training"]["ema"] ** k, abs=5e-5)
    assert planned.optimizer.clip_norm == optimizer["clip_norm"]
    assert planned.epochs == entry["training"]["epochs"]
    examples = 2 * 162_770
    assert f"{examples // planned.batch_size:,} steps an epoch instead of {examples // 64:,}" in WORDS
    assert abs(planned.optimizer.warmup_steps - 5 * (examples // planned.batch_size)) < 50


def test_its_arithmetic():
    parameters = int(re.search(r"has ([\d,]+) trainable parameters", WORDS)[1].replace(",", ""))
    gradient, n = 4 * parameters, 64
    sent = 2 * (n - 1) / n * gradient
    assert f"G = {gradient:,} bytes" in WORDS
    assert f"{sent / 1e6:.1f} MB a GPU for n = 64" in WORDS
    assert f"{2 * 162_770:,} examples" in WORDS and f"{64 * 64 * 3:,} bytes each, 4.0 GB" in WORDS
    assert round(2 * 162_770 * 64 * 64 * 3 / 1e9, 1) == 4.0
    rows = re.findall(
        r"^\| (\d+) ms \| ([\d.]+) GB/s .*?\| ([\d.]+) ms \| (\d+) % \|$",
        TEXT,
        re.M,
    )
    assert len(rows) == 6
    for computing, bandwidth, exchange, share in rows:
        wanted = sent / float(bandwidth) / 1e6 + 2 * (n - 1) * 0.01
        assert exchange == f"{wanted:.1f}"
        assert share == f"{100 * float(computing) / (float(computing) + wanted):.0f}"


@pytest.mark.slow
def test_the_entry_has_as_many_parameters():
    import flowzoo

    model = flowzoo.build("glow_celeba")
    count = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert f"has {count:,} trainable parameters" in WORDS
