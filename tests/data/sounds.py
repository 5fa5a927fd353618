"""Files of sound, the source that reads them, and what it should give."""

from __future__ import annotations

import io
import wave

import numpy as np

from flowzoo.data import open_source
from tests.data.test_images import write_folder
from tests.fuzz.sounds import written

LENGTH = 16


def coded(samples, rate=8000, container="WAV", coding="PCM_16"):
    return written(samples, container, coding, rate)


def wav(samples, channels=1, width=2, rate=8000):
    """Write whole numbers of any width by Python's own writer."""
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setparams((channels, width, rate, 0, "NONE", ""))
        target.writeframes(samples.tobytes())
    return file.getvalue()


def opened(path, files, split="train", **options):
    """Open all files as one split, unless told otherwise."""
    options = {"length": LENGTH, "validation": 0, "test": 0} | options
    return open_source("audio_folder", split, path=write_folder(path, files), **options)


def windows(sounds, length=LENGTH, hop=LENGTH):
    """Cut them as the source should."""
    starts = [(s, begin) for s in sounds for begin in range(0, len(s) - length + 1, hop)]
    return np.stack([s[begin : begin + length] for s, begin in starts]).astype(np.float32) / 2**15
