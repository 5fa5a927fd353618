"""The side-by-side: its batches, flowzoo's side, the peer's where it is installed, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import (
    attributes,
    few_steps,
    five_bits,
    memorisation,
    memory,
    ours,
    replicas,
    serving,
    speed,
    variants,
)
from benchmarks.families import FAMILIES
from benchmarks.kernel_distance import KernelDistance, squared_mmd
from benchmarks.side_by_side import as_table
from benchmarks.tables import BATCH, Table
from flowzoo.data.images import read_pictures


@pytest.fixture(scope="module")
def table() -> Table:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3)).astype("float32")
    x[:, 2] = x[:, 0] ** 2 + 0.1 * x[:, 2]
    return Table("made", x[:500], x[500:550], x[550:], steps=100)


def test_batches_are_whole_passes_and_repeat(table: Table) -> None:
    batches = table.batches(5, seed=3)
    assert batches.shape == (5, BATCH, 3)
    assert np.array_equal(batches, table.batches(5, seed=3))
    assert not np.array_equal(batches, table.batches(5, seed=4))
    first = batches.reshape(-1, 3)[:500]
    assert np.array_equal(np.unique(first, axis=0), np.unique(table.train, axis=0))


@pytest.mark.slow
def test_our_side_learns(table: Table) -> None:
    few, more = (ours.run(FAMILIES["maf"], table, steps, seed=0) for steps in (8, 64))
    assert more["nats"] < few["nats"] and more["parameters"] == few["parameters"] > 0 < more["seconds"]


def test_the_peers_side_learns(table: Table) -> None:
    pytest.importorskip("zuko", reason="zuko and PyTorch are not installed: pip install -e '.[benchmarks]'")
    from benchmarks import peer_zuko

    few, more = (peer_zuko.run(FAMILIES["maf"], table, steps, seed=0) for steps in (8, 64))
    assert more["nats"] < few["nats"] and more["parameters"] > 0 < more["seconds"]


def test_the_table_gives_mean_and_spread() -> None:
    def side(nats: float, seconds: float) -> dict[str, float]:
        return {"nats": nats, "seconds": seconds, "parameters": 1234}

    runs = [
        {"family": "maf", "table": "made", "seed": seed, "steps": 9, "flowzoo": side(1.0 + seed, 0.5)}
        | {"zuko": side(3.0, 1.0)}
        for seed in range(3)
    ]
    row = as_table({"runs": runs, "versions": "v", "machine": "m"}).splitlines()[-1]
    assert "| 2.000 ± 1.000 | 3.000 ± 0.000 | -1.000 |" in row and "x 0.50" in row


def test_the_nearest_training_face_is_found_over_blocks() -> None:
    random = np.random.default_rng(0)
    train = random.integers(0, 256, (2500, 4, 4, 3)).astype("uint8")
    x = train[[3, 1024, 2499]].astype(int)
    x[1, 0, 0, 0] += 24 if x[1, 0, 0, 0] < 128 else -24
    apart, which = memorisation.nearest(x.astype("uint8"), train)
    assert list(which) == [3, 1024, 2499]
    np.testing.assert_allclose(apart, [0, 24 / np.sqrt(48), 0], atol=0.05)
    row = {"median": 20.0, "least": 15.04}
    found = {"glow": {"temperature": 0.7, "num": 64, "samples": row, "real": {"median": 21.0, "least": 9.0}}}
    assert memorisation.as_table(found).splitlines()[-1] == "| glow | 0.7 | 20.0 | 15.0 | 21.0 | 9.0 |"


def test_both_sides_are_called_in_turns_by_every_client() -> None:
    order: list[str] = []
    sides = {side: lambda side=side: order.append(side) for side in ("exported", "keras")}
    times = serving.in_turns(sides, clients=3, rounds=2, seconds=0.0)
    assert order == [
        side for side in ("exported", "keras", "keras", "exported", "exported", "keras") for _ in "abc"
    ]
    assert all(len(turn["latencies"]) == 3 for turns in times.values() for turn in turns)


def test_the_table_of_serving_gives_ratios() -> None:
    def side(scale: float) -> dict[str, float]:
        return {
            "p50_ms": scale,
            "p99_ms": 2 * scale,
            "processor_ms": 3 * scale,
            "calls_a_second": 4 / scale,
            "calls": 9 * scale,
        }

    run = {"entry": "maf", "signature": "sample", "rows": 1, "clients": 8, "load_average": 2.5}
    run |= {"rounds": 8, "seconds": 0.5}
    turns = [{"latencies": [0.1 * scale] * 4, "wall": 0.4 * scale, "processor": 0.1} for scale in (1, 4, 2)]
    ratios = serving._ratios(turns[:2], turns[1:])  # 1 : 4 and 4 : 2
    half = 2**-0.5
    assert ratios["p50_ms"] == pytest.approx([half, half * np.log(8) / 2], abs=1e-3)
    assert ratios["calls_a_second"] == pytest.approx([1 / half, np.log(8) / 2 / half], abs=1e-3)
    assert ratios["processor_ms"] == [1.0, 0.0]
    run["ratios"] = ratios
    found = {"machine": "m", "runs": [{**run, "exported": side(1.0), "keras": side(4.0)}]}
    row = serving.as_table(found).splitlines()[-1]
    start = "| maf | sample | 1 | 8 | 9.0 | 1.00 / 2.00 | x 0.707 ± 0.735 | x 0.25 "
    assert row == start + "| x 1.000 ± 0.000 | x 1.414 ± 1.470 |"


def test_the_kernel_distance_is_zero_between_equal_distributions_and_grows() -> None:
    rng = np.random.default_rng(0)
    a, b, moved, wider = (
        shift + scale * rng.normal(size=(400, 8)) for shift, scale in ((0, 1), (0, 1), (0.5, 1), (0, 1.5))
    )
    repeats = [squared_mmd(rng.normal(size=(400, 8)), rng.normal(size=(400, 8))) for _ in range(20)]
    assert abs(np.mean(repeats)) < 3 * np.std(repeats) / np.sqrt(20)  # unbiased: it is as often below zero
    assert squared_mmd(a, b) < 5 * np.std(repeats) < min(squared_mmd(a, moved), squared_mmd(a, wider))


def test_the_kernel_distance_of_faces_sees_noise() -> None:
    pytest.importorskip("mtcnn", reason="mtcnn is not installed: pip install -e '.[benchmarks]'")
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(rng.integers(0, 256, (300, 8, 8, 3)), 8, 1), 8, 2).astype("uint8")
    noise = rng.integers(0, 256, (100, 64, 64, 3)).astype("uint8")
    distance = KernelDistance(smooth[:100], smooth[100:200])
    floor, _ = distance(smooth[200:])
    assert floor < 0.1 * distance(noise)[0]


def test_samples_with_fewer_steps_are_compared_with_those_of_the_most() -> None:
    x = np.zeros((2, 4, 4, 3), "uint8")
    assert few_steps.change({1: x + 200, 2: x + 3, 8: x + 5}) == {1: 195.0, 2: 2.0, 8: 0.0}
    steps = [{"steps": 1, "face_share": 0.9, "kernel_distance": [0.5, 0.1], "change": 7.0, "seconds": 0.04}]
    assert few_steps.table({"a": {"steps": steps}}).endswith("| a | 1 | 90.0% | 0.50 ± 0.10 | 7.0 | 0.040 |")


def test_faces_are_sorted_into_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the votes of the cascade, which here are the brightness of a picture."""
    monkeypatch.setattr(attributes, "smiles", lambda x, votes: x[:, 0, 0, 0] >= votes)
    x = np.array([0, 255, 4, 30, 254, 253], "uint8")[:, None, None, None] * np.ones((6, 8, 8, 3), "uint8")
    ends = attributes.sort(x, 2, tmp_path)
    assert [path.name for path in sorted(ends["plain"].iterdir())] == ["000001.png", "000003.png"]
    assert np.array_equal(read_pictures([ends["smiling"]], (8, 8, 3)), x[[1, 4]])
    shares = {f"{s:g}": {"smile": 0.5, "face": 1.0} for s in attributes.STRENGTHS}
    row = {
        "pictures": {"plain": 1, "smiling": 2},
        "plain": {"faces": 3, **shares},
        "smiling": {"faces": 4, **shares},
    }
    assert "| a | 1 plain, 2 smiling | 4 smiling | 50% (100%) |" in attributes.as_table({"a": row})


