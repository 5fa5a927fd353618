"""Names, options and registration of sources; what a Source refuses to be."""

from __future__ import annotations

import numpy as np
import pytest

from flowzoo.data import Source, catalog, list_sources, open_source, register_source, source_info
from flowzoo.data.options import Count, Part
from flowzoo.errors import DataError, UnknownNameError

X = np.zeros((5, 2), np.float32)


@pytest.fixture
def registry(monkeypatch):
    """A copy of the catalogue that the test may write to."""
    list_sources()
    monkeypatch.setattr(catalog, "_sources", dict(catalog._sources))


def test_the_promised_sources_are_there():
    toys = {"moons", "circles", "checkerboard", "eight_gaussians"}
    toys |= {"pinwheel", "two_spirals", "rings", "swiss_roll"}
    assert toys <= set(list_sources("toy"))
    assert {"digits", "iris", "wine", "breast_cancer", "diabetes"} <= set(list_sources("sklearn"))
    files = {"mnist", "fashion_mnist", "idx", "image_folder", "npz", "csv", "parquet", "adbench", "tfds"}
    assert files | {"audio_folder"} <= set(list_sources())
    assert list_sources() == sorted(list_sources())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: open_source("mons"), UnknownNameError, "Did you mean 'moons'.*list_sources.*'mons'"),
        (lambda: source_info("?"), UnknownNameError, "list_sources"),
        (lambda: open_source("moons", "valid"), DataError, "Did you mean 'validation'.*Received: 'valid'"),
        (lambda: open_source("moons", noisy=1), DataError, "Did you mean 'noise'.*Accepted: seed"),
        (lambda: open_source("moons", num_examples=0), DataError, "'num_examples'.*Received: 0"),
        (
            lambda: open_source("moons", num_examples=2.5),
            DataError,
            "an integer \\(at least 1\\). Received: 2.5",
        ),
        (lambda: open_source("moons", noise=-1), DataError, "'noise'"),
        (lambda: open_source("moons", noise=float("nan")), DataError, "'noise'"),
        (lambda: open_source("moons", seed=-1), DataError, "'seed'"),
        (lambda: open_source("iris", test=1.5), DataError, "'test'.*Received: 1.5"),
        (lambda: open_source("iris", test=200), DataError, "150 examples cannot be split"),
        (lambda: open_source("csv"), DataError, "needs the option 'path'"),
        (lambda: open_source("csv", path=3), DataError, "'path' takes a path. Received: 3"),
        (
            lambda: open_source("csv", path="a.csv", columns="a"),
            DataError,
            r"'csv', option 'columns' takes a list of: text or null. .*-o columns='\[a\]'.*Received: 'a'",
        ),
        (
            lambda: open_source("csv", path="a.csv", header="a"),
            DataError,
            "'header' takes true or false or null. Received: 'a'",
        ),
        (
            lambda: open_source("csv", path="a.csv", separator=0),
            DataError,
            """'separator' takes non-empty text. .*-o separator="'0'".*Received: 0""",
        ),
        (
            lambda: open_source("csv", path="a.csv", label=True),
            DataError,
            """'label' takes text or null. .*-o label="'true'".*Received: True""",
        ),
        (
            lambda: open_source("image_folder", path=".", size=[1, 2, 3]),
            DataError,
            "'size' takes an integer .* or a list of 2: .* Received: \\[1, 2, 3\\]",
        ),
        (
            lambda: open_source("image_folder", path=".", crop="left"),
            DataError,
            "'crop' takes 'center' or an integer .* or a number .*at most 1.* Received: 'left'",
        ),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_one_function_makes_a_source(registry):
    @register_source("mine", kind="toy", licence="CC0-1.0", origin="here")
    def mine(split: str, *, count: Count = 3, part: Part = 0.5) -> Source:
        """Zeros."""
        return Source(x=X[:count])

    source = open_source("mine", "test", count=2)
    assert (source.name, source.split, source.licence, source.origin) == ("mine", "test", "CC0-1.0", "here")
    assert source.size == 2 and "mine" in list_sources()
    info = source_info("mine")
    assert info.summary == "Zeros." and dict(info.options) == {"count": 3, "part": 0.5}


def test_a_source_may_be_defined_again_but_its_name_not_taken(registry):
    for _ in range(2):

        @register_source("again", kind="toy")
        def again(split: str) -> Source:
            return Source(x=X)

    with pytest.raises(ValueError, match="'moons' is already registered, by flowzoo.data.sources.toy.moons"):

        @register_source("moons", kind="toy")
        def other(split: str) -> Source:
            return Source(x=X)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": np.array([[1.0, np.inf]])}, "NaN or infinite"),
        ({"x": X, "condition": np.full((5, 1), np.nan)}, "condition: 5 of 5 values are NaN"),
        ({"x": X, "condition": np.arange(5), "num_classes": 4}, "allows 0 to 3. Received: 0 to 4"),
        ({"x": np.full((5, 2), 20, np.uint8), "num_values": 17}, "allows 0 to 16. Received: 20 to 20"),
        ({"x": X, "condition": np.arange(5) - 1, "num_classes": 9}, "allows 0 to 8. Received: -1 to 3"),
        ({"x": X, "num_values": 2}, "needs whole numbers"),
    ],
)
def test_values_are_checked_on_opening(registry, fields, message):
    @register_source("wrong", kind="toy")
    def wrong(split: str) -> Source:
        return Source(**fields)

    with pytest.raises(DataError, match=message):
        open_source("wrong")


def test_a_source_must_be_a_source(registry):
    @register_source("array", kind="toy")
    def array(split: str):
        return X

    with pytest.raises(TypeError, match="must return a Source. Received: ndarray"):
        open_source("array")


def test_repr_names_shapes_and_not_values():
    text = repr(open_source("digits"))
    assert "event_shape=(8, 8, 1)" in text and "num_values=17" in text and "[[" not in text
