"""Sound is what was written, whatever its coding, and files that are none are refused with a reason."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from flowzoo.data import sound
from flowzoo.errors import DataError
from tests.data.sounds import LENGTH, coded, opened, wav, windows

# --- Codings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_whole_numbers_of_every_width(tmp_path, width):
    raw = np.random.RandomState(1).bytes(width * LENGTH * 5)
    if width == 1:
        exact = (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 128
    else:
        whole = [int.from_bytes(raw[i : i + width], "little", signed=True) for i in range(0, len(raw), width)]
        exact = np.array(whole) / 2.0 ** (8 * width - 1)
    source = opened(tmp_path, {"x.wav": wav(np.frombuffer(raw, np.uint8), width=width)})
    assert np.abs(source.x[:]).max() <= 1
    np.testing.assert_array_equal(source.x[:].reshape(-1), exact.astype(np.float32))
    if width < 4:
        assert (exact.astype(np.float32) == exact).all()


def test_the_ends_of_the_range(tmp_path):
    for width, kind in ((2, "<i2"), (4, "<i4")):
        ends = np.repeat(np.array([np.iinfo(kind).min, np.iinfo(kind).max], kind), 8)
        x = opened(tmp_path, {"x.wav": wav(ends, width=width)}).x[:]
        assert x.min() == -1 and 0.9999 < x.max() <= 1


@pytest.mark.parametrize("coding", ["FLOAT", "DOUBLE"])
def test_floats(tmp_path, coding):
    samples = np.random.RandomState(2).uniform(-1, 1, 3 * LENGTH)
    samples[:2] = -1, 1
    x = opened(tmp_path, {"x.wav": coded(samples, coding=coding)}).x[:]
    np.testing.assert_array_equal(x.reshape(-1), samples.astype(np.float32))


@pytest.mark.parametrize(("coding", "width"), [("PCM_S8", 1), ("PCM_16", 2), ("PCM_24", 3)])
def test_flac_is_wav(tmp_path, coding, width):
    whole = np.random.RandomState(3).randint(-(2 ** (8 * width - 1)), 2 ** (8 * width - 1), 5000)
    samples = (whole << (32 - 8 * width)).astype(np.int32)
    of_wav = "PCM_U8" if width == 1 else coding
    x = opened(tmp_path / "a", {"x.flac": coded(samples, container="FLAC", coding=coding)}).x[:]
    np.testing.assert_array_equal(x, opened(tmp_path / "b", {"x.wav": coded(samples, coding=of_wav)}).x[:])
    np.testing.assert_array_equal(x.reshape(-1), (whole / 2.0 ** (8 * width - 1))[: x.size])


@pytest.mark.parametrize("coding", ["ULAW", "ALAW"])
def test_the_codings_of_telephones(tmp_path, coding):
    samples = np.sin(np.arange(400) / 20)
    x = opened(tmp_path, {"x.wav": coded(samples, coding=coding)}).x[:]
    np.testing.assert_allclose(x.reshape(-1), samples, atol=0.03)


def test_vorbis_is_near_and_does_not_overshoot(tmp_path):
    samples = 0.999 * np.sin(np.arange(16000) / 9)
    raw = coded(samples, 16000, "OGG", "VORBIS")
    assert np.abs(soundfile.read(io.BytesIO(raw))[0]).max() > 1
    x = opened(tmp_path, {"x.ogg": raw}).x[:]
    assert x.size == 16000 and np.abs(x).max() == 1
    assert np.sqrt(np.mean((x.reshape(-1) - samples) ** 2)) < 0.05


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("coding", ["PCM_16", "PCM_24", "FLOAT"])
def test_channels_are_averaged(tmp_path, channels, coding):
    samples = np.random.RandomState(4).randint(-(2**15), 2**15, (4 * LENGTH, channels)) / 2.0**15
    x = opened(tmp_path, {"x.wav": coded(samples, coding=coding)}).x[:]
    np.testing.assert_array_equal(x.reshape(-1), samples.mean(axis=1).astype(np.float32))


# --- Refusals -----------------------------------------------------------------------------------------------


def claiming(frames):
    """A FLAC file whose header says another number of samples."""
    raw = bytearray(coded(np.zeros(5000, np.int16), container="FLAC"))
    raw[18:26] = ((int.from_bytes(raw[18:26], "big") >> 36 << 36) | frames).to_bytes(8, "big")
    return bytes(raw)


def odd_wav(coding=1, channels=1, rate=8000, claim=None, bits=16, before=b""):
    samples = bytes(64)
    head = struct.pack("<HHIIHH", coding, channels, rate, rate * 2, 2, bits)
    size = len(samples) if claim is None else claim
    chunks = before + b"fmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


GOOD = wav(np.zeros(64, "<i2"))
SPEECH = coded(np.sin(np.arange(20000) / 9), 16000, "OGG", "VORBIS")
NOISE = coded(np.random.RandomState(0).randint(-99, 99, 9000).astype(np.int16), container="FLAC")
LAST = SPEECH.rindex(b"OggS")
REFUSED = {
    "nothing": (b"", "none of WAV, FLAC, OGG"),
    "text": (b"hello", "none of WAV, FLAC, OGG"),
    "another container": (coded(np.zeros(64), container="AIFF"), "none of WAV, FLAC, OGG"),
    "mp3": (coded(np.zeros(3000), 16000, "MP3", "MPEG_LAYER_III"), "none of WAV, FLAC, OGG"),
    "another coding": (coded(np.zeros(2000), coding="IMA_ADPCM"), "coding 0x11 of WAV. Accepted: whole"),
    "an old codec": (coded(np.zeros(2000), coding="GSM610"), "coding 0x31 of WAV"),
    "another coding of ogg": (SPEECH.replace(b"vorbis", b"theora"), "another coding of OGG than Vorbis"),
    "vorbis that ends at once": (SPEECH[:26], "no page of OGG at byte 0"),
    "opus": (coded(np.zeros(999), 16000, "OGG", "OPUS"), "another coding of OGG than Vorbis"),
    "no channels": (odd_wav(channels=0), "0 channels, 8000 samples a second"),
    "no rate": (odd_wav(rate=0), "1 channels, 0 samples a second"),
    "truncated wav": (GOOD[:-5], "claims 128 bytes of samples, but 123 are left: truncated"),
    "a wav that claims much": (odd_wav(claim=2**32 - 1), "claims 4294967295 bytes of samples, but 64 are"),
    "a wav without samples": (GOOD[:30], "no samples among|chunk that says"),
    "a wav of chunks": (odd_wav(before=b"x   \0\0\0\0" * 1001), "no samples among its first 1000 chunks"),
    "truncated flac": (NOISE[: len(NOISE) // 2], "cannot be decoded as sound, truncated or corrupt|claims"),
    "corrupt flac": (NOISE[:4000] + b"x" * 9 + NOISE[4009:], "truncated or corrupt|are there"),
    "a flac that claims 10^10": (claiming(10**10), "claims 10000000000 samples; at most"),
    "a flac that claims more": (claiming(10**6), "claims|truncated or corrupt"),
    "a flac that claims nothing": (claiming(0), "does not say how many samples there are"),
    "truncated ogg": (SPEECH[:LAST], "last page of OGG is missing"),
    "ogg within a page": (SPEECH[: LAST + 40], "last page of OGG is missing"),
    "ogg without a page": (SPEECH[:58] + SPEECH[LAST:], "page 1 of OGG is missing"),
    "two ogg files": (SPEECH + SPEECH, "several streams"),
    "ogg with a hole": (SPEECH[:60] + b"x" + SPEECH[60:], "no page of OGG at byte"),
    "loud floats": (coded(np.linspace(-1.5, 1, 64), coding="FLOAT"), r"samples from -1.5 to 1; accepted: -1"),
    "nan": (coded(np.full(64, np.nan), coding="FLOAT"), "NaN or infinite"),
    "infinity in one channel": (
        coded(np.array([[0, np.inf]] * 64), coding="DOUBLE"),
        "NaN or infinite",
    ),
    "a double beyond float32": (coded(np.full(64, 1e300), coding="DOUBLE"), "NaN or infinite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name, tmp_path):
    raw, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path, {"a.wav": GOOD, "b.wav": raw}, rate=None).x[:]
    assert "b.wav" in str(caught.value)


def test_an_ending_does_not_choose_the_decoder(tmp_path):
    whole = np.arange(-50, 50, dtype=np.int16)
    x = opened(tmp_path, {"x.ogg": coded(whole, container="FLAC")}).x[:]
    np.testing.assert_array_equal(x, windows([whole]))


def test_limits(tmp_path, monkeypatch):
    for samples in (np.zeros(101), np.zeros((51, 2))):
        monkeypatch.setattr(sound, "MAX_SAMPLES", 100)
        with pytest.raises(DataError, match=r"x.wav: its header claims 10[12] samples; at most 100"):
            opened(tmp_path, {"x.wav": coded(samples)})
        monkeypatch.undo()
        assert opened(tmp_path, {"x.wav": coded(samples)}).x[:].shape == (len(samples) // LENGTH, LENGTH)
