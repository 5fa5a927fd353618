"""Training through Keras: data of every form, noise that repeats, statistics that are set once."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowzoo import Flow, layers
from flowzoo.models import families
from tests.models.flows import KINDS, OF_VECTORS, sparing

FAMILIES = sorted(families())


def fresh(family: str, kind: str = "vector", **options: object) -> Flow:
    what = KINDS[kind]
    arguments = {**families()[family].small, **what.arguments, **options}
    keras.utils.set_random_seed(1)
    flow = families()[family](event_shape=what.event_shape, **arguments)
    flow.compile(keras.optimizers.Adam(3e-3))
    return flow


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *sparing(((family, "vector") for family in FAMILIES), ("glow", "tarflow")),
        *sparing(((family, "labelled_image") for family in FAMILIES), OF_VECTORS),
    ],
)
def test_fit_learns(family: str, kind: str) -> None:
    what = KINDS[kind]
    x, c = what.data(256), what.condition(256)
    flow = fresh(family, kind)
    history = flow.fit(x, c, epochs=4, batch_size=64, validation_data=(x, c), verbose=0).history
    assert flow.adapted
    # Validation draws the same noise at each epoch: what falls is the model's loss, not its draw.
    assert history["val_loss"][-1] < history["val_loss"][0]
    bits = flow.discrete and flow.loss_in_nats
    assert set(history) == {"loss", "val_loss"} | ({"bits_per_dim", "val_bits_per_dim"} if bits else set())
    if bits:
        scale = flow.event_size * np.log(2)
        np.testing.assert_allclose(history["bits_per_dim"], np.array(history["loss"]) / scale, rtol=1e-5)
    else:
        got = flow.evaluate(x, c, verbose=0)
        assert got == flow.evaluate(x, c, verbose=0)
        if flow.loss_in_nats:
            np.testing.assert_allclose(got, -np.mean(flow.log_prob(x, c)), rtol=1e-4)


@pytest.mark.parametrize(
    "form", ["array", "tensor", "pair", "dataset", "pair_dataset", "weighted", "pydataset"]
)
def test_forms_of_data(form: str) -> None:
    kind = "conditional" if "pair" in form or form == "weighted" else "vector"
    x, c = KINDS[kind].data(64), KINDS[kind].condition(64)
    flow = fresh("realnvp", kind)

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple:
            return (x[16 * index : 16 * index + 16],)

    forms = {
        "array": lambda: (x, None),
        "tensor": lambda: (tf.constant(x), None),
        "pair": lambda: ((x, c), None),
        "dataset": lambda: (tf.data.Dataset.from_tensor_slices(x).batch(16), None),
        "pair_dataset": lambda: (tf.data.Dataset.from_tensor_slices((x, c)).batch(16), None),
        "weighted": lambda: (tf.data.Dataset.from_tensor_slices((x, c, np.ones(64, "f"))).batch(16), None),
        "pydataset": lambda: (Batches(), None),
    }
    given, condition = forms[form]()
    history = flow.fit(given, condition, epochs=3, batch_size=16, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]


def test_sample_weights_are_weights() -> None:
    """Examples of weight zero leave no trace."""
    x = KINDS["vector"].data(64)
    spoiled = np.concatenate([x, x * 50])
    weights = np.repeat([1.0, 0.0], 64).astype("float32")
    results = []
    for data, options in ((x, {}), (spoiled, {"sample_weight": weights})):
        flow = fresh("nice")
        flow.adapt(x)
        flow.fit(data, epochs=3, batch_size=128, verbose=0, shuffle=False, **options)
        results.append(flow.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("family", sparing(FAMILIES))
def test_data_of_any_scale(family: str) -> None:
    """log_prob is the density of the user's own data: a factor s lowers it by log s an entry."""
    x = KINDS["vector"].data(256) - 5
    flow, nats = fresh(family), []
    flow.optimizer.build(flow.trainable_variables)
    variables = [*flow.weights, *flow.optimizer.variables]
    start = [variable.numpy() for variable in variables]
    for scale in (1e6, 1e-6):
        for variable, value in zip(variables, start, strict=True):  # a new flow would be traced anew
            variable.assign(value)
        assert not flow.adapted
        loss = flow.fit(x * scale, epochs=2, batch_size=64, verbose=0, shuffle=False).history["loss"]
        nats.append(loss if flow.loss_in_nats else -np.mean(flow.log_prob(x * scale)))
    assert np.isfinite(nats).all()  # assert_allclose takes NaN for NaN
    np.testing.assert_allclose(nats[0], np.array(nats[1]) + 3 * np.log(1e12), rtol=1e-3)


