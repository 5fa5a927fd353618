"""The IDX file format of MNIST: a big-endian header, then raw bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flowzoo.errors import DataError

_UNSIGNED_BYTES = 0x08


def parse_idx(raw: bytes, where: str) -> np.ndarray:
    """Reads the contents of an IDX file of unsigned bytes.

    Args:
        raw: The contents, not compressed.
        where: The file's name, for messages.

    Returns:
        A read-only uint8 array over the same memory.

    Raises:
        DataError: The contents are not IDX, not unsigned bytes, or not as long as the header says.
    """
    if len(raw) < 4 or raw[:2] != b"\0\0":
        raise DataError(f"{where}: not an IDX file; it must begin with two zero bytes. Received: {raw[:4]!r}")
    kind, rank = raw[2], raw[3]
    if kind != _UNSIGNED_BYTES:
        raise DataError(f"{where}: the IDX values must be unsigned bytes, type 0x08. Received: 0x{kind:02x}")
    start = 4 + 4 * rank
    if rank < 1 or len(raw) < start:
        raise DataError(f"{where}: the IDX header is cut short, or has no dimensions.")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", rank, 4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        raise DataError(
            f"{where}: the header says {shape}, so the file must have {expected} bytes. "
            f"Received: {len(raw)}. It is truncated or corrupt; fetch it again."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def write_idx(path: Path, values: np.ndarray) -> None:
    """Writes an array of unsigned bytes as an IDX file, not compressed.

    Args:
        path: The file to write.
        values: A uint8 array.
    """
    if values.dtype != np.uint8:
        raise DataError(f"{path}: an IDX file takes uint8 here. Received: {values.dtype}")
    header = bytes([0, 0, _UNSIGNED_BYTES, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(header + values.tobytes())
