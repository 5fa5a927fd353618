"""The data that fit, evaluate and predict take, brought to one form and checked at the door."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from flowzoo import random, rounding
from flowzoo.data import record_reader
from flowzoo.distributions.uniform import Uniform
from flowzoo.models import checks, digits

# The arguments of `keras.Model.fit` that may be given by position after x and y.
_BY_POSITION = ("batch_size", "epochs", "verbose", "callbacks", "validation_split")
# What `CheckedBatches` calls a batch: the text by which an error in a thread of tf.data is found again.
_BATCH = "a batch"
_OF_A_BATCH = re.compile(f"ValueError: ((?:the condition of )?{_BATCH} takes .+)")
_OTHER_SHAPE = re.compile(r"Shape of tensor \S+ (\[.*?\]) is not compatible with expected shape (\[.*?\])")
_KINDS = "an array, a pair (x, condition), a tf.data.Dataset or a keras.utils.PyDataset"


def is_batched(x: Any) -> bool:
    """Say whether `x` yields batches by itself."""
    return isinstance(x, tf.data.Dataset | keras.utils.PyDataset | tf.distribute.DistributedDataset)


def _parts(batch: Any) -> tuple[Any, Any, Any]:
    """Return x, condition and sample weights of a batch, where (x, condition) may be one pair."""
    x, condition, weight = keras.utils.unpack_x_y_sample_weight(batch)
    if isinstance(condition, tf.NoneTensorSpec):
        condition = None
    if isinstance(x, tuple | list) and condition is None and len(x) == 2:
        x, condition = x
    return x, condition, weight


def is_no_condition(flow: Any, condition: Any) -> bool:
    """Say whether a condition stands for none: see `no_condition`."""
    if condition is None or flow.condition_shape is not None:
        return condition is None
    shape = tf.TensorShape(condition.shape)
    return bool(shape.rank) and shape[-1] == 0


def unpack(flow: Any, data: Any) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """Return x, the condition as the layers take it, and the sample weights of one batch."""
    x, condition, weight = _parts(data)
    if is_no_condition(flow, condition):
        condition = None
    if weight is not None and len(weight.shape) == 2:
        weight = tf.squeeze(weight, -1)  # Keras takes columns of weights too
    x = checks.data(flow, x)
    return x, checks.condition(flow, condition, tf.shape(x)[0]), weight


class CheckedBatches(keras.utils.PyDataset):
    """A user's batches, each checked as an array is when it is asked for."""

    def __init__(self, flow: Any, batches: keras.utils.PyDataset) -> None:
        """Wrap `batches`, which its threads make as before (processes of its own are left alone)."""
        queue = getattr(batches, "max_queue_size", 10)
        super().__init__(getattr(batches, "workers", 1), max_queue_size=queue)
        self.batches, self._flow = batches, flow

    @property
    def num_batches(self) -> int | None:
        """As the user's."""
        return self.batches.num_batches

    def __len__(self) -> int:
        """As the user's."""
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        """Return a batch.

        Raises:
            ValueError: it is not what the flow takes.
        """
        batch = self.batches[index]
        x, condition, weight = _parts(batch)
        x = np.asarray(x)
        checks.shaped(x, self._flow.event_shape, _BATCH, "event_shape")
        checks.values(self._flow, x, _BATCH)
        if condition is not None and self._flow.condition_shape is not None:
            checks.finite(np.asarray(condition), f"the condition of {_BATCH}")
        return batch if condition is not None or weight is None else (x, no_condition(x), weight)

    def on_epoch_begin(self) -> None:
        """As the user's."""
        self.batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """As the user's."""
        self.batches.on_epoch_end()


def check_loss(epoch: int, loss: float, base: Any = None) -> None:
    """Raise FloatingPointError where the loss of an epoch, counted from 1, is not finite."""
    if loss == np.inf and isinstance(base, Uniform):
        raise FloatingPointError(
            f"In training the loss of epoch {epoch} is inf: some data have no density, since their latents "
            f"lie outside the uniform base, from {base.low:g} to {base.high:g}. Take another base, "
            f"'normal' say, or layers whose latents cannot leave it (those of angles)."
        )
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"In training the loss of epoch {epoch} is {loss}. Try a smaller learning rate or clip_norm, and "
            f"look for outliers in the data, or for data far from those that the flow was fitted to first."
        )