def test_a_constant_column_does_no_harm() -> None:
    x = KINDS["vector"].data(128)
    x[:, 1] = 7.0
    flow = fresh("maf")
    history = flow.fit(x, epochs=2, batch_size=64, verbose=0).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(flow.log_prob(x)).all()


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=() if family == "nice" else pytest.mark.slow) for family in FAMILIES],
)
def test_runs_repeat_with_the_seed(family: str) -> None:
    """To the last bit, with the order of the examples: losses, and weights of every kind."""
    x, c = KINDS["labelled_image"].data(64), KINDS["labelled_image"].condition(64)
    losses, weights = [], []
    for seed in (0, 0, 5):
        flow = fresh(family, "labelled_image")
        flow.seed = seed
        losses.append(flow.fit(x, c, epochs=3, batch_size=32, verbose=0).history["loss"])
        weights.append(flow.get_weights())
    assert np.isfinite(losses).all()
    assert losses[0] == losses[1]
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert losses[0] != losses[2]
    assert not all(np.array_equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))


def test_noise_is_fresh_each_step() -> None:
    x = KINDS["image"].data(64)
    frozen = fresh("nice", "image")
    frozen.compile(keras.optimizers.SGD(0.0))
    losses = frozen.fit(x, epochs=3, batch_size=64, verbose=0).history["loss"]
    assert len(set(losses)) == 3  # weights stand still: only the noise can differ


def test_statistics_are_set_once_and_kept() -> None:
    """Standardize and ActNorm come from the first data, also in graph mode, and survive a second fit."""
    x = KINDS["vector"].data(256)
    flow = fresh("realnvp")
    flow.compile(keras.optimizers.SGD(0.0))
    assert not flow.adapted
    flow.fit(x, epochs=1, verbose=0)
    z = np.asarray(flow.to_latent(x))
    assert np.abs(z.mean(0)).max() < 0.05 and np.abs(z.std(0) - 1).max() < 0.05
    before = flow.get_weights()
    flow.fit(x * 100, epochs=1, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, flow.get_weights(), strict=True))

    layer = layers.ActNorm()
    layer.build_for((3,))
    graph = tf.function(lambda data: layer.data_init(data))
    first = np.asarray(graph(tf.constant(x)))
    np.testing.assert_allclose(first.std(0), 1, atol=1e-3)
    second = np.asarray(graph(tf.constant(x * 10)))
    assert second.std(0).min() > 5  # the second data change nothing


def test_a_sorted_table_is_sampled_evenly() -> None:
    x = np.sort(np.random.default_rng(0).normal(size=(150_000, 1)).astype("float32"), axis=0)
    layer = layers.Standardize()
    flow = Flow([layer], event_shape=(1,))
    flow.adapt(x)
    assert abs(float(layer.shift[0])) < 0.01 and abs(float(layer.log_scale[0])) < 0.01


def test_callbacks_and_saving_with_the_optimizer(tmp_path: Path) -> None:
    x = KINDS["vector"].data(128)
    flow = fresh("realnvp")
    saved = str(tmp_path / "best.keras")
    callbacks = [
        keras.callbacks.ModelCheckpoint(saved, monitor="val_loss", save_best_only=True),
        keras.callbacks.EarlyStopping("val_loss", patience=3),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    flow.fit(x, epochs=3, validation_data=x, callbacks=callbacks, verbose=0)
    loaded = keras.models.load_model(saved)
    loaded.fit(x, epochs=1, verbose=0)
    assert int(loaded.optimizer.iterations) > int(flow.optimizer.iterations)


def test_regularisation_counts() -> None:
    x = KINDS["vector"].data(64)
    flow = fresh("nice")
    flow.adapt(x)
    plain = flow.get_weights()
    network = next(layer for layer in flow.chain.chained if hasattr(layer, "conditioner")).conditioner
    network.hidden[0].kernel_regularizer = keras.regularizers.L2(100.0)
    flow.fit(x, epochs=3, verbose=0)
    before, after = np.abs(plain[1]).mean(), np.abs(network.hidden[0].kernel.numpy()).mean()
    assert after < before


@pytest.mark.slow
def test_a_deep_glow_stays_finite_in_its_first_steps() -> None:
    """With `scale="exp"` the second step gives NaN here: 48 steps multiply what each may widen."""
    rng = np.random.default_rng(0)
    coarse = tf.image.resize(rng.normal(size=(256, 2, 2, 3)), (16, 16), "bicubic").numpy()
    x = (40 * coarse + 128 + 6 * rng.normal(size=coarse.shape)).clip(0, 255).astype(np.uint8)
    keras.utils.set_random_seed(0)
    flow = families()["glow"]((16, 16, 3), num_levels=2, num_steps=24, filters=32, preprocessing="symmetric")
    flow.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0))
    history = flow.fit(x, epochs=1, batch_size=16, verbose=0).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(flow.log_prob(x[:4])).all()


def test_act_norm_of_vectors_sees_rows_far_out() -> None:
    """A column whose spread is that of a few rows: an act-norm set from the others alone would widen it."""
    x = np.random.default_rng(0).normal(size=(20_000, 2)).astype("float32")
    x[:, 1] *= 1e-3
    x[::4000, 1] = 50.0
    flow = families()["maf"]((2,), num_layers=2, hidden_units=(8,))
    flow.adapt(x)
    assert -float(np.mean(flow.log_prob(x))) < 10