def test_faces_of_five_bits_are_scored_as_such() -> None:
    config = five_bits.recipe("glow_celeba", 3, 1e-4, {}, {})
    assert config.data.options["bits"] == 5 and config.model.args["num_values"] == 32
    assert config.training.epochs == 3 and config.training.outliers == 0
    row = {"bits_per_dim": 1.5, "standard_error": 0.01, "epochs": 3, "hardware": "H"}
    assert five_bits.table({"a": row}, {"a": 2.5}).endswith("| a | 2.500 | 1.500 ± 0.010 | 3 | H |")


def test_memory_of_one_kind_of_device_stays_beside_the_other(tmp_path: Path) -> None:
    found = {"peak_mib": 8.0, "seconds": 2.0}
    rows = [{"family": "glow", "depth": 8, "stored": found, "again": {"peak_mib": 4.0, "seconds": 3.0}}]
    for device in ("GPU", "CPU"):
        memory.write(tmp_path / "memory.json", device, {"side": 4, "filters": 2, "batch": 1, "rows": rows})
    text = (tmp_path / "memory.md").read_text()
    assert text.count("| glow | 8 | 8 | 4 | 1.50 |") == 2 and "## GPU" in text and "## CPU" in text


@pytest.mark.parametrize("family", sorted(variants.VARIANTS))
def test_variants_are_variants_of_what_is_compared(family: str) -> None:
    builder = variants.BUILDERS[family]
    compared = ours.build(FAMILIES[family], 3)
    for name, arguments in variants.VARIANTS[family].items():
        if name == variants.ZUKO:
            continue
        start = variants.STARTS.get(arguments.get("start"))
        flow = builder(FAMILIES[family], 3, **{k: v for k, v in arguments.items() if k != "start"})
        same = [weight.shape for weight in flow.weights] == [weight.shape for weight in compared.weights]
        assert same == (not {"act_norm", "waves"} & arguments.keys()), name
        if start:
            before = flow.get_weights()
            start(flow, 0)
            changed = [not np.array_equal(*pair) for pair in zip(before, flow.get_weights(), strict=True)]
            # Of a velocity that starts at zero the last kernel alone does.
            assert sum(changed) >= (1 if family == "ffjord" else 4)


