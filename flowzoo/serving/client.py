"""The client: a served flow, used as a flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from flowzoo.serving import checking, seeds
from flowzoo.serving.deadline import seconds
from flowzoo.serving.grpc_transport import GrpcTransport
from flowzoo.serving.readiness import poll_until_ready
from flowzoo.serving.rest import RestTransport
from flowzoo.serving.retrying import Retry
from flowzoo.serving.session import Session
from flowzoo.serving.signatures import Signature
from flowzoo.serving.transport import ModelSelector, Tls, Transport, VersionStatus, parse_address

_LN2 = math.log(2.0)


class Client:
    """A flow behind TensorFlow Serving, over gRPC or REST; NumPy arrays in and out.

    Methods are named as those of `flowzoo.Flow` and give what they give. What is handed in is checked
    against the server's own metadata before anything is sent. Many rows go in several requests of at most
    `max_batch`, a few at a time; answers keep their order. One client serves many threads.

    A call has one deadline for all of this. It is sent again only if that is safe (everything but `sample`
    without a seed), only while the server is unavailable, and never beyond the deadline.

        with Client("grpc://localhost:8500", "realnvp_mnist", label="stable") as client:
            client.wait_until_ready(60)
            bits = client.bits_per_dim(images)
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 60.0,
        connect_timeout: float = 5.0,
        retry: Retry = Retry(),  # noqa: B008 - it is frozen
        max_batch: int = 256,
        concurrency: int = 4,
        max_message_bytes: int = 64 * 2**20,
        tls: Tls = Tls(),  # noqa: B008 - it is frozen
    ) -> None:
        """Set where the model is; nothing is sent yet.

        Args:
            address: "grpc://HOST:PORT" or "http://HOST:PORT"; "grpcs" and "https" are encrypted.
            model: its name at the server.
            version: one of its versions; None for the latest.
            label: one of its version labels ("stable", "canary"), instead of a version.
            timeout: seconds for each call in all; every method takes another with `timeout=`.
            connect_timeout: seconds for one attempt to connect.
            retry: how often and when a safe call is sent again.
            max_batch: rows of one request.
            concurrency: requests of this client under way at once for calls of many rows.
            max_message_bytes: of one request, and of one answer.
            tls: certificates, for encrypted addresses.

        Raises:
            TypeError, ValueError: an argument that cannot be.
            ImportError: a gRPC address without tensorflow-serving-api.
        """
        where = parse_address(address)
        if not isinstance(retry, Retry):
            raise TypeError(
                f"retry takes a Retry; Retry(attempts=1) sends nothing again. Received: {retry!r}"
            )
        if tls != Tls() and not where.encrypted:
            raise ValueError(f"tls= is for grpcs:// and https:// addresses. Received: {address!r}")
        selector = ModelSelector(model, version, label)
        connect_seconds = seconds(connect_timeout, "connect_timeout")
        max_bytes = _count(max_message_bytes, "max_message_bytes")
        make: Callable[..., Transport] = GrpcTransport if where.is_grpc else RestTransport
        self._session = Session(
            make(where, selector, tls=tls, connect_timeout=connect_seconds, max_bytes=max_bytes),
            str(selector),
            labelled=label is not None,
            timeout=seconds(timeout, "timeout"),
            retry=retry,
            max_batch=_count(max_batch, "max_batch"),
            concurrency=_count(concurrency, "concurrency"),
        )

    # -- what a flow does -------------------------------------------------------------------------

    def log_prob(self, x: Any, condition: Any = None, *, timeout: float | None = None) -> np.ndarray:
        """Return log p(x | condition) in nats, [batch].

        Args:
            x: data, [batch, *event_shape].
            condition: [batch, *condition_shape], or one for all.
            timeout: seconds for this call.

        Raises:
            TypeError, ValueError: what the model does not take, before anything is sent.
            InvalidRequestError: what only the server could see: a label that is no class, data out of range.
            NotServedError: no such model, version or signature.
            ServerUnavailableError, ServingTimeoutError, ServingError: it could not be done.
        """
        return self._rows("log_prob", {"x": x}, condition, timeout)

    def anomaly_score(self, x: Any, condition: Any = None, *, timeout: float | None = None) -> np.ndarray:
        """Return the anomaly score, [batch]: higher is stranger. Arguments and errors as `log_prob`."""
        return self._rows("anomaly_score", {"x": x}, condition, timeout)

    def bits_per_dim(self, x: Any, condition: Any = None, *, timeout: float | None = None) -> np.ndarray:
        """Return -log_prob / (D ln 2), [batch], of a model of discrete values. Arguments as `log_prob`.

        Raises:
            ValueError: the model is continuous; otherwise as `log_prob`.
        """
        deadline = self._session.deadline(timeout)
        signature = self._session.signature("log_prob", deadline)
        spec = signature.inputs["x"]
        if np.dtype(spec.dtype).kind not in "iu" or spec.shape is None:
            raise ValueError(f"bits_per_dim is for discrete data; {self._session.model} takes {spec.dtype}.")
        size = math.prod(size or 1 for size in spec.shape[1:])
        return -self._session.rows(signature, {"x": x}, condition, deadline) / np.float32(size * _LN2)

    def to_latent(self, x: Any, condition: Any = None, *, timeout: float | None = None) -> np.ndarray:
        """Return the latents of data, [batch, *latent_shape]. Arguments and errors as `log_prob`."""
        return self._rows("to_latent", {"x": x}, condition, timeout)

    def from_latent(self, z: Any, condition: Any = None, *, timeout: float | None = None) -> np.ndarray:
        """Return the data of latents, [batch, *event_shape]. Arguments and errors as `log_prob`."""
        return self._rows("from_latent", {"z": z}, condition, timeout)

    def sample(
        self,
        n: int,
        condition: Any = None,
        temperature: float = 1.0,
        seed: Any = None,
        *,
        timeout: float | None = None,
    ) -> np.ndarray:
        """Return n samples, [n, *event_shape].

        Up to `max_batch` of them are those of `Flow.sample` with the same seed. More come in several
        requests, each with a seed made from yours: the same for the same seed and `max_batch`.

        A server that was started with --enable_batching refuses this signature, whose inputs are no rows.

        Args:
            n: how many.
            condition: [n, *condition_shape], or one for all.
            temperature: of the base.
            seed: an integer or two; None draws afresh, and is then sent once only.
            timeout: seconds for this call.

        Raises:
            TypeError, ValueError, ServingError: as `log_prob`.
        """
        n, heat = checking.number_of_samples(n), checking.temperature(temperature)
        pair, session = seeds.as_pair(seed), self._session
        deadline = session.deadline(timeout)
        signature = session.signature("sample", deadline)
        given = checking.condition(condition, signature.inputs.get("condition"), n, session.model)

        def part(rows: slice) -> Mapping[str, Any]:
            own = seeds.child(pair, rows.start // session.max_batch)
            inputs = {"num_samples": rows.stop - rows.start, "temperature": heat, "seed": own}
            return inputs if given is None else {**inputs, "condition": given[rows]}

        return session.in_parts(signature, n, part, deadline, safe=seed is not None)

    # -- what the server says ---------------------------------------------------------------------

    def signatures(self, *, refresh: bool = False, timeout: float | None = None) -> dict[str, Signature]:
        """Return what the model takes and gives, by the name of the signature.

        It is asked for once; `refresh` asks anew, as after a new version with another interface.

        Raises:
            NotServedError, ServerUnavailableError, ServingTimeoutError, ServingError: as `log_prob`.
        """
        return dict(self._session.signatures(self._session.deadline(timeout), refresh=refresh))

    def status(self, *, timeout: float | None = None) -> list[VersionStatus]:
        """Return the state of the model's versions (of the one that was chosen by number, if one was).

        A server does not look at labels here: with a label they are those of all versions.

        Raises:
            NotServedError, ServerUnavailableError, ServingTimeoutError, ServingError: as `log_prob`.
        """
        return self._session.status(self._session.deadline(timeout))

    def wait_until_ready(self, timeout: float = 60.0) -> VersionStatus:
        """Wait until a version is AVAILABLE, and return its status: the latest of several, or the label's.

        Args:
            timeout: seconds in all.

        Raises:
            ServingTimeoutError: it is not; the message says what the server said last.
            ServingError: the server gave the model up, with its reason.
        """
        session = self._session
        return poll_until_ready(session.ready_once, session.deadline(timeout), session.model)

    def predict(
        self, signature: str, inputs: Mapping[str, Any], *, safe: bool = False, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """Call any signature with all of its inputs, in one request, and return its outputs by name.

        Args:
            signature: its name.
            inputs: arrays by name.
            safe: whether the request may be sent again.
            timeout: seconds for this call.

        Raises:
            TypeError, ValueError: an input too many or too few, or one that it does not take.
            ServingError: as `log_prob`.
        """
        deadline = self._session.deadline(timeout)
        known = self._session.signature(signature, deadline)
        if not isinstance(inputs, Mapping):
            raise TypeError(f"inputs takes arrays by name. Received: {type(inputs).__name__}")
        if set(inputs) != set(known.inputs):
            raise ValueError(
                f"{signature} takes the inputs {', '.join(sorted(known.inputs))}. "
                f"Received: {', '.join(sorted(inputs)) or 'none'}"
            )
        return self._session.send(known, inputs, deadline, safe=safe)

    # -- life -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(
        self, name: str, values: Mapping[str, Any], condition: Any, timeout: float | None
    ) -> np.ndarray:
        deadline = self._session.deadline(timeout)
        return self._session.rows(self._session.signature(name, deadline), values, condition, deadline)


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} takes a whole number. Received: {value!r}")
    if value < 1:
        raise ValueError(f"{name} takes a whole number from 1. Received: {value!r}")
    return value
