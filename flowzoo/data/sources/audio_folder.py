"""A folder or an archive of sound."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data.archives import SOUND, open_files
from flowzoo.data.audio import AudioWindows
from flowzoo.data.catalog import register_source
from flowzoo.data.files import find_path
from flowzoo.data.options import Count, Part
from flowzoo.data.sound import described
from flowzoo.data.source import Source
from flowzoo.data.splits import split_range


def _write_example(folder: Path) -> Mapping[str, Any]:
    random = np.random.RandomState(0)
    for number in range(20):
        samples = random.randint(-(2**15), 2**15, 40 + number).astype("<i2")
        with wave.open(str(folder / f"{number:03d}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
    return {"path": folder, "length": 16}


@register_source("audio_folder", kind="audio", licence="the user's own", example=_write_example)
def audio_folder(
    split: str,
    *,
    path: Path,
    length: Count,
    rate: Count | None = None,
    hop: Count | None = None,
    validation: Part = 0.1,
    test: Part = 0.1,
    cache: bool = True,
) -> Source:
    """Windows of the WAV, FLAC and OGG (Vorbis) files of a folder, or of a ZIP or tar archive.

    An example is `length` samples of one file in [-1, 1], one channel: of several it is their mean. Files are
    divided in the order of their names: the first are the train split, then comes validation, then test, so
    that no file has windows in two of them. What is left at the end of a file, and a file shorter than a
    window, gives none. Every file of the split is read once at the beginning, for its length, and decoded on
    first use; files of more than 256 MB or 134 million samples are refused. Needs
    `pip install 'flowzoo[audio]'`.

    Args:
        split: Which split.
        path: The folder or archive, relative to the working folder or to one of the data folders.
        length: How many samples a window has.
        rate: How many samples a second all files must have; by default as many as the first. Nothing is
            resampled.
        hop: How many samples lie between the beginnings of two windows; by default `length`, no overlap.
        validation: The validation part, a fraction or a number of files.
        test: The test part, likewise.
        cache: Whether to keep decoded files in memory. Without it a batch decodes all files that its windows
            lie in.
    """
    path = find_path(path, "Sound")
    files = open_files(path, SOUND)
    rows = split_range(len(files.names), split, validation=validation, test=test, where=str(path))
    if rate is None:
        first = files.names[0]
        rate = described(files.read(first), f"{path}: {first}").rate
    windows = AudioWindows(
        files.names[rows],
        files.read,
        length=length,
        hop=hop or length,
        rate=rate,
        where=str(path),
        cache=cache,
    )
    return Source(x=windows, origin=str(path))
