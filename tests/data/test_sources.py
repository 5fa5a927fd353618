"""What every source must do, whoever wrote it. A new source is tested here without a line being added."""

from __future__ import annotations

import numpy as np
import pytest

from flowzoo.data import SPLITS, Source, list_sources, open_source, source_info

SMALL = {"num_examples": 200}


@pytest.fixture(params=list_sources())
def opened(request, tmp_path_factory):
    """Gives a source's name and what opens its splits: from example files, where it needs files."""
    info = source_info(request.param)
    if info.example is None:
        options = {key: value for key, value in SMALL.items() if key in info.options}
    else:
        options = info.example(tmp_path_factory.mktemp(request.param))
    return request.param, lambda split: open_source(request.param, split, **options)


def rows_of(x):
    return {row.tobytes() for row in np.asarray(x)}


def test_contract(opened):
    name, open_split = opened
    train = open_split("train")
    for split in SPLITS:
        source = open_split(split)
        assert isinstance(source, Source)
        assert (source.name, source.split) == (name, split)
        assert source.licence and source.origin
        assert source.size is not None and source.size > 0
        assert source.event_shape == train.event_shape and source.dtype == train.dtype
        assert source.condition_shape == train.condition_shape
        assert source.dtype in (np.float32, np.uint8)
        assert (source.num_values is not None) == (source.dtype == np.uint8)
        x, condition = source.head()
        assert x.shape == (source.size, *source.event_shape) and x.dtype == source.dtype
        assert np.isfinite(x.astype(float)).all()
        if source.num_values is not None:
            assert x.max() < source.num_values
        if source.condition_shape is None:
            assert condition is None and source.num_classes is None
            continue
        assert condition.shape == (source.size, *source.condition_shape)
        assert condition.dtype == (np.float32 if source.num_classes is None else np.int32)
        if source.num_classes is not None:
            assert source.num_classes == train.num_classes
            assert 0 <= condition.min() and condition.max() < source.num_classes


def test_splits_are_the_same_every_time(opened):
    _, open_split = opened
    for split in SPLITS:
        (x, condition), (again, condition_again) = open_split(split).head(), open_split(split).head()
        np.testing.assert_array_equal(x, again)
        if condition is not None:
            np.testing.assert_array_equal(condition, condition_again)


def test_splits_share_nothing(opened):
    _, open_split = opened
    rows = {split: rows_of(open_split(split).head()[0]) for split in SPLITS}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = len(rows[one] & rows[other])
        # Some real tables, iris for one, hold a row twice; a split that leaks shares far more.
        assert shared <= 0.1 * min(len(rows[one]), len(rows[other])), (one, other, shared)


def test_train_is_the_largest_or_equal(opened):
    _, open_split = opened
    assert open_split("train").size >= max(open_split("validation").size, open_split("test").size)


def test_described():
    for name in list_sources():
        info = source_info(name)
        assert info.name == name and info.kind and info.licence and info.summary.endswith("."), name


def test_every_source_can_be_opened_by_the_tests():
    """A source that needs an option can only be tested if it brings an example."""
    import inspect

    for name in list_sources():
        info = source_info(name)
        needs = [key for key, default in info.options.items() if default is inspect.Parameter.empty]
        assert not needs or info.example is not None, (name, needs)
