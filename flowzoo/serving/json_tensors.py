"""Tensors as TensorFlow Serving's REST interface writes them in JSON.

Numbers are JSON numbers, with NaN, Infinity and -Infinity beside them; strings of bytes are
{"b64": "..."}. A nested list says its shape, so that an empty batch has none: it cannot be sent.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from flowzoo.errors import InvalidRequestError, ServingError
from flowzoo.serving.signatures import DTYPES, Signature, TensorSpec


def encode_request(signature: Signature, inputs: Mapping[str, np.ndarray]) -> bytes:
    """Return the body of a predict request, in columns: inputs of different lengths may go together.

    Raises:
        InvalidRequestError: an input that JSON cannot carry.
    """
    columns = {name: _encode(inputs[name], signature.inputs[name]) for name in inputs}
    content = {"signature_name": signature.name, "inputs": columns}
    return json.dumps(content, separators=(",", ":")).encode()


def _encode(array: np.ndarray, spec: TensorSpec) -> Any:
    if array.size == 0:
        raise InvalidRequestError(
            f"{spec.name}: JSON does not carry an array of shape {array.shape}; use gRPC.", "INVALID_ARGUMENT"
        )
    if spec.dtype not in DTYPES.values():
        raise InvalidRequestError(
            f"{spec.name}: a server's REST interface takes no {spec.dtype}; use gRPC.", "INVALID_ARGUMENT"
        )
    if spec.dtype == "bytes":
        return _encode_bytes(array.tolist())
    return array.tolist()


def _encode_bytes(value: Any) -> Any:
    if isinstance(value, list):
        return [_encode_bytes(item) for item in value]
    raw = value.encode() if isinstance(value, str) else bytes(value)
    return {"b64": base64.b64encode(raw).decode()}


def decode_answer(body: bytes, signature: Signature) -> dict[str, np.ndarray]:
    """Return the outputs in the body of an answer to a request in columns.

    Raises:
        ServingError: it is not such an answer.
    """
    outputs = decode_object(body).get("outputs")
    if outputs is None:
        raise _malformed("there are no 'outputs'")
    if len(signature.outputs) == 1:  # the server leaves out the name of an only output
        outputs = {next(iter(signature.outputs)): outputs}
    if not isinstance(outputs, Mapping):
        raise _malformed("'outputs' is no object")
    missing = sorted(set(signature.outputs) - set(outputs))
    if missing:
        raise _malformed(f"the outputs {', '.join(missing)} are missing")
    return {name: _decode(outputs[name], spec) for name, spec in signature.outputs.items()}


def decode_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that an answer is.

    Raises:
        ServingError: it is none.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:  # lists within lists, thousands deep
        raise _malformed(str(error)) from error
    if not isinstance(content, dict):
        raise _malformed("it is no object")
    return content


def _decode(value: Any, spec: TensorSpec) -> np.ndarray:
    if spec.dtype == "bytes":
        return np.array(_decode_bytes(value), dtype=object)
    try:
        array = np.array(value)
        if array.size == 0:
            array = array.reshape(0, *[size or 0 for size in (spec.shape or (0,))[1:]])
        elif array.dtype.kind not in "fiub":
            raise ValueError(f"dtype {array.dtype}")
        return array.astype(spec.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise _malformed(f"{spec.name} is no array of {spec.dtype}: {error}") from error


def _decode_bytes(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode_bytes(item) for item in value]
    try:
        return base64.b64decode(value["b64"], validate=True) if isinstance(value, dict) else value.encode()
    except (KeyError, ValueError, AttributeError) as error:
        raise _malformed(f"{value!r} is no string") from error


def _malformed(what: str) -> ServingError:
    return ServingError(f"The server's answer cannot be read: {what}.", "INTERNAL")
