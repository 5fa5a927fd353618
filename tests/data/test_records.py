"""TFRecord shards: what is written is read back, in every order that is asked for, or refused by name."""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import pytest
import tensorflow as tf

from flowzoo.cli import main
from flowzoo.data import Source, open_source, pipeline, record_reader, record_writer, write_shards
from flowzoo.data.record_index import FRAMING_BYTES, Feature, length_of_record
from flowzoo.errors import DataError
from flowzoo.models import MAF

SIZE, FILES = 203, 4
X = np.arange(2 * SIZE, dtype=np.float32).reshape(SIZE, 2)
LABELS = np.arange(SIZE, dtype=np.int32)
SOURCE = Source(x=X, condition=LABELS, num_classes=SIZE, name="counted", licence="CC0-1.0", origin="here")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "shards"
    write_shards(SOURCE, folder, num_shards=FILES)
    return folder


@pytest.fixture
def folder(tmp_path):
    """A copy to be broken."""
    write_shards(SOURCE, tmp_path / "shards", num_shards=FILES)
    return tmp_path / "shards"


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of 64 examples in blocks of one."""
    monkeypatch.setattr(record_reader, "WINDOW_BYTES", 64 * record_bytes())


def record_bytes():
    """The length of a record with its framing, counted by a writer that is not ours."""
    feature = {
        "x": tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(8)])),
        "condition": tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(4)])),
    }
    return (
        len(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()) + FRAMING_BYTES
    )


def train(folder, **options):
    return open_source("tfrecords", path=folder, **options)


def labels(source, *arguments, take=-1, **keywords):
    dataset = pipeline(source, *arguments, **{"seed": 5, **keywords}, conditional=True)
    return [label.numpy() for _, label in dataset.take(take)]


# --- What is written --------------------------------------------------------------------------------


def test_tensorflow_alone_reads_them(written):
    """With nothing of ours: `tf.data.TFRecordDataset` and `parse_single_example`."""
    wanted = {name: tf.io.FixedLenFeature([], tf.string) for name in ("x", "condition")}
    for number, path in enumerate(sorted(written.glob("*.tfrecord"))):
        assert path.name == f"train-{number:05d}-of-00004.tfrecord"
        for place, record in enumerate(tf.data.TFRecordDataset(str(path))):
            example = tf.io.parse_single_example(record, wanted)
            x = tf.io.decode_raw(example["x"], tf.float32)
            np.testing.assert_array_equal(x, X[place * FILES + number])
            assert tf.io.decode_raw(example["condition"], tf.int32)[0] == place * FILES + number


def test_the_index_says_what_is_there(written):
    index = json.loads((written / "index.json").read_text())
    assert [file["num_examples"] for file in index["splits"]["train"]] == [51, 51, 51, 50]
    assert index["x"] == {"dtype": "float32", "shape": [2]}
    assert index["condition"] == {"dtype": "int32", "shape": []}
    assert (index["num_classes"], index["source"], index["licence"]) == (SIZE, "counted", "CC0-1.0")
    assert index["record_bytes"] + FRAMING_BYTES == record_bytes()


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_every_type_and_shape_comes_back(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(record_writer, "_CHUNK_BYTES", 1)
    x = np.random.RandomState(0).randint(0, 256, (10, 3, 2, 1)).astype(dtype)
    condition = np.random.RandomState(1).normal(size=(10, 4)).astype(np.float32)
    given = Source(x=x, condition=condition, num_values=256 if dtype == "uint8" else None)
    write_shards(given, tmp_path / "s", num_shards=3)
    source = train(tmp_path / "s")
    assert (source.dtype, source.event_shape, source.condition_shape) == (dtype, (3, 2, 1), (4,))
    assert (source.size, source.num_values) == (10, given.num_values)
    for found, wanted in zip(source.head(), (x, condition), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["int64", "uint16", "bool", "uint8"])
@pytest.mark.parametrize("streamed", [False, True])
def test_conditions_of_any_whole_numbers_are_written(tmp_path, dtype, streamed):
    x, condition = X[:20], (np.arange(20) % 2).astype(dtype)
    given = Source(x=x, condition=condition)
    if streamed:
        given = Source(x=tf.data.Dataset.from_tensor_slices((x, condition)))
    write_shards(given, tmp_path / "s", num_shards=2)
    found = train(tmp_path / "s").head()[1]
    assert found.dtype == ("uint8" if dtype == "uint8" else "int32")
    np.testing.assert_array_equal(found, condition)


def test_splits_and_streams_are_written(tmp_path):
    stream = tf.data.Dataset.from_tensor_slices(X).filter(lambda x: x[0] % 4 == 0)
    write_shards(
        {"train": Source(x=stream), "test": Source(x=X[:5], split="test")}, tmp_path / "s", num_shards=2
    )
    np.testing.assert_array_equal(train(tmp_path / "s").head()[0], X[::2])
    assert open_source("tfrecords", "test", path=tmp_path / "s").size == 5
    with pytest.raises(DataError, match="no split 'validation' was written. It has: train, test"):
        open_source("tfrecords", "validation", path=tmp_path / "s")


def test_small_splits_get_fewer_files(tmp_path):
    splits = {"train": Source(x=X), "test": Source(x=X[:30], split="test")}
    index = write_shards(splits, tmp_path / "s", num_shards=10)
    assert {split: len(files) for split, files in index.splits.items()} == {"train": 10, "test": 1}


def test_a_folder_appears_whole_or_not_at_all(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError):
        write_shards(SOURCE, folder, num_shards=2)
    bad = tf.data.Dataset.range(50_000).map(
        lambda i: tf.stack([1.0, 1.0 / (49_000.0 - tf.cast(i, tf.float32))])
    )
    with pytest.raises(DataError, match="after .* examples: 1 of"):
        write_shards(Source(x=bad), folder, num_shards=2, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]
    write_shards(SOURCE, folder, num_shards=2, overwrite=True)
    assert len(list(folder.iterdir())) == 3


# --- In which order it is read ------------------------------------------------------------


def test_unshuffled_the_order_is_that_of_writing(written, small_windows):
    source = train(written)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(labels(source, 10, shuffle=False)), LABELS)
    x = np.concatenate([x.numpy() for x in pipeline(source, 10, shuffle=False, seed=0, limit=37)])
    np.testing.assert_array_equal(x, X[:37])


def test_shuffled_epochs_differ_and_lose_nothing(written, small_windows):
    source = train(written)
    dataset = pipeline(source, 10, shuffle=True, seed=1, conditional=True)
    assert dataset.cardinality() == 21
    epochs = []
    for _ in range(2):
        pairs = [(x.numpy(), label.numpy()) for x, label in dataset]
        epochs.append(np.concatenate([label for _, label in pairs]))
        np.testing.assert_array_equal(np.sort(epochs[-1]), LABELS)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in pairs]), X[epochs[-1]])
    assert (epochs[0] != epochs[1]).any()
    endless = labels(source, 10, shuffle=True, seed=1, repeat=True, take=42)
    np.testing.assert_array_equal(np.concatenate(endless), np.concatenate(epochs))


@pytest.mark.parametrize(("shard", "skips"), [((1, 2), [1, 9, 10])])
def test_resuming_goes_on_where_it_stopped(written, small_windows, shard, skips):
    arguments = {"shuffle": True, "repeat": True, "drop_remainder": True, "shard": shard}
    whole = labels(train(written), 20, **arguments, take=25)
    for skip in skips:
        resumed = labels(train(written), 20, **arguments, skip=skip, take=5)
        np.testing.assert_array_equal(resumed, whole[skip : skip + 5])


def test_resuming_reads_nothing_that_lies_before(folder, small_windows):
    """Of files that are cut down to what is still to come, the rest of the epoch is read all the same."""
    arguments = {"shuffle": False, "repeat": True, "seed": 0, "conditional": True}
    source = train(folder)
    for path in folder.glob("*.tfrecord"):
        raw = bytearray(path.read_bytes())
        raw[: 40 * record_bytes()] = bytes(40 * record_bytes())
        path.write_bytes(raw)
    # Windows are 64 examples, so 16 records of each file: records 32 to 47 are read again for number 172.
    with pytest.raises(DataError, match="corrupt"), record_reader.clear_errors():
        next(iter(pipeline(source, 4, skip=43, **arguments)))
    x, label = next(iter(pipeline(source, 4, skip=48, **arguments)))
    np.testing.assert_array_equal(label, [192, 193, 194, 195])


# --- Workers --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 5])
def test_workers_see_every_example_once(written, small_windows, count):
    arguments = {"shuffle": True, "drop_remainder": True}
    parts = [labels(train(written), 60, **arguments, shard=(i, count)) for i in range(count)]
    assert {len(part) for part in parts} == {3}
    assert {len(batch) for part in parts for batch in part} == {60 // count}
    seen = np.concatenate([batch for part in parts for batch in part])
    assert len(seen) == len(set(seen)) == 180
    if count != 3:
        return
    # With a limit that divides evenly, nothing at all is left out.
    parts = [labels(train(written), 60, shuffle=True, limit=180, shard=(i, count)) for i in range(count)]
    seen = np.concatenate([batch for part in parts for batch in part])
    np.testing.assert_array_equal(np.sort(seen), np.arange(180))


@pytest.mark.parametrize("worker", [1])
def test_a_worker_opens_its_own_files_alone(folder, small_windows, worker):
    source = train(folder)
    for number, path in enumerate(sorted(folder.glob("*.tfrecord"))):
        if number % 2 != worker:
            path.unlink()
    seen = np.concatenate(labels(source, 20, shuffle=True, drop_remainder=True, shard=(worker, 2)))
    assert len(set(seen)) == 100 and set(seen % 2) == {worker}


def test_a_worker_with_an_example_more_takes_no_batch_more(written, small_windows):
    parts = [labels(train(written), 4, shuffle=True, drop_remainder=True, shard=(i, 4)) for i in (0, 3)]
    assert [len(part) for part in parts] == [50, 50]


def test_fewer_files_than_workers_is_said_aloud(written, small_windows, caplog):
    with caplog.at_level(logging.WARNING):
        pipeline(train(written), 60, shuffle=True, seed=0, drop_remainder=True, shard=(0, 5))
    assert "4 files for 5 workers" in caplog.text
    caplog.clear()
    pipeline(train(written), 60, shuffle=True, seed=0, drop_remainder=True, shard=(0, 4))
    assert not caplog.records


def test_the_shape_of_a_part_is_static(written):
    dataset = pipeline(train(written), 20, shuffle=True, seed=0, drop_remainder=True, shard=(1, 2))
    assert dataset.element_spec == tf.TensorSpec([10, 2], tf.float32)


def test_cached_records_are_arrays(written):
    source = train(written, cache=True)
    np.testing.assert_array_equal(source.x, X)
    np.testing.assert_array_equal(source.condition, LABELS)
    assert source.records is None and source.num_classes == SIZE


def test_a_flow_trains_on_them(written, small_windows):
    model = MAF(event_shape=(2,), condition_shape=(1,), num_layers=1, hidden_units=(4,))
    write_shards(Source(x=X / SIZE, condition=X[:, :1] / SIZE), written.parent / "pairs", num_shards=2)
    model.compile("adam")
    batches = pipeline(train(written.parent / "pairs"), 20, shuffle=True, seed=0, conditional=True)
    losses = model.fit(batches, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


# --- What is refused --------------------------------------------------------------------------------


def flipped(path, place):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 4
    path.write_bytes(raw)


@pytest.mark.parametrize(("record", "part"), [(0, "length"), (30, "contents")])
def test_a_flipped_bit_is_refused_by_file(folder, record, part):
    path = folder / "train-00002-of-00004.tfrecord"
    flipped(path, record * record_bytes() + (1 if part == "length" else 40))
    source = train(folder)
    named = re.escape(f"{path}: a record is corrupt or missing")
    with pytest.raises(DataError, match=named):
        source.head()
    # In a loop of the user's own TensorFlow raises, and says the same.
    for batches in (source.x, pipeline(source, 20, shuffle=True, seed=0)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=named):
            list(batches)
    with pytest.raises(DataError, match=named):
        model = MAF(event_shape=(2,), num_layers=1, hidden_units=(4,))
        model.compile("adam")
        model.fit(pipeline(source, 20, shuffle=True, seed=0), verbose=0)
    with pytest.raises(DataError, match=re.escape(f"{path}: corrupt: its SHA-256")):
        train(folder, verify=True)


def test_a_cut_or_missing_file_is_refused_on_opening(folder):
    path = folder / "train-00001-of-00004.tfrecord"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=re.escape(f"{path}: truncated")):
        train(folder)
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{path}: the shard is missing")):
        train(folder)


def test_a_file_cut_after_opening_is_refused_when_read(folder):
    source = train(folder)
    path = folder / "train-00001-of-00004.tfrecord"
    path.write_bytes(path.read_bytes()[: 10 * record_bytes()])
    with pytest.raises(DataError, match=re.escape(str(path))):
        source.head()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(more=1), "more: Extra inputs"),
        (lambda index: index.pop("x"), "x: Field required"),
        (lambda index: index["x"].update(dtype="object"), "x.dtype: Input should be 'uint8'"),
        (lambda index: index["x"].update(shape=[-1]), "shape.0"),
        (lambda index: index["splits"]["train"][0].update(file="../x.tfrecord"), "file: String should match"),
        (lambda index: index["splits"]["train"][0].update(num_examples=50), "do not hold their share"),
        (lambda index: index["splits"].update(test=[]), "splits.test"),
        (lambda index: index["splits"].update(tset=index["splits"]["train"]), "unknown split 'tset'"),
        (lambda index: index.update(format="flowzoo records 2"), "format"),
        # Features that do not fill a record were read as more examples, or as fewer, than were written.
        (lambda index: index["x"].update(shape=[1]), "take .* bytes and not"),
        (lambda index: index["x"].update(dtype="float64"), "take .* bytes and not"),
        (lambda index: index.update(condition=None), "take .* bytes and not"),
        (lambda index: index.update(record_bytes=index["record_bytes"] + 1), "take .* bytes and not"),
    ],
)
def test_a_wrong_index_is_refused(folder, change, message):
    path = folder / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(
        DataError, match=f"{re.escape(str(path))}: corrupt, or no index of shards: .*{message}"
    ):
        train(folder)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (15,), (4, 8), (64, 64, 3), (600, 2, 90)])
@pytest.mark.parametrize("paired", [True, False])
def test_the_length_of_a_record_is_that_of_protobuf(shape, paired):
    features = {"x": Feature(dtype="float64", shape=shape)}
    if paired:
        features["condition"] = Feature(dtype="uint8", shape=(130,))
    values = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(feature.num_bytes)]))
        for name, feature in features.items()
    }
    example = tf.train.Example(features=tf.train.Features(feature=values))
    assert length_of_record(features) == len(example.SerializeToString())


def example(**features):
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )


NUMBERS = tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(8)]))
LABEL = tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(4)]))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (example(x=LABEL, condition=NUMBERS), "{path}: a record is corrupt or missing"),
        (example(x=NUMBERS, kondition=LABEL), "{path}: a record is corrupt or missing"),
        (b"\xff" * (record_bytes() - FRAMING_BYTES), "{path}: a record is corrupt or missing"),
        # TensorFlow's own parser of examples reads beyond the record here, and the process ends.
        (example(x=NUMBERS, condition=LABEL)[:-9] + b"\xff\xff\xff\xff" + bytes(5), "{path}: a record is"),
    ],
    ids=["swapped", "misnamed", "no example", "too long"],
)
def test_a_wrong_record_under_a_right_checksum_is_refused(folder, record, message):
    path = folder / "train-00002-of-00004.tfrecord"
    raws = [raw.numpy() for raw in tf.data.TFRecordDataset(str(path))]
    assert len(record) == len(raws[7])  # else the size of the file gives it away
    with tf.io.TFRecordWriter(str(path)) as writer:
        for raw in [*raws[:7], record, *raws[8:]]:
            writer.write(raw)
    with pytest.raises(DataError, match=message.format(path=re.escape(str(path)))):
        train(folder).head()


def test_no_index_is_refused(tmp_path):
    with pytest.raises(DataError, match="no index.json in it"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("sources", "num_shards", "message"),
    [
        (SOURCE, 0, "num_shards must be at least 1"),
        (SOURCE, 204, "num_shards=204 for 203 examples"),
        (Source(x=tf.data.Dataset.from_tensor_slices(X).filter(lambda x: x[0] < 4)), 3, "num_shards=3 for 2"),
        ({"train": SOURCE, "test": Source(x=X[:, :1], split="test")}, 1, "one shape and type"),
        (
            {"train": SOURCE, "test": Source(x=X, condition=LABELS / 2, split="test")},
            1,
            "one shape and type.*float64",
        ),
        (Source(x=X, condition=np.arange(SIZE) + 2**31), 1, "as int32, .* Received: 2147483648 to"),
        (Source(x=X, condition=np.full(SIZE, 2**64 - 1, np.uint64)), 1, "as int32"),
        (Source(x=X, condition=np.full(SIZE, "tall")), 1, "Records hold uint8, .* condition of <U4"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, sources, num_shards, message):
    with pytest.raises(DataError, match=message):
        write_shards(sources, tmp_path / "s", num_shards=num_shards)
    assert not list(tmp_path.iterdir())


# --- The command ---------------------------------------------------------------------------------


def test_the_command_writes_what_the_source_reads(tmp_path, capsys):
    out = tmp_path / "moons"
    given = ["shards", "moons", "--out", out, "-o", "num_examples=50", "--num-shards", 3, "--split", "train"]
    assert main([*map(str, given), "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["splits"] == {"train": {"num_examples": 50, "num_shards": 3}}
    wanted = open_source("moons", num_examples=50)
    x, condition = train(out).head()
    np.testing.assert_array_equal(x, wanted.x)
    np.testing.assert_array_equal(condition, wanted.condition)
    assert main([*map(str, given)]) == 2 and "--overwrite" in capsys.readouterr().err
    assert main([*map(str, given), "--overwrite"]) == 0
    assert main(["shards", "mooons", "--out", str(tmp_path / "x")]) == 3
    assert main(["shards", "moons", "--out", str(tmp_path / "x"), "--split", "trian"]) == 2
