"""The containers of sound, told by their first bytes and read as far as a decoder must be able to trust them.

What is wrong here never reaches libsndfile: it believes some of a broken file, and has thirty formats and
codings more than anyone's recordings need.
"""

from __future__ import annotations

import struct

from flowzoo.errors import DataError

WAV, FLAC, OGG = "WAV", "FLAC", "OGG"

# The codings of WAV: whole numbers, floats, A-law, mu-law; 0xFFFE says that another field names one of these.
_WAV_CODINGS = {1: "whole numbers", 3: "floats", 6: "A-law", 7: "mu-law"}
_EXTENSIBLE = 0xFFFE
_MAX_CHUNKS = 1000
_OGG_HEAD, _LAST_PAGE, _VORBIS = 27, 4, b"\x01vorbis"


def checked_container(raw: bytes, where: str) -> str:
    """Tells which container a file is, and checks what its decoder would take on trust.

    Args:
        raw: The contents of the file.
        where: The file, for messages.

    Returns:
        `WAV`, `FLAC` or `OGG`.

    Raises:
        DataError: It is none of these, is truncated, a WAV file of another coding than whole numbers, floats,
            A-law and mu-law, or an OGG file of several streams or another coding than Vorbis.
    """
    if raw.startswith(b"RIFF") and raw[8:12] == b"WAVE":
        _check_wav(raw, where)
        return WAV
    if raw.startswith(b"fLaC"):
        return FLAC
    if raw.startswith(b"OggS"):
        _check_ogg(raw, where)
        return OGG
    raise DataError(f"{where}: cannot be decoded as sound: none of {WAV}, {FLAC}, {OGG}, or truncated.")


def _check_wav(raw: bytes, where: str) -> None:
    """Goes through the chunks up to the samples, which must all be there."""
    place, known = 12, False
    for _ in range(_MAX_CHUNKS):
        name, start = raw[place : place + 4], place + 8
        if start > len(raw):
            break
        size = int.from_bytes(raw[place + 4 : start], "little")
        if name == b"fmt ":
            _check_coding(raw[start : start + size], where)
            known = True
        elif name == b"data":
            if not known:
                raise DataError(f"{where}: the samples come before the chunk that says what they are.")
            if start + size > len(raw):
                raise DataError(
                    f"{where}: its header claims {size} bytes of samples, but {len(raw) - start} are left: "
                    "truncated, or written to a pipe."
                )
            return
        place = start + size + size % 2
    raise DataError(f"{where}: no samples among its first {_MAX_CHUNKS} chunks; it may be truncated.")


def _check_coding(chunk: bytes, where: str) -> None:
    if len(chunk) < 16:
        raise DataError(f"{where}: the chunk that says what its samples are has {len(chunk)} bytes.")
    coding, channels, rate = struct.unpack_from("<HHI", chunk)
    if coding == _EXTENSIBLE:
        coding = int.from_bytes(chunk[24:26], "little")
    if coding not in _WAV_CODINGS:
        accepted = ", ".join(_WAV_CODINGS.values())
        raise DataError(f"{where}: coding {coding:#x} of WAV. Accepted: {accepted}.")
    if not channels or not rate:
        raise DataError(f"{where}: {channels} channels, {rate} samples a second; sound has some of both.")


def _check_ogg(raw: bytes, where: str) -> None:
    """Goes through the pages: all of one stream of Vorbis, none missing or broken off up to its last one.

    The library beneath skips what is no page, and takes a truncated file for a shorter one. Of Opus that
    lacks pages libsndfile 1.2.2 may give memory that nobody wrote, so that Opus is refused.
    """
    place, number, last = 0, 0, False
    while place < len(raw):
        head = raw[place : place + _OGG_HEAD]
        if len(head) < _OGG_HEAD or not head.startswith(b"OggS"):
            raise DataError(f"{where}: no page of OGG at byte {place}; it may be truncated or corrupt.")
        content = place + _OGG_HEAD + head[26]
        if not place and not raw.startswith(_VORBIS, content):
            raise DataError(f"{where}: another coding of OGG than Vorbis.")
        if head[14:18] != raw[14:18] or last:
            raise DataError(f"{where}: several streams in one OGG file; accepted: one.")
        if int.from_bytes(head[18:22], "little") != number:
            raise DataError(f"{where}: its page {number} of OGG is missing; it may be corrupt.")
        number, last = number + 1, bool(head[5] & _LAST_PAGE)
        place = content + sum(raw[place + _OGG_HEAD : content])
    if place > len(raw) or not last:
        raise DataError(f"{where}: its last page of OGG is missing: truncated.")
