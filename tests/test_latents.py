"""Latents of trained and untrained flows: paths, directions, levels; and the commands that draw them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import flowzoo
from flowzoo import latents, measure, own_data, registry
from flowzoo.cli import picturing
from flowzoo.cli.app import main
from flowzoo.data import Source, open_source
from flowzoo.data.images import read_pictures
from flowzoo.errors import DataError
from flowzoo.layers import Angle, DiagonalScaling, Rotation
from tests.models.flows import KINDS, randomise_gently, shared

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def digits() -> tuple[flowzoo.Flow, np.ndarray]:
    return flowzoo.load("test_realnvp"), np.asarray(open_source("digits", "test").x[:6])


@pytest.fixture(scope="module")
def faces() -> flowzoo.Flow:
    """A flow of three levels with random weights."""
    keras.utils.set_random_seed(0)
    flow = flowzoo.build("glow", (8, 8, 3), num_levels=3, num_steps=2, filters=8)
    randomise_gently(flow, 0, 0.05)
    return flow


def test_there_and_back_with_the_error_that_rounding_hides(digits) -> None:
    flow, x = digits
    back, error = latents.reconstruct(flow, x)
    np.testing.assert_array_equal(back, x)
    assert 0 < np.abs(error).max() < 0.01  # of 17 values


def test_pi_comes_back_as_the_same_angle() -> None:
    flow = flowzoo.Flow([Angle(), Rotation(0.5), Angle()], (2,), base="uniform")
    x = np.array([[np.pi, -np.pi], [np.deg2rad(180), 0.3]], "float32")
    assert np.abs(latents.round_trip_error(flow, x)).max() < 1e-6
    # What a flow of angles is held to before it is published.
    assert measure.round_trip(flow, Source(x=x), False)["largest_error"] < measure.LARGEST_ROUND_TRIP


def test_a_lossy_flow_shows_its_error() -> None:
    class Lossy(DiagonalScaling):
        def _forward(self, z: tf.Tensor, condition: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
            x, log_det = super()._forward(z, condition)
            return tf.round(x * 8) / 8, log_det

    x = RNG(0).normal(size=(16, 3)).astype("float32")
    for layer, least, most in ((DiagonalScaling(), 0.0, 1e-6), (Lossy(), 1e-2, 1 / 16)):
        error = np.abs(latents.reconstruct(flowzoo.Flow([layer], event_shape=(3,)), x)[1])
        assert least <= error.max() <= most


@pytest.mark.parametrize("method", latents.METHODS)
def test_a_path_begins_and_ends_with_the_examples(digits, method: str) -> None:
    flow, x = digits
    path = latents.interpolate(flow, x[0], x[1], 5, method=method)
    assert path.shape == (5, *flow.event_shape) and path.dtype == x.dtype
    np.testing.assert_array_equal(path[[0, -1]], x[:2])
    turned = latents.interpolate(flow, x[1], x[0], 5, method=method)
    np.testing.assert_allclose(turned[::-1].astype(int), path.astype(int), atol=1)


def test_the_arc_keeps_the_length_of_latents() -> None:
    flow = flowzoo.Flow([DiagonalScaling()], event_shape=(64,))
    a, b = RNG(0).normal(size=(2, 64)).astype("float32")
    arc, line = (latents.interpolate(flow, a, b, 9, method=method) for method in latents.METHODS)
    lengths = np.linspace(np.linalg.norm(a), np.linalg.norm(b), 9)
    np.testing.assert_allclose(np.linalg.norm(arc, axis=1), lengths, rtol=1e-5)
    assert np.linalg.norm(line[4]) < 0.85 * lengths[4]
    np.testing.assert_allclose(line[4], (a + b) / 2, atol=1e-5)
    # Equal, opposite and zero ends have no arc: a straight line joins them.
    for end in (a, -a, 0 * a):
        assert np.isfinite(latents.interpolate(flow, a, end, 4)).all()
    np.testing.assert_allclose(latents.interpolate(flow, a, a, 3), [a, a, a], atol=1e-5)


def test_bad_paths_are_refused(digits) -> None:
    flow, x = digits
    with pytest.raises(ValueError, match="steps takes"):
        latents.interpolate(flow, x[0], x[1], 1)
    with pytest.raises(ValueError, match="Did you mean 'linear'"):
        latents.interpolate(flow, x[0], x[1], 3, method="liner")
    with pytest.raises(ValueError, match=r"a and b take one example each, of shape .*\(2, 8, 8, 1\) and"):
        latents.interpolate(flow, x[:2], x[0])


@pytest.mark.parametrize("numbers", [[], 0.5, [[0.5]], ["a"], [np.nan]])
def test_strengths_and_temperatures_are_lists_of_numbers(digits, numbers) -> None:
    flow, x = digits
    with pytest.raises(ValueError, match="strengths takes a list of finite numbers.*Received"):
        latents.move(flow, x[:1], np.zeros(flow.latent_shape), numbers)
    with pytest.raises(ValueError, match="values takes a list of finite numbers.*Received"):
        latents.temperatures(flow, 1, numbers)


def test_a_direction_leads_from_the_mean_of_one_set_to_that_of_the_other(digits) -> None:
    flow, x = digits
    along = latents.direction(flow, x[:3], x[3:])
    assert along.shape == flow.latent_shape
    z = np.asarray(flow.to_latent(x))
    np.testing.assert_allclose(along, z[3:].mean(0) - z[:3].mean(0), atol=1e-4)
    moved = latents.move(flow, x[:2], along, [0.0, 0.5])
    assert moved.shape == (2, 2, *flow.event_shape)
    np.testing.assert_array_equal(moved[:, 0], x[:2])
    np.testing.assert_array_equal(moved[:, 1], flow.from_latent(z[:2] + 0.5 * along))
    with pytest.raises(ValueError, match="along takes a latent"):
        latents.move(flow, x, along[:-1], [1.0])
    many = np.concatenate([x[3:]] * 30)  # in several batches, the last of them smaller
    np.testing.assert_allclose(latents.direction(flow, x[:3], many), along, atol=1e-5)
    with pytest.raises(ValueError, match="at least one example of each kind"):
        latents.direction(flow, x[:0], x)


def test_temperatures_share_their_noise(digits) -> None:
    flow, _ = digits
    rows = latents.temperatures(flow, 3, [0.5, 1.0], seed=4)
    np.testing.assert_array_equal(rows[1], flow.sample(3, seed=4))
    np.testing.assert_array_equal(rows[0], flow.sample(3, temperature=0.5, seed=4))


def test_conditions_belong_to_examples() -> None:
    flow, what = shared("nice", "labelled_image"), KINDS["labelled_image"]
    x, labels = what.data(3), np.array([0, 2, 1])
    along = RNG(0).normal(size=flow.latent_shape)
    moved = latents.move(flow, x, along, [0.0, 0.5], labels)
    for given, label, row in zip(x, labels, moved, strict=True):
        np.testing.assert_array_equal(row[0], given)
        np.testing.assert_array_equal(row[1:], latents.move(flow, given[None], along, [0.5], label)[0])
    np.testing.assert_array_equal(latents.move(flow, x, along, [0.0], 2)[:, 0], x)


def test_levels_are_drawn_anew_from_the_finest_on(faces) -> None:
    parts = latents.level_slices(faces)
    # 8x8x3: 4x4x12 lets half go, then 2x2x24, and 1x1x48 is left.
    assert [(part.start, part.stop) for part in parts] == [(96, 192), (48, 96), (0, 48)]
    x = RNG(1).integers(0, 256, (2, 8, 8, 3)).astype("uint8")
    rows = latents.resample_levels(faces, x, seed=3)
    assert rows.shape == (2, 4, 8, 8, 3)
    np.testing.assert_array_equal(rows[:, 0], x)
    z = np.asarray(faces.to_latent(x))
    for number, part in enumerate(parts, 1):
        again = np.asarray(faces.to_latent(rows[:, number]))  # the middle of the bin: near, not equal
        kept = slice(0, part.start)
        assert part.start == 0 or np.abs(again - z)[:, kept].mean() < 0.2 * np.abs(again - z)[:, part].mean()
    np.testing.assert_array_equal(rows, latents.resample_levels(faces, x, seed=3))
    assert not np.array_equal(rows, latents.resample_levels(faces, x, seed=3_000_000_000))


def test_a_flow_of_one_level_has_none_to_keep() -> None:
    flow = flowzoo.build("maf", (3,))
    assert latents.level_slices(flow) == [slice(0, 3)]
    with pytest.raises(ValueError, match="one level"):
        latents.resample_levels(flow, np.zeros((1, 3), "float32"))


# -- the commands ---------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path, digits) -> list[str]:
    """Digits as large grey photographs."""
    paths = []
    for number, digit in enumerate(digits[1][:4]):
        path = tmp_path / f"{number}.png"
        big = np.kron(digit[..., 0] * 15, np.ones((5, 5))).astype("uint8")
        Image.fromarray(np.pad(big, ((0, 0), (8, 8)))).save(path)
        paths.append(str(path))
    (tmp_path / "some").mkdir()
    for path in paths[:2]:
        (tmp_path / "some" / Path(path).name).write_bytes(Path(path).read_bytes())
    return paths


def test_commands_draw(tmp_path: Path, pictures: list[str], capsys) -> None:
    some, out = str(tmp_path / "some"), str(tmp_path / "out.png")
    sizes = {
        ("interpolate", *pictures[:2], "--steps", "3"): (3, 1),
        ("reconstruct", *pictures): (4, 3),
        ("attribute", *pictures[:2], "--from", some, "--to", some, "--strengths", "-1,0,1"): (3, 2),
        ("temperatures", "--num", "5", "--values", "0.5,1", "--seed", "1"): (5, 2),
        ("levels", *pictures[:2], "--seed", "1"): (3, 2),
    }
    for (command, *arguments), (columns, rows) in sizes.items():
        name = "test_glow" if command == "levels" else "test_nice"
        assert main([command, name, *arguments, "--out", out, "--json"]) == 0, capsys.readouterr().err
        assert json.loads(capsys.readouterr().out)["name"] == name
        with Image.open(out) as drawn:
            width, height = drawn.size
        assert abs(width / height - columns / rows) < 0.2 * columns / rows, command


@pytest.mark.slow
def test_a_continuous_flow_is_drawn_with_another_solver(tmp_path: Path, pictures: list[str], capsys) -> None:
    """Its own, dopri5, takes minutes on a CPU; with one step of Euler there and back the error is seen."""
    out = str(tmp_path / "out.png")
    solver = ["--solver", "euler", "--solver-steps", "1", "--label", "3", "--out", out, "--json"]
    assert main(["reconstruct", "flow_matching_mnist", pictures[0], *solver]) == 0, capsys.readouterr().err
    assert min(json.loads(capsys.readouterr().out)["largest_error"]) > 1


def test_pictures_are_read_before_a_model_is_loaded(tmp_path: Path, capsys) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    arguments = ["glow_celeba", str(tmp_path / "broken.png"), "--out", str(tmp_path / "out.png")]
    assert main(["reconstruct", *arguments]) not in (0, 1)
    said = capsys.readouterr()
    assert "broken.png" in said.err and "weights:" not in said.out + said.err


def test_what_is_refused_needs_no_tensorflow_and_what_is_drawn_none_of_its_log(
    tmp_path: Path, pictures: list[str]
) -> None:
    """It is imported once pictures are read, and what it logs about itself meanwhile is held back."""
    out, none = str(tmp_path / "out.png"), str(tmp_path / "none.png")
    refused = [
        ["interpolate", "test_nice", pictures[0], none, "--out", out],
        ["reconstruct", "test_nice", none, "--out", out],
        ["attribute", "test_nice", none, "--from", none, "--to", none, "--out", out],
        ["temperatures", "test_nice", "--values", "a", "--out", out],
        ["levels", "test_glow", none, "--out", out],
    ]
    program = f"""
