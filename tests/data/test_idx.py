"""IDX files: the format, MNIST's checks, and the real MNIST where it is to be found."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from flowzoo.data import open_source, source_info
from flowzoo.data.idx import parse_idx, write_idx
from flowzoo.errors import DataError, MissingDataError

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.fixture
def raw(tmp_path):
    write_idx(tmp_path / "file", VALUES)
    return (tmp_path / "file").read_bytes()


@pytest.fixture
def folder(tmp_path):
    source_info("idx").example(tmp_path)
    return tmp_path


def test_header_is_the_documented_one(raw):
    assert raw[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])


def test_round_trip_without_a_copy(raw):
    values = parse_idx(raw, "file")
    np.testing.assert_array_equal(values, VALUES)
    assert not values.flags.owndata


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], "must have 40 bytes. Received: 39"),
        (lambda raw: raw + b"\0", "Received: 41"),
        (lambda raw: raw[:10], "header is cut short"),
        (lambda raw: b"", "not an IDX file"),
        (lambda raw: b"PK" + raw[2:], "two zero bytes"),
        (lambda raw: raw[:2] + b"\x0d" + raw[3:], "unsigned bytes.*0x0d"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "truncated or corrupt"),
    ],
)
def test_damaged_contents(raw, damage, message):
    with pytest.raises(DataError, match=message):
        parse_idx(damage(raw), "file")


def test_write_refuses_other_types(tmp_path):
    with pytest.raises(DataError, match="float64"):
        write_idx(tmp_path / "file", np.zeros((2, 2)))


def test_gzip_and_plain_are_the_same(folder):
    plain = open_source("idx", data_dir=folder)
    for path in list(folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = open_source("idx", data_dir=folder)
    np.testing.assert_array_equal(packed.x, plain.x)
    np.testing.assert_array_equal(packed.condition, plain.condition)


def test_validation_is_the_end_of_the_training_file(folder):
    whole = parse_idx((folder / "train-images-idx3-ubyte").read_bytes(), "")
    parts = [open_source("idx", split, data_dir=folder) for split in ("train", "validation")]
    assert [part.size for part in parts] == [33, 3]
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts])[..., 0], whole)


def test_truncated_gzip_names_the_file(folder):
    path = folder / "train-images-idx3-ubyte"
    packed = gzip.compress(path.read_bytes())
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="train-images-idx3-ubyte: truncated or corrupt gzip"):
        open_source("idx", data_dir=folder)


def test_counts_must_agree(folder):
    write_idx(folder / "train-labels-idx1-ubyte", np.zeros(7, np.uint8))
    with pytest.raises(DataError, match=r"\(36, 28, 28\) and \(7,\)"):
        open_source("idx", data_dir=folder)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_other_files_are_not_taken_for_the_original(name, folder):
    with pytest.raises(DataError, match="not the original.*MD5"):
        open_source(name, data_dir=folder)


@pytest.mark.parametrize(
    ("name", "hint"), [("mnist", "ossci-datasets"), ("fashion_mnist", "apt-get install")]
)
def test_missing_says_what_whence_and_whither(name, hint, tmp_path):
    with pytest.raises(MissingDataError) as error:
        open_source(name, data_dir=tmp_path / "nowhere")
    for text in ("train-images-idx3-ubyte", hint, str(tmp_path / "nowhere"), "FLOWZOO_DATA"):
        assert text in str(error.value)


def test_found_through_the_environment(folder, monkeypatch):
    monkeypatch.setenv("FLOWZOO_DATA", str(folder))
    assert open_source("mnist", verify=False).size == 33


def test_fashion_never_takes_mnist_from_the_same_folder(folder, monkeypatch):
    monkeypatch.setenv("FLOWZOO_DATA", str(folder))
    (folder / "fashion_mnist").mkdir()
    source_info("idx").example(folder / "fashion_mnist")
    write_idx(folder / "fashion_mnist" / "train-images-idx3-ubyte", np.full((36, 28, 28), 7, np.uint8))
    assert (open_source("fashion_mnist", verify=False).x == 7).all()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_thing(name):
    try:
        sources = [open_source(name, split) for split in ("train", "validation", "test")]
    except MissingDataError as error:
        pytest.skip(str(error).partition("\n")[0])
    assert [source.size for source in sources] == [55000, 5000, 10000]
    for source in sources:
        assert source.event_shape == (28, 28, 1) and source.dtype == np.uint8
        assert set(np.unique(source.condition)) == set(range(10))
    assert [source.x.max() for source in sources] == [255, 255, 255]
