"""Warm-up requests: what a server runs before it says that a version is ready.

The first call of a signature prepares its graph, which takes up to seconds. A server runs the requests in
assets.extra/tf_serving_warmup_requests when it loads a version, and refuses the version if one of them fails:
every request written here has been run.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from flowzoo.models.continuous import ContinuousModel
from flowzoo.models.saved_model import EXTRA
from flowzoo.models.signatures import DEFAULT, SIGNATURES, default_of, names_of
from flowzoo.serving import wire

REQUESTS = "tf_serving_warmup_requests"
BATCH_SIZES = (1, 32)
# A server refuses a file of more records.
MOST_RECORDS = 1000

Arrays = Mapping[str, Any]
Call = Callable[[str, Arrays], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Request:
    """One call: a signature and its inputs by name."""

    signature: str
    inputs: Arrays

    def record(self, model: str) -> bytes:
        """Return it as a PredictionLog."""
        tensors = {
            name: tf.make_tensor_proto(value).SerializeToString(deterministic=True)
            for name, value in self.inputs.items()
        }
        return wire.prediction_log(wire.predict_request(model, self.signature, tensors))


def check_batch_sizes(batch_sizes: Sequence[int] | None) -> None:
    """Raise ValueError (TypeError of no list) unless a warm-up can have these sizes; none is no warm-up."""
    if batch_sizes is None:
        return
    if not isinstance(batch_sizes, Sequence) or isinstance(batch_sizes, str):
        raise TypeError(f"A warm-up takes batch sizes such as (1, 32). Received: {batch_sizes!r}")
    most = MOST_RECORDS // (len(SIGNATURES) + 1)
    wrong = [size for size in batch_sizes if isinstance(size, bool) or not isinstance(size, int) or size < 0]
    if wrong or len(batch_sizes) > most:
        raise ValueError(
            f"A warm-up takes up to {most} batch sizes, whole numbers from 0. Received: {list(batch_sizes)!r}"
        )


def batch_sizes_for(flow: Any, batched: bool = False) -> tuple[int, ...]:
    """Return the batch sizes that a flow is warmed up with by default: 1 and 32, where these take no minutes.

    The equation of an image takes up to a minute of a processor. No example at all prepares the graph as
    well; where a server merges requests, which may not take such a batch, it is one.
    """
    if isinstance(flow, ContinuousModel) and len(flow.event_shape) == 3:
        return (1,) if batched else (0,)
    return BATCH_SIZES


def write_warmup(
    flow: Any,
    saved_model: Path,
    name: str,
    batch_sizes: Sequence[int] | None = None,
    batched: bool = False,
) -> int:
    """Write the warm-up requests of an export, after it has answered each of them.

    Args:
        flow: the flow that was exported.
        saved_model: the folder of the export.
        name: under which it is served.
        batch_sizes: numbers of examples to call each signature with; () for no warm-up, None for those of
            `batch_sizes_for`.
        batched: whether the server merges requests. It cannot merge those that draw, whose inputs have no
            batch dimension: they are left out.

    Returns:
        The number of requests.

    Raises:
        ValueError: the export does not answer.
    """
    if batch_sizes is None:
        batch_sizes = batch_sizes_for(flow, batched)
    if not batch_sizes:
        return 0
    (saved_model / EXTRA).mkdir(exist_ok=True)
    count = 0
    with _session(saved_model) as call, tf.io.TFRecordWriter(str(saved_model / EXTRA / REQUESTS)) as writer:
        try:
            for request in _requests(flow, call, sorted(set(batch_sizes)), batched):
                call(request.signature, request.inputs)
                writer.write(request.record(name))
                count += 1
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                f"{name} as exported refuses its own samples, and a server would refuse its warm-up: "
                f"{_reason(error)}. Train it first, or export it without warm-up requests"
            ) from error
    return count


def _reason(error: tf.errors.OpError) -> str:
    """Return what an operation said, without the headings around it."""
    lines = [line.strip() for line in error.message.splitlines()]
    return next((line for line in lines if line and not line.startswith("Graph execution error")), "")


def _requests(flow: Any, call: Call, batch_sizes: Sequence[int], batched: bool) -> Iterator[Request]:
    """Make the requests from what the export itself draws: valid data, whatever the model is."""
    most = max(batch_sizes)
    rows: dict[str, Any] = {"condition": _conditions(flow, most)} if flow.condition_shape is not None else {}
    drawn: dict[str, Any] = {"seed": np.array([0, 1], np.int32), "temperature": np.float32(1)}
    conditions = dict(rows)
    if flow.has_density:
        rows["x"] = call("sample", {"num_samples": np.int32(most), **drawn, **rows})["x"]
        rows["z"] = call("to_latent", {"x": rows["x"], **conditions})["z"]
    else:
        rows["z"] = np.zeros((most, *flow.latent_shape), flow.compute_dtype)
    for size in batch_sizes:
        given: dict[str, Any] = {key: value[:size] for key, value in rows.items()}
        given |= {"num_samples": np.int32(size), **drawn}
        for name in (DEFAULT, *names_of(flow)):
            wanted = SIGNATURES[default_of(flow) if name == DEFAULT else name].inputs
            if batched and "num_samples" in wanted:
                continue
            yield Request(name, {key: given[key] for key in (*wanted, *conditions)})


def _conditions(flow: Any, num: int) -> np.ndarray:
    if flow.num_classes:
        return np.arange(num, dtype=np.int32) % flow.num_classes
    return np.zeros((num, *flow.condition_shape), flow.compute_dtype)


@contextlib.contextmanager
def _session(saved_model: Path) -> Iterator[Call]:
    """Open an export as a server does: its signatures in a session."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        with _quietly():
            loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(saved_model))
        signatures = loaded.signature_def

        def call(name: str, inputs: Arrays) -> dict[str, np.ndarray]:
            signature = signatures[name]
            feeds = {signature.inputs[key].name: value for key, value in inputs.items()}
            return session.run({key: info.name for key, info in signature.outputs.items()}, feeds)

        yield call


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep back TensorFlow's advice not to load into a session, which is what a server does."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)