def some_batch(there_was: bool) -> None:
    """Raise ValueError where data that come in batches were at their end before the first."""
    if not there_was:
        raise ValueError("x takes at least one batch. Received: none")


def check_class_weight(flow: Any, options: dict[str, Any]) -> None:
    """Raise ValueError where `fit` weighs classes and there are none: Keras takes vectors for one-hot."""
    if options.get("class_weight") is not None and not flow.num_classes:
        raise ValueError(
            f"class_weight takes the weights of class labels, and {flow.name} was built without num_classes. "
            f"Give sample_weight, one weight an example."
        )


def no_condition(x: Any) -> np.ndarray:
    """Return an empty condition: without one, Keras drops the sample weights of an array silently."""
    return np.zeros([len(x), 0], "float32")


def training_data(flow: Any, x: Any, y: Any, weight: Any, name: str) -> tuple[Any, Any, Any]:
    """Check data for fit, evaluate, predict or adapt; return x, condition and sample weights.

    Datasets are returned with checks in the pipeline, and everything else as arrays.

    Raises:
        ValueError: wrong shapes, NaN or infinity, values out of range, a missing condition.
        TypeError: data of a kind that is not taken.
    """
    if isinstance(x, tf.data.Dataset):
        return _checked_dataset(flow, x, name), y, weight
    if isinstance(x, keras.utils.PyDataset) and not getattr(x, "use_multiprocessing", False):
        return x if isinstance(x, CheckedBatches) else CheckedBatches(flow, x), y, weight
    if is_batched(x):
        return x, y, weight
    if isinstance(x, tuple | list) and y is None and len(x) in (2, 3):
        x, y, weight = _apart(x, weight, name)
    if not _is_array(x):
        raise TypeError(f"{name} takes {_KINDS}. Received: {type(x).__name__}")
    x = np.asarray(x)
    checks.data(flow, x, name)
    if not len(x):
        raise ValueError(f"{name} takes at least one example. Received: none")
    y = None if y is None else np.asarray(y)
    checks.condition(flow, y)
    if y is not None and len(y) != len(x):
        raise ValueError(f"{name} holds {len(x)} examples and {len(y)} conditions.")
    return x, y, None if weight is None else _weights(weight, len(x), name)


def keeps_digits(flow: Any, x: Any, y: Any, name: str) -> None:
    """Raise ValueError where arrays that a flow of float32 is to learn are not what float32 makes of them."""
    if flow.compute_dtype != "float32":
        return
    for array, what in ((x, name), (None if flow.num_classes else y, "condition")):
        loss = rounding.lost_in_float32(array) if isinstance(array, np.ndarray) else None
        if loss is not None:
            column = loss.index[0] if len(loss.index) == 1 else loss.index
            raise ValueError(
                f"Column {column} of {what} lies too far from 0 for {flow.name}, which computes in float32: "
                f"{loss}. Subtract an offset from the column, or build the flow with dtype='float64'."
            )


def one_batch(x: Any) -> None:
    """Raise TypeError where `x` yields batches, for what takes one batch alone."""
    if is_batched(x):
        raise TypeError(f"x takes one batch: an array or a pair (x, condition). Received: {type(x).__name__}")


def _apart(x: Any, weight: Any, name: str) -> tuple[Any, Any, Any]:
    """Return x, condition and sample weights of a tuple of arrays; what is no such tuple as it is."""
    value, condition, own = _parts(x) if len(x) == 3 or _is_array(x[0]) else (x, None, None)
    if own is not None and weight is not None:
        raise ValueError(f"{name} holds sample weights of its own: sample_weight= cannot be given too.")
    return value, condition, weight if own is None else own