import sys
from flowzoo.cli import main
codes = [int(main(arguments)) for arguments in {refused!r}]
print("refused", codes, "tensorflow" in sys.modules, file=sys.stderr)
sys.exit(main({["temperatures", "test_nice", "--num", "1", "--values", "1", "--out", out]!r}))
"""
    quiet = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr
    *messages, last = done.stderr.splitlines()
    assert last == f"refused {[2] * len(refused)} False"
    assert all(message.startswith("flowzoo: ") for message in messages)


def test_what_cannot_be_drawn_is_said(tmp_path: Path, pictures: list[str], capsys) -> None:
    out = str(tmp_path / "out.png")
    for arguments, message in (
        (["interpolate", "maf_moons", *pictures[:2], "--out", out], "no flow of images"),
        (["interpolate", "test_realnvp", pictures[0], "nothing.png", "--out", out], "nothing.png"),
        (["temperatures", "test_realnvp", "--values", "0,1", "--out", out], "above 0"),
        (["temperatures", "test_realnvp", "--values", "a", "--out", out], "takes numbers"),
        (["temperatures", "test_nice", "--solver", "euler", "--out", out], "solves no equation"),
        (["reconstruct", "test_realnvp", pictures[0], "--out", str(tmp_path / "out.gif")], ".png"),
    ):
        assert main(arguments) not in (0, 1), arguments
        assert message in capsys.readouterr().err


def test_pictures_are_cut_as_those_of_the_training_were() -> None:
    def crop(name: str, **options: object) -> object:
        config = registry.get_config(name)
        if options:
            config = own_data.renamed(config, {"source": "image_folder", "options": options}, None, "my_own")
        return picturing._crop(config)

    assert crop("glow_celeba") == 148 / 178 and crop("realnvp_mnist") == "center"
    assert crop("glow_celeba", path="holidays", size=8, crop=0.9) == 0.9
    assert crop("glow_celeba", path="holidays", size=8) is None  # resized whole, as the source does


def test_pictures_of_any_size_are_cut_and_resized(tmp_path: Path) -> None:
    wide = np.zeros((20, 40, 3), "uint8")
    wide[:, 10:30] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    x = read_pictures([tmp_path / "wide.png", tmp_path], (8, 8, 3))
    assert x.shape == (2, 8, 8, 3) and (x == 200).all()
    assert read_pictures([tmp_path], (8, 8, 1), crop=0.5).shape == (1, 8, 8, 1)
    with pytest.raises(DataError, match="height, width"):
        read_pictures([tmp_path], (3,))
