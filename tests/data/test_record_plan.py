"""Who reads which records, and in which order: no overlap, no loss, whole files where that can be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flowzoo.data.record_index import dealt
from flowzoo.data.record_plan import Order, segments

CASES = [
    (total, files, count)
    for total, files, count in itertools.product(
        (1, 7, 60, 61, 64, 97), (1, 2, 3, 4, 6, 7, 12), (1, 2, 3, 4, 5)
    )
    if files <= total
]


def numbers(found):
    return [(part.file, record) for part in found for record in range(part.start, part.stop)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_workers_share_every_record_evenly(count):
    for total, files, _ in (case for case in CASES if case[2] == count):
        sizes = dealt(total, files)
        assert sum(sizes) == total and max(sizes) - min(sizes) <= 1
        parts = [numbers(segments(sizes, (index, count))) for index in range(count)]
        everything = [(file, record) for file, size in enumerate(sizes) for record in range(size)]
        assert sorted(itertools.chain(*parts)) == everything
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1, (total, files, count, lengths)


def test_a_worker_opens_its_own_files_alone():
    for total, files, count in CASES:
        opened = [{part.file for part in segments(dealt(total, files), (i, count))} for i in range(count)]
        if files % count == 0:
            assert sum(map(len, opened)) == files and len(set.union(*opened)) == files
        elif files > count:
            shared = set(range(files // count * count, files))
            assert sum(len(own - shared) for own in opened) == files - len(shared)


def originals(order, epoch, files):
    """The numbers, in the order of writing, of the examples that an epoch reads."""
    found = []
    for number, window in enumerate(order.windows(epoch)):
        places = zip(window.files, window.starts, window.counts, strict=True)
        read = np.array(
            [record * files + file for file, start, n in places for record in range(start, start + n)]
        )
        found.append(read[order.within(epoch, number, window)])
    return np.concatenate(found)


@pytest.mark.parametrize("window", [1, 5, 64, 1000])
@pytest.mark.parametrize(("total", "files"), [(97, 1), (97, 4), (96, 4), (7, 7)])
def test_without_shuffling_the_order_is_that_of_writing(total, files, window):
    order = Order(dealt(total, files), (0, 1), window, shuffle=False, seed=0)
    np.testing.assert_array_equal(originals(order, 3, files), np.arange(total))
    two = [Order(dealt(total, files), (i, 2), window, shuffle=False, seed=0) for i in range(2)]
    read = np.concatenate([originals(order, 0, files) for order in two])
    np.testing.assert_array_equal(np.sort(read), np.arange(total))


@pytest.mark.parametrize("count", [1, 3])
def test_epochs_are_other_orders_of_the_same_records(count):
    sizes, window = dealt(5000, 6), 640
    orders = [Order(sizes, (i, count), window, shuffle=True, seed=3) for i in range(count)]
    epochs = [np.concatenate([originals(order, epoch, 6) for order in orders]) for epoch in range(2)]
    for read in epochs:
        np.testing.assert_array_equal(np.sort(read), np.arange(5000))
    assert (epochs[0] != epochs[1]).any()
    again = Order(sizes, (0, count), window, shuffle=True, seed=3)
    np.testing.assert_array_equal(originals(again, 1, 6), epochs[1][: again.size])
    other = Order(sizes, (0, count), window, shuffle=True, seed=4)
    assert (originals(other, 1, 6) != originals(again, 1, 6)).any()


def test_a_window_is_drawn_from_everywhere():
    """A table that is sorted by class must not give batches of one class."""
    order = Order(dealt(100_000, 8), (0, 1), 6400, shuffle=True, seed=0)
    read = originals(order, 0, 8)
    for start in range(0, 96_000, 6400):
        classes = np.bincount(read[start : start + 640] // 10_000, minlength=10)
        assert classes.min() > 0.2 * classes.mean(), (start, classes)


def test_any_place_is_found_by_counting():
    for shuffle in (True, False):
        order = Order(dealt(1003, 4), (1, 3), 100, shuffle=shuffle, seed=0)
        read = originals(order, 2, 4)
        for place in (0, 1, 99, 100, 101, 333):
            number, within = order.at(2, place)
            windows = order.windows(2)
            assert sum(window.counts.sum() for window in windows[:number]) + within == place
            assert 0 <= within < windows[number].counts.sum()
        assert len(read) == order.size
