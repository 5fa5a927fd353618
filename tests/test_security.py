"""What docs/security.md promises, a promise a test."""

from __future__ import annotations

import ast
import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowzoo import arrays, bounded
from flowzoo.cli.files import read_examples
from flowzoo.data import open_source
from flowzoo.data.images import read_pictures
from flowzoo.errors import CorruptWeightsError, DataError
from flowzoo.manifest import write_manifest
from flowzoo.paths import packaged

PACKAGE = Path(__file__).resolve().parent.parent / "flowzoo"
ENTRY = "test_nice"


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


@pytest.fixture
def entry(tmp_path):
    """A copy of a trained entry."""
    root = packaged("saved_models")
    shutil.copytree(root / ENTRY, tmp_path / ENTRY)
    return tmp_path / ENTRY


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


SOUND = png(2, 2, 8, 2, bytes(14))


# --- No code ------------------------------------------------------------------------------------------------


def calls_that_may_run_code(text: str) -> list[str]:
    """Find calls that give up Keras's safe mode, or that run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        unsafe = [key for key in ("safe_mode", "allow_pickle") if key in keywords]
        if any(getattr(keywords[key], "value", None) is not (key == "safe_mode") for key in unsafe):
            found.append(name)
        elif name in ("enable_unsafe_deserialization", "eval", "exec", "unsafe_load"):
            found.append(name)
        elif ast.unparse(node.func) in ("tf.saved_model.load", "keras.models.load_model"):
            found.append(name)
        elif name in ("extractall", "extract", "unpack_archive"):
            found.append(name)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "keras.models.load_model(p, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
        "np.load(p, allow_pickle=True)",
        "np.load(p, allow_pickle=flag)",
        "tf.saved_model.load(p)",
        "x.extractall(p)",
        "eval(text)",
    ],
)
def test_calls_that_run_code_are_found(text):
    assert calls_that_may_run_code(text)


def test_the_package_runs_no_code_from_files():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    assert {path: found for path in files if (found := calls_that_may_run_code(path.read_text()))} == {}


@pytest.mark.parametrize("kind", ["npy", "npz", "golden", "raw.npy", "raw.npz"])
def test_a_pickle_is_never_read(kind, entry, tmp_path):
    marker = tmp_path / "ran"
    evil = np.empty((3, 2), object)
    evil[:] = Runs(marker)
    path = tmp_path / ("x.npz" if kind in ("npz", "golden", "raw.npz") else "x.npy")
    if kind.startswith("raw"):
        path.write_bytes(pickle.dumps(Runs(marker)))
    elif kind == "npy":
        np.save(path, evil, allow_pickle=True)
    else:
        np.savez(path, x=evil, log_prob=evil)
    if kind == "golden":
        from flowzoo import weights

        shutil.copy(path, entry / "golden.npz")
        with pytest.raises(CorruptWeightsError, match="Python objects"):
            weights.read_golden(entry)
    else:
        with pytest.raises(DataError, match="cannot be read"):
            read_examples(path)
    assert not marker.exists()


def test_the_graph_of_a_saved_model_is_not_read(entry):
    import flowzoo

    (entry / "1" / "saved_model.pb").write_bytes(b"no graph at all")
    (entry / "SHA256SUMS").unlink()
    write_manifest(entry)
    flow = flowzoo.load(ENTRY, source=entry)
    assert np.isfinite(flow.log_prob(np.zeros((1, *flow.event_shape)))).all()


def test_a_lambda_layer_with_code_is_refused(tmp_path):
    import keras

    marker = tmp_path / "ran"
    function = eval(f"lambda x: (__import__('pathlib').Path({str(marker)!r}).touch(), x)[1]")
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(function)]).save(tmp_path / "x.keras")
    marker.unlink()
    with pytest.raises(ValueError, match="safe_mode"):
        keras.models.load_model(tmp_path / "x.keras")
    assert not marker.exists()


# --- Archives and packed files ------------------------------------------------------------------------------


def archive(path: Path, names: list[str], **attributes: Any) -> Path:
    """Write a ZIP or tar archive of pictures."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as made:
            for name in names:
                made.writestr(name, SOUND)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as made:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(SOUND)
            for key, value in attributes.items():
                setattr(info, key, value)
            made.addfile(info, io.BytesIO(SOUND))
    return path


