"""TensorBoard's event files: records of protobuf, of which the scalars are read.

A record is its length (uint64), the CRC of that, an `Event`, the CRC of that. Of an `Event` are
read: 1 wall_time, 2 step, 5 summary; of each value of a summary: 1 tag, 2 simple_value, 8 tensor.
Whatever else a file holds is passed over: nothing in it can do more than be no scalar.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEAD = 12
TAIL = 4
MAX_RECORD = 16 << 20
"""Bytes of a record that is looked into; larger ones hold images or graphs."""
_MASK = 0xA282EAD8
_FLOAT, _DOUBLE = 1, 2


class Scalar(NamedTuple):
    """One value of a tag. `wall_time` is unix seconds."""

    tag: str
    step: int
    value: float
    wall_time: float


class NoEventFile(ValueError):
    """The next bytes of a file are not a record."""


def record_length(head: bytes) -> int:
    """Return the bytes of the record that begins with these 12. Raises NoEventFile."""
    length, crc = struct.unpack("<QI", head)
    if _masked_crc(head[:8]) != crc:
        raise NoEventFile("the length of a record is not what its checksum says")
    whole: int = length
    return whole


def parse_scalars(record: bytes) -> list[Scalar]:
    """Return the scalars of one record; none of one that is broken."""
    try:
        return list(_parse_scalars(record))
    except (ValueError, IndexError, struct.error):
        return []


def _parse_scalars(record: bytes) -> Iterator[Scalar]:
    wall_time, step, summaries = 0.0, 0, []
    for number, value in _parse_fields(record):
        if number == 1 and isinstance(value, bytes):
            (wall_time,) = struct.unpack("<d", value)
        elif number == 2 and isinstance(value, int):
            step = value if value < 2**63 else value - 2**64
        elif number == 5 and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for number, message in _parse_fields(summary):
            if number == 1 and isinstance(message, bytes):
                tag, scalar = _parse_value(message)
                if tag and scalar is not None:
                    yield Scalar(tag, step, scalar, wall_time)


def _parse_value(message: bytes) -> tuple[str, float | None]:
    """Return tag and scalar of one value of a summary; None if it is an image or the like."""
    tag, scalar = "", None
    for number, value in _parse_fields(message):
        if number == 1 and isinstance(value, bytes):
            tag = value.decode()
        elif number == 2 and isinstance(value, bytes):
            (scalar,) = struct.unpack("<f", value)
        elif number == 8 and isinstance(value, bytes):
            scalar = _parse_tensor(value)
    return tag, scalar


def _parse_tensor(message: bytes) -> float | None:
    """Return the only number of a tensor; None if it has several, or is no float."""
    kind, content = 0, b""
    for number, value in _parse_fields(message):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number in (4, 5, 6) and isinstance(value, bytes):
            content += value
    form = {(_FLOAT, 4): "<f", (_DOUBLE, 8): "<d"}.get((kind, len(content)))
    if form is None:
        return None
    item: float = struct.unpack(form, content)[0]
    return item


def _parse_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and raw value of each field of a protobuf message. Raises ValueError."""
    at, end = 0, len(message)
    while at < end:
        key, at = _parse_varint(message, at)
        kind = key & 7
        if kind == 0:
            number, at = _parse_varint(message, at)
            yield key >> 3, number
            continue
        if kind == 2:
            size, at = _parse_varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("a group, or no protobuf")
        if size > end - at:
            raise ValueError("a field is longer than its message")
        yield key >> 3, message[at : at + size]
        at += size


def _parse_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _make_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _make_table()


def _masked_crc(content: bytes) -> int:
    """Return the masked CRC-32C, as these files have it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF
