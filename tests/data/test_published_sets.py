"""The sets that papers compare flows on, read from small files of their formats."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
from PIL import Image

from flowzoo.data import SPLITS, open_source, source_info
from flowzoo.data.sources import celeba
from flowzoo.errors import DataError, MissingDataError

SETS = ["power", "gas", "hepmass", "miniboone", "bsds300", "cifar10", "imagenet", "celeba"]


def example(name, folder):
    return source_info(name).example(folder)


@pytest.mark.parametrize("name", SETS)
def test_missing_says_where_to_get_it(name, tmp_path):
    with pytest.raises(MissingDataError, match=r"(?s)https://.*looked in.*FLOWZOO_DATA"):
        open_source(name, data_dir=tmp_path)


def test_power_is_the_table_with_noise_as_wide_as_its_rounding(tmp_path):
    options = example("power", tmp_path)
    table = np.load(tmp_path / "power" / "data.npy")[:, [0, 2, 4, 5, 6, 7]]
    parts = {split: open_source("power", split, **options).x for split in SPLITS}
    assert [len(parts[split]) for split in SPLITS] == [162, 18, 20]
    both = np.concatenate([parts["train"], parts["validation"]])
    np.testing.assert_allclose(both.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(both.std(axis=0), 1, atol=1e-5)
    # The time of day, the last column, has no noise: its values are those of the table, scaled.
    scaled = np.sort(np.concatenate([both, parts["test"]])[:, -1])
    slope, shift = np.polyfit(np.sort(table[:, -1]), scaled, 1)
    np.testing.assert_allclose(slope * np.sort(table[:, -1]) + shift, scaled, atol=1e-5)
    # The others do: no value occurs twice.
    assert all(len(np.unique(column)) == len(column) for column in parts["train"][:, :5].T)


def test_gas_leaves_one_of_two_like_columns_out(tmp_path):
    options = example("gas", tmp_path)
    train = open_source("gas", **options)
    assert train.event_shape == (15,)
    assert sum(open_source("gas", split, **options).size for split in SPLITS) == 200
    correlation = np.corrcoef(train.x, rowvar=False) - np.eye(15)
    assert correlation.max() < 0.98


def test_hepmass_keeps_signal_and_columns_without_repeats(tmp_path):
    options = example("hepmass", tmp_path)
    sizes = [open_source("hepmass", split, **options).size for split in SPLITS]
    assert sizes == [180, 20, 60] and open_source("hepmass", **options).event_shape == (5,)


@pytest.mark.parametrize("name", ["miniboone", "bsds300", "power"])
def test_a_table_of_the_wrong_width(name, tmp_path):
    options = example(name, tmp_path)
    file = next(path for path in tmp_path.rglob("*") if path.is_file())
    if file.suffix == ".npy":
        np.save(file, np.zeros((50, 5)))
    else:
        file.write_bytes(b"not HDF5")
    with pytest.raises(DataError, match=file.name):
        open_source(name, **options)


def test_an_array_of_objects_is_refused(tmp_path):
    options = example("miniboone", tmp_path)
    np.save(tmp_path / "miniboone" / "data.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read as NPY"):
        open_source("miniboone", **options)


def test_cifar_pixels_and_archive(tmp_path):
    options = example("cifar10", tmp_path)
    raw = (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").read_bytes()
    test = open_source("cifar10", "test", **options)
    # A record is a label and then all red, all green, all blue pixels, row by row.
    assert test.condition[1] == raw[3073] and test.x[1, 0, 5, 0] == raw[3073 + 1 + 5]
    assert test.x[1, 2, 3, 2] == raw[3073 + 1 + 2 * 1024 + 2 * 32 + 3]
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "cifar-10-binary.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
    np.testing.assert_array_equal(open_source("cifar10", "test", data_dir=packed).x, test.x)
    assert open_source("cifar10", **options).size == 54 and test.size == 12


def test_cifar_truncated(tmp_path):
    options = example("cifar10", tmp_path)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3.*truncated"):
        open_source("cifar10", **options)


def test_imagenet_uses_its_validation_files_as_test(tmp_path):
    options = example("imagenet", tmp_path)
    sizes = {split: open_source("imagenet", split, **options).size for split in SPLITS}
    assert sizes == {"train": 109, "validation": 1, "test": 12}
    with pytest.raises(MissingDataError, match="train_64x64"):
        open_source("imagenet", data_dir=tmp_path, size=64)


def test_celeba_cuts_the_middle_square_and_keeps_the_last_of_an_excerpt(tmp_path):
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    faces = np.random.RandomState(0).randint(0, 256, (8, 109, 89, 3)).astype(np.uint8)
    for number, face in enumerate(faces, 1):
        Image.fromarray(face).save(folder / f"{number:06d}.png")
    options = {"data_dir": tmp_path, "validation": 2, "size": 74}
    validation = open_source("celeba", "validation", **options)
    np.testing.assert_array_equal(np.asarray(validation.x), faces[6:, 17:91, 7:81])
    train = open_source("celeba", "train", mirror=True, bits=5, **options)
    assert train.size == 12 and train.num_values == 32
    np.testing.assert_array_equal(train.x[7], faces[1, 17:91, 7:81][:, ::-1] // 8)
    with pytest.raises(DataError, match="test 0"):
        open_source("celeba", "test", **options)
    with pytest.raises(MissingDataError, match="img_align_celeba"):
        open_source("celeba", data_dir=folder)


def test_the_whole_of_celeba_is_divided_as_its_authors_did():
    names = [f"{number:06d}.jpg" for number in range(1, 202_600)]
    ends = {split: celeba._of_split(names, split, (500, 0), "here") for split in SPLITS}
    assert [len(part) for part in ends.values()] == [162_770, 19_867, 19_962]
    assert ends["validation"][0] == "162771.jpg" and ends["test"][-1] == "202599.jpg"
