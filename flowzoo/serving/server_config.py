"""What flowzoo reads of a models.config, TensorFlow Serving's ModelServerConfig in protobuf's text format.

The whole message is in the package tensorflow-serving-api, which a folder of models does not need; of the
fields that are not named here the parser takes no notice.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_Field = descriptor_pb2.FieldDescriptorProto
_ONE, _MANY = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED
# Messages, each after those that it holds: of each field whether there are many, and a type or a message.
_MESSAGES: dict[str, dict[str, tuple[int, int | str]]] = {
    "Label": {"key": (_ONE, _Field.TYPE_STRING), "value": (_ONE, _Field.TYPE_INT64)},
    "Model": {
        "name": (_ONE, _Field.TYPE_STRING),
        "base_path": (_ONE, _Field.TYPE_STRING),
        "version_labels": (_MANY, "Label"),
    },
    "Models": {"config": (_MANY, "Model")},
    "ModelServerConfig": {"model_config_list": (_ONE, "Models")},
}


def parse(text: str) -> list[Any]:
    """Return the models of a models.config, messages with `name`, `base_path` and `version_labels`.

    Raises:
        ValueError: the text is no such message, or a model lacks its name or its base_path.
    """
    try:
        found = text_format.Parse(text, _message()(), allow_unknown_field=True)
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error
    models = list(found.model_config_list.config)
    for model in models:
        for field in ("name", "base_path"):
            if not model.HasField(field):
                raise ValueError(f"a model lacks its {field}")
    return models


@functools.cache
def _message() -> Any:
    """Return the class of the message: in text fields go by name, so their numbers are of no account."""
    file = descriptor_pb2.FileDescriptorProto(name="flowzoo/server_config.proto", package="flowzoo")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (key, (label, kind)) in enumerate(fields.items(), 1):
            field = message.field.add(name=key, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".flowzoo.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("flowzoo.ModelServerConfig"))
