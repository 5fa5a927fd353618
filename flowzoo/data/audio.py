"""Windows of recordings, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flowzoo.data.lazy import Lazy
from flowzoo.data.sound import WHOLE, decoded, described
from flowzoo.errors import DataError


class AudioWindows(Lazy):
    """Windows of files of sound as examples `[N, length]` of float32 in [-1, 1].

    An index of rows decodes the files that these windows lie in, each once, and keeps them if `cache` is set:
    as 16 bits a sample where that loses nothing, else as float32. Windows are copied as they are asked for,
    so that those that overlap cost no memory.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[str], bytes],
        *,
        length: int,
        hop: int,
        rate: int,
        where: str,
        cache: bool,
    ) -> None:
        """Reads the header of every file, to learn how many windows there are.

        Args:
            names: The names of the files.
            read: Gives the contents of the file of a name.
            length: How many samples a window has.
            hop: How many samples lie between the beginnings of two windows.
            rate: How many samples a second all files must have.
            where: The folder or archive, for messages.
            cache: Whether to keep what was decoded.

        Raises:
            DataError: A file is no sound or has another rate, or no file is as long as a window.
        """
        self._names, self._read, self._where = list(names), read, where
        self._length, self._hop = length, hop
        self._kept: dict[int, np.ndarray] | None = {} if cache else None
        self._frames = [self._frames_of(name, rate) for name in self._names]
        counts = [max(0, 1 + (frames - length) // hop) for frames in self._frames]
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.shape = (int(self._starts[-1]), length)
        if not len(self):
            longest = max(self._frames)
            raise DataError(
                f"{where}: none of {len(names)} files has a window of {length} samples. The longest, "
                f"{self._names[self._frames.index(longest)]}, has {longest}."
            )

    def __getitem__(self, rows: Any) -> np.ndarray:  # noqa: ANN401
        """The windows of an array of row numbers, of a slice, or of one number."""
        numbers = _row_numbers(rows, len(self))
        flat = numbers.ravel()
        files = np.searchsorted(self._starts, flat, side="right") - 1
        begins = (flat - self._starts[files]) * self._hop
        out = np.empty((len(flat), self._length), np.float32)
        last, samples = -1, out[:0]
        for place in np.argsort(files, kind="stable"):
            if files[place] != last:
                last = int(files[place])
                samples = self._samples(last)
            window = samples[begins[place] : begins[place] + self._length]
            out[place] = window if window.dtype == np.float32 else window / np.float32(WHOLE)
        return out.reshape(*numbers.shape, self._length)

    def _samples(self, file: int) -> np.ndarray:
        if self._kept is not None and file in self._kept:
            return self._kept[file]
        where = self._place(self._names[file])
        samples = decoded(self._read(self._names[file]), where)
        if len(samples) != self._frames[file]:
            raise DataError(f"{where}: had {self._frames[file]} samples before, and now {len(samples)}.")
        if self._kept is not None:
            self._kept[file] = samples
        return samples

    def _frames_of(self, name: str, rate: int) -> int:
        found = described(self._read(name), self._place(name))
        if found.rate != rate:
            raise DataError(
                f"{self._place(name)} has {found.rate} samples a second, but {rate} are asked for. "
                "Nothing is resampled here: bring all files to one rate first."
            )
        return found.frames

    def _place(self, name: str) -> str:
        return f"{self._where}: {name}"


def _row_numbers(rows: Any, total: int) -> np.ndarray:  # noqa: ANN401
    """What NumPy makes of an index, without a list of all rows: there may be one for every sample."""
    if isinstance(rows, slice):
        return np.arange(*rows.indices(total))
    numbers = np.asarray(rows)
    if numbers.dtype == bool:
        return np.arange(total)[numbers]
    if numbers.size and not -total <= numbers.min() <= numbers.max() < total:
        raise IndexError(f"There are {total} windows. Received: {rows}")
    return numbers.astype(np.int64) % total
