"""Messages of TensorFlow Serving that the package tensorflow-serving-api leaves out, made from their fields.

BatchingParameters is in tensorflow_serving/servables/tensorflow/session_bundle_config.proto, MonitoringConfig
in tensorflow_serving/config/monitoring_config.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_TYPES = {"bool": "TYPE_BOOL", "string": "TYPE_STRING", "int64": "TYPE_INT64"}
_WRAPPER = {"Int64Value", "BoolValue", "StringValue"}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="serving_protos.proto", package="serving", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    _message(
        file,
        "BatchingParameters",
        ("max_batch_size", 1, "Int64Value"),
        ("batch_timeout_micros", 2, "Int64Value"),
        ("max_enqueued_batches", 3, "Int64Value"),
        ("num_batch_threads", 4, "Int64Value"),
        ("thread_pool_name", 5, "StringValue"),
        ("allowed_batch_sizes", 6, "repeated int64"),
        ("pad_variable_length_inputs", 7, "bool"),
        ("enable_large_batch_splitting", 8, "BoolValue"),
        ("max_execution_batch_size", 9, "Int64Value"),
    )
    _message(file, "PrometheusConfig", ("enable", 1, "bool"), ("path", 2, "string"))
    _message(file, "MonitoringConfig", ("prometheus_config", 1, "PrometheusConfig"))
    return file


def _message(file: Any, name: str, *fields: tuple[str, int, str]) -> None:
    message = file.message_type.add(name=name)
    for field, number, kind in fields:
        repeated, _, kind = kind.rpartition(" ")
        made = message.field.add(name=field, number=number)
        made.label = made.LABEL_REPEATED if repeated else made.LABEL_OPTIONAL
        if kind in _TYPES:
            made.type = getattr(made, _TYPES[kind])
        else:
            made.type = made.TYPE_MESSAGE
            made.type_name = f".google.protobuf.{kind}" if kind in _WRAPPER else f".serving.{kind}"


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_file().SerializeToString())
    names = ("BatchingParameters", "MonitoringConfig")
    return {n: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"serving.{n}")) for n in names}


BatchingParameters = _classes()["BatchingParameters"]
MonitoringConfig = _classes()["MonitoringConfig"]
