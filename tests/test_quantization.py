"""Weights in eight bits: what is lost is bounded, and Python and graphs read the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from flowzoo import quantization

# (shape, rank of one of the stacked weights, rows that share a scale)
SHAPES = [
    ((64, 5), 2, 16),
    ((640, 7), 2, 16),
    ((784, 3), 2, 16),
    ((3, 3, 12, 4), 4, 12),
    ((67, 2), 2, 67),  # a prime number of rows
    ((5, 128, 6), 2, 16),  # five matrices
    ((2, 3, 3, 4, 8), 4, 12),
]


def draw(shape: tuple[int, ...]) -> np.ndarray:
    """Weights whose columns and rows differ in size by orders of magnitude."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) * np.exp(2 * rng.normal(size=shape[-1:]))).astype("float32")


def groups(value: np.ndarray, rank: int, rows: int) -> np.ndarray:
    """[groups of all outputs and stacked weights, rows], by plain loops."""
    found = []
    for element in value.reshape(-1, *value.shape[value.ndim - rank :]):
        for column in element.reshape(-1, element.shape[-1]).T:
            found += [column[i : i + rows] for i in range(0, len(column), rows)]
    return np.stack(found)


@pytest.mark.parametrize(("shape", "rank", "rows"), SHAPES)
def test_the_error_is_at_most_half_a_step(shape: tuple[int, ...], rank: int, rows: int) -> None:
    weight = draw(shape)
    numbers, scale = quantization.quantize(weight, rank)
    assert numbers.dtype == np.int8 and numbers.shape == shape and scale.dtype == tf.bfloat16.as_numpy_dtype
    assert numbers.min() >= -127  # symmetric: -128 would have no opposite
    back = quantization.dequantize(numbers, scale)
    assert back.dtype == np.float32 and back.shape == shape
    want, got = (groups(value.astype("float64"), rank, rows) for value in (weight, back))
    # bfloat16 has eight bits: a scale is rounded up by less than 2^-7 of itself.
    step = np.abs(want).max(1, keepdims=True) / 127 * (1 + 2**-7)
    assert scale.size == len(step)
    assert np.all(np.abs(got - want) <= step / 2 * (1 + 1e-4))
    assert np.abs(got - want).max() > 0.4 * step.max()  # and not finer than eight bits


@pytest.mark.parametrize(("shape", "rank", "rows"), SHAPES)
def test_a_graph_reads_the_same_bits(shape: tuple[int, ...], rank: int, rows: int) -> None:
    numbers, scale = quantization.quantize(draw(shape), rank)
    read = tf.function(lambda: quantization.dequantize_tensor(tf.constant(numbers), tf.constant(scale)))
    assert np.array_equal(read(), quantization.dequantize(numbers, scale))


def test_the_largest_of_a_group_is_reached_and_zero_stays() -> None:
    weight = draw((128, 4))
    weight[5] = 0
    numbers, scale = quantization.quantize(weight, 2)
    exact = np.abs(weight.reshape(8, 16, 4)).max(1, keepdims=True).astype("float64") / 127
    assert np.all(scale.astype("float64") >= exact * (1 - 1e-7)), "rounded down: the largest would be cut"
    assert np.all(scale.astype("float64") < exact * (1 + 2**-7))
    assert np.all(quantization.dequantize(numbers, scale)[5] == 0)


def test_scales_of_float32_are_read() -> None:
    """What was stored before scales had two bytes: entries of 2026-11."""
    numbers, scale = quantization.quantize(draw((64, 5)), 2)
    old = scale.astype("float32")
    want = quantization.dequantize(numbers, scale)
    assert np.array_equal(quantization.dequantize(numbers, old), want)
    assert np.array_equal(quantization.dequantize_tensor(tf.constant(numbers), tf.constant(old)), want)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-39, 1e-30, 1e30, 3e38])
def test_any_finite_size(size: float) -> None:
    weight = np.full((64, 2), size, "float32") * np.linspace(-1, 1, 64, dtype="float32")[:, None]
    with np.errstate(divide="raise", invalid="raise"):
        back = quantization.dequantize(*quantization.quantize(weight, 2))
    assert np.isfinite(back).all()
    assert np.all(np.abs(back.astype("float64") - weight) <= max(size / 252, np.finfo("float32").tiny))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    weight = draw((64, 3)).astype("float64")
    weight[7, 1] = bad
    with pytest.raises(ValueError, match="infinity in chain/kernel"):
        quantization.quantize(weight, 2, "chain/kernel")


@pytest.mark.parametrize("shape", [(2, 1, 3), (1, 2, 5), (5, 1, 5), (1, 1, 1)])
def test_scales_of_another_weight_are_refused(shape: tuple[int, ...]) -> None:
    numbers, _ = quantization.quantize(draw((64, 5)), 2)
    with pytest.raises(ValueError, match="do not belong"):
        quantization.dequantize(numbers, np.ones(shape, "float32"))
