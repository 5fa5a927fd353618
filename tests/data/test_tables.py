"""CSV, Parquet, NPZ and ADBench: what is read, what is refused, and in which words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from flowzoo.data import SPLITS, open_source
from flowzoo.errors import DataError, MissingDataError

WRITERS = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "parquet": lambda frame, path: frame.to_parquet(path),
}


@pytest.fixture(params=WRITERS)
def kind(request):
    return request.param


@pytest.fixture
def write(kind, tmp_path):
    """Writes a table as a file of the kind, and returns its path."""

    def write(frame, name="table"):
        path = tmp_path / f"{name}.{kind}"
        WRITERS[kind](frame, path)
        return path

    return write


def frame(count=50, **columns):
    values = {"id": np.arange(count), "height": np.arange(count) / 2, "width": -np.arange(count)}
    return pd.DataFrame({**values, **columns})


def ids(source):
    return source.x[:, 0].astype(int)


def test_a_file_is_divided(kind, write):
    path = write(frame())
    parts = [open_source(kind, split, path=path) for split in SPLITS]
    assert [part.size for part in parts] == [40, 5, 5]
    np.testing.assert_array_equal(np.sort(np.concatenate([ids(part) for part in parts])), np.arange(50))
    for part in parts:
        np.testing.assert_array_equal(part.x[:, 1] * 2, part.x[:, 0])
        assert part.origin == str(path)
    other = open_source(kind, path=path, split_seed=1)
    assert (ids(other) != ids(parts[0])).any()
    assert open_source(kind, "test", path=path, test=7, validation=0).size == 7


def test_division_never_changes(kind, write):
    """Published metrics hang on it; NumPy promises that this generator stays as it is."""
    np.testing.assert_array_equal(ids(open_source(kind, "test", path=write(frame()))), [34, 21, 2, 44, 13])
    assert ids(open_source(kind, path=write(frame())))[:3].tolist() == [43, 39, 27]


def test_columns_are_chosen_in_order(kind, write):
    source = open_source(kind, path=write(frame()), columns=["width", "id"])
    assert source.event_shape == (2,) and source.condition is None
    np.testing.assert_array_equal(source.x[:, 0], -source.x[:, 1])


@pytest.mark.parametrize(
    ("values", "expected", "classes"),
    [
        (np.arange(50) % 3, np.arange(50) % 3, 3),
        (np.where(np.arange(50) % 2, "b", "a"), np.arange(50) % 2, 2),
        (np.arange(50) % 2 == 1, np.arange(50) % 2, 2),
        (np.arange(50) / 4, np.arange(50)[:, None] / 4, None),
    ],
)
def test_labels(kind, write, values, expected, classes):
    source = open_source(kind, path=write(frame(kind=values)), label="kind")
    assert source.event_shape == (3,) and source.num_classes == classes
    np.testing.assert_array_equal(source.condition, expected[ids(source)])


def test_a_folder_with_a_file_for_each_split(kind, write):
    whole = frame(kind=["b"] * 30 + ["c"] * 10 + ["a"] * 10)
    write(whole[:30], "train")
    write(whole[30:40], "val")
    folder = write(whole[40:], "test").parent
    for split, rows, label in (("train", 30, 1), ("validation", 10, 2), ("test", 10, 0)):
        source = open_source(kind, split, path=folder, label="kind")
        # Classes are numbered alike, though no file knows them all.
        assert source.size == rows and source.num_classes == 3 and set(source.condition) == {label}


def test_a_folder_without_validation(kind, write):
    write(frame()[:40], "train")
    folder = write(frame()[40:], "test").parent
    train, validation, test = (open_source(kind, split, path=folder) for split in SPLITS)
    assert (train.size, validation.size, test.size) == (36, 4, 10)
    np.testing.assert_array_equal(np.sort(np.concatenate([ids(train), ids(validation)])), np.arange(40))
    np.testing.assert_array_equal(ids(test), np.arange(40, 50))


def test_a_folder_must_be_whole_and_of_one_mould(kind, write):
    folder = write(frame(), "train").parent
    with pytest.raises(DataError, match="needs train.* and test"):
        open_source(kind, path=folder)
    write(frame(more=1), "test")
    with pytest.raises(DataError, match="its columns differ"):
        open_source(kind, path=folder)


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (frame(gap=[1.0] * 49 + [np.nan]), {}, "column 'gap': 1 of 50 .* NaN or infinite, .* example 49"),
        (frame(big=[1e300] * 50), {}, "column 'big', as float32"),
        (frame(name="x"), {}, "column 'name': must hold numbers.*option columns"),
        (frame(), {"columns": ["hight"]}, "no column 'hight'. Did you mean 'height'.*It has: id"),
        (frame(), {"label": "kind"}, "no column 'kind'"),
        (frame(kind=[None] * 2 + ["a"] * 48), {"label": "kind"}, "column 'kind': 2 labels are missing"),
        (frame(kind=-1), {"label": "kind"}, "whole numbers from 0 on. Received: -1"),
        (frame()[:0], {}, "0 examples cannot be split"),
        (frame()[:2], {}, "2 examples cannot be split"),
        (frame()[["id"]], {"label": "id"}, "empty: 50 rows, 0 columns"),
    ],
)
def test_tables_that_cannot_be_used(kind, write, table, options, message):
    path = write(table)
    with pytest.raises(DataError, match=message) as error:
        open_source(kind, **{"split": "validation", "path": path, **options})
    assert str(path) in str(error.value)


def test_integers_with_gaps_are_refused(tmp_path):
    table = frame(gap=pd.array([1, None] * 25, dtype="Int64"))
    table.to_parquet(tmp_path / "table.parquet")
    with pytest.raises(DataError, match="column 'gap': 25 of 50 values are NaN"):
        open_source("parquet", path=tmp_path / "table.parquet")


def test_damaged_parquet(tmp_path):
    frame().to_parquet(tmp_path / "table.parquet")
    raw = (tmp_path / "table.parquet").read_bytes()
    (tmp_path / "table.parquet").write_bytes(raw[:-100])
    with pytest.raises(DataError, match="table.parquet: cannot be read as a table"):
        open_source("parquet", path=tmp_path / "table.parquet")


@pytest.mark.parametrize("raw", [b"", b"a,b\n1,2\n1,2,3,4\n", b"\xff\xfe\x00\xd8,\n1,2\n"])
def test_damaged_csv(raw, tmp_path):
    (tmp_path / "table.csv").write_bytes(raw)
    with pytest.raises(DataError, match="table.csv: cannot be read as a table"):
        open_source("csv", path=tmp_path / "table.csv")


def test_csv_dialects(tmp_path):
    frame().to_csv(tmp_path / "table.csv.gz", index=False, header=False, sep=";")
    source = open_source(
        "csv", path=tmp_path / "table.csv.gz", separator=";", header=False, columns=("2", "0")
    )
    np.testing.assert_array_equal(source.x[:, 0], -source.x[:, 1])
    # The command line reads -o columns='[2, 0]' as numbers.
    same = open_source("csv", path=tmp_path / "table.csv.gz", separator=";", header=False, columns=[2, 0])
    np.testing.assert_array_equal(same.x, source.x)
    path = tmp_path / "table.csv.gz"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="table.csv.gz: cannot be read"):
        open_source("csv", path=path, separator=";", header=False)


def test_constant_columns_are_warned_of(kind, write, caplog):
    path = write(frame(same=5.0))
    for split in SPLITS:
        open_source(kind, split, path=path)
    assert [record.getMessage().partition("columns ")[2][:11] for record in caplog.records] == ["'same' hold"]
    caplog.clear()
    open_source(kind, path=path, columns=["id", "width"])
    assert not caplog.records


def text_table(tmp_path, text):
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    return tmp_path / "table.csv"


ROWS = range(20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # pandas would take the first values of each row for its name, and read on with the others.
        ("a;b\n" + "".join(f"{i},5;{i},25\n" for i in ROWS), "rows hold more values .* option decimal"),
        ("a,b\n" + "".join(f"{i},{i},1\n" for i in ROWS), "rows hold more values"),
        # The first row would be lost as names.
        ("".join(f"{i}.5,{i}.5\n" for i in ROWS), "first row.* numbers: 0.5, 0.5.1. Say header=false"),
        ("".join(f"{i}e0,-{i}.0\n" for i in ROWS), "Say header=false"),
        # What a table is seldom meant to be learned from.
        (",a\n" + "".join(f"{i},{i / 2}\n" for i in ROWS), "counts the rows.*index=False"),
        # The value that is meant, not the first one of the column.
        ("a\n" + "".join(f"{i if i != 7 else '?'}\n" for i in ROWS), "such as '\\?' in row 7 .1 of 20"),
        ("a;b\n" + "".join(f"{i};{i}\n" for i in ROWS), "If ';' stands between the values"),
        ("a,b\n" + "".join(f'"1,{i:03}.5",2\n' for i in ROWS), "commas of thousands"),
    ],
)
def test_csv_files_that_would_be_read_as_another_table(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        open_source("csv", path=text_table(tmp_path, text))


def test_numbers_are_names_where_that_is_said_or_they_count(tmp_path):
    values = "".join(f"{i},{i}\n" for i in ROWS)
    assert open_source("csv", path=text_table(tmp_path, "0,1\n" + values), test=0, validation=0).size == 20
    path = text_table(tmp_path, "400.5,401\n" + values)
    parts = {"test": 0, "validation": 0}
    assert open_source("csv", path=path, header=True, columns=["400.5"], **parts).x.shape == (20, 1)
    assert open_source("csv", path=path, header=False, **parts).x.shape == (21, 2)


@pytest.mark.filterwarnings("error")
def test_decimal_commas_and_separators(tmp_path):
    path = text_table(tmp_path, "a;b\n" + "".join(f"{i},5;{i},25\n" for i in ROWS))
    x = open_source("csv", path=path, separator=";", decimal=",").x
    np.testing.assert_array_equal(x[:, 1] - x[:, 0], np.full(16, -0.25))
    path = text_table(tmp_path, "a :: b\n" + "".join(f"{i} :: {i}\n" for i in ROWS))
    assert open_source("csv", path=path, separator=" :: ").x.shape == (16, 2)
    path = text_table(tmp_path, "a,b\n" + "".join(f"{i},{i},\n" for i in ROWS))
    assert open_source("csv", path=path).x.shape == (16, 2)  # a separator at the end of each row
    with pytest.raises(DataError, match="option 'separator' takes non-empty text"):
        open_source("csv", path=path, separator="")


@pytest.mark.parametrize(
    "options", [{"columns": ["id", "id"]}, {"columns": ["id", "width"], "label": "width"}]
)
def test_a_column_named_twice_has_no_density(kind, write, options):
    with pytest.raises(DataError, match="columns and label name .* twice"):
        open_source(kind, path=write(frame()), **options)


def test_relative_paths_are_looked_for_in_the_data_folders(kind, write, monkeypatch, tmp_path):
    name = write(frame()).name
    monkeypatch.setenv("FLOWZOO_DATA", str(tmp_path))
    assert open_source(kind, path=name).size == 40
    with pytest.raises(MissingDataError, match="nothing.here not found"):
        open_source(kind, path="nothing.here")


# NPZ


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "arrays.npz", **arrays)
        return tmp_path / "arrays.npz"

    return write


def test_npz_keys_and_types(npz):
    rows = np.arange(50)
    path = npz(
        image=np.tile(rows.astype(np.uint8)[:, None, None], (1, 4, 3)), y=rows % 4, theta=rows[:, None]
    )
    source = open_source("npz", path=path, x="image", condition="y")
    assert source.event_shape == (4, 3) and source.dtype == np.uint8 and source.num_values == 256
    assert source.num_classes == 4 and source.condition.dtype == np.int32
    np.testing.assert_array_equal(source.x[:, 0, 0] % 4, source.condition)
    numbers = open_source("npz", path=path, x="theta", condition="theta")
    assert numbers.dtype == np.float32 and numbers.condition_shape == (1,) and numbers.num_values is None


def test_npz_with_an_array_for_each_split(npz):
    x = np.arange(60.0)[:, None]
    path = npz(x_train=x[:40], x_test=x[40:])
    parts = [open_source("npz", split, path=path, x="x_{split}") for split in SPLITS]
    assert [part.size for part in parts] == [36, 4, 20]
    np.testing.assert_array_equal(np.sort(np.concatenate([part.x for part in parts[:2]]), axis=0), x[:40])
    path = npz(x_train=x[:40], x_validation=x[40:45], x_test=x[45:])
    parts = [open_source("npz", split, path=path, x="x_{split}") for split in SPLITS]
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), x)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"data": np.ones((50, 2))}, {}, "no array 'x'.*It has: data"),
        ({"x": np.ones(50)}, {}, r"must be \[N, \*event_shape\]"),
        ({"x": np.ones((50, 2)), "y": np.ones(7)}, {"condition": "y"}, "as many conditions"),
        ({"x": np.full((50, 2), np.nan)}, {}, "100 of 100 values are NaN"),
        ({"x": np.full((50, 2), "a")}, {}, "must hold numbers"),
        ({"x": np.full((50, 2), 1j)}, {}, "must hold numbers. Received: complex128"),
        ({"x": np.full((50, 2), {}, object)}, {}, "cannot be read as NPZ.*no Python objects"),
        ({"x": np.ones((0, 2))}, {}, "0 examples cannot be split"),
    ],
)
def test_npz_that_cannot_be_used(npz, arrays, options, message):
    with pytest.raises(DataError, match=message):
        open_source("npz", path=npz(**arrays), **options)


def test_damaged_npz(npz, tmp_path):
    path = npz(x=np.ones((50, 2)))
    raw = path.read_bytes()
    for damaged in (raw[:-40], raw[:300] + b"\0\1\2" + raw[303:], b"", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="arrays.npz: cannot be read as NPZ"):
            open_source("npz", path=path)
    np.save(tmp_path / "bare.npy", np.ones((50, 2)))
    with pytest.raises(DataError, match="one bare array"):
        open_source("npz", path=tmp_path / "bare.npy")


# ADBench


@pytest.fixture
def adbench(tmp_path):
    y = (np.arange(60) % 6 == 0).astype(int)
    (tmp_path / "adbench").mkdir()
    np.savez(tmp_path / "adbench" / "7_toy_set.npz", X=np.arange(60, dtype=np.uint8)[:, None], y=y)
    return tmp_path


@pytest.mark.parametrize("dataset", ["toy_set", "7_toy_set"])
def test_adbench_holds_inliers_only(adbench, dataset):
    parts = [open_source("adbench", split, dataset=dataset, data_dir=adbench) for split in SPLITS]
    assert [part.size for part in parts] == [40, 5, 5] and parts[0].condition is None
    assert parts[0].dtype == np.float32
    whole = np.sort(np.concatenate([ids(part) for part in parts]))
    np.testing.assert_array_equal(whole, [row for row in range(60) if row % 6])


def test_adbench_with_anomalies(adbench):
    options = {"dataset": "toy_set", "data_dir": adbench, "anomalies": True}
    test = open_source("adbench", "test", **options)
    assert test.size == 15 and test.num_classes == 2
    np.testing.assert_array_equal(test.condition, ids(test) % 6 == 0)
    assert not open_source("adbench", "train", **options).condition.any()


def test_adbench_dequantized(tmp_path):
    rng = np.random.RandomState(0)
    x = np.stack([rng.randint(0, 50, 400), rng.randint(0, 9, 400) / 4], axis=-1)
    np.savez(tmp_path / "1_rounded.npz", X=x, y=np.zeros(400, int))
    options = {"dataset": "rounded", "data_dir": tmp_path}
    for split in SPLITS:
        plain = open_source("adbench", split, **options).x
        noisy = open_source("adbench", split, dequantize=True, **options).x
        noise = (noisy - plain) / [1, 0.25]
        assert noise.min() >= 0 and noise.max() < 1 + 1e-4
        assert abs(noise.mean() - 0.5) < 0.1
        np.testing.assert_array_equal(open_source("adbench", split, dequantize=True, **options).x, noisy)


def test_adbench_cannot_dequantize_a_constant(tmp_path):
    np.savez(tmp_path / "1_flat.npz", X=np.stack([np.arange(40.0), np.ones(40)], -1), y=np.zeros(40, int))
    with pytest.raises(DataError, match=r"columns \[1\] hold one value"):
        open_source("adbench", dataset="flat", data_dir=tmp_path, dequantize=True)


def test_adbench_missing_or_wrong(adbench):
    with pytest.raises(MissingDataError, match="Did you mean 'toy_set'.*Minqi824"):
        open_source("adbench", dataset="toy_sett", data_dir=adbench)
    np.savez(adbench / "adbench" / "8_bad.npz", X=np.ones((9, 2)), y=np.arange(9))
    with pytest.raises(DataError, match="of 0 and 1"):
        open_source("adbench", dataset="bad", data_dir=adbench)


@pytest.mark.parametrize("dataset", ["cardio", "thyroid", "pendigits"])
def test_the_real_adbench(dataset):
    try:
        parts = [open_source("adbench", split, dataset=dataset) for split in SPLITS]
    except MissingDataError as error:
        pytest.skip(str(error).partition("\n")[0])
    expected = {"cardio": (21, 1655), "thyroid": (6, 3679), "pendigits": (16, 6714)}[dataset]
    assert (parts[0].event_shape[0], sum(part.size for part in parts)) == expected