@pytest.mark.parametrize("ending", ["zip", "tar", "tgz"])
@pytest.mark.parametrize("name", ["../x.png", "/x.png", "a/../../x.png", "C:\\x.png", "..\\x.png"])
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, ending, name):
    path = archive(tmp_path / f"x.{ending}", ["good.png", name])
    with pytest.raises(DataError, match="points outside"):
        read_pictures([path], (2, 2, 3))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_in_an_archive_are_not_followed(tmp_path, kind):
    path = archive(tmp_path / "x.tar", ["x.png"], type=kind, linkname="/etc/passwd")
    with pytest.raises(DataError, match="no images"):
        read_pictures([path], (2, 2, 3))


class TestUnpacks:
    """A file unpacks only as far as an honest one would; the bound is lowered, so that a bomb is small."""

    @pytest.fixture(autouse=True)
    def _low_bound(self, monkeypatch):
        monkeypatch.setattr(bounded, "FREE_BYTES", 10_000)

    def test_gzip_unpacks_to_its_bound(self, tmp_path):
        (tmp_path / "x.csv").write_bytes(gzip.compress(b"1,2\n" * 10**6))
        with pytest.raises(DataError, match="unpacks to more than"):
            open_source("csv", path=tmp_path / "x.csv")
        (tmp_path / "x.csv").write_bytes(gzip.compress(b"1,2\n" * 2000))
        assert open_source("csv", path=tmp_path / "x.csv").size > 1000

    def test_npz_unpacks_to_its_bound(self, tmp_path):
        np.savez_compressed(tmp_path / "x.npz", x=np.zeros((10**6, 2)))
        with pytest.raises(DataError, match="at most"):
            open_source("npz", path=tmp_path / "x.npz")

    def test_a_packed_tar_unpacks_to_its_bound(self, tmp_path):
        path = tmp_path / "x.tgz"
        with tarfile.open(path, "w:gz") as made:
            info = tarfile.TarInfo("x.png")
            info.size = 10**7
            made.addfile(info, io.BytesIO(bytes(10**7)))
        with pytest.raises(DataError, match="unpacks to more than"):
            read_pictures([path], (2, 2, 3))

    def test_a_zip_that_says_too_little_unpacks_no_further(self, tmp_path):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("x.png", bytes(10**7))
        raw = bytearray(buffer.getvalue())
        struct.pack_into("<I", raw, raw.rindex(b"PK\1\2") + 24, 10)
        (tmp_path / "x.zip").write_bytes(raw)
        with pytest.raises(DataError, match=r"x\.png"):
            read_pictures([tmp_path / "x.zip"], (2, 2, 3))


