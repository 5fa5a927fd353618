"""What a served model takes and gives, as the server's own metadata say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowzoo.errors import NotServedError, ServingError, near_matches

# The types of tensors that both of a server's interfaces carry, as NumPy calls them.
DTYPES = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_INT8": "int8",
    "DT_INT16": "int16",
    "DT_INT32": "int32",
    "DT_INT64": "int64",
    "DT_UINT8": "uint8",
    "DT_UINT32": "uint32",
    "DT_UINT64": "uint64",
    "DT_BOOL": "bool",
    "DT_STRING": "bytes",
}

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor of a signature.

    Attributes:
        name: its name.
        dtype: its type as NumPy calls it ("bytes" for strings).
        shape: its shape, None where any size will do; None for any shape.
    """

    name: str
    dtype: str
    shape: Shape | None

    @property
    def text(self) -> str:
        """The shape as errors show it."""
        if self.shape is None:
            return "[?]"
        names = ["batch" if i == 0 else "?" for i in range(len(self.shape))]
        sizes = [name if size is None else str(size) for name, size in zip(names, self.shape, strict=True)]
        return f"[{', '.join(sizes)}]"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Say whether a tensor of this shape is one of these."""
        if self.shape is None:
            return True
        pairs = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(want in (None, got) for want, got in pairs)


@dataclass(frozen=True)
class Signature:
    """One function of a served model: what it takes and gives, by name."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


def signatures_of(content: Mapping[str, Any]) -> dict[str, Signature]:
    """Read the signatures from the `signature_def` field of a server's metadata.

    Args:
        content: a SignatureDefMap in protobuf's JSON form, with the field names of the proto.

    Returns:
        The signatures by name; those that TensorFlow keeps for itself are left out.

    Raises:
        ServingError: it does not have that form.
    """
    try:
        return {
            name: Signature(name, _specs(definition.get("inputs")), _specs(definition.get("outputs")))
            for name, definition in content["signature_def"].items()
            if not name.startswith("__")
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServingError(f"The server's metadata cannot be read: {error!r}", "INTERNAL") from error


def _specs(content: Mapping[str, Any] | None) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(name, DTYPES.get(info["dtype"], info["dtype"]), _shape(info.get("tensor_shape", {})))
        for name, info in (content or {}).items()
    }


def _shape(content: Mapping[str, Any]) -> Shape | None:
    if content.get("unknown_rank"):
        return None
    sizes = [int(dim.get("size", 0)) for dim in content.get("dim", [])]
    return tuple(None if size < 0 else size for size in sizes)


def find(signatures: Mapping[str, Signature], name: str, model: str) -> Signature:
    """Return the signature of a name.

    Raises:
        NotServedError: there is none; the message names those that are near, and all.
    """
    if name in signatures:
        return signatures[name]
    raise NotServedError(
        f"{model} has no signature {name!r}.{near_matches(name, signatures)} "
        f"It has {', '.join(sorted(signatures)) or 'none'}.",
        "NOT_FOUND",
    )
