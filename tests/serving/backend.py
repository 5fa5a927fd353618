"""The inside of the double of TensorFlow Serving: real exported graphs behind the real protos.

What the server computes, refuses and says is decided here, on protos alone; `double.py` puts gRPC and
HTTP before it. Errors are worded as the server words them.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

# The fields of a TensorProto that a server fills by default; tensor_content is an option of it.
FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "object": "string_val",
}


class Refused(Exception):
    """A canonical status that is not OK."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class Faults:
    """How the double misbehaves, until it is told otherwise.

    Attributes:
        refuse: (code, message, times): so many predict requests are refused with a status.
        delay: seconds before each answer to predict.
        broken: what HTTP does: "drop", "truncated", "short_json", "trickle", "not_json", "unnamed".
        times: how many requests `broken` is for.
        rows: by how many rows answers are too long.
        loading: how many status requests say LOADING first.
    """

    refuse: tuple[str, str, int] | None = None
    delay: float = 0.0
    broken: str | None = None
    times: int = 1_000_000
    rows: int = 0
    loading: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_refusal(self) -> tuple[str, str] | None:
        with self.lock:
            if self.refuse is None or self.refuse[2] <= 0:
                return None
            code, message, times = self.refuse
            self.refuse = (code, message, times - 1)
            return code, message

    def next_broken(self) -> str | None:
        with self.lock:
            if self.broken is None or self.times <= 0:
                return None
            self.times -= 1
            return self.broken

    def next_loading(self) -> bool:
        with self.lock:
            self.loading -= 1
            return self.loading >= 0

    def reset(self) -> None:
        clean = Faults()
        with self.lock:
            for name in ("refuse", "delay", "broken", "times", "rows", "loading"):
                setattr(self, name, getattr(clean, name))


class Version:
    """One version of a model: its graph, and its signatures as the file has them."""

    def __init__(self, folder: Path) -> None:
        self.graph = tf.saved_model.load(str(folder))
        saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        self.signatures = saved.meta_graphs[0].signature_def


