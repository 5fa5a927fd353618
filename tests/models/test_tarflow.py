"""TarFlow: causality, the cache, guidance, noise and denoising, against independent computations."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from flowzoo import random
from flowzoo.layers import GaussianNoise, Patchify, TransformerAutoregressive
from flowzoo.models.tarflow import TarFlow
from flowzoo.networks import CausalTransformer
from flowzoo.networks.dropout import drop, dropping
from tests.harness import dtype_policy, randomise
from tests.models.flows import randomise_gently

TINY = {"hidden_size": 8, "blocks": 2, "heads": 2, "expansion": 2}
SMALL = TarFlow.small


def layer(condition_shape: tuple[int, ...] | None = None, **options: object) -> TransformerAutoregressive:
    """A layer of 4 tokens of 2 channels, in float64, with random weights."""
    keras.utils.set_random_seed(0)
    with dtype_policy("float64"):
        made = TransformerAutoregressive(CausalTransformer(**TINY), **options)
        made.build_for((4, 2), condition_shape)
    randomise(made, 0)
    return made


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def flow(event_shape: tuple[int, ...] = (2,), scale: float = 0.3, **options: object) -> TarFlow:
    keras.utils.set_random_seed(0)
    made = TarFlow(event_shape, **{**SMALL, **options})
    return made, lambda: randomise_gently(made, 0, scale)


def test_parameters_see_only_the_tokens_before() -> None:
    network, x = layer().conditioner, tf.constant(normal(1, 4, 2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = tf.reshape(network(x), [1, 4, 4])
    seen = np.abs(tape.jacobian(out, x)[0, :, :, 0]).sum(axis=(1, 3)) > 0
    assert np.array_equal(seen, np.tril(np.ones((4, 4)), -1) > 0)


def test_entries_of_a_token_see_those_before_them() -> None:
    """Entry by entry, all of the lower triangle, as a model of single pixels has it."""
    with dtype_policy("float64"):
        made = TransformerAutoregressive(CausalTransformer(**TINY, within=True))
        made.build_for((4, 2))
    randomise(made, 0)
    x = tf.constant(normal(1, 4, 2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = tf.reshape(made.conditioner(x), [1, 8, 2])
    seen = np.abs(tf.reshape(tape.jacobian(out, x), [8, 2, 8])).sum(axis=1) > 0
    assert np.array_equal(seen, np.tril(np.ones((8, 8)), -1) > 0)


@pytest.mark.slow
def test_one_layer_of_splines_fits_what_an_affine_one_cannot() -> None:
    """Sharp edges: a patch's two entries are equal or opposite, each uniform on a narrow interval."""
    rng = np.random.default_rng(0)
    first = rng.uniform(-0.1, 0.1, (2000, 1)) + rng.choice([-1.0, 1.0], (2000, 1))
    x = np.concatenate([first, rng.choice([-1.0, 1.0], (2000, 1)) * first], 1).astype("float32")
    nats = {}
    for transform in ("affine", "rational_quadratic"):
        made, _ = flow((2,), num_blocks=1, patch_size=2, transform=transform, within_patch=True)
        made.compile(keras.optimizers.Adam(1e-2))
        made.fit(x, batch_size=200, epochs=15, verbose=0)
        nats[transform] = -float(np.mean(made.log_prob(x)))
    assert nats["rational_quadratic"] < nats["affine"] - 1.0


@pytest.mark.parametrize("within", [False, True])
def test_guided_splines_at_weight_zero_and_minus_one(within: bool) -> None:
    keras.utils.set_random_seed(0)
    with dtype_policy("float64"):
        network = CausalTransformer(**TINY, within=within)
        made = TransformerAutoregressive(network, transform="rational_quadratic")
        made.build_for((4, 2), (3,))
    randomise(made, 0)
    z, c = normal(5, 4, 2), tf.constant(normal(5, 3))
    np.testing.assert_allclose(made.guided_forward(z, c, 0.0), made.flow_forward(z, c)[0], rtol=1e-9)
    back, _ = made.dropped_inverse(made.guided_forward(z, c, -1.0), c, tf.zeros([5], tf.bool))
    np.testing.assert_allclose(back, z, rtol=1e-7, atol=1e-7)
    assert not np.allclose(made.guided_forward(z, c, 1.0), made.guided_forward(z, c, 0.0))


