"""Which worker reads which records, and in which order: arithmetic on the index alone.

A worker's records are cut into blocks of neighbours, which are read at once. A window is what lies in memory
at a time: the blocks of a window are put together and their examples brought into order. An epoch is a list
of windows, so any place of any epoch is found by counting, and nothing before its window has to be read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowzoo.data.splits import random_state

BLOCKS_IN_WINDOW = 64
"""From how many places of the files a shuffled window is made up."""


@dataclass(frozen=True)
class Segment:
    """Neighbouring records: those from `start` to `stop` of file number `file`."""

    file: int
    start: int
    stop: int


def segments(sizes: Sequence[int], shard: tuple[int, int]) -> list[Segment]:
    """Divides files among workers.

    Whole files are dealt out in turn, as many to each. The records of the files that are left over then
    fill up what each worker lacks, so that no two workers differ by more than one example.

    Args:
        sizes: The number of records of each file; they differ by one at most, the larger ones first.
        shard: The worker, and the number of workers.

    Returns:
        What the worker reads.
    """
    index, count = shard
    whole = len(sizes) // count * count
    own = [Segment(file, 0, sizes[file]) for file in range(index, whole, count)]
    held = np.array([sum(sizes[worker:whole:count]) for worker in range(count)])
    lacking = np.maximum(sum(sizes) // count - held, 0)
    # One more for those who hold least, until everything is given out.
    spare = sum(sizes[whole:]) - lacking.sum()
    lacking[np.argsort(held + lacking, kind="stable")[:spare]] += 1
    start = int(lacking[:index].sum())
    stop = start + int(lacking[index])
    for file in range(whole, len(sizes)):
        first, last = max(start, 0), min(stop, sizes[file])
        own += [Segment(file, first, last)] if first < last else []
        start, stop = start - sizes[file], stop - sizes[file]
    return [segment for segment in own if segment.start < segment.stop]


@dataclass(frozen=True)
class Window:
    """Blocks that are read together: file, first record and number of records of each, `[blocks]`."""

    files: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


class Order:
    """The order in which a worker reads its records, epoch by epoch."""

    def __init__(
        self,
        sizes: Sequence[int],
        shard: tuple[int, int],
        window: int,
        *,
        shuffle: bool,
        seed: int,
    ) -> None:
        """Cuts the worker's records into blocks.

        Args:
            sizes: The number of records of each file.
            shard: The worker, and the number of workers.
            window: How many examples a window holds, about.
            shuffle: Whether the order is another in each epoch; otherwise it is that in which the examples
                were written (the worker's part of them).
            seed: What the orders hang on, with the number of the epoch and the worker.
        """
        own = segments(sizes, shard)
        self._num_files, self._worker = len(sizes), shard[0]
        self._shuffle, self._seed = shuffle, seed
        self.size = sum(segment.stop - segment.start for segment in own)
        self.files = sorted({segment.file for segment in own})
        self._in_window = BLOCKS_IN_WINDOW if shuffle else len(own)
        length = max(1, window // max(1, self._in_window))
        starts = [range(segment.start, segment.stop, length) for segment in own]
        # Level by level: the first blocks of all segments, the second ones, and so on.
        levels = itertools.zip_longest(
            *(
                [(segment.file, start, min(length, segment.stop - start)) for start in places]
                for segment, places in zip(own, starts, strict=True)
            )
        )
        self._levels = [[block for block in level if block is not None] for level in levels]

    def windows(self, epoch: int) -> list[Window]:
        """Gives the windows of an epoch, in order."""
        if not self._shuffle:
            return [_window(np.array(level)) for level in self._levels]
        blocks = np.array([block for level in self._levels for block in level])
        blocks = random_state(self._seed, epoch, self._worker, 0).permutation(blocks)
        return [_window(blocks[i : i + self._in_window]) for i in range(0, len(blocks), self._in_window)]

    def within(self, epoch: int, number: int, window: Window) -> np.ndarray:
        """Gives the order of the examples in window `number` of an epoch."""
        total = int(window.counts.sum())
        if self._shuffle:
            return random_state(self._seed, epoch, self._worker, 1 + number).permutation(total)
        firsts = np.cumsum(window.counts) - window.counts
        places = np.arange(total) - np.repeat(firsts, window.counts) + np.repeat(window.starts, window.counts)
        return np.argsort(places * self._num_files + np.repeat(window.files, window.counts), kind="stable")

    def at(self, epoch: int, place: int) -> tuple[int, int]:
        """Finds the window that holds the example at `place` of an epoch, and its place in the window."""
        ends = np.cumsum([window.counts.sum() for window in self.windows(epoch)])
        number = int(np.searchsorted(ends, place, side="right"))
        return number, place - int(ends[number - 1] if number else 0)

    def listed(self, epoch: int, place: int) -> tuple[np.ndarray, ...]:
        """Gives what is left of an epoch from `place` on, as arrays for TensorFlow.

        Returns:
            File, first record and number of records of every block of the epoch; where the blocks of each
            window begin, and the last ends; the number of the window at `place`, and the place in it.
        """
        windows = self.windows(int(epoch))
        blocks = [
            np.concatenate([getattr(window, part) for window in windows])
            for part in ("files", "starts", "counts")
        ]
        begins = np.cumsum([0, *(len(window.files) for window in windows)])
        at = [np.asarray(number, np.int64) for number in self.at(int(epoch), int(place))]
        return (*blocks, begins, *at)


def _window(blocks: np.ndarray) -> Window:
    return Window(blocks[:, 0], blocks[:, 1], blocks[:, 2])
