"""What a data set is, once opened: examples, their conditions, and where they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from flowzoo.errors import DataError

if TYPE_CHECKING:
    import tensorflow as tf

    from flowzoo.data.record_index import Records

SPLITS = ("train", "validation", "test")

_HEAD_BATCH = 1024


class Examples(Protocol):
    """Examples that are made when they are asked for, such as images that are decoded on first use."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of examples and the shape of one."""

    @property
    def dtype(self) -> np.dtype:
        """The type of the values."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, rows: Any) -> np.ndarray:  # noqa: ANN401 (an index as NumPy takes it)
        """The examples of an array of row numbers, or of a slice."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """One split of a data set.

    Attributes:
        x: The examples, `[N, *event_shape]`, floating or uint8: an array, `Examples`, or a
            `tf.data.Dataset` of single examples (or of pairs of an example and its condition).
        condition: What each example is conditioned on: int32 labels `[N]` or numbers `[N, *c]`; None without.
        name: The source's name. `open_source` fills it in, as it does `split`.
        split: `"train"`, `"validation"` or `"test"`.
        num_values: For discrete data, how many values a pixel can take (256 for 8-bit images), else None.
        num_classes: For conditions that are labels, how many there are, else None.
        licence: The licence of the data.
        origin: Who made the data, or which file it is.
        log_density: For data that are made, the density they are drawn from: points `[N, *event_shape]` to
            nats `[N]`, whatever their condition. None where it is not known.
        records: The TFRecord shards that `x` streams from; `pipeline` reads them in an order of its own. None
            for other sources.
    """

    x: np.ndarray | Examples | tf.data.Dataset
    condition: np.ndarray | None = None
    name: str = ""
    split: str = "train"
    num_values: int | None = None
    num_classes: int | None = None
    licence: str = ""
    origin: str = ""
    log_density: Callable[[np.ndarray], np.ndarray] | None = None
    records: Records | None = None

    def __post_init__(self) -> None:
        """Checks everything that can be checked without looking at the values."""
        where = f"Source {self.name!r}"
        if self.split not in SPLITS:
            raise DataError(f"{where}: split must be one of {SPLITS}. Received: {self.split!r}")
        if self.is_streamed:
            self._check_streamed(where)
        else:
            self._check_arrays(where)
        if not (np.issubdtype(self.dtype, np.floating) or self.dtype == np.uint8):
            raise DataError(f"{where}: x must be floating or uint8. Received: {self.dtype}")

    def _check_arrays(self, where: str) -> None:
        if len(self.x.shape) < 2 or len(self.x) == 0:
            raise DataError(
                f"{where}: x must be [N, *event_shape] with N > 0 examples. Received: {tuple(self.x.shape)}"
            )
        if self.condition is not None and len(self.condition) != len(self.x):
            raise DataError(f"{where}: {len(self.x)} examples, but {len(self.condition)} conditions.")

    def _check_streamed(self, where: str) -> None:
        if self.condition is not None:
            raise DataError(f"{where}: a tf.data.Dataset carries its conditions in (x, condition) pairs.")
        for spec in _parts(self.x):
            if not spec.shape.is_fully_defined():
                raise DataError(
                    f"{where}: every example must have one static shape, unbatched. Received: {spec.shape}"
                )

    def __repr__(self) -> str:
        """Names the source and its shapes, not its values."""
        return (
            f"Source(name={self.name!r}, split={self.split!r}, size={self.size}, "
            f"event_shape={self.event_shape}, dtype={self.dtype}, condition_shape={self.condition_shape}, "
            f"num_values={self.num_values}, num_classes={self.num_classes}, "
            f"licence={self.licence!r}, origin={self.origin!r})"
        )

    @property
    def is_streamed(self) -> bool:
        """Whether the examples come from a `tf.data.Dataset`."""
        return is_dataset(self.x)

    @property
    def dtype(self) -> np.dtype:
        """The type of the examples' values."""
        return np.dtype(_parts(self.x)[0].dtype.as_numpy_dtype if self.is_streamed else self.x.dtype)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(_parts(self.x)[0].shape) if self.is_streamed else tuple(self.x.shape[1:])

    @property
    def condition_shape(self) -> tuple[int, ...] | None:
        """The shape of one condition, `()` for a label; None without conditions."""
        if self.is_streamed:
            parts = _parts(self.x)
            return tuple(parts[1].shape) if len(parts) == 2 else None
        return None if self.condition is None else tuple(self.condition.shape[1:])

    @property
    def size(self) -> int | None:
        """The number of examples; None where a `tf.data.Dataset` does not know it."""
        if not self.is_streamed:
            return len(self.x)
        size = int(cast(Any, self.x).cardinality())
        return size if size >= 0 else None

    def head(self, count: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Gives the first examples and their conditions as arrays, whatever the source is made of.

        Args:
            count: How many examples; None for all of them.

        Returns:
            The examples, and the conditions or None. Arrays in memory are views, not copies.
        """
        if not self.is_streamed:
            x = self.x[slice(None, count)]
            return x, None if self.condition is None else self.condition[slice(None, count)]
        from flowzoo.data.record_reader import clear_errors

        dataset = cast(Any, self.x)
        dataset = dataset if count is None else dataset.take(count)
        with clear_errors():
            batches = list(dataset.batch(_HEAD_BATCH).as_numpy_iterator())
        if self.condition_shape is None:
            return np.concatenate(batches), None
        return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))  # type: ignore[return-value]


def is_dataset(data: object) -> bool:
    """Tells a `tf.data.Dataset` from arrays without importing TensorFlow."""
    return hasattr(data, "element_spec")


def _parts(dataset: tf.data.Dataset) -> tuple[tf.TensorSpec, ...]:
    spec = dataset.element_spec
    parts = spec if isinstance(spec, tuple) else (spec,)
    if len(parts) not in (1, 2) or not all(hasattr(part, "shape") for part in parts):
        raise DataError(f"A dataset must give x or (x, condition). Received elements of: {spec}")
    return parts