def test_whole_values_leave_nothing_of_the_noise_and_invert_exactly() -> None:
    """The same pixels with other noise have the same parameters; errors do not grow from pixel to pixel."""
    made, _ = flow((4, 4, 1), patch_size=2, num_blocks=1, within_patch=True, whole_values=True)
    randomise(made, 0)
    x = tf.constant(np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)), tf.float32)
    block, *near = made.chain.chained
    seen = []
    for seed in (0, 1):
        value = near[-1].noisy_inverse(x, seed)[0]
        for near_layer in reversed(near[:-1]):
            value = near_layer.flow_inverse(value)[0]
        seen.append(np.asarray(block.conditioner.parameters(block._seen(value), None)))
    np.testing.assert_array_equal(*seen)
    np.testing.assert_array_equal(made.from_latent(tf.identity(made.to_latent(x))), np.asarray(x, "uint8"))
    with pytest.raises(ValueError, match="whole_values=True is for discrete data"):
        TarFlow((2,), **{**SMALL, "whole_values": True})
    with pytest.raises(ValueError, match="levels takes"):
        TransformerAutoregressive(levels=(1, 0.05))


@pytest.mark.parametrize("options", [{}, {"transform": "rational_quadratic", "num_bins": 4}])
def test_exact_probabilities_of_all_images_add_up_to_one(options: dict) -> None:
    """And no bound is above its exact value in the mean; samples are drawn as often as it says."""
    shape = {"patch_size": 2, "num_blocks": 1, "within_patch": True, "whole_values": True, "num_values": 3}
    made, randomised = flow((2, 2, 1), scale=0.5, num_classes=2, **shape, **options)
    randomised()
    x = np.stack(np.meshgrid(*[np.arange(3)] * 4), -1).reshape(-1, 2, 2, 1).astype("uint8")
    exact = np.asarray(made.exact_log_prob(x, 1), "float64")
    np.testing.assert_allclose(np.exp(exact).sum(), 1.0, atol=1e-5)
    bounds = np.mean([made.log_prob(x, 1, seed=seed) for seed in range(100)], axis=0)
    assert (bounds <= exact + 0.05).all() and (bounds < exact - 1e-3).any()
    drawn = np.asarray(made.sample(20_000, 1, seed=0)).reshape(-1, 4) @ [27, 9, 3, 1]
    told = x.reshape(-1, 4) @ [27, 9, 3, 1]
    share = np.bincount(drawn, minlength=81)[told] / 20_000
    np.testing.assert_allclose(share, np.exp(exact), atol=0.015)
    other, _ = flow((2, 2, 1), **{**shape, "num_blocks": 2})
    with pytest.raises(ValueError, match="exact_log_prob needs num_blocks=1.*Received: 2 blocks"):
        other.exact_log_prob(x)


def test_unknown_transforms_are_refused() -> None:
    with pytest.raises(ValueError, match="affine, rational_quadratic. Received: 'spline'"):
        TarFlow((2,), **{**SMALL, "transform": "spline"})
    with pytest.raises(ValueError, match="num_bins"):
        TarFlow((2,), **{**SMALL, "num_bins": 1})