def test_a_training_that_ended_in_nan_is_told_of_and_not_averaged() -> None:
    table = variants.as_table(
        {"maf/shuttle/as it is": [1.0, float("nan"), 3.0], "maf/shuttle/zuko": [1.0, 1.0]}
    )
    row = table.splitlines()[-2]
    assert row == "| shuttle | maf | as it is | 3, 1 ended in NaN | 2.000 ± 1.414 | +1.000 ± 1.000 |"


def test_the_table_of_speed_joins_parts_and_says_what_was_not_measured(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    row = {"entry": "glow", "precision": "float32", "xla": True, "batch": 64, "hardware": "h"}
    out.write_text(json.dumps(speed._joined(out, {**row, "training": 1234.5, "waiting": 0.004})))
    scored = {**row, "log_prob": 10.0, "bits_per_dim": 2.5, "scored": 8}
    rows = speed._joined(out, scored)
    assert len(rows) == 1 and len(speed._joined(out, {**scored, "xla": False})) == 2
    line = speed.as_table(rows).splitlines()[-1]
    assert line == "| glow | float32 | on | 64 | 1,234 | 0.4% | 10.0 (8) | 2.500 | - | - | - | h |"
    fixed = {"log_prob_fixed": 20.0, "bits_per_dim_fixed": 2.6, "scored_fixed": 8}
    line = speed.as_table(speed._joined(out, {**row, **fixed})).splitlines()[-1]
    assert line == "| glow | float32 | on | 64 | 1,234 | 0.4% | - | - | 20.0 (8) | 2.600 | - | h |"


def test_the_affine_of_the_peer_inverts_with_its_log_det() -> None:
    flow = variants.build_maf(FAMILIES["maf"], 2, affine="zuko")
    variants.start_as_torch(flow, 0)
    x = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    flow.adapt(x)
    z = flow.to_latent(x)
    np.testing.assert_allclose(flow.from_latent(z), x, atol=1e-5)
    with tf.GradientTape() as tape:
        given = tf.constant(x)
        tape.watch(given)
        latent = flow.to_latent(given)
    jacobian = tape.batch_jacobian(latent, given)
    base = -0.5 * np.sum(np.square(z), axis=1) - np.log(2 * np.pi)
    np.testing.assert_allclose(flow.log_prob(x), base + np.linalg.slogdet(jacobian)[1], rtol=1e-4, atol=1e-4)


def test_variants_are_compared_with_the_peer() -> None:
    text = variants.as_table({"maf/made/as it is": [2.0, 2.2], "maf/made/zuko": [1.9, 2.1]})
    assert "| made | maf | as it is | 2 | 2.100 ± 0.141 | +0.100 ± 0.141 |" in text
    assert "| made | maf | zuko | 2 | 2.000 ± 0.141 | - |" in text


def test_replicas_are_compared_with_one_of_the_same_work() -> None:
    row = {"entry": "glow", "gpus": 1, "batch": 64, "precision": "float32", "examples_a_second": 1000.0}
    rows = [row, {**row, "gpus": 2, "examples_a_second": 1850.0}, {**row, "gpus": 2, "batch": 32}]
    text = replicas.as_table([{**row, "hardware": "GPUs"} for row in rows])
    assert "| glow | 2 | 64 | float32 | 1,850 | x 1.85 | GPUs |" in text
    assert "| glow | 2 | 32 | float32 | 1,000 | - | GPUs |" in text
