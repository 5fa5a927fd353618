"""A training that is stopped and goes on is the one that was never stopped; data of the user's own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import flowzoo
from flowzoo import own_data, registry, trainer, training_job
from flowzoo.cli.app import main
from flowzoo.config import TrainingConfig, parse_config
from flowzoo.data import Source, open_source, pipeline, record_reader, write_shards
from flowzoo.data.lazy import Lazy
from flowzoo.errors import DataError
from flowzoo.manifest import MANIFEST
from flowzoo.publish import TrainResult
from flowzoo.training.callbacks import Patience
from flowzoo.training.recipe import train_recipe
from flowzoo.training.resuming import Saving
from flowzoo.training.states import StateFolder
from flowzoo.training.workers import Workers
from flowzoo.training_job import fingerprint

RECIPE: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 64,
    "ema": 0.9,
    "patience": 5,
    "jit_compile": False,
    "optimizer": {"name": "adamw", "weight_decay": 0.01, "warmup_steps": 5, "schedule": "trapezoid"},
}


class Stop(keras.callbacks.Callback):
    """Die at the beginning of an epoch, or in the middle of it, like a machine that is taken away."""

    def __init__(self, epoch: int, batch: int | None = None) -> None:
        super().__init__()
        self._epoch, self._batch = epoch, batch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._now = epoch
        if epoch == self._epoch and self._batch is None:
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Counted by the optimizer: after a stop, Keras counts the batches of the epoch from 0.
        if self._batch is not None and int(self.model.optimizer.iterations) == self._epoch * 3 + self._batch:
            raise KeyboardInterrupt


def small() -> Any:
    return flowzoo.build("realnvp", (2,), num_couplings=1, hidden_units=(8,))


def trained(
    folder: Path | None,
    *,
    resume: bool = False,
    steps: int | None = None,
    make: Callable[[], Any] = small,
    shards: Path | None = None,
    data: list[Any] | None = None,
    **options: Any,
) -> Any:
    recipe = TrainingConfig.model_validate({**RECIPE, **options.pop("recipe", {})})
    name, asked = ("moons", {"num_examples": 300}) if shards is None else ("tfrecords", {"path": shards})
    sources = [open_source(name, split, **asked) for split in ("train", "validation")]
    saving = None
    if folder is not None:
        saving = Saving(StateFolder(folder), 0.0 if steps is None else 1e9, steps, resume, data=data)
    return train_recipe(
        make,
        recipe,
        *sources,
        limit=200,
        saving=saving,
        verbose=0,
        **options,
    )


def stopped(folder: Path, *when: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(folder, callbacks=[Stop(*when)], **options)


def equal(one: Any, other: Any) -> bool:
    pairs = zip(one.model.get_weights(), other.model.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def whole() -> Any:
    return trained(None)


@pytest.mark.parametrize(
    ("stops", "steps"),
    [
        ([(0, 2), (2,), (5, 1)], None),  # in the middle of epochs, the first and the last, and between two
        # The state is older than the stop: in another epoch, or behind.
        pytest.param([(2, 2), (4, 1)], 4, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, whole: Any, stops: list[tuple[int, ...]], steps: int | None
) -> None:
    for when in stops:
        stopped(tmp_path, *when, resume=True, steps=steps)
        assert list(tmp_path.glob("step_*.npz"))
    again = trained(tmp_path, resume=True, steps=steps)
    assert equal(whole, again)
    assert whole.history == again.history and len(again.history["loss"]) == 6
    assert whole.kept_epoch == again.kept_epoch and len(again.epoch_seconds) == 6
    # What is trained is not trained again: all that is needed lies in its last state.
    once_more = trained(tmp_path, resume=True, callbacks=[Stop(0)])
    assert equal(whole, once_more) and once_more.history == whole.history


NOISY: dict[str, dict[str, Any]] = {
    "realnvp": {"dropout": 0.3, "num_couplings": 1, "hidden_units": (8,)},
    "flow_matching": {"condition_dropout": 0.3, "hidden_units": (8,), "steps": 2},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Write labelled rows of numbers from 0 to 3; return the folder and the bytes of a record."""
    sources = {}
    for number, (split, size) in enumerate((("train", 200), ("validation", 50))):
        rng = np.random.default_rng(number)
        x = rng.integers(0, 4, (size, 4)).astype("uint8")
        label = rng.integers(0, 3, size).astype("int32")
        sources[split] = Source(x=x, condition=label, num_values=4, num_classes=3, split=split)
    folder = tmp_path_factory.mktemp("records") / "shards"
    return folder, write_shards(sources, folder, num_shards=4).record_bytes


