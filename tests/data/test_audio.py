"""Folders and archives of sound: the samples that were written, whatever holds them, and nothing unsafe."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import flowzoo
from flowzoo.data import SPLITS, open_source, pipeline, sound
from flowzoo.errors import DataError, MissingDataError
from flowzoo.paths import data_dirs
from tests.data.sounds import LENGTH, coded, opened, wav, windows
from tests.data.test_images import write_folder, write_tar, write_zip

COUNT = 20


@pytest.fixture(scope="module")
def sounds():
    random = np.random.RandomState(0)
    return [random.randint(-(2**15), 2**15, 3 * LENGTH + n).astype("<i2") for n in range(COUNT)]


@pytest.fixture(scope="module")
def files(sounds):
    """Names to contents; not every one is sound that counts."""
    made = {f"a/{number:03d}.wav": wav(samples) for number, samples in enumerate(sounds)}
    return {**made, "a/list.txt": b"no sound", "__MACOSX/a/._000.wav": b"x", ".hidden/a.wav": b"x"}


@pytest.mark.parametrize(
    "write",
    [
        write_folder,
        write_zip,
        lambda path, files: write_tar(path, files, "w"),
        lambda path, files: write_tar(path, files, "w:gz"),
        lambda path, files: write_tar(path, files, "w:xz"),
    ],
    ids=["folder", "zip", "tar", "tar.gz", "tar.xz"],
)
def test_the_samples_written_whatever_holds_them(write, tmp_path, files, sounds):
    path = write(tmp_path / "sound", files)
    for split, part in zip(SPLITS, (sounds[:16], sounds[16:18], sounds[18:]), strict=True):
        source = open_source("audio_folder", split, path=path, length=LENGTH)
        assert (source.event_shape, source.dtype, source.num_values) == ((LENGTH,), np.float32, None)
        np.testing.assert_array_equal(source.x, windows(part))


@pytest.mark.parametrize("hop", [1, 5, LENGTH, 20, 1000])
def test_hop(tmp_path, files, sounds, hop):
    source = opened(tmp_path, files, hop=hop)
    np.testing.assert_array_equal(source.x[:], windows(sounds, hop=hop))
    assert source.size == len(windows(sounds, hop=hop))


def test_splits_are_of_files(tmp_path, files, sounds):
    parts = [
        opened(tmp_path, files, split, validation=3, test=5, hop=1).x[:].reshape(-1).tolist()
        for split in SPLITS
    ]
    chosen = (sounds[:12], sounds[12:15], sounds[15:])
    assert parts == [windows(part, hop=1).reshape(-1).tolist() for part in chosen]


@pytest.mark.parametrize("cache", [True, False])
def test_by_row_and_in_the_pipeline(tmp_path, files, sounds, cache):
    source, expected = opened(tmp_path, files, cache=cache), windows(sounds)
    for _ in range(2):
        seen = np.concatenate([batch.numpy() for batch in pipeline(source, 7, shuffle=True, seed=0)])
        assert sorted(map(tuple, seen)) == sorted(map(tuple, expected))
    rows = np.array([[40, 2], [-1, 40]])
    for index in (3, -2, slice(5, 50, 7), rows, rows[:0], np.arange(len(expected)) % 3 == 0):
        np.testing.assert_array_equal(source.x[index], expected[index])
    with pytest.raises(IndexError, match="There are"):
        source.x[len(expected)]


def test_decoded_once_if_kept_and_as_small_as_it_can_be(tmp_path, files, sounds, monkeypatch):
    kept, fresh = opened(tmp_path, files), opened(tmp_path, files, cache=False)
    assert kept.x._kept == {}
    first = kept.x[:]
    assert sum(part.nbytes for part in kept.x._kept.values()) == sum(s.nbytes for s in sounds)
    for file in tmp_path.rglob("*.wav"):
        file.write_bytes(wav(np.zeros(7, "<i2")))
    np.testing.assert_array_equal(kept.x[:], first)
    with pytest.raises(DataError, match=r"a/000.wav: had 48 samples before, and now 7"):
        fresh.x[:]


# --- Refusals -----------------------------------------------------------------------------------------------


def test_rates(tmp_path, sounds):
    mixed = {"a.wav": wav(sounds[0]), "b.wav": wav(sounds[1], rate=16000)}
    for rate, name, has in ((None, "b.wav", 16000), (16000, "a.wav", 8000)):
        message = f"{name} has {has} samples a second, but {rate or 8000} are asked for.*resampled"
        with pytest.raises(DataError, match=message):
            opened(tmp_path, mixed, rate=rate)
    # What counts is the first file of all, whatever the split.
    with pytest.raises(DataError, match=r"b.wav has 16000"):
        opened(tmp_path, mixed, "test", test=1)
    assert opened(tmp_path / "one", {"a.wav": mixed["a.wav"]}, rate=8000).size == 3


def test_no_window(tmp_path, files):
    with pytest.raises(DataError, match=r"none of 20 files has a window of 99 .*a/019.wav, has 67"):
        opened(tmp_path, files, length=99)
    assert opened(tmp_path, files, length=67).size == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "at least 1"),
        ({"hop": 0}, "at least 1"),
        ({"rate": -1}, "at least 1"),
        ({"test": 20}, "cannot be split"),
    ],
)
def test_options(tmp_path, files, options, message):
    with pytest.raises(DataError, match=message):
        opened(tmp_path, files, **options)


def test_no_sound(tmp_path):
    with pytest.raises(DataError, match=r"no sound in it. Accepted: .flac, .oga, .ogg, .wav, .wave\."):
        opened(tmp_path, {"x.png": b"x", ".x.wav": b"x"})
    with pytest.raises(MissingDataError, match="(?s)Sound: .*FLOWZOO_DATA"):
        open_source("audio_folder", path=tmp_path / "nowhere", length=3)
    bad = write_zip(tmp_path / "bad.zip", {"../x.wav": b"x"})
    with pytest.raises(DataError, match="unsafe archive"):
        open_source("audio_folder", path=bad, length=3)


@pytest.mark.parametrize("missing", [None, OSError("sndfile library not found")])
def test_without_soundfile(tmp_path, files, monkeypatch, missing):
    if missing is None:
        monkeypatch.setitem(sys.modules, "soundfile", None)
    else:

        def absent(name):
            raise missing

        monkeypatch.setattr(sound.importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"Sound needs soundfile .*pip install 'flowzoo\[audio\]'"):
        opened(tmp_path, files)


# --- Real sound ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech():
    path = next((found for base in data_dirs() if (found := base / "speech_16k.zip").is_file()), None)
    if path is None:
        pytest.skip("speech_16k.zip lies in no data folder ($FLOWZOO_DATA)")
    return path


def test_speech(speech):
    sizes = {}
    for split, count in zip(SPLITS, (402, 50, 50), strict=True):
        source = open_source("audio_folder", split, path=speech, length=1, rate=16000)
        assert len(source.x._names) == count
        sizes[split] = source.size
    assert sum(sizes.values()) / 16000 / 60 == pytest.approx(21.1, abs=0.05)
    source = open_source("audio_folder", "test", path="speech_16k.zip", length=256)
    x = source.x[:]
    assert np.isfinite(x).all() and 0.01 < x.std() < 0.3 and np.abs(x).max() <= 1


def tones(tmp_path):
    random = np.random.RandomState(0)
    made = [np.sin(np.arange(800) * w) + random.normal(0, 0.05, 800) for w in random.uniform(0.3, 0.5, 10)]
    files = {f"{n}.flac": coded(0.3 * tone, container="FLAC") for n, tone in enumerate(made)}
    return opened(tmp_path, files, length=8, hop=4, validation=1, test=1)


@pytest.mark.parametrize("what", ["tones", "speech"])
def test_a_flow_learns(what, request, tmp_path):
    if what == "tones":
        train = tones(tmp_path)
    else:
        train = open_source("audio_folder", path=request.getfixturevalue("speech"), length=8)
    flow = flowzoo.build("maf", event_shape=train.event_shape, num_layers=2, hidden_units=[16])
    flow.compile("adam")
    loss = flow.fit(pipeline(train, 64, shuffle=True, seed=0, limit=1600), epochs=8, verbose=0).history[
        "loss"
    ]
    assert np.isfinite(loss).all() and loss[-1] < loss[0] - 1
