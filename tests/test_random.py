"""The one source of noise."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from flowzoo import random


def pictures(num: int = 500, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).integers(0, 256, (num, 6, 6, 1)), tf.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_noise_of_examples_is_uniform_and_independent(dtype: str) -> None:
    noise = np.asarray(random.example_uniform(tf.cast(pictures(), dtype), 3))
    assert noise.min() >= 0 and noise.max() < 1
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 1e-3
    flat = noise.reshape(len(noise), -1)
    correlation = np.corrcoef(flat.T)[~np.eye(36, dtype=bool)]
    assert np.abs(correlation).max() < 5 / np.sqrt(len(noise))
    across = np.corrcoef(flat[:60])[~np.eye(60, dtype=bool)]
    assert np.abs(across).max() < 5 / np.sqrt(36)


def test_pictures_that_differ_in_one_pixel_have_other_noise() -> None:
    one = np.zeros((2, 6, 6, 1), "uint8")
    one[1, 3, 3] = 1
    first, second = np.asarray(random.example_uniform(tf.constant(one), 0))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.5
    assert np.mean(first == second) < 0.05


def test_swapped_pixels_have_other_noise() -> None:
    x = np.zeros((2, 4), "float32")
    x[0, 0] = x[1, 1] = 1.0
    keys = np.asarray(random.example_keys(tf.constant(x)))
    assert keys[0] != keys[1]


def test_noise_belongs_to_the_example() -> None:
    x = pictures(50)
    whole = np.asarray(random.example_uniform(x, 7))
    assert np.array_equal(whole[::-1], random.example_uniform(x[::-1], 7))
    assert np.array_equal(whole[10:11], random.example_uniform(x[10:11], 7))
    assert not np.array_equal(whole, random.example_uniform(x, 8))
    assert random.example_uniform(x[:0], 7).shape == (0, 6, 6, 1)
    negative = random.example_keys(tf.constant([[-0.0]])), random.example_keys(tf.constant([[0.0]]))
    assert np.array_equal(*negative)


def test_seeds_are_independent() -> None:
    x = pictures(200)
    draws = np.stack([np.asarray(random.example_uniform(x, seed)).ravel() for seed in range(6)])
    assert np.abs(np.corrcoef(draws)[~np.eye(6, dtype=bool)]).max() < 0.05


@pytest.mark.parametrize(("name", "law"), [("normal", "norm"), ("uniform", "uniform")])
def test_graphs_draw_the_same_bits_and_xla_the_same_law(name: str, law: str) -> None:
    draw, seed = getattr(random, name), tf.constant([5, 6])
    graph = tf.function(lambda seed: draw([6000], seed))
    assert np.array_equal(draw([6000], seed), graph(seed))
    compiled = tf.function(lambda seed: draw([6000], seed), jit_compile=True)(seed)
    assert stats.kstest(np.asarray(compiled), law).pvalue > 1e-3


def test_noise_of_examples_is_the_same_bits_under_xla() -> None:
    x = pictures(8)
    compiled = tf.function(lambda x, seed: random.example_uniform(x, seed), jit_compile=True)
    assert np.array_equal(random.example_uniform(x, [5, 6]), compiled(x, tf.constant([5, 6])))
    folded = tf.function(lambda seed: random.fold_in(seed, 3), jit_compile=True)
    assert np.array_equal(random.fold_in([5, 6], 3), folded(tf.constant([5, 6])))


def test_seeds_of_rows_part_equal_examples_and_not_the_batch() -> None:
    """Equal examples in other rows get other noise, and a part of a batch gets what the whole gives it."""
    x, rows = tf.zeros([4000, 3]), tf.range(4000)
    seeds = random.seeds_of_rows(5, rows)
    assert seeds.dtype == tf.int32 and len(np.unique(np.asarray(seeds), axis=0)) == 4000
    noise = np.asarray(random.example_uniform(x, random.fold_in(seeds, 2)))
    assert stats.kstest(noise.ravel(), "uniform").pvalue > 1e-3
    correlation = np.corrcoef(np.concatenate([noise[:-1].T, noise[1:].T])) - np.eye(6)
    assert np.abs(correlation).max() < 0.08
    part = random.example_uniform(x[:100], random.fold_in(random.seeds_of_rows(5, rows[700:800]), 2))
    assert np.array_equal(part, noise[700:800])
    for other in (random.fold_in(seeds, 3), random.fold_in(random.seeds_of_rows(6, rows), 2)):
        assert not np.isin(noise, random.example_uniform(x, other)).mean() > 0.01
    compiled = tf.function(lambda rows: random.fold_in(random.seeds_of_rows(5, rows), 2), jit_compile=True)
    assert np.array_equal(compiled(rows), random.fold_in(seeds, 2))


def test_permutations_repeat_with_the_seed() -> None:
    first, second = np.asarray(random.permutation(50, 1)), np.asarray(random.permutation(50, 2))
    assert sorted(first) == sorted(second) == list(range(50)) and not np.array_equal(first, second)
    assert np.array_equal(first, random.permutation(50, 1))


def test_seeds_of_every_form() -> None:
    pair = np.asarray(random.as_seed(12))
    assert pair.dtype == np.int32 and pair.shape == (2,)
    assert np.array_equal(pair, random.as_seed(np.int64(12)))
    assert np.array_equal(random.as_seed([3, 4]), [3, 4])
    assert np.array_equal(random.as_seed(tf.constant([3, 4], tf.int64)), [3, 4])
    assert not np.array_equal(random.as_seed(None), random.as_seed(None))
    assert not np.array_equal(random.as_seed(1), random.as_seed(2**32 + 1))
    assert not np.array_equal(random.fold_in(1, 0), random.fold_in(1, 1))
    for wrong in ("1", 1.5, True, [1, 2, 3], np.array([0.5, 1.0])):
        with pytest.raises(TypeError, match="seed takes"):
            random.as_seed(wrong)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_without_a_seed_each_run_of_a_graph_draws_anew(jit_compile: bool) -> None:
    graph = tf.function(lambda: random.normal([3], None), jit_compile=jit_compile)
    assert not np.array_equal(graph(), graph())


def test_without_a_seed_the_global_one_makes_programs_repeat() -> None:
    def program() -> np.ndarray:
        keras.utils.set_random_seed(4)
        graph = tf.function(lambda: random.normal([3], None))
        return np.stack([random.normal([3], None), random.normal([3], None), graph(), graph()])

    first = program()
    assert np.array_equal(first, program()) and len(np.unique(first)) == 12


def test_a_seed_generator_of_keras_gives_its_next_seed() -> None:
    generator = keras.random.SeedGenerator(3)
    seeds = [random.as_seed(generator), random.as_seed(generator)]
    again = keras.random.SeedGenerator(3)
    assert not np.array_equal(*seeds)
    assert np.array_equal(seeds, [random.as_seed(again), random.as_seed(again)])