def _weights(weight: Any, size: int, name: str) -> np.ndarray:
    """Check sample weights, one an example, and return them as [size]."""
    weight = np.asarray(weight)
    if weight.dtype.kind not in "fiub":
        raise TypeError(f"sample_weight takes numbers. Received: an array of dtype {weight.dtype}")
    if weight.shape not in ((size,), (size, 1)):
        raise ValueError(
            f"sample_weight takes one number for each of the {size} examples of {name}. "
            f"Received: shape {weight.shape}"
        )
    checks.finite(weight, "sample_weight")
    return weight.reshape(size)


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray) or tf.is_tensor(x) or hasattr(x, "__array__")


def _checked_dataset(flow: Any, dataset: tf.data.Dataset, name: str) -> tf.data.Dataset:
    """Check a dataset's structure now and its values as they pass."""
    if getattr(dataset, "_flowzoo_checked", False):
        return dataset
    parts = dataset.element_spec
    x, condition, _ = _parts(parts)
    if not isinstance(x, tf.TensorSpec):
        raise TypeError(f"{name} takes a dataset of x or (x, condition). Received: elements {parts}")
    dataset = _of_known_shape(flow, dataset)
    x, condition, _ = _parts(dataset.element_spec)
    checks.shaped(x, flow.event_shape, f"{name} (a dataset of batches)", "event_shape")
    if not is_no_condition(flow, condition) and flow.condition_shape is None:
        raise ValueError(
            f"{flow.name} takes no condition and {name} yields pairs. Drop the labels: "
            f"dataset.map(lambda x, y: x)"
        )
    if condition is None and flow.condition_shape is not None:
        checks.condition(flow, None)

    def check(*elements: Any) -> Any:
        value, given, _ = _parts(elements)
        numbers = given is not None and flow.condition_shape is not None and given.dtype.is_floating
        with tf.control_dependencies([*_assertions(flow, value), *(_finite(given) if numbers else [])]):
            elements = elements if len(elements) > 1 else elements[0]
            return tf.nest.map_structure(lambda part: None if part is None else tf.identity(part), elements)

    checked = dataset
    numbers = flow.condition_shape is not None and condition.dtype.is_floating
    if numbers or not (flow.data_range and x.dtype == tf.uint8 and flow.num_values == 256):
        checked = dataset.map(check, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)
    checked._flowzoo_checked = True
    return checked


def _of_known_shape(flow: Any, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Say the shapes of examples where a dataset does not know them, as those of Python's generators."""

    def ensured(value: Any, event: tuple[int, ...] | None) -> Any:
        if event is None or value is None or _is_known(value):
            return value
        return tf.ensure_shape(value, [None, *event])

    def ensure(*elements: Any) -> Any:
        value, given, weight = _parts(elements)
        value, given = ensured(value, flow.event_shape), ensured(given, flow.condition_shape)
        if weight is not None:
            return value, given, weight
        return value if given is None else (value, given)

    x, condition, _ = _parts(dataset.element_spec)
    asked = [x] if flow.condition_shape is None or condition is None else [x, condition]
    return dataset if all(map(_is_known, asked)) else dataset.map(ensure)


def _is_known(value: Any) -> bool:
    return value.shape.rank is not None and value.shape[1:].is_fully_defined()


def _finite(value: tf.Tensor) -> list[Any]:
    return [tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(value)), [checks.NOT_FINITE])]


def _assertions(flow: Any, value: tf.Tensor) -> list[Any]:
    found = _finite(value) if value.dtype.is_floating else []
    if flow.domain is not None:
        allowed = tf.reduce_all(flow.domain.contains(tf.cast(value, flow.compute_dtype)))
        found.append(tf.debugging.Assert(allowed, [checks.OUT_OF_RANGE]))
    if flow.data_range is not None:
        low, high = flow.data_range
        wide = tf.cast(value, tf.float64)
        inside = tf.reduce_all((wide >= low) & (wide <= high))
        if flow.num_values and value.dtype.is_floating:
            inside &= tf.reduce_all(tf.equal(wide, tf.floor(wide)))
        found.append(tf.debugging.Assert(inside, [checks.OUT_OF_RANGE]))
    return found


