"""What all calls of a client share: its connection, what it knows of the model, deadlines and retries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flowzoo.errors import ServingError
from flowzoo.serving import checking
from flowzoo.serving.chunks import Crew, slices
from flowzoo.serving.deadline import Deadline, seconds
from flowzoo.serving.retrying import Retry
from flowzoo.serving.signatures import Signature, find
from flowzoo.serving.transport import Transport, VersionStatus

Part = Callable[[slice], Mapping[str, Any]]


class Session:
    """Calls signatures of one model: checked, in parts, in time, again where that is safe."""

    def __init__(
        self,
        transport: Transport,
        model: str,
        *,
        labelled: bool = False,
        timeout: float,
        retry: Retry,
        max_batch: int,
        concurrency: int,
    ) -> None:
        """Set the limits; see `flowzoo.serving.Client`."""
        self._transport, self.model, self.max_batch = transport, model, max_batch
        self._labelled = labelled
        self._timeout, self._retry, self._crew = timeout, retry, Crew(concurrency)
        self._lock = threading.Lock()
        self._known: dict[str, Signature] | None = None
        self._closed = False

    def deadline(self, timeout: float | None) -> Deadline:
        """Start the clock of one call.

        Raises:
            ValueError: the client is closed, or the timeout is not above 0.
        """
        if self._closed:
            raise ValueError("This client is closed.")
        return Deadline(self._timeout if timeout is None else seconds(timeout, "timeout"))

    def signatures(self, deadline: Deadline, *, refresh: bool = False) -> dict[str, Signature]:
        """Return the model's signatures, asked for once."""
        with self._lock:
            known = None if refresh else self._known
        if known is None:
            known = self._retry.run(lambda: self._transport.signatures(deadline), deadline, safe=True)
            with self._lock:
                self._known = known
        return known

    def signature(self, name: str, deadline: Deadline) -> Signature:
        """Return one signature, or raise NotServedError."""
        return find(self.signatures(deadline), name, self.model)

    def status(self, deadline: Deadline) -> list[VersionStatus]:
        """Return the state of the model's versions."""
        return self._retry.run(lambda: self._transport.status(deadline), deadline, safe=True)

    def ready_once(self, deadline: Deadline) -> list[VersionStatus]:
        """Return the state of the versions that are meant, asked for once.

        That of a label is AVAILABLE where the server knows it: what it says of states is of all versions.
        """
        if self._labelled:
            return [VersionStatus(self._transport.version(deadline), "AVAILABLE")]
        return self._transport.status(deadline)

    def rows(
        self, signature: Signature, values: Mapping[str, Any], condition: Any, deadline: Deadline
    ) -> np.ndarray:
        """Call a signature that gives one row for each row of its one input, beside a condition."""
        ((key, value),) = values.items()
        rows = checking.tensor(value, signature.inputs[key])
        given = checking.condition(condition, signature.inputs.get("condition"), len(rows), self.model)

        def part(chosen: slice) -> Mapping[str, Any]:
            inputs = {key: rows[chosen]}
            return inputs if given is None else {**inputs, "condition": given[chosen]}

        return self.in_parts(signature, len(rows), part, deadline, safe=True)

    def in_parts(
        self, signature: Signature, rows: int, part: Part, deadline: Deadline, *, safe: bool
    ) -> np.ndarray:
        """Call a signature with one output, for at most `max_batch` rows at once, and join the answers.

        Args:
            signature: to call.
            rows: in all.
            part: gives the inputs of some of the rows.
            deadline: of all parts.
            safe: whether a request may be sent again.
        """
        (output,) = signature.outputs.values()
        if rows == 0:  # JSON carries no empty batch, and there is nothing to compute
            return np.zeros((0, *(size or 0 for size in (output.shape or (0,))[1:])), output.dtype)

        def send(chosen: slice) -> np.ndarray:
            answer = self.send(signature, part(chosen), deadline, safe=safe)[output.name]
            if len(answer) != chosen.stop - chosen.start:
                raise ServingError(
                    f"The server gave {len(answer)} rows for {chosen.stop - chosen.start}.", "INTERNAL"
                )
            return answer

        return np.concatenate(self._crew.map(send, slices(rows, self.max_batch), deadline))

    def send(
        self, signature: Signature, inputs: Mapping[str, Any], deadline: Deadline, *, safe: bool
    ) -> dict[str, np.ndarray]:
        """Send one request, again where that is safe; check what goes and the shapes of what comes."""
        arrays = {name: checking.tensor(value, signature.inputs[name]) for name, value in inputs.items()}
        outputs = self._retry.run(
            lambda: self._transport.predict(signature, arrays, deadline), deadline, safe=safe
        )
        for name, spec in signature.outputs.items():
            got = outputs.get(name)
            if got is None or not spec.fits(got.shape):
                what = "nothing" if got is None else f"the shape {got.shape}"
                raise ServingError(f"The server gave {what} for {name}, of shape {spec.text}.", "INTERNAL")
        return outputs

    def close(self) -> None:
        """Let threads and connections go."""
        self._closed = True
        self._crew.close()
        self._transport.close()