def test_steps_with_the_cache_equal_one_pass() -> None:
    network, x, c = layer((3,)).conditioner, tf.constant(normal(5, 4, 2)), tf.constant(normal(5, 3))
    context = network.context(c)
    before, caches, steps = tf.zeros_like(x[:, 0]), network.start(5), []
    for t in range(4):
        features, caches = network.step(before, tf.constant(t), context, caches)
        steps.append(network.head(features, x[:, t]))
        before = x[:, t]
    np.testing.assert_allclose(tf.stack(steps, axis=1), network(x, c), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_of_samples_are_exact_in_graphs(jit_compile: bool) -> None:
    """Through the loop, against the inverse of the Jacobian of the one pass."""
    made, z = layer(reverse=True), tf.constant(normal(1, 4, 2))

    @tf.function(jit_compile=jit_compile)
    def pulled(z: tf.Tensor, v: tf.Tensor) -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(z)
            x, log_det = made.flow_forward(z)
            total = tf.reduce_sum(v * x)
        return x, tape.gradient(total, z)

    v = tf.constant(normal(1, 4, 2, seed=1))
    x, gradient = pulled(z, v)
    with tf.GradientTape() as tape:
        tape.watch(x)
        back = made.flow_inverse(x)[0]
    jacobian = np.reshape(tape.jacobian(back, x), [8, 8])
    np.testing.assert_allclose(np.ravel(gradient), np.ravel(v) @ np.linalg.inv(jacobian), rtol=1e-8)


def test_guidance_moves_mu_and_alpha_away_from_none() -> None:
    """Token by token with full passes, as the paper writes it."""
    made, z, c = layer((3,)), normal(5, 4, 2), tf.constant(normal(5, 3))
    network, w = made.conditioner, 1.5
    none = tf.zeros_like(network.context(c))
    x = np.zeros_like(z)
    for t in range(4):
        mu, alpha = [], []
        for context in (network.context(c), none):
            params = np.asarray(network.parameters(tf.constant(x), context))[:, t]
            mu.append(params[..., 0])
            alpha.append(2.0 * np.tanh(params[..., 1] / 2.0))
        mu, alpha = ((1 + w) * given - w * without for given, without in (mu, alpha))
        x[:, t] = z[:, t] * np.exp(alpha) + mu
    np.testing.assert_allclose(made.guided_forward(z, c, w), x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(made.guided_forward(z, c, 0.0), made.flow_forward(z, c)[0], rtol=1e-9)
    unconditional = made.guided_forward(z, c, -1.0)
    np.testing.assert_allclose(unconditional, made.guided_forward(z, c + 1, -1.0), rtol=1e-9)
    back, _ = made.dropped_inverse(unconditional, c, tf.zeros([5], tf.bool))
    np.testing.assert_allclose(back, z, rtol=1e-9, atol=1e-9)


def test_dropped_conditions_do_not_count_and_are_chosen_by_the_example() -> None:
    made, randomised = flow((2,), num_classes=3, condition_dropout=0.3)
    randomised()
    x = tf.constant(normal(400, 2), tf.float32)
    classes = [tf.one_hot(tf.fill([400], k), 3) for k in range(2)]
    losses = [np.asarray(made.training_losses(x, c, random.as_seed(4))[1]) for c in classes]
    dropped = np.abs(losses[0] - losses[1]) < 1e-6
    assert 0.2 < dropped.mean() < 0.4
    # The same examples in another order, and part of them: as two replicas see them.
    again = np.asarray(made.training_losses(x[::-1][:100], classes[0][:100], random.as_seed(4))[1])
    np.testing.assert_allclose(again, losses[0][::-1][:100], rtol=1e-4, atol=1e-4)
    other = np.asarray(made.training_losses(x, classes[0], random.as_seed(5))[1])
    assert not np.allclose(other, losses[0])
    np.testing.assert_allclose(losses[0][~dropped], -made.log_prob(x, 0)[~dropped], rtol=1e-4, atol=1e-4)


def test_dropout_is_a_function_of_the_example_and_the_seed() -> None:
    keys = random.example_keys(tf.constant(normal(300, 2), tf.float32))
    x = tf.constant(1 + np.abs(normal(300 * 5, 8)), tf.float32)  # 300 examples of five tokens
    with dropping(keys, random.as_seed(1)):
        first, second = (np.asarray(drop(x, 0.25, 5)) for _ in range(2))
    for dropped in (first, second):
        zero = dropped == 0
        assert abs(zero.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / zero.size)
        np.testing.assert_allclose(dropped[~zero], np.asarray(x)[~zero] / 0.75, rtol=1e-6)
    assert abs(np.corrcoef((first == 0).ravel(), (second == 0).ravel())[0, 1]) < 0.04, "one mask for all"
    with dropping(keys[100:], random.as_seed(1)):
        part = drop(x[500:], 0.25, 5)
    assert np.array_equal(part, first[500:]), "another mask on another replica"
    with dropping(keys, random.as_seed(2)):
        other = drop(x, 0.25, 5)
    assert not np.array_equal(other, first)


def test_dropout_is_of_training_alone() -> None:
    made, randomised = flow((4, 4, 1), num_values=4, dropout=0.3)
    x, seed = np.random.default_rng(0).integers(0, 4, (300, 4, 4, 1)).astype("uint8"), random.as_seed(4)
    made.adapt(x)
    randomised()
    x = tf.cast(x, tf.float32)
    training = np.asarray(made.training_losses(x, None, seed)[1])
    plain = np.asarray(made.example_loss(x, None, seed))
    assert np.mean(np.abs(training - plain) > 1e-3) > 0.9
    again = np.asarray(made.training_losses(x[::-1][:100], None, seed)[1])
    np.testing.assert_allclose(again, training[::-1][:100], rtol=1e-4, atol=1e-4)
    without = TarFlow.from_config({**made.get_config(), "dropout": 0.0})
    without.set_weights(made.get_weights())
    np.testing.assert_allclose(without.training_losses(x, None, seed)[1], plain, rtol=1e-5)
    np.testing.assert_allclose(without.log_prob(x), made.log_prob(x), rtol=1e-6)


def test_guided_samples_are_scored_without_guidance() -> None:
    made, randomised = flow((4, 4, 1), num_classes=3, num_values=4, condition_dropout=0.2, guidance=2.0)
    randomised()
    x, log_prob = made.sample_and_log_prob(6, 1, seed=3)
    np.testing.assert_allclose(log_prob, made.log_prob(x, 1 * np.ones(6)), rtol=1e-5)
    assert x.dtype == tf.uint8
    assert np.array_equal(made.sample(6, 1, seed=3, guidance=2.0), x)
    plain = np.asarray(made.sample(6, 1, seed=3, guidance=0.0))
    assert not np.array_equal(plain, x)
    z = random.normal([6, *made.latent_shape], 3)
    assert np.array_equal(made.from_latent(z, 1), plain)
    samples = made.distribution(np.ones(6)).sample(seed=1)
    unguided = TarFlow.from_config({**made.get_config(), "guidance": 0.0})
    unguided.set_weights(made.get_weights())
    assert np.array_equal(samples, unguided.distribution(np.ones(6)).sample(seed=1))


def test_noise_is_a_function_of_the_example_and_the_seed() -> None:
    noise = GaussianNoise(0.5)
    noise.build_for((3,))
    x = normal(4000, 3).astype("float32")
    drawn = np.asarray(noise.noisy_inverse(x, 1)[0]) - x
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0, 0.5], atol=0.01)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.05
    np.testing.assert_array_equal(noise.noisy_inverse(x[7:9], 1)[0], (x + drawn)[7:9])
    assert not np.array_equal(noise.noisy_inverse(x, 2)[0], x + drawn)


