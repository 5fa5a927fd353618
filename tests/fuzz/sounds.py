"""Sound of every coding, and files of sound that lie."""

from __future__ import annotations

import functools
import io
import random
import struct
from collections.abc import Iterator

import numpy as np
import soundfile

from tests.fuzz.mutate import NUMBERS, mutate

Files = list[tuple[str, bytes]]
"""Endings and contents."""


def files_of_sound() -> Iterator[tuple[str, bytes]]:
    """Make sound of every coding that is read, and of three that are not; the first is a WAV of 16 bits."""
    random = np.random.RandomState(0)
    voice = 0.6 * np.sin(np.arange(400) / 7) + random.normal(0, 0.05, 400)
    both = np.stack([voice, -voice[::-1]], axis=-1)
    codings = "PCM_16 PCM_U8 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW IMA_ADPCM GSM610".split()
    for coding in codings:
        yield ".wav", written(voice, "WAV", coding)
    for coding in ("PCM_16", "PCM_24", "FLOAT"):
        yield ".wav", written(np.repeat(both, 3, axis=1), "WAVEX", coding)
    for coding in ("PCM_S8", "PCM_16", "PCM_24"):
        yield ".flac", written(voice, "FLAC", coding)
        yield ".flac", written(both, "FLAC", coding)
    yield ".flac", written(np.zeros(9000), "FLAC", "PCM_16")
    yield ".ogg", written(voice, "OGG", "VORBIS")
    yield ".ogg", written(np.tile(both, (20, 1)), "OGG", "VORBIS")
    yield ".ogg", written(voice, "OGG", "OPUS")