@pytest.mark.parametrize("shape", ["(10**12, 3)", "(1000000000000, 3)", "(-1, 3)", "(4, 3)", "(2, 2)"])
def test_a_header_is_not_believed(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    raw = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(8 * 9)
    (tmp_path / "x.npy").write_bytes(raw)
    with pytest.raises(ValueError, match="header"):
        arrays.read_npy(tmp_path / "x.npy")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i8", "|u1", "<U3", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, dtype, order):
    x = np.asarray(np.arange(12).reshape(3, 4), order=order).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    np.savez_compressed(tmp_path / "x.npz", x=x, y=x[:0], z=x[0, 0])
    read = arrays.read_npy(tmp_path / "x.npy")
    assert np.array_equal(read, x)
    assert read.dtype.isnative
    found = arrays.read_npz(tmp_path / "x.npz")
    assert np.array_equal(found["x"], x)
    assert found["y"].shape == (0, 4)
    assert found["z"].shape == ()


# --- Pictures -----------------------------------------------------------------------------------------------


def test_a_picture_of_postscript_reaches_no_decoder(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    asked = []
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "_open", lambda self: asked.append(self))
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    for read in (read_examples, lambda path: read_pictures([path], (2, 2, 3))):
        with pytest.raises(DataError, match="cannot be decoded"):
            read(tmp_path / "x.png")
    assert asked == []


def test_a_picture_of_billions_of_pixels_is_refused_unseen(tmp_path):
    for width, height in ((9000, 9000), (50_000, 50_000)):
        (tmp_path / "x.png").write_bytes(png(width, height, 8, 2, bytes(100)))
        with pytest.raises(DataError, match="pixels|exceeds limit"):
            read_examples(tmp_path / "x.png")


def test_a_picture_of_16_bits_keeps_its_greys(tmp_path):
    from PIL import Image

    deep = np.array([[0, 0x1000], [0x8000, 0xFFFF]], np.uint16)
    (tmp_path / "x.pgm").write_bytes(b"P5 2 2 65535\n" + deep.astype(">u2").tobytes())
    Image.fromarray(deep).save(tmp_path / "x.png")
    for name in ("x.png", "x.pgm"):
        x = read_pictures([tmp_path / name], (2, 2, 1))
        assert x[0, ..., 0].tolist() == [[0, 0x10], [0x80, 0xFF]]
    assert read_examples(tmp_path / "x.png")[0].tolist() == x.tolist()
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match="floating pixels"):
        read_pictures([tmp_path / "x.tif"], (2, 2, 1))


# --- Sound --------------------------------------------------------------------------------------------------


def sound(container: str, coding: str) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(9000), 8000, format=container, subtype=coding)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind",
    [("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("MP3", "MPEG_LAYER_III")]
    + [("OGG", "OPUS"), ("WAV", "IMA_ADPCM"), ("WAV", "GSM610"), ("WAV", "G721_32"), ("RF64", "PCM_16")],
)
def test_sound_of_other_kinds_reaches_no_decoder(tmp_path, monkeypatch, kind):
    import soundfile

    (tmp_path / "x.wav").write_bytes(sound(*kind))
    asked = []
    monkeypatch.setattr(soundfile, "SoundFile", lambda *args: asked.append(args))
    with pytest.raises(DataError, match="none of WAV, FLAC, OGG|coding .*of (WAV|OGG)"):
        open_source("audio_folder", path=tmp_path, length=4, validation=0, test=0)
    assert asked == []


@pytest.mark.parametrize("claimed", [10**10, 2**27])
def test_sound_that_claims_billions_of_samples_takes_no_memory(tmp_path, claimed):
    import psutil

    raw = bytearray(sound("FLAC", "PCM_16"))
    raw[18:26] = (int.from_bytes(raw[18:26], "big") >> 36 << 36 | claimed).to_bytes(8, "big")
    (tmp_path / "x.flac").write_bytes(raw)
    before = psutil.Process().memory_info().rss
    with pytest.raises(DataError, match=r"x\.flac: "):
        open_source("audio_folder", path=tmp_path, length=4, validation=0, test=0).x[:1]
    assert psutil.Process().memory_info().rss - before < 64 * 2**20


# --- Cards --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"config": None},
        {"config": {}},
        {"name": "../../x"},
        {"config": {"model": {"family": "x", "event_shape": [2]}}},
    ],
)
def test_a_card_that_describes_no_model_is_refused(entry, change):
    from flowzoo import zoo

    card = json.loads((entry / "card.json").read_text())
    (entry / "card.json").write_text(json.dumps(card | change))
    with pytest.raises(CorruptWeightsError, match="describes no model"):
        zoo.restore(entry)