def test_denoising_of_gaussian_data_is_tweedies_formula() -> None:
    """A flow that starts as a normal distribution with the moments of noisy data."""
    made, _ = flow((2,), noise_std=2.0)
    clean = (normal(20000, 2) * [1.0, 4.0] + [5.0, -3.0]).astype("float32")
    made.adapt(clean)
    noisy = np.asarray([[0.0, 0.0], [6.0, -20.0]], "float32")
    want = noisy - 4.0 * (noisy - [5.0, -3.0]) / [1.0 + 4.0, 16.0 + 4.0]
    np.testing.assert_allclose(made.denoise(noisy), want, atol=0.1)
    spread = np.asarray(made.sample(20000, seed=0)).std(0)
    np.testing.assert_allclose(spread, np.sqrt([5.0, 20.0]), rtol=0.03)
    x = made.sample(50, seed=1)
    np.testing.assert_array_equal(made.sample(50, seed=1, denoise=True), made.denoise(x))
    # log_prob adds no noise; fit and evaluate score noisy data.
    want = -0.5 * ((noisy - [5, -3]) ** 2 / [5, 20] + np.log([2 * np.pi * 5, 2 * np.pi * 20])).sum(1)
    np.testing.assert_allclose(made.log_prob(noisy), want, rtol=0.02)
    made.compile(keras.optimizers.SGD(0.0))
    entropy = 0.5 * np.log((2 * np.pi * np.e) ** 2 * 5 * 20)
    np.testing.assert_allclose(made.evaluate(clean, batch_size=5000, verbose=0), entropy, rtol=0.01)
    history = made.fit(clean, epochs=1, batch_size=5000, verbose=0).history
    np.testing.assert_allclose(history["loss"][0], entropy, rtol=0.01)


