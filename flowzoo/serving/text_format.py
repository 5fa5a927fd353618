"""Reads protobuf's text format, as far as a models.config needs it: messages, text, numbers and words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]*
    | (?P<text> "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' )
    | (?P<word> [\w.+-]+ )
    | (?P<mark> [{}<>:;,\[\]] )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_SHORT = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_CLOSING = {"{": "}", "<": ">"}

Message = dict[str, list[Any]]


def parse(text: str) -> Message:
    """Return the fields of a message: a list of values for each name, messages as further dictionaries.

    Text is decoded; numbers and words stay as they are written.

    Raises:
        ValueError: the text is no message in this format.
    """
    tokens = [*_tokens(text), ("end", "")]
    message, place = _message(tokens, 0, "")
    if tokens[place][0] != "end":
        raise ValueError(f"unexpected {tokens[place][1]!r}")
    return message


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise ValueError(f"unexpected {text[place : place + 20]!r}")
        if found.lastgroup:
            yield found.lastgroup, found[0]
        place = found.end()


def _message(tokens: list[tuple[str, str]], place: int, closing: str) -> tuple[Message, int]:
    fields: Message = {}
    while tokens[place][0] != "end" and tokens[place][1] != closing:
        kind, name = tokens[place]
        if (kind, name) in (("mark", ","), ("mark", ";")):
            place += 1
            continue
        if kind != "word":
            raise ValueError(f"unexpected {name!r} where a field begins")
        place += 1
        if tokens[place][1] == ":":
            place += 1
        values, place = _values(tokens, place)
        fields.setdefault(name, []).extend(values)
    if closing and tokens[place][1] != closing:
        raise ValueError(f"{closing!r} is missing")
    return fields, place


def _values(tokens: list[tuple[str, str]], place: int) -> tuple[list[Any], int]:
    """Return the value of a field, or the values of a list in brackets."""
    if tokens[place] != ("mark", "["):
        value, place = _value(tokens, place)
        return [value], place
    values, place = [], place + 1
    while tokens[place] != ("mark", "]"):
        if tokens[place] == ("mark", ","):
            place += 1
            continue
        value, place = _value(tokens, place)
        values.append(value)
    return values, place + 1


def _value(tokens: list[tuple[str, str]], place: int) -> tuple[Any, int]:
    kind, token = tokens[place]
    if kind == "mark" and token in _CLOSING:
        message, place = _message(tokens, place + 1, _CLOSING[token])
        return message, place + 1
    if kind == "text":
        parts = []
        while tokens[place][0] == "text":  # neighbours are one text
            parts.append(tokens[place][1][1:-1])
            place += 1
        return _decoded("".join(parts)), place
    if kind == "word":
        return token, place + 1
    raise ValueError(f"unexpected {token or 'end'!r} where a value begins")


def _decoded(text: str) -> str:
    """Return text without its escapes, which stand for bytes of UTF-8."""

    def byte(found: re.Match[bytes]) -> bytes:
        octal, hexadecimal, other = found.groups()
        if octal is not None:
            return bytes([int(octal, 8) & 255])
        return bytes([int(hexadecimal, 16)]) if hexadecimal is not None else _SHORT.get(other, other)

    return _ESCAPE.sub(byte, text.encode()).decode("utf-8", errors="replace")
