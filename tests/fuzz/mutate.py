"""Small changes to bytes, words and plain data: some of them lie where something was taken on trust."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
# What stands for a value in text: numbers that are none, or too large, or written oddly; markup; nothing.
WORDS = (
    "", " ", "0", "-1", "1", "2", "-0.0", "1e-3", "1e400", "-1e400", "1e-400", ".nan", "nan", "NaN", "inf",
    "-inf", ".inf", "0x10", "0o17", "0o9", "010", "1_000", "1:30", "9" * 25, "9" * 5000, "0x" + "f" * 300,
    "true", "false", "null", "~", "yes", "no", "[]", "{}", "[1, 2]", "{a: 1}", "é", "\u202e", "\U0001f600",
    "\x00", "\x07", "\x85", "\ufeff", "'", '"', "\\", "/", "..", "../..", "/etc/passwd", "%s%n", "$(id)", "*",
    "a" * 1000, "test", "maf_moons", "Null", "-", "--", "=", "@", "!!int 3", "&a", "*a", "\ud800",
)  # fmt: skip


def mutate(r: random.Random, data: bytes, others: Sequence[bytes] = (), most: int = 4) -> bytes:
    """Change bytes in one place or a few: bits, numbers of every width, cuts, repeats, pieces of others."""
    for _ in range(r.randint(1, most)):
        data = r.choice(_CHANGES)(r, data, others)
    return data


def _flip(r: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = r.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << r.randrange(8))]) + data[at + 1 :]


def _byte(r: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = r.randrange(len(data))
    return data[:at] + bytes([r.choice((0, 1, 10, 32, 127, 128, 255, r.randrange(256)))]) + data[at + 1 :]


def _number(r: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    kind, size = r.choice((("H", 2), ("I", 4), ("Q", 8)))
    at = r.randrange(len(data) + 1)
    value = r.choice(NUMBERS) % 256**size
    return data[:at] + struct.pack(r.choice("<>") + kind, value) + data[at + size :]


def _cut(r: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _range(r, data)
    return data[:start] + data[end:]


def _repeat(r: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _range(r, data)
    return data[:end] + data[start:end] * r.choice((1, 1, 2, 20)) + data[end:]


def _insert(r: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = r.randrange(len(data) + 1)
    return data[:at] + r.randbytes(r.choice((1, 2, 8, 60))) + data[at:]


def _end(r: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    if r.random() < 0.7:
        return data[: r.randrange(len(data) + 1)]
    return data + r.choice((b"\0", b"\n", b"\xff" * 9, r.randbytes(30)))


def _splice(r: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = r.choice(others) if others else data
    return data[: r.randrange(len(data) + 1)] + other[r.randrange(len(other) + 1) :]


_CHANGES: tuple[Callable[[random.Random, bytes, Sequence[bytes]], bytes], ...] = (
    _flip, _flip, _flip, _byte, _byte, _number, _number, _cut, _repeat, _insert, _end, _splice,
)  # fmt: skip


def _range(r: random.Random, data: bytes) -> tuple[int, int]:
    start = r.randrange(len(data) + 1)
    return start, min(len(data), start + r.choice((1, 2, 4, 16, 100)))


def mutate_words(r: random.Random, text: str, words: Sequence[str] = WORDS, most: int = 4) -> str:
    """Change text by its words and signs: some go, come twice, change places or become others."""
    parts = re.findall(r"\w+|\s+|[^\w\s]", text)
    for _ in range(r.randint(1, most)):
        at = r.randrange(len(parts)) if parts else 0
        way = r.randrange(5)
        if way == 0 or not parts:
            parts.insert(at, r.choice(words))
        elif way == 1:
            parts[at] = r.choice(words)
        elif way == 2:
            del parts[at]
        elif way == 3:
            parts.insert(at, r.choice(parts))
        else:
            other = r.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
    return "".join(parts)


def odd_value(r: random.Random, depth: int = 0) -> Any:
    """Make plain data of any kind, most of it wrong wherever it goes."""
    way = r.randrange(14 if depth < 3 else 9)
    if way < 2:
        return r.choice(NUMBERS) * r.choice((1, -1))
    if way == 2:
        return r.choice((0.0, -0.0, 1e-3, 0.5, 1.0, 1e308, 5e-324, float("nan"), float("inf"), -1.5))
    if way < 6:
        return r.choice(WORDS)
    if way < 9:
        return r.choice((None, True, False))
    if way < 12:
        return [odd_value(r, depth + 1) for _ in range(r.randrange(4))]
    return {r.choice(WORDS): odd_value(r, depth + 1) for _ in range(r.randrange(3))}


def mutate_tree(r: random.Random, tree: Any) -> Any:
    """Change plain data in one place: a value becomes odd, a key goes, comes or is misspelt."""
    if isinstance(tree, dict) and tree and r.random() < 0.85:
        key = r.choice(list(tree))
        way = r.randrange(8)
        if way < 4:
            return {**tree, key: mutate_tree(r, tree[key])}
        rest = {name: value for name, value in tree.items() if name != key}
        if way == 4:
            return rest
        if way == 5:
            return {**tree, r.choice((*WORDS[:40], 1, None, True, 0.5)): odd_value(r)}
        if way == 6:
            return {**rest, mutate_words(r, str(key), most=1) or key: tree[key]}
        return {**tree, key: odd_value(r)}
    if isinstance(tree, list) and tree and r.random() < 0.7:
        at = r.randrange(len(tree))
        return [*tree[:at], mutate_tree(r, tree[at]), *tree[at + r.randrange(2) :]]
    return odd_value(r)