def test_pixels_with_noise_are_continuous_and_exports_denoise(tmp_path: Path) -> None:
    options = {"num_classes": 3, "noise_std": 8.0, "denoise": True, "condition_dropout": 0.1, "guidance": 1.0}
    made, randomised = flow((4, 4, 1), **options)
    x = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 1)).astype("uint8")
    made.adapt(x, np.zeros(64, int))
    randomised()
    assert not made.discrete and made.data_range is None
    with pytest.raises(ValueError, match="continuous"):
        made.bits_per_dim(x, 0)
    want = made.sample(5, 2, seed=[1, 2])
    assert want.dtype == tf.float32 and np.asarray(want).std() > 30
    assert not np.allclose(want, made.sample(5, 2, seed=[1, 2], denoise=False))
    made.export(tmp_path / "1")
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["sample"]
    given = {"num_samples": tf.constant(5), "seed": tf.constant([1, 2]), "temperature": tf.constant(1.0)}
    np.testing.assert_allclose(served(**given, condition=tf.constant([2]))["x"], want, rtol=1e-3, atol=0.05)


def test_patches() -> None:
    image = Patchify(2)
    image.build_for((4, 6, 3))
    x = normal(2, 4, 6, 3).astype("float32")
    z = np.asarray(image.flow_inverse(x)[0])
    assert z.shape == (2, 6, 12)
    assert np.array_equal(z[:, 4].reshape(2, 2, 2, 3), x[:, 2:4, 2:4])
    for shape, size in (((28, 28, 1), 3), ((3, 5, 2), 2), ((7,), 2), ((4, 4, 4, 1), 2)):
        with pytest.raises(ValueError, match="divides the height and width"):
            Patchify(size).build_for(shape)
    for shape, tokens in (((28, 28, 1), 49), ((8, 8, 1), 16), ((4, 4, 1), 16), ((5,), 5), ((7, 2), 7)):
        assert TarFlow(shape, **SMALL).latent_shape[0] == tokens


def test_what_is_not_offered_is_refused() -> None:
    for bad, match in (
        ({"patch_size": 3}, "divides"),
        ({"guidance": 1.0}, "guidance needs"),
        ({"guidance": -2.0}, "at least -1"),
        ({"condition_dropout": 0.1}, "needs a condition"),
        ({"condition_dropout": 1.0, "num_classes": 3}, r"\[0, 1\)"),
        ({"dropout": 1.0}, r"dropout takes a number in \[0, 1\)"),
        ({"dropout": "much"}, "dropout takes a number"),
        ({"condition_shape": (4, 4, 1)}, "no image"),
        ({"denoise": True}, "noise_std above 0"),
        ({"noise_std": -1.0}, "positive number"),
        ({"noise_std": 1.0, "num_values": 4}, "takes the place of dequantisation"),
        ({"noise_std": 1.0, "preprocessing": "logit"}, "unit interval"),
        ({"heads": 3}, "divides hidden_size"),
        ({"num_blocks": 0}, "num_blocks"),
    ):
        with pytest.raises(ValueError, match=match):
            TarFlow((4, 4, 1), **{**SMALL, **bad})
    made, _ = flow((2,))
    with pytest.raises(ValueError, match="guidance needs"):
        made.sample(2, guidance=1.0)
    with pytest.raises(ValueError, match="noise_std above 0"):
        made.sample(2, denoise=True)
    with pytest.raises(ValueError, match="noise_std above 0"):
        made.denoise(normal(2, 2))


def test_mixed_precision_keeps_the_ends_in_float32() -> None:
    with dtype_policy("mixed_bfloat16"):
        made, randomised = flow((6,))
    randomised()
    network = made.chain.chained[0].conditioner
    assert network.stack[0].compute_dtype == "bfloat16" and network.last.compute_dtype == "float32"
    x = normal(64, 6).astype("float32")
    made.adapt(x)
    z = made.to_latent(x)
    assert z.dtype == made.log_prob(x).dtype == tf.float32
    assert np.max(np.abs(made.from_latent(z) - x)) < 0.05
