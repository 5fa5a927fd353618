"""Pictures are read back: their pixels, their sizes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flowzoo import plots


def read(path):
    with Image.open(path) as image:
        image.load()
        return np.asarray(image)


def test_grid_holds_every_pixel_in_its_place(tmp_path):
    images = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2, 1) * 20
    sheet = read(plots.image_grid(images, tmp_path / "grid.png", columns=2, scale=1))
    assert sheet.shape == (2 * 4 + 2, 2 * 4 + 2)
    assert np.array_equal(sheet[2:4, 2:4], images[0, ..., 0])
    assert np.array_equal(sheet[2:4, 6:8], images[1, ..., 0])
    assert np.array_equal(sheet[6:8, 2:4], images[2, ..., 0])
    assert (sheet[6:8, 6:8] == 96).all()


def test_scale_repeats_pixels_and_colour_is_kept(tmp_path):
    image = np.zeros((1, 1, 2, 3), np.uint8)
    image[0, 0, 1] = [10, 20, 30]
    sheet = read(plots.image_grid(image, tmp_path / "rgb.png", scale=3))
    assert sheet.shape == (3 + 4, 6 + 4, 3)
    assert (sheet[2:5, 5:8] == [10, 20, 30]).all()


@pytest.mark.parametrize(
    ("values", "maximum", "white"),
    [
        (np.float32([0, 0.5, 1]), None, 128),
        (np.uint8([0, 8, 16]), 16, 128),
        (np.int64([0, 51, 255]), None, 51),
    ],
)
def test_maximum_is_white(tmp_path, values, maximum, white):
    images = values.reshape(1, 1, 3, 1)
    sheet = read(plots.image_grid(images, tmp_path / "grey.png", scale=1, maximum=maximum))
    assert sheet[2, 2:5].tolist() == [0, white, 255]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((2, 3, 3)), {}, "shape"),
        (np.zeros((2, 3, 3, 2)), {}, "shape"),
        (np.zeros((0, 3, 3, 1)), {}, "nothing to draw"),
        (np.full((1, 2, 2, 1), np.nan), {}, "NaN"),
        (np.full((1, 2, 2, 1), 1.5), {}, "from 1.5 to 1.5"),
        (np.full((1, 2, 2, 1), -1), {}, "0…255"),
        (np.full((1, 2, 2, 1), "a"), {}, "dtype"),
        (np.zeros((1, 2, 2, 1)), {"columns": 0}, "columns"),
        (np.zeros((1, 2, 2, 1)), {"scale": 1.5}, "scale"),
        (np.zeros((1, 2, 2, 1)), {"scale": 10_000}, "fewer images"),
        (np.zeros((1, 2, 2, 1)), {"maximum": 0}, "maximum"),
    ],
)
def test_bad_images_are_refused_and_the_earlier_file_stays(tmp_path, images, options, message):
    target = tmp_path / "grid.png"
    target.write_bytes(b"earlier")
    with pytest.raises(ValueError, match=message):
        plots.image_grid(images, target, **options)
    assert target.read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_only_png_is_written(tmp_path):
    for draw in (plots.image_grid, plots.scatter, plots.histograms):
        with pytest.raises(ValueError, match="png"):
            draw(np.zeros((2, 2)), tmp_path / "picture.jpg")


def coloured(path):
    """The fraction of pixels that are neither white nor grey."""
    pixels = read(path)[..., :3].astype(int)
    return (pixels.max(-1) - pixels.min(-1) > 20).mean()


def test_scatter_draws_its_points(tmp_path):
    points = np.random.default_rng(0).normal(size=(500, 2))
    many = coloured(plots.scatter(points, tmp_path / "many.png"))
    few = coloured(plots.scatter(points[:5], tmp_path / "few.png"))
    assert many > 5 * few > 0


def test_the_same_samples_give_the_same_bytes(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 2))
    first, second = (plots.scatter(points, tmp_path / name) for name in ("a.png", "b.png"))
    assert first.read_bytes() == second.read_bytes()


def test_density_is_bright_where_the_mass_is(tmp_path):
    seen = []

    def log_prob(points):
        seen.append(points)
        return -0.5 * (((points - [2.0, 2.0]) / 0.3) ** 2).sum(-1)

    pixels = read(plots.density(log_prob, tmp_path / "density.png", bounds=(-4, 4, -4, 4), resolution=50))
    assert seen[0].shape == (2500, 2)
    assert seen[0].dtype == np.float32
    yellow = np.argwhere((pixels[..., 0] > 200) & (pixels[..., 1] > 200) & (pixels[..., 2] < 100))
    yellow = yellow[yellow[:, 1] < 0.7 * pixels.shape[1]]  # without the colour bar
    assert len(yellow)
    assert yellow[:, 0].mean() < pixels.shape[0] / 2  # up is positive


@pytest.mark.parametrize(
    ("log_prob", "options", "message"),
    [
        (lambda points: points, {}, "shape"),
        (lambda points: np.full(len(points), np.nan), {}, "NaN"),
        (lambda points: np.zeros(len(points)), {"bounds": (1, 0, 0, 1)}, "bounds"),
        (lambda points: np.zeros(len(points)), {"resolution": 0}, "resolution"),
    ],
)
def test_bad_densities_are_refused(tmp_path, log_prob, options, message):
    with pytest.raises(ValueError, match=message):
        plots.density(log_prob, tmp_path / "density.png", **options)
    assert not list(tmp_path.iterdir())


def test_histograms_draw_a_panel_a_column(tmp_path):
    table = np.random.default_rng(0).normal(size=(200, 20))
    wide = read(plots.histograms(table, tmp_path / "wide.png"))
    narrow = read(plots.histograms(table[:, :1], tmp_path / "narrow.png", names=["age"]))
    assert wide.shape[1] == 4 * narrow.shape[1]
    with pytest.raises(ValueError, match="20 columns"):
        plots.histograms(table, tmp_path / "wide.png", names=["age"])


@pytest.mark.parametrize(
    "samples", [np.zeros((3, 3)), np.zeros(3), np.full((3, 2), np.inf), np.zeros((0, 2))]
)
def test_bad_points_are_refused(tmp_path, samples):
    with pytest.raises(ValueError, match="Received|NaN or inf"):
        plots.scatter(samples, tmp_path / "points.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "drawn_by"),
    [
        ((4, 6, 6, 1), "image_grid"),
        ((40, 2), "scatter"),
        ((40, 5), "histograms"),
        ((40, 8, 8, 2), "histograms"),
    ],
)
def test_preview_chooses_by_shape(tmp_path, shape, drawn_by):
    samples = np.random.default_rng(0).uniform(size=shape)
    chosen = plots.preview(samples, tmp_path / "preview.png")
    table = samples if drawn_by != "histograms" else samples.reshape(len(samples), -1)
    wanted = getattr(plots, drawn_by)(table, tmp_path / "wanted.png")
    assert chosen.read_bytes() == wanted.read_bytes()


def test_preview_clips_images_and_refuses_scalars(tmp_path):
    sheet = read(plots.preview(np.float32([-1, 2]).reshape(1, 1, 2, 1), tmp_path / "clipped.png"))
    assert {0, 255} <= set(sheet.ravel().tolist())
    with pytest.raises(ValueError, match="shape"):
        plots.preview(np.zeros(3), tmp_path / "scalars.png")


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="none"):
        plots.scatter(np.zeros((3, 2)), tmp_path / "none" / "points.png")
