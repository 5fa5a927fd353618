"""A training that is stopped and goes on is the one that was never stopped; data of the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import flowzoo
from flowzoo import registry
from flowzoo.cli.app import main
from flowzoo.config import TrainingConfig, parse_config
from flowzoo.data import open_source, pipeline
from flowzoo.errors import DataError
from flowzoo.training.callbacks import Patience
from flowzoo.training.recipe import train_recipe

RECIPE: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 64,
    "ema": 0.9,
    "patience": 5,
    "optimizer": {"name": "adamw", "weight_decay": 0.01, "warmup_steps": 5, "schedule": "trapezoid"},
}


class Stop(keras.callbacks.Callback):
    """Die at the end of an epoch, like a machine that is taken away."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self._epoch = epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self._epoch:
            raise KeyboardInterrupt


def trained(state: Path | None, **options: Any) -> Any:
    recipe = TrainingConfig.model_validate({**RECIPE, **options.pop("recipe", {})})
    sources = [open_source("moons", split, num_examples=300) for split in ("train", "validation")]
    return train_recipe(
        lambda: flowzoo.build("realnvp", (2,), num_couplings=2, hidden_units=(8,)),
        recipe,
        *sources,
        limit=200,
        state=state,
        state_seconds=0.0,
        verbose=0,
        **options,
    )


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole.npz")
    state = tmp_path / "state.npz"
    for stop in (2, 5):  # stopped twice
        with pytest.raises(KeyboardInterrupt):
            trained(state, resume=True, callbacks=[Stop(stop)])
        assert state.is_file()
    again = trained(state, resume=True)
    assert not state.is_file() and not (tmp_path / "whole.npz").is_file()
    for one, other in zip(whole.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.history == again.history and len(again.history["loss"]) == 6
    assert whole.kept_epoch == again.kept_epoch and len(again.epoch_seconds) == 6
    # The check can fail: what begins anew is another training, unless nothing was drawn yet.
    shorter = trained(None, recipe={"epochs": 5})
    assert any(
        (one != other).any()
        for one, other in zip(whole.model.get_weights(), shorter.model.get_weights(), strict=True)
    )


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.npz"
    with pytest.raises(KeyboardInterrupt):
        trained(state, callbacks=[Stop(1)])
    for change in ({"seed": 1}, {"epochs": 7}, {"batch_size": 32}):
        with pytest.raises(DataError, match="another recipe"):
            trained(state, resume=True, recipe=change)
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read"):
        trained(state, resume=True)


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


# -- other data -----------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "holidays"
    folder.mkdir()
    random = np.random.RandomState(0)
    for number in range(24):
        pixels = np.kron(random.randint(0, 256, (3, 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


def test_pictures_of_the_users_own(tmp_path: Path, pictures: Path, capsys: Any) -> None:
    out = tmp_path / "runs"
    shared = ["--pictures", str(pictures), "--size", "8", "--as", "realnvp_holidays", "--out", str(out)]
    command = ["train", "test_realnvp", *shared, "-o", "mirror=true", "--epochs", "2", "--previews", "1"]
    # The entry's own number of values is that of its own data.
    content = registry.get_config("test_realnvp").model_dump(mode="json")
    content["model"]["args"].pop("num_values")
    content |= {"name": "test_any_realnvp", "weights": {}}
    registry.register_config(parse_config(content), overwrite=True)
    command[1] = "test_any_realnvp"
    assert main([*command, "-q", "--json"]) == 0, capsys.readouterr().err
    result = json.loads(capsys.readouterr().out)
    folder = out / "realnvp_holidays"
    assert result["path"] == str(folder)
    drawn = sorted(path.name for path in (out / "realnvp_holidays.training" / "previews").iterdir())
    assert drawn == ["epoch_0001.png", "epoch_0002.png"]
    assert list((out / "realnvp_holidays.training" / "tensorboard").glob("events*"))
    assert not (out / "realnvp_holidays.training" / "state.npz").exists()
    flow = flowzoo.load(f"path:{folder}")
    assert flow.event_shape == (8, 8, 3) and flow.name == "realnvp_holidays"
    target = str(tmp_path / "x.png")
    assert main(["sample", f"path:{folder}", "--num", "4", "--out", target]) == 0
    assert main(["reconstruct", f"path:{folder}", str(pictures / "000.png"), "--out", target]) == 0


def test_other_data_need_another_name(tmp_path: Path, pictures: Path, capsys: Any) -> None:
    with pytest.raises(ValueError, match="rename= together"):
        flowzoo.train("test_realnvp", data={"source": "digits"}, out=tmp_path)
    with pytest.raises(ValueError, match="rename= together"):
        flowzoo.train("test_realnvp", rename="realnvp_x", out=tmp_path)
    for wrong, message in (
        (["--pictures", str(pictures), "--data", "digits", "--as", "a_b"], "not both"),
        (["-o", "size=3"], "--option belongs"),
        (["--pictures", str(tmp_path / "nothing"), "--as", "a_b"], "not found"),
        (["--data", "digitz", "--as", "a_b"], "digits"),
        (["--data", "digits", "--as", "A b"], "A b: name"),
    ):
        assert main(["train", "test_realnvp", *wrong, "--out", str(tmp_path)]) not in (0, 1), wrong
        assert message in capsys.readouterr().err