@pytest.mark.slow
@pytest.mark.parametrize("family", NOISY)
def test_noise_of_every_kind_and_shards_go_on_as_if_they_had_not_stopped(
    tmp_path: Path, shards: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Dequantisation, dropout of units or of conditions, an average, windows of records: bit for bit."""
    folder, record_bytes = shards
    monkeypatch.setattr(record_reader, "WINDOW_BYTES", 48 * record_bytes)  # an epoch has several windows

    def make() -> Any:
        flow = flowzoo.build(family, (4,), num_values=4, num_classes=3, **NOISY[family])
        x = np.arange(64, dtype="uint8").reshape(-1, 4) % 4
        flow.adapt(x, np.arange(16) % 3)  # here: so many windows of a few records take seconds
        return flow

    options = {"make": make, "shards": folder, "conditional": True, "recipe": {"epochs": 2}}
    whole = trained(None, **options)
    stopped(tmp_path, 1, 2, **options)
    assert max(tmp_path.iterdir()).name.startswith("step_000000004.")  # an epoch has three
    again = trained(tmp_path, resume=True, **options)
    assert equal(whole, again)
    assert whole.history == again.history and len(again.history["loss"]) == 2
    assert np.isfinite(again.history["val_loss"]).all()


def test_a_shorter_training_is_another_one(whole: Any) -> None:
    assert not equal(whole, trained(None, recipe={"epochs": 5}))  # `equal` can fail


def test_a_training_that_was_ended_early_stays_ended(tmp_path: Path) -> None:
    recipe = {"patience": 1, "optimizer": {"name": "sgd", "learning_rate": 1e-12}}
    short = trained(tmp_path, recipe=recipe)
    assert 1 < len(short.history["loss"]) < 6
    assert trained(tmp_path, resume=True, recipe=recipe).history == short.history


def test_a_callback_ends_the_training_in_an_epoch_that_went_on(tmp_path: Path) -> None:
    class End(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if int(self.model.optimizer.iterations) == 8:
                self.model.stop_training = True

    stopped(tmp_path, 2, 1)
    assert len(trained(tmp_path, resume=True, callbacks=[End()]).history["loss"]) == 3


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    stopped(tmp_path, 1)
    for change in ({"seed": 1}, {"epochs": 7}, {"batch_size": 32}):
        with pytest.raises(DataError, match="another recipe"):
            trained(tmp_path, resume=True, recipe=change)
    for wrong in ({"state_seconds": -1.0}, {"state_seconds": float("nan")}, {"state_steps": 0}):
        with pytest.raises(ValueError, match="state_s"):
            flowzoo.train("test_nice", out=tmp_path, **wrong)


def test_other_data_are_told_when_training_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    same, other = [["train", 200, "digest"]], [["train", 200, "another"]]
    stopped(tmp_path, 3, data=same)
    for data, warned in ((None, False), (same, False), (other, True)):
        caplog.clear()
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, resume=True, data=data, callbacks=[Stop(3)])
        assert ("with other data" in caplog.text) == warned


def test_a_state_that_is_not_whole_is_named_and_the_one_before_it_taken(
    tmp_path: Path, whole: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(tmp_path, 3, 1)
    older, newer = sorted(tmp_path.glob("step_*.npz"))
    newer.write_bytes(newer.read_bytes()[:-100])
    with caplog.at_level(logging.INFO, logger="flowzoo.training"):
        assert equal(whole, trained(tmp_path, resume=True))
    assert f"{newer} is not what was written" in caplog.text and f"from {older}" in caplog.text
    for path in tmp_path.glob("step_*.npz"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(DataError, match="No state .* is whole"):
        trained(tmp_path, resume=True)


def test_beginning_anew_says_that_a_state_will_be_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(tmp_path, 3)
    before = sorted(tmp_path.iterdir())
    with caplog.at_level(logging.WARNING, logger="flowzoo.training"):
        stopped(tmp_path, 1, 1)
    assert f"{before[-1]}, of a training that did not end" in caplog.text
    assert len(sorted(tmp_path.iterdir())) == 2 and not set(before) <= set(tmp_path.iterdir())


@pytest.mark.parametrize("skip", [0, 3, 4, 9])
@pytest.mark.parametrize("kind", ["array", "stream"])
def test_a_pipeline_goes_on_where_it_stopped(skip: int, kind: str) -> None:
    import tensorflow as tf

    rows = np.arange(18, dtype="float32")[:, None]
    data = rows if kind == "array" else tf.data.Dataset.from_tensor_slices(rows)
    options = {"shuffle": True, "seed": 3, "repeat": True, "drop_remainder": True}
    whole = [batch.numpy() for batch in pipeline(data, 4, **options).take(14)]
    rest = [batch.numpy() for batch in pipeline(data, 4, skip=skip, **options).take(14 - skip)]
    np.testing.assert_array_equal(whole[skip:], rest)
    with pytest.raises(DataError, match="repeat=True"):
        pipeline(data, 4, shuffle=True, seed=3, skip=1)


def test_patience_counts_epochs_without_a_better_loss() -> None:
    patience = Patience(2)
    patience.set_model(flowzoo.build("nice", (2,)))
    stops = []
    for epoch, loss in enumerate([3.0, 2.0, 2.5, 1.9, 2.0, float("nan"), 1.0]):
        patience.model.stop_training = False
        patience.on_epoch_end(epoch, {"val_loss": loss})
        stops.append(patience.model.stop_training)
    assert stops == [False, False, False, False, False, True, False]


# -- what was published before ----------------------------------------------------------------------


@dataclasses.dataclass
class Rows(Lazy):
    """Examples that are made on demand, and note which."""

    values: np.ndarray
    asked: set[int] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        self.shape, self.dtype = self.values.shape, self.values.dtype

    def __getitem__(self, rows: Any) -> np.ndarray:
        self.asked |= set(np.arange(len(self))[rows].tolist())
        return self.values[rows]


def test_other_data_have_another_fingerprint(tmp_path: Path) -> None:
    x, labels = np.random.RandomState(0).normal(size=(100, 2)).astype(np.float32), np.arange(100) % 3
    changed = x.copy()
    changed[50] += 1
    one = fingerprint(Source(x=x), None)
    assert one == json.loads(json.dumps(fingerprint(Source(x=x.copy()), None)))
    others = [Source(x=changed), Source(x=x[:99]), Source(x=x.astype(np.float64)), Source(x=x[:, :, None])]
    others += [Source(x=x, condition=labels), Source(x=x, condition=labels[::-1])]
    found = [one, *(fingerprint(other, None) for other in others)]
    assert all(found.count(each) == 1 for each in found)
    # What is not used does not count, and of what is made on demand little is read.
    assert fingerprint(Source(x=x), 50) == fingerprint(Source(x=changed), 50)
    rows = Rows(x)
    assert fingerprint(Source(x=rows), 90) == fingerprint(Source(x=Rows(changed)), 90)
    assert rows.asked == {*range(8), *range(82, 90)}
    changed[0] += 1
    assert fingerprint(Source(x=rows), None) != fingerprint(Source(x=Rows(changed)), None)
    for name, values in (("a", x), ("b", changed)):
        write_shards(Source(x=values), tmp_path / name, num_shards=2)
    shards = [fingerprint(open_source("tfrecords", path=tmp_path / name), None) for name in "aab"]
    assert shards[0] == shards[1] != shards[2]
    assert fingerprint(Source(x=tf.data.Dataset.from_tensor_slices(x)), None)[-1] is None


def published_job(out: Path, data: list[Any]) -> training_job.TrainingJob:
    saving = Saving(StateFolder(out / "maf_own.training" / "states"), resume=True, about="maf_own", data=data)
    workers = Workers.of(tf.distribute.get_strategy())
    config = registry.get_config("test_maf")
    return training_job.TrainingJob(
        config, config.training, out / "maf_own", saving, workers, None, True, "train"
    )


@pytest.mark.parametrize("named", [True, False], ids=["today's note", "an older note"])
def test_a_result_is_that_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """A note that an older version wrote names no data, and is taken at its word."""

    def publish(*arguments: Any, **options: Any) -> TrainResult:
        (tmp_path / "maf_own").mkdir()
        (tmp_path / "maf_own" / MANIFEST).write_text("files")
        digest = hashlib.sha256(b"files").hexdigest()
        return TrainResult("maf_own", str(tmp_path / "maf_own"), 1.5, None, 3.0, digest, {"loss": [1.0]})

    monkeypatch.setattr(training_job, "publish", publish)
    job, other = published_job(tmp_path, [["train", 5]]), published_job(tmp_path, [["train", 6]])
    with job.alone():
        assert job.result_of_before() is None
        result = job.publish(None, {})  # type: ignore[arg-type]
    assert not result.published_before
    note = tmp_path / "maf_own.training" / "published.json"
    if not named:
        content = json.loads(note.read_text())
        content["about"].pop()
        del content["result"]["published_before"]
        note.write_text(json.dumps(content))
    again = job.result_of_before()
    assert again == result and again.published_before
    assert (other.result_of_before() is None) == named
    assert note.exists() == (not named)
    if named:
        refusing = dataclasses.replace(other, overwrite=False)
        with pytest.raises(FileExistsError, match="overwrite=True"), refusing.alone():
            pass


def test_a_training_names_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def stop(config: Any, recipe: Any, target: Any, saving: Saving, *others: Any) -> None:
        seen.append(saving.data)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "TrainingJob", stop)
    for value in (0, 0, 1):
        lines = ["a,b", *(f"{i},{i % 7 + value}" for i in range(40))]
        (tmp_path / "t.csv").write_text("\n".join(lines))
        own = {"source": "csv", "options": {"path": str(tmp_path / "t.csv")}}
        with pytest.raises(KeyboardInterrupt):
            flowzoo.train("maf_moons", data=own, rename="maf_own", out=tmp_path)
    assert seen[0] == seen[1] != seen[2]
    assert [split for split, *_ in seen[0]] == ["train", "validation", "test"]


def test_the_command_says_that_nothing_was_done(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    path = Path(flowzoo.__file__).parent.parent / "saved_models" / "test_maf"
    result = TrainResult("test_maf", str(path), 1.5, None, 3.0, "", {}, published_before=True)
    monkeypatch.setattr(flowzoo, "train", lambda *_, **__: result)
    assert main(["train", "test_maf", "--resume"]) == 0
    said = capsys.readouterr().out
    assert "trained and published before; nothing was done (loss 1.5000 nats" in said and "Wrote" not in said
    assert main(["train", "test_maf", "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["published_before"] is True


# -- other data -----------------------------------------------------------------------------------


def write_pictures(folder: Path, scale: int = 4) -> Path:
    """Write pictures a little higher or wider than square, of 12 coloured fields each."""
    folder.mkdir()
    random = np.random.RandomState(0)
    for number in range(24):
        pixels = np.kron(random.randint(0, 256, (3, 4, 3)), np.ones((scale, scale, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "holidays")


SMALL_NETWORKS: dict[str, dict[str, Any]] = {
    "realnvp": {"num_couplings": 1, "num_levels": 1, "filters": 8, "blocks": 1},
    "glow": {"num_levels": 3, "num_steps": 1, "filters": 8},
}


@pytest.mark.parametrize(
    ("family", "size"),
    [
        pytest.param("realnvp", 8, marks=pytest.mark.slow),
        *(
            pytest.param(family, size, marks=pytest.mark.slow)
            for family in SMALL_NETWORKS
            for size in (32, 64, 128)
        ),
    ],
)
def test_pictures_of_the_users_own(family: str, size: int, tmp_path: Path, capsys: Any) -> None:
    pictures, out = write_pictures(tmp_path / "holidays", scale=max(4, size // 2)), tmp_path / "runs"
    name = f"{family}_holidays"
    shared = ["--pictures", str(pictures), "--size", str(size), "--as", name, "--out", str(out)]
    command = ["train", f"test_any_{family}", *shared]
    command += ["-o", "mirror=true", "-o", "bits=5", "--epochs", "2", "--previews", "1"]
    content = registry.get_config(f"test_{family}").model_dump(mode="json")
    content["model"]["args"] = SMALL_NETWORKS[family]
    content |= {"name": f"test_any_{family}", "weights": {}}
    registry.register_config(parse_config(content), overwrite=True)
    assert main([*command, "-q", "--json"]) == 0, capsys.readouterr().err
    result = json.loads(capsys.readouterr().out)
    folder = out / name
    assert result["path"] == str(folder)
    drawn = sorted(path.name for path in (out / f"{name}.training" / "previews").iterdir())
    assert drawn == ["epoch_0001.png", "epoch_0002.png"]
    assert list((out / f"{name}.training" / "tensorboard").glob("events*"))
    assert not list((out / f"{name}.training" / "states").glob("*"))
    flow = flowzoo.load(f"path:{folder}")
    assert flow.event_shape == (size, size, 3) and flow.name == name
    assert flow.num_values == 32  # of the five bits
    card = flowzoo.info(f"path:{folder}").to_dict()
    assert card["name"] == name and card["licence"] == card["data_licence"] == "the user's own"
    assert f"rename={name!r}" in card["measured"]["training"]["command"]
    given, target = f"path:{folder}", str(tmp_path / "x.png")
    picture, served = str(pictures / "000.png"), tmp_path / "served"
    for arguments in (
        ["sample", given, "--num", "4", "--out", target],
        ["reconstruct", given, picture, "--out", target],
        ["info", given],
        ["verify", given, "--hashes-only"],
        ["evaluate", given],
        ["export", given, str(served), "--warmup", ""],
    ):
        assert main(arguments) == 0, capsys.readouterr().err
    assert (served / name / "1" / "saved_model.pb").is_file()
    capsys.readouterr()
    assert main(["interpolate", given, str(pictures), picture, "--out", target]) == 2
    assert "one picture to another" in capsys.readouterr().err
    assert main(["reconstruct", given, "nowhere.png", "--out", target]) == 2
    assert "There is no picture" in capsys.readouterr().err
    assert main(["sample", "test_realnvp", "--source", given, "--num", "4", "--out", target]) == 4
    assert "delete" not in capsys.readouterr().err  # the only copy


def test_folders_of_pictures_are_classes(tmp_path: Path, capsys: Any) -> None:
    """labels=true makes any architecture one of so many classes; one of classes is told how to get them."""
    (tmp_path / "animals").mkdir()
    for name in ("cats", "dogs", "eels"):
        write_pictures(tmp_path / "animals" / name)
    shared = ["--pictures", str(tmp_path / "animals"), "--size", "8", "--out", str(tmp_path / "runs"), "-q"]
    content = registry.get_config("test_realnvp").model_dump(mode="json")
    content["model"]["args"] = SMALL_NETWORKS["realnvp"]
    for name, classes in (("test_any_realnvp", None), ("test_ten_realnvp", 10)):
        content |= {"name": name, "weights": {}}
        content["model"]["num_classes"] = classes
        registry.register_config(parse_config(content), overwrite=True)
    command = [
        "train",
        "test_any_realnvp",
        *shared,
        "--as",
        "realnvp_animals",
        "-o",
        "labels=true",
        "--epochs",
        "1",
    ]
    assert main(command) == 0, capsys.readouterr().err
    flow = flowzoo.load(f"path:{tmp_path / 'runs' / 'realnvp_animals'}")
    assert flow.num_classes == 3 and flow.sample(3, [0, 1, 2]).shape == (3, 8, 8, 3)
    assert f"flowzoo sample path:{tmp_path}/runs/realnvp_animals --label 0 --out" in capsys.readouterr().out
    assert main(["train", "test_ten_realnvp", *shared, "--as", "realnvp_none"]) == 2
    assert "takes class labels, and the data give none: of pictures labels=true" in capsys.readouterr().err


WORDS = Source(x=np.zeros((6, 2), np.float32), condition=np.arange(6, dtype=np.int32) % 3, num_classes=3)
NUMBERS = Source(x=np.zeros((6, 2), np.float32), condition=np.zeros((6, 4), np.float32))
PLAIN = Source(x=np.zeros((6, 2), np.float32))


def suited(name: str, source: Source, conditional: bool = False, **options: Any) -> Any:
    data = {"source": "csv", "options": options, "conditional": conditional}
    return own_data.suited(own_data.renamed(registry.get_config(name), data, None, "my_table"), source)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("maf_moons", {"label": "kind"}),
        ("maf_moons", {"condition": "theta"}),
        ("maf_moons", {"labels": True}),
        ("maf_moons", {"conditional": True}),
        ("test_maf", {}),  # has two classes of its own data
    ],
)
def test_the_condition_of_other_data_is_the_models(name: str, asked: dict[str, Any]) -> None:
    config = suited(name, WORDS, **asked)
    assert config.data.conditional
    assert (config.model.num_classes, config.model.condition_shape) == (3, None)
    config = suited(name, NUMBERS, **asked)
    assert config.data.conditional
    assert (config.model.num_classes, config.model.condition_shape) == (None, (4,))


def test_a_condition_that_nobody_asks_for_is_left_out() -> None:
    config = suited("maf_moons", WORDS, labels=False)
    assert not config.data.conditional and config.model.num_classes is None


def test_a_condition_that_is_not_there_is_asked_for() -> None:
    with pytest.raises(ValueError, match="takes class labels, and the data give none: .*label=COLUMN"):
        suited("test_maf", PLAIN)
    with pytest.raises(ValueError, match="takes a condition, and the data give none"):
        suited("maf_moons", PLAIN, conditional=True)


def test_a_broken_picture_is_named(pictures: Path, tmp_path: Path, capsys: Any) -> None:
    (pictures / "000.png").write_bytes((pictures / "000.png").read_bytes()[:60])
    command = ["train", "test_realnvp", "--pictures", str(pictures), "--size", "8", "--epochs", "1", "-q"]
    assert main([*command, "--as", "realnvp_broken", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "000.png" in said and "Traceback" not in said


def test_a_recipe_is_fitted_to_a_short_training() -> None:
    long = registry.get_config("realnvp_celeba").training
    assert own_data.fitted(long, 1_000_000) == long
    short = own_data.fitted(long, 118)
    assert short.optimizer.warmup_steps == 11 and 0.9 < short.ema < 0.92
    assert own_data.fitted(long, 3).ema == 0.5


def test_a_card_of_other_data_cites_the_architecture_alone() -> None:
    def cited(name: str, data: dict[str, Any]) -> list[str]:
        return own_data.renamed(registry.get_config(name), data, None, "my_own").card.citation

    pictures = {"source": "image_folder", "options": {"path": "holidays"}}
    assert [text.split(",")[0] for text in cited("glow_celeba", pictures)] == ["Kingma & Dhariwal"]
    for name in registry.list_models():
        config = registry.get_config(name)
        if config.data is not None and config.training.reflow is None:
            kept = cited(name, pictures)
            assert kept and not re.search(
                "MNIST database|Face Attributes|ADBench|Fashion-MNIST", " ".join(kept)
            )
            assert cited(name, {"source": config.data.source}) == config.card.citation


def test_previews_are_those_of_the_training_that_goes_on(tmp_path: Path) -> None:
    shared = {"out": tmp_path, "epochs": 2, "limit": 64, "previews": 1, "verbose": 0}
    folder = tmp_path / "test_nice.training" / "previews"
    old = [folder / "epoch_0009.png", folder.parent / "tensorboard" / "events.out.tfevents.1.host.2.0.v2"]
    mine = folder / "mine.png"
    for path in (*old, mine):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        flowzoo.train("test_nice", state_seconds=0.0, callbacks=[Stop(1)], **shared)
    assert not any(path.exists() for path in old) and mine.exists()
    first = (folder / "epoch_0001.png").stat().st_mtime_ns
    flowzoo.train("test_nice", resume=True, **shared)
    assert (folder / "epoch_0001.png").stat().st_mtime_ns == first
    assert (folder / "epoch_0002.png").exists() and mine.exists()


def test_what_learns_from_a_teacher_has_no_data(pictures: Path, tmp_path: Path) -> None:
    own = {"source": "image_folder", "options": {"path": str(pictures)}}
    with pytest.raises(ValueError, match="flow_matching_celeba"):
        flowzoo.train("rectified_flow_celeba", data=own, rename="rectified_own", out=tmp_path)


def test_other_data_need_another_name(tmp_path: Path, pictures: Path, capsys: Any) -> None:
    with pytest.raises(ValueError, match="rename= together"):
        flowzoo.train("test_realnvp", data={"source": "digits"}, out=tmp_path)
    with pytest.raises(ValueError, match="rename= together"):
        flowzoo.train("test_realnvp", rename="realnvp_x", out=tmp_path)
    for wrong, message in (
        (["--pictures", str(pictures), "--data", "digits", "--as", "a_b"], "not both"),
        (["-o", "size=3"], "--option belongs"),
        (["--pictures", str(pictures)], "--as NAME"),
        (["--pictures", str(tmp_path / "nothing"), "--as", "a_b"], "not found"),
        (["--data", "digitz", "--as", "a_b"], "digits"),
        (["--data", "digits", "--as", "A b"], "A b: name"),
        (["--data", "digits", "--as", "glow_celeba"], "There is an entry of that name"),
    ):
        assert main(["train", "test_realnvp", *wrong, "--out", str(tmp_path)]) not in (0, 1), wrong
        assert message in capsys.readouterr().err
