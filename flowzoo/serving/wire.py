"""The few messages of TensorFlow Serving that an export writes, in protobuf's wire format.

TensorFlow has the message of a tensor; those around it are in the package tensorflow-serving-api, which
exports do not need: a `PredictionLog` is four nested messages. The tests compare with that package byte for
byte.
"""

from __future__ import annotations

from collections.abc import Mapping

_LENGTH_DELIMITED = 2


def field(number: int, content: bytes | str) -> bytes:
    """Return a field of bytes, text or a message: its key, its length and its content."""
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """Return a number of at least 0 in groups of seven bits, the lowest first."""
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def predict_request(model: str, signature: str, inputs: Mapping[str, bytes]) -> bytes:
    """Return a PredictRequest: model_spec = 1 (name = 1, signature_name = 3), inputs = 2 (a map).

    Args:
        model: name of the model.
        signature: name of the signature.
        inputs: the message of each tensor (TensorProto) by its name.
    """
    spec = field(1, model) + field(3, signature)
    entries = [field(2, field(1, name) + field(2, inputs[name])) for name in sorted(inputs)]
    return field(1, spec) + b"".join(entries)


def prediction_log(request: bytes) -> bytes:
    """Return a PredictionLog of a request: predict_log = 6 (request = 1)."""
    return field(6, field(1, request))