def written(samples: np.ndarray, container: str, coding: str, rate: int = 8000) -> bytes:
    """Encode samples, to the same bytes in every process."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=coding)
    return _timeless(buffer.getvalue())


def _timeless(raw: bytes) -> bytes:
    """Take out what hangs on the time: serial numbers of OGG's pages, and when a WAV's peaks were found."""
    made, place = bytearray(raw), 0
    while made[place : place + 4] == b"OggS":
        made[place + 14 : place + 18] = b"flow"
        content = place + 27 + made[place + 26]
        place = content + sum(made[place + 27 : content])
    peak = made.find(b"PEAK") if made.startswith(b"RIFF") else -1
    if peak >= 0:
        made[peak + 12 : peak + 16] = bytes(4)
    return summed(bytes(made))


@functools.cache
def _sums() -> list[int]:
    table = []
    for value in range(256):
        rest = value << 24
        for _ in range(8):
            rest = (rest << 1) ^ (0x04C11DB7 if rest & 0x80000000 else 0)
        table.append(rest & 0xFFFFFFFF)
    return table


def summed(raw: bytes) -> bytes:
    """Give the pages of OGG sums that are right, since pages with wrong ones are skipped."""
    made, place, table = bytearray(raw), 0, _sums()
    while place + 27 <= len(made) and made[place : place + 4] == b"OggS":
        end = place + 27 + made[place + 26]
        end += sum(made[place + 27 : end])
        made[place + 22 : place + 26] = bytes(4)
        rest = 0
        for byte in made[place:end]:
            rest = ((rest << 8) & 0xFFFFFFFF) ^ table[(rest >> 24) ^ byte]
        struct.pack_into("<I", made, place + 22, rest)
        place = end
    return bytes(made)


# --- Files that lie: each takes a generator and files as they should be, and gives a name and contents ------


def _of(files: Files, ending: str) -> list[bytes]:
    return [raw for known, raw in files if known == ending]


def lying_wav(r: random.Random, files: Files) -> tuple[str, bytes]:
    """Any coding, channels, rate, bits and sizes, before samples that are any bytes."""
    samples = r.choice((b"", r.randbytes(r.choice((3, 64, 999))), struct.pack("<f", float("nan")) * 40))
    coding = r.choice((0, 1, 1, 2, 3, 3, 6, 7, 0x11, 0x31, 0x40, 0x45, 0x55, 0xFFFE, r.randrange(2**16)))
    channels, rate = r.choice((0, 1, 2, 6, 1024, 1025, 65535)), r.choice((*NUMBERS[:12], 8000))
    bits = r.choice((0, 1, 7, 8, 12, 16, 24, 32, 64, 65535))
    align = r.choice((channels * (bits // 8) % 2**16, r.choice(NUMBERS) % 2**16))
    head = struct.pack("<HHIIHH", coding, channels, rate, r.choice(NUMBERS[:12]), align, bits)
    if coding == 0xFFFE or r.random() < 0.2:
        guid = struct.pack("<H", r.choice((1, 3, 6, 7, 2, 0x55))) + bytes.fromhex(
            "000000001000800000aa00389b71"
        )
        head += struct.pack("<HHI", r.choice((0, 22, 65535)), bits, r.choice(NUMBERS[:12])) + guid
    chunks = [_chunk(r, b"fmt ", head), _chunk(r, b"data", samples)]
    if r.random() < 0.4:
        names = (
            b"LIST",
            b"fact",
            b"PEAK",
            b"cue ",
            b"smpl",
            b"bext",
            b"cart",
            b"acid",
            b"inst",
            b"id3 ",
            b"fmt ",
        )
        others = [_chunk(r, r.choice(names), r.randbytes(r.choice((0, 4, 20, 40, 700))))]
        chunks[r.randrange(3) : 0] = others
    if r.random() < 0.1:
        r.shuffle(chunks)
    return "x.wav", b"RIFF" + struct.pack("<I", r.choice(NUMBERS) % 2**32) + b"WAVE" + b"".join(chunks)


def _chunk(r: random.Random, name: bytes, content: bytes) -> bytes:
    size = len(content) if r.random() < 0.85 else r.choice(NUMBERS) % 2**32
    return name + struct.pack("<I", size) + content


def lying_flac(r: random.Random, files: Files) -> tuple[str, bytes]:
    """Blocks, rate, channels, bits and number of samples of its first chunk."""
    raw = bytearray(r.choice(_of(files, ".flac")))
    if r.random() < 0.5:
        struct.pack_into(">HH", raw, 8, r.choice((0, 1, 16, 4096, 65535)), r.choice((0, 1, 16, 4096, 65535)))
    fields = int.from_bytes(raw[18:26], "big")
    rate, rest, frames = fields >> 44, fields >> 36 & 0xFF, fields & (2**36 - 1)
    way = r.random()
    if way < 0.5:
        frames = r.choice((*NUMBERS, frames + 1, frames - 1, 10**7, 2**26, 2**27)) % 2**36
    elif way < 0.75:
        rest = r.randrange(256)
    else:
        rate = r.choice(NUMBERS) % 2**20
    raw[18:26] = (rate << 44 | rest << 36 | frames).to_bytes(8, "big")
    return "x.flac", bytes(raw) if r.random() < 0.7 else mutate(r, bytes(raw))


def lying_ogg(r: random.Random, files: Files) -> tuple[str, bytes]:
    """Places, flags, numbers and tables of pages, with sums that are right."""
    raw = bytearray(r.choice(_of(files, ".ogg")))
    pages = [at for at in range(len(raw)) if raw.startswith(b"OggS", at)]
    for _ in range(r.randint(1, 3)):
        page = r.choice(pages)
        way = r.randrange(5)
        if way == 0:
            struct.pack_into("<Q", raw, page + 6, r.choice((*NUMBERS, 2**40, 10**8)))
        elif way == 1:
            raw[page + 5] = r.randrange(8)
        elif way == 2:
            struct.pack_into("<I", raw, page + r.choice((14, 18)), r.choice(NUMBERS) % 2**32)
        elif way == 3:
            raw[page + 26 + r.randrange(9)] = r.randrange(256)
        else:  # in the packets: the heads of Vorbis and Opus come first
            at = min(len(raw) - 1, page + 28 + r.randrange(60))
            raw[at] = r.choice((0, 1, 255, raw[at] ^ 1, raw[at] ^ 128))
    return "x.ogg", summed(bytes(raw))


def floats(r: random.Random, files: Files) -> tuple[str, bytes]:
    """Floats that are no samples, in one channel of several."""
    samples = np.zeros((80, r.choice((1, 2, 6))), r.choice((np.float32, np.float64)))
    bad: tuple[float, ...] = (np.nan, np.inf, -np.inf, 1e300, 1.0000001, -2, 1e-45, 1, -1)
    with np.errstate(over="ignore"):
        samples[r.randrange(80), r.randrange(samples.shape[1])] = r.choice(bad)
    return "x.wav", written(samples, "WAV", "FLOAT" if samples.dtype == np.float32 else "DOUBLE")


def other(r: random.Random, files: Files) -> tuple[str, bytes]:
    """Other containers by these names, beginnings alone, and random bytes."""
    starts = (
        b"RIFF\xff\xff\xff\xffWAVE", b"fLaC\0\0\0\x22", b"OggS\0\2", b"RIFX", b"FORM", b".snd", b"caff",
        b"ID3\4", b"\xff\xfb\x90\0", b"Creative Voice File", b"MATLAB 5.0", b"", b"\0",
    )  # fmt: skip
    name = r.choice(("x.wav", "x.flac", "x.ogg", "x.opus", "x.zip", "x.tar", "x.txt", ".wav"))
    if r.random() < 0.3:
        container = r.choice(("AIFF", "AU", "CAF", "W64", "VOC", "NIST", "MAT5", "PAF", "XI", "RF64", "MP3"))
        subtype = soundfile.default_subtype(container)
        return name, mutate(r, written(np.zeros(500), container, subtype))
    return name, r.choice(starts) + r.randbytes(r.choice((0, 5, 60, 500)))


def loud() -> np.ndarray:
    """A tone as loud as can be."""
    return 0.999 * np.sin(np.arange(16000) / 9)


def early_opus() -> bytes:
    """Lacks pages before its last one, which says that it ends before its first sample."""
    raw = bytearray(written(0.3 * loud()[:400], "OGG", "OPUS"))
    struct.pack_into("<Q", raw, raw.rindex(b"OggS") + 6, 1)
    struct.pack_into("<I", raw, raw.rindex(b"OggS") + 18, 127)
    return summed(bytes(raw))


def silence(samples: int) -> bytes:
    """Claims so many samples, and has a few."""
    raw = bytearray(written(np.zeros(9000), "FLAC", "PCM_16"))
    raw[18:26] = (int.from_bytes(raw[18:26], "big") >> 36 << 36 | samples).to_bytes(8, "big")
    return bytes(raw)
