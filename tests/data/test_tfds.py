"""TFDS data sets, prepared here on the fly; and what is said of one that is not prepared."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from flowzoo.data import SPLITS, open_source, pipeline
from flowzoo.data.images import decode_image
from flowzoo.errors import DataError, MissingDataError, UnknownNameError

COUNT = 50


def images(count, start):
    values = np.arange(start, start + count, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, 4, 6, 3))


def prepare(folder, name, splits, features, supervised=None):
    """Writes a data set of TFDS as its own builders do."""

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=supervised,
                disable_shuffling=True,
            )

        def _split_generators(self, manager):
            return {split: self._generate_examples(columns) for split, columns in splits.items()}

        def _generate_examples(self, columns):
            for row in range(len(columns["label"])):
                yield row, {key: values[row] for key, values in columns.items()}

    Prepared.name = name
    Prepared(data_dir=folder).download_and_prepare()


FEATURES = {
    "image": tfds.features.Image(shape=(4, 6, 3)),
    "label": tfds.features.ClassLabel(num_classes=5),
    "weight": tfds.features.Scalar(np.float64),
    "position": tfds.features.Tensor(shape=(2,), dtype=np.int64),
    "name": tfds.features.Text(),
}


def columns(count, start):
    rows = np.arange(start, start + count)
    return {
        "image": images(count, start),
        "label": rows % 5,
        "weight": rows / 2.0,
        "position": np.stack([rows, -rows], axis=1),
        "name": [str(row) for row in rows],
    }


# As celeb_a is: a picture among other features, no pair, splits of its own.
FACES = {"train": 12, "validation": 3, "test": 3}
FACE_FEATURES = {
    "image": tfds.features.Image(shape=(109, 89, 3)),
    "label": {"Smiling": np.bool_, "Young": np.bool_},
    "landmarks": {"nose_x": np.int64},
}


def faces(count):
    shades = np.linspace(0, 255, 89).astype(np.uint8)[None, :, None]
    pictures = [np.broadcast_to(np.roll(shades, 5 * row, axis=1), (109, 89, 3)) for row in range(count)]
    return {
        "image": np.stack(pictures),
        "label": [{"Smiling": row % 2 == 0, "Young": True} for row in range(count)],
        "landmarks": [{"nose_x": row} for row in range(count)],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    pair = ("image", "label")
    prepare(folder, "pictures", {"train": columns(COUNT, 0), "test": columns(10, 100)}, FEATURES, pair)
    prepare(folder, "lonely", {"train": columns(COUNT, 0)}, FEATURES)
    three = {"train": columns(20, 0), "valid": columns(5, 20), "test": columns(5, 25)}
    prepare(folder, "three", three, FEATURES, pair)
    some = {key: columns(COUNT, 0)[key] for key in ("label", "position")}
    prepare(folder, "numbers", {"train": some}, {key: FEATURES[key] for key in some})
    prepare(folder, "faces", {part: faces(count) for part, count in FACES.items()}, FACE_FEATURES)
    return folder


def first_values(source):
    return source.head()[0].reshape(source.size, -1)[:, 0]


def test_supervised_pair_becomes_x_and_condition(folder):
    source = open_source("tfds", name="pictures", data_dir=folder)
    assert source.is_streamed and source.size == 45
    assert (source.event_shape, source.dtype, source.num_values) == ((4, 6, 3), np.uint8, 256)
    assert (source.condition_shape, source.num_classes) == ((), 5)
    assert "pictures/1.0.0" in source.origin
    x, condition = source.head()
    np.testing.assert_array_equal(x, images(45, 0))
    np.testing.assert_array_equal(condition, np.arange(45) % 5)
    assert condition.dtype == np.int32


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pictures", {"train": range(45), "validation": range(45, 50), "test": range(100, 110)}),
        ("lonely", {"train": range(40), "validation": range(40, 45), "test": range(45, 50)}),
        ("three", {"train": range(20), "validation": range(20, 25), "test": range(25, 30)}),
    ],
)
def test_missing_splits_come_from_train(folder, name, expected):
    for split in SPLITS:
        source = open_source("tfds", split, name=name, data_dir=folder, feature="image")
        np.testing.assert_array_equal(first_values(source), expected[split])


def test_features_are_chosen_and_cast(folder):
    options = {"name": "lonely", "data_dir": folder, "feature": "position"}
    plain = open_source("tfds", **options)
    assert plain.dtype == np.float32 and plain.condition_shape is None and plain.num_values is None
    weighted = open_source("tfds", **options, label="weight")
    x, condition = weighted.head(3)
    np.testing.assert_array_equal(x, [[0, 0], [1, -1], [2, -2]])
    np.testing.assert_array_equal(condition, np.array([0, 0.5, 1], np.float32))
    assert condition.dtype == np.float32 and weighted.num_classes is None


def test_faces_as_the_recipes_cut_and_mirror_them(folder):
    options = {"name": "faces", "data_dir": folder, "size": 32, "crop": 148 / 178, "mirror": True}
    sources = {split: open_source("tfds", split, **options) for split in SPLITS}
    assert {split: source.size for split, source in sources.items()} == {**FACES, "train": 24}
    x = sources["train"].head()[0]
    assert x.shape == (24, 32, 32, 3) and x.dtype == np.uint8
    np.testing.assert_array_equal(x[12:], x[:12, :, ::-1])
    assert not np.array_equal(x[:12], x[12:])
    few = open_source("tfds", "train", **{**options, "mirror": False}, bits=5)
    assert few.num_values == 32 and few.size == 12
    np.testing.assert_array_equal(few.head()[0], x[:12] // 8)
    # As the files of the same pictures are read, within what two ways to resize differ by.
    for row, picture in enumerate(faces(12)["image"]):
        raw = io.BytesIO()
        Image.fromarray(picture).save(raw, "png")
        alike = decode_image(raw.getvalue(), size=(32, 32), crop=148 / 178, channels=3, where="")
        assert np.abs(alike.astype(int) - x[row]).max() <= 2


def test_crop_and_size(folder):
    options = {"name": "pictures", "data_dir": folder}
    assert open_source("tfds", **options, crop="center").event_shape == (4, 4, 3)
    assert open_source("tfds", **options, crop=2).event_shape == (2, 2, 3)
    small = open_source("tfds", **options, crop="center", size=2)
    assert small.event_shape == (2, 2, 3) and small.dtype == np.uint8
    np.testing.assert_array_equal(first_values(small), np.arange(45))


def test_through_the_pipeline(folder):
    source = open_source("tfds", name="pictures", data_dir=folder)
    dataset = pipeline(source, 8, shuffle=True, seed=0, conditional=True)
    assert dataset.cardinality() == 6
    orders = []
    for _ in range(2):
        x, label = (np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True))
        np.testing.assert_array_equal(x[:, 0, 0, 0] % 5, label)
        orders.append(x[:, 0, 0, 0])
        np.testing.assert_array_equal(np.sort(orders[-1]), np.arange(45))
    assert (orders[0] != orders[1]).any()
    assert dataset.element_spec[0].dtype == tf.uint8


def test_found_in_the_data_folders(folder, tmp_path, monkeypatch):
    (tmp_path / "tensorflow_datasets").symlink_to(folder)
    monkeypatch.setenv("FLOWZOO_DATA", str(tmp_path))
    assert open_source("tfds", name="pictures").size == 45


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "numbers"}, "give the option feature.*'label', 'position'"),
        ({"name": "lonely", "feature": "imag"}, "no feature 'imag'. Did you mean 'image'"),
        ({"name": "lonely", "feature": "name"}, "feature 'name': must hold numbers"),
        ({"name": "lonely", "feature": "image", "label": "name"}, "a condition must hold numbers"),
        ({"name": "lonely", "bits": 9}, "bits takes an integer from 1 to 8, for bytes. Received: 9"),
        ({"name": "lonely", "feature": "position", "bits": 5}, "for bytes. Received: 5"),
        ({"name": "lonely", "feature": "position", "mirror": True}, "mirror are for images"),
        ({"name": "lonely", "feature": "position", "size": 4}, "size, crop and mirror are for images"),
    ],
)
def test_refuses(folder, options, message):
    with pytest.raises(DataError, match=message):
        open_source("tfds", data_dir=folder, **options)


def test_not_prepared_says_how_to_prepare_it(tmp_path):
    with pytest.raises(MissingDataError) as error:
        open_source("tfds", name="mnist", data_dir=tmp_path)
    for text in (f"tfds.builder('mnist', data_dir={str(tmp_path)!r}).download_and_prepare()", "manual_dir"):
        assert text in str(error.value)
    assert str(tmp_path / "mnist") in str(error.value)


def test_unknown_names(tmp_path):
    with pytest.raises(UnknownNameError, match="'mnistt'. Did you mean 'mnist'"):
        open_source("tfds", name="mnistt", data_dir=tmp_path)
    with pytest.raises(DataError, match="cannot open 'mnist_corrupted/nothing'"):
        open_source("tfds", name="mnist_corrupted/nothing", data_dir=tmp_path)