class Backend:
    """Models in the folders of a server: base/NAME/VERSION."""

    def __init__(self, folders: dict[str, Path], labels: dict[tuple[str, str], int] | None = None) -> None:
        self.models = {
            name: {int(path.name): Version(path) for path in folder.iterdir() if path.name.isdecimal()}
            for name, folder in folders.items()
        }
        self.labels = labels or {}
        self.batching = False
        self.faults = Faults()
        self.requests: list[predict_pb2.PredictRequest] = []

    # -- which model --------------------------------------------------------------------------------

    def find(self, spec: model_pb2.ModelSpec) -> tuple[int, Version]:
        if not spec.name:
            raise Refused("INVALID_ARGUMENT", "ModelSpec has no name specified.")
        number = self.number(spec)
        versions = self.models.get(spec.name, {})
        if number is None and versions:
            number = max(versions)
        if number not in versions:
            wanted = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
            raise Refused("NOT_FOUND", f"Servable not found for request: {wanted}")
        return number, versions[number]

    def number(self, spec: model_pb2.ModelSpec) -> int | None:
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return spec.version.value
        if choice == "version_label":
            label = (spec.name, spec.version_label)
            if label not in self.labels:
                message = f"Unrecognized servable version label: {spec.version_label}"
                raise Refused("INVALID_ARGUMENT", message)
            return self.labels[label]
        return None

    # -- what it answers ----------------------------------------------------------------------------

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        # As in a server, labels are not looked at.
        spec, versions = request.model_spec, self.models.get(request.model_spec.name, {})
        number = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
        chosen = [v for v in sorted(versions, reverse=True) if number in (None, v)]
        if not chosen:
            what = "any versions" if number is None else f"version {number}"
            raise Refused("NOT_FOUND", f"Could not find {what} of model {request.model_spec.name}")
        state = get_model_status_pb2.ModelVersionStatus
        now = state.LOADING if self.faults.next_loading() else state.AVAILABLE
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in chosen:
            entry = response.model_version_status.add(version=version, state=now)
            entry.status.SetInParent()
        return response

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if list(request.metadata_field) != ["signature_def"]:
            raise Refused("INVALID_ARGUMENT", "Metadata field(s) is not supported")
        number, version = self.find(request.model_spec)
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in version.signatures.items():
            found.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = number
        response.metadata["signature_def"].Pack(found)
        return response

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        self.requests.append(request)
        refusal = self.faults.next_refusal()
        if refusal:
            raise Refused(*refusal)
        if self.faults.delay:
            time.sleep(self.faults.delay)
        number, version = self.find(request.model_spec)
        signature = request.model_spec.signature_name or "serving_default"
        outputs = self.run(version, signature, self.tensors(version, signature, request))
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = request.model_spec.name, signature
        response.model_spec.version.value = number
        for name, value in outputs.items():
            if self.faults.rows:
                value = np.repeat(value, 2, axis=0)[: len(value) + self.faults.rows]
            response.outputs[name].CopyFrom(as_proto(value))
        return response

    def tensors(self, version: Version, signature: str, request: predict_pb2.PredictRequest) -> dict:
        if signature not in version.signatures:
            raise Refused(
                "INVALID_ARGUMENT",
                f'Serving signature name: "{signature}" not found in signature def',
            )
        wanted, sent = set(version.signatures[signature].inputs), set(request.inputs)
        if sent != wanted:
            raise Refused(
                "INVALID_ARGUMENT",
                f"input size does not match signature: {len(sent)}!={len(wanted)} "
                f"Sent extra: {{{','.join(sorted(sent - wanted))}}}. "
                f"Missing but required: {{{','.join(sorted(wanted - sent))}}}.",
            )
        tensors = {name: tf.constant(tf.make_ndarray(request.inputs[name])) for name in sent}
        if self.batching:
            self.refuse_what_cannot_be_merged(tensors)
        return tensors

    @staticmethod
    def refuse_what_cannot_be_merged(tensors: dict[str, tf.Tensor]) -> None:
        """As a batching session of the server does, which every signature gets with --enable_batching."""
        if any(tensor.shape.rank == 0 for tensor in tensors.values()):
            message = "Batching Run() input tensors must have at least one dimension"
            raise Refused("INVALID_ARGUMENT", message)
        if len({tensor.shape[0] for tensor in tensors.values()}) > 1:
            message = "Batching Run() input tensors must have equal 0th-dimension size"
            raise Refused("INVALID_ARGUMENT", message)

    @staticmethod
    def run(version: Version, signature: str, tensors: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
        for name, info in version.signatures[signature].inputs.items():
            if tensors[name].dtype.as_datatype_enum != info.dtype:
                sent, wanted = tensors[name].dtype.name, tf.as_dtype(info.dtype).name
                message = f"Expects arg[0] to be {wanted} but {sent} is provided"
                raise Refused("INVALID_ARGUMENT", message)
        try:
            return {k: v.numpy() for k, v in version.graph.signatures[signature](**tensors).items()}
        except tf.errors.OpError as error:
            code = {3: "INVALID_ARGUMENT", 9: "FAILED_PRECONDITION"}.get(error.error_code, "INTERNAL")
            raise Refused(code, error.message) from error
        except (TypeError, ValueError) as error:  # shapes, which eager calls check before the kernels do
            raise Refused("INVALID_ARGUMENT", str(error)) from error


def as_proto(value: np.ndarray) -> Any:
    """A tensor as the server serialises it: value by value in the field of its type."""
    proto = tf.make_tensor_proto(np.zeros((), value.dtype))
    proto.ClearField("tensor_content")
    name = FIELDS.get(value.dtype.name, "int_val")
    proto.ClearField(name)
    proto.tensor_shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    getattr(proto, name).extend(value.ravel().tolist())
    return proto