def by_name(args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `fit` after x and y, all by name.

    Raises:
        TypeError: too many by position, or one given twice.
    """
    named = dict(zip(_BY_POSITION, args, strict=False))
    twice = sorted(named.keys() & options.keys())
    if len(args) > len(named) or twice:
        raise TypeError(
            f"fit takes {', '.join(_BY_POSITION)} by position after x and y, each once. "
            f"Received: {f'{twice[0]} twice' if twice else f'{len(args)} by position'}"
        )
    return {**named, **options}


def one_order(x: Any, y: Any, options: dict[str, Any], seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Return what `fit` was given, with arrays to be shuffled as batches in an order that all workers share.

    Keras shuffles arrays by TensorFlow's global seed, another in each process: with several workers, each
    of which takes its part of every batch, some examples would come twice and others never. The order of
    an epoch is that of the model's seed and the number of the epoch.

    Args:
        x: as `fit`, checked.
        y: conditions of an array.
        options: of `fit`, all by name.
        seed: of the model.
    """
    if is_batched(x) or not options.get("shuffle", True):
        return x, y, options
    if options.get("validation_split"):
        raise ValueError(
            f"validation_split cannot be used with several workers: give validation_data. "
            f"Received: {options['validation_split']}"
        )
    options = dict(options)
    weight, batch_size = options.pop("sample_weight", None), options.pop("batch_size", None) or 32
    size = len(x)
    options["shuffle"] = False
    if options.get("steps_per_epoch") is None:
        options["steps_per_epoch"] = -(-size // batch_size)

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        rows = random.permutation(size, random.fold_in(random.as_seed(seed), epoch))
        return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)

    rows = tf.data.Dataset.range(options.get("initial_epoch", 0), 2**31 - 1).flat_map(order)
    arrays = tuple(part for part in (x, y, weight) if part is not None)
    return digits.gathered(rows, arrays), None, options


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what checks in pipelines and threads raise into ValueError, and corrupt shards into DataError."""
    try:
        with record_reader.clear_errors():
            yield
    except tf.errors.InvalidArgumentError as error:
        text = str(error)
        of_a_batch = _OF_A_BATCH.search(text)
        if of_a_batch:
            raise ValueError(of_a_batch[1]) from error
        other_shape = _OTHER_SHAPE.search(text)
        if other_shape:
            raise ValueError(
                f"The dataset holds a batch of the shape {other_shape[1]}, and the flow takes "
                f"{other_shape[2]}."
            ) from error
        if checks.NOT_FINITE in text:
            raise ValueError(
                "The dataset holds NaN or infinity: clean it, or mask those examples."
            ) from error
        if checks.NO_CLASS in text:
            line = text[text.index(checks.NO_CLASS) :].splitlines()[0]
            raise ValueError(line.replace("Received:]", "Received:")) from error
        if checks.OUT_OF_RANGE in text:
            raise ValueError(
                "The dataset holds values outside what the flow takes: its data_range or domain, and whole "
                "numbers if it is discrete."
            ) from error
        raise


def first_examples(x: Any, y: Any, wanted: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return up to `wanted` examples, spread evenly over an array or from the start of batches.

    Args:
        x: an array, or something that yields batches of x or (x, condition).
        y: conditions of an array.
        wanted: the largest number of examples.
    """
    if not is_batched(x):
        rows = np.linspace(0, len(x) - 1, min(wanted, len(x))).astype(int)
        return x[rows], None if y is None else y[rows]
    xs: list[np.ndarray] = []
    conditions: list[np.ndarray] = []
    for batch in _batches(x):
        value, condition, _ = _parts(batch)
        xs.append(np.asarray(value))
        if condition is not None:
            conditions.append(np.asarray(condition))
        if sum(map(len, xs)) >= wanted:
            break
    if not xs:
        return np.zeros([0]), None
    return np.concatenate(xs)[:wanted], np.concatenate(conditions)[:wanted] if conditions else None


def _batches(x: Any) -> Iterator[Any]:
    if isinstance(x, keras.utils.PyDataset):
        return (x[i] for i in range(x.num_batches or 0))
    if isinstance(x, tf.distribute.DistributedDataset):
        raise ValueError("A distributed dataset cannot be read twice: call model.adapt(data) before fit.")
    return iter(x)