def test_a_training_that_ends_in_infinity_is_an_error() -> None:
    made = fresh("maf")
    x = np.random.default_rng(0).normal(size=(64, *made.event_shape)).astype("float32")
    made.fit(x, verbose=0)
    with pytest.raises(FloatingPointError, match="the loss of epoch 1 is inf|the loss of epoch 1 is nan"):
        made.fit(x * 1e30, verbose=0)


def test_predict_gives_log_prob() -> None:
    flow, x = fresh("realnvp"), KINDS["vector"].data(50)
    flow.adapt(x)
    np.testing.assert_allclose(flow.predict(x, batch_size=20, verbose=0), flow.log_prob(x), rtol=1e-5)
    np.testing.assert_allclose(flow(x), flow.log_prob(x), rtol=1e-6)


BAD = {
    "rank": (np.zeros((8,)), ValueError, "shape"),
    "width": (np.zeros((8, 4)), ValueError, r"\[batch, 3\]"),
    "one example": (np.zeros((3,)), ValueError, "leading dimension"),
    "nan": (np.full((8, 3), np.nan), ValueError, "finite"),
    "inf": (np.array([[0, 1, np.inf]]), ValueError, r"inf at index \(0, 2\)"),
    "text": (np.array([["a", "b", "c"]]), TypeError, "numbers"),
    "none": (None, TypeError, "None"),
    "empty": (np.zeros((0, 3)), ValueError, "at least one example"),
    "a list of lists is no pair": ("abc", TypeError, "Received: str"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_before_training(name: str) -> None:
    data, error, match = BAD[name]
    flow = fresh("realnvp")
    before = flow.get_weights()
    with pytest.raises(error, match=match):
        flow.fit(data, epochs=1, verbose=0)
    if name != "empty":
        with pytest.raises(error):
            flow.log_prob(data)
    assert all(np.array_equal(a, b) for a, b in zip(before, flow.get_weights(), strict=True))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_values_in_a_dataset_are_refused(value: float) -> None:
    x = KINDS["vector"].data(64)
    x[50, 1] = value
    flow = fresh("realnvp")
    flow.adapt(KINDS["vector"].data(64))
    with pytest.raises(ValueError, match="NaN or infinity"):
        flow.fit(tf.data.Dataset.from_tensor_slices(x).batch(16), epochs=1, verbose=0)


def test_pixels_out_of_range_are_refused() -> None:
    flow = fresh("realnvp", "image")  # sixteen values
    good = KINDS["image"].data(8)
    for bad, match in (
        (good + 16, "from 0 to 15"),
        (good - 1.0, "from 0 to 15"),
        (good + 0.5, "whole numbers"),
    ):
        bad = np.clip(bad, -1, 15.5) if match == "whole numbers" else bad
        with pytest.raises(ValueError, match=match):
            flow.log_prob(bad)
    with pytest.raises(ValueError, match="outside"):
        flow.fit(tf.data.Dataset.from_tensor_slices(good + np.uint8(16)).batch(8), verbose=0)
    with pytest.raises(ValueError, match="[Ll]abels|classes"):
        fresh("realnvp", "labelled_image").log_prob(KINDS["labelled_image"].data(2), [0, 3])


def test_bad_arguments_are_refused() -> None:
    flow = fresh("realnvp")
    for temperature in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature"):
            flow.sample(2, temperature=temperature)
    with pytest.raises(ValueError, match="at least 0"):
        flow.sample(-1)
    for n in (2.5, "3", True, None):
        with pytest.raises(TypeError, match="n takes"):
            flow.sample(n)
    with pytest.raises(TypeError, match="seed"):
        flow.sample(2, seed="abc")
    with pytest.raises(ValueError, match="neither loss nor metrics"):
        flow.compile("adam", loss="mse")
    labelled = tf.data.Dataset.from_tensor_slices((np.zeros((4, 3), "f"), np.zeros(4))).batch(2)
    with pytest.raises(ValueError, match="dataset.map"):
        flow.fit(labelled, verbose=0)
    with pytest.raises(ValueError, match="num_classes or condition_shape"):
        Flow([], event_shape=(2,), condition_shape=(2,), num_classes=3)
    for shape, error in (
        ((), ValueError),
        ((0,), ValueError),
        ((-1,), ValueError),
        ((2.5,), ValueError),
        ("x", (TypeError, ValueError)),
    ):
        with pytest.raises(error):
            Flow([], event_shape=shape)


@pytest.mark.parametrize(
    "family",
    [family if family == "nice" else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES],
)
def test_memory_does_not_grow(family: str) -> None:
    """A thousand steps and a thousand scores: no traces, caches or tensors pile up."""
    import gc
    import resource

    x = KINDS["vector"].data(64)
    flow = fresh(family)
    data = tf.data.Dataset.from_tensor_slices(x).repeat().batch(32)

    def work(steps: int) -> None:
        flow.fit(data, steps_per_epoch=steps, epochs=1, verbose=0)
        for _ in range(steps):
            flow.log_prob(x)
        gc.collect()

    def megabytes() -> float:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20

    work(300)
    before = megabytes()
    work(1000)
    assert megabytes() - before < 25
