"""Sound from files that anyone may have made: by few decoders, of a bounded length, one channel."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from flowzoo.bounded import bound
from flowzoo.data.containers import FLAC, OGG, WAV, checked_container
from flowzoo.errors import DataError

MAX_SAMPLES = 2**27
"""A file of more samples (of all channels) is refused before it is decoded: a few bytes can claim 10^12."""

WHOLE = 2**15
"""Sound kept as int16 is this many times what its examples are."""

# What libsndfile calls the codings that are accepted. The short ones fit into int16, nothing lost.
_SHORT = {"PCM_U8", "PCM_S8", "PCM_16", "ULAW", "ALAW"}
_CODINGS = {
    WAV: {"PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"},
    FLAC: {"PCM_S8", "PCM_16", "PCM_24"},
    OGG: {"VORBIS"},
}
_UNKNOWN = 2**63 - 1
_BLOCK = 2**20


@dataclass(frozen=True)
class Recording:
    """What the header of a file says.

    Attributes:
        rate: Samples a second.
        frames: How many samples it has in each channel.
    """

    rate: int
    frames: int


def described(raw: bytes, where: str) -> Recording:
    """Reads the header of a file of sound.

    Args:
        raw: The contents of the file.
        where: The file, for messages.

    Raises:
        DataError: The contents are no WAV, FLAC or OGG file, or claim more than `decoded` decodes.
        ImportError: The package soundfile is not installed.
    """
    with _opened(raw, where) as file:
        return Recording(file.samplerate, file.frames)


def decoded(raw: bytes, where: str) -> np.ndarray:
    """Decodes a file of sound.

    Args:
        raw: The contents of the file.
        where: The file, for messages.

    Returns:
        The samples of one channel, `[frames]`; of several the mean. Those of 8 and 16 bits in one channel are
        int16 and `WHOLE` times too large, all others float32 in [-1, 1]. 24 bits are exact, 32 are rounded.
        Vorbis overshoots where the sound is loud, and is clipped as players clip it.

    Raises:
        DataError: The contents are no WAV, FLAC or OGG file, truncated or corrupt; or have more than
            `MAX_SAMPLES` samples, or more than `flowzoo.bounded.bound` of their bytes; or hold floats that
            are not finite or not in [-1, 1].
        ImportError: The package soundfile is not installed.
    """
    with _opened(raw, where) as file:
        kind = np.int16 if file.subtype in _SHORT else np.float32
        # Pages of memory are taken as samples arrive: a header that lies costs nothing.
        samples = np.empty((file.frames, file.channels), kind)
        count = len(file.read(out=samples)) if file.frames else 0
        if count != len(samples):
            raise DataError(f"{where}: its header claims {len(samples)} samples, but {count} are there.")
        overshoots = file.subtype in _CODINGS[OGG]
    if kind == np.float32 and samples.size:
        _bring_into_range(samples, overshoots, where)
    return _one_channel(samples)


def _bring_into_range(samples: np.ndarray, overshoots: bool, where: str) -> None:
    low, high = samples.min(), samples.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # NaN spreads through both
        raise DataError(f"{where}: samples that are NaN or infinite.")
    if overshoots:
        np.clip(samples, -1, 1, out=samples)
    elif low < -1 or high > 1:
        raise DataError(f"{where}: samples from {low:g} to {high:g}; accepted: -1 to 1. Scale the file.")


def _one_channel(samples: np.ndarray) -> np.ndarray:
    if samples.shape[1] == 1:
        return samples[:, 0]
    scale = WHOLE if samples.dtype == np.int16 else 1
    mean = np.empty(len(samples), np.float32)
    for start in range(0, len(samples), _BLOCK):
        block = samples[start : start + _BLOCK]
        mean[start : start + _BLOCK] = block.mean(axis=1, dtype=np.float64) / scale
    return mean


class _Contents(io.BytesIO):
    """Bytes for libsndfile, which sees no exception: to go before their beginning is to stay."""

    def seek(self, place: int, whence: int = 0) -> int:
        """Goes to a place if there is one, and says where it is."""
        try:
            return super().seek(place, whence)
        except (ValueError, OverflowError):
            return self.tell()


@contextmanager
def _opened(raw: bytes, where: str) -> Iterator[Any]:
    """Opens a file with libsndfile, once its container, its coding and its size are known to be accepted."""
    soundfile = _soundfile()
    container = checked_container(raw, where)
    try:
        with soundfile.SoundFile(_Contents(raw)) as file:
            _check_claims(file, container, len(raw), where)
            yield file
    except (DataError, MemoryError):
        raise
    except Exception as error:  # libsndfile's own, and what its binding makes of claims that make no sense
        reason = getattr(error, "error_string", "") or error
        raise DataError(f"{where}: cannot be decoded as sound, truncated or corrupt: {reason}") from error


def _check_claims(file: Any, container: str, size: int, where: str) -> None:  # noqa: ANN401
    if file.format.removesuffix("EX") != container or file.subtype not in _CODINGS[container]:
        listed = "; ".join(f"{name}: {', '.join(sorted(kinds))}" for name, kinds in _CODINGS.items())
        raise DataError(f"{where}: {file.format} of {file.subtype}. Accepted: {listed}.")
    if file.samplerate < 1 or file.channels < 1 or file.frames < 0:
        raise DataError(f"{where}: {file.frames} samples, {file.channels} channels, {file.samplerate} Hz.")
    if file.frames == _UNKNOWN:
        raise DataError(f"{where}: its header does not say how many samples there are: written to a pipe?")
    count = file.frames * file.channels
    most = min(MAX_SAMPLES, bound(size) // (2 if file.subtype in _SHORT else 4))
    if count > most:
        raise DataError(f"{where}: its header claims {count} samples; at most {most} are decoded.")


def _soundfile() -> Any:  # noqa: ANN401
    try:
        return importlib.import_module("soundfile")
    except (ImportError, OSError) as error:  # OSError: the package is there, its library is not
        raise ImportError(f"Sound needs soundfile ({error}): pip install 'flowzoo[audio]'") from error
