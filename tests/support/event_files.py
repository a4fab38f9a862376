"""A writer of TensorBoard's event files, independent of the reader: by the published format.

`python -m tests.support.event_files FOLDER STEPS` writes what a trainer would.
"""

import struct
import sys
import time
from pathlib import Path


def crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF


def masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(value: int) -> bytes:
    value %= 2**64
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def event(tag: str, step: int, value: float, wall_time: float, tensor: bool = False) -> bytes:
    """One event with one scalar, as torch writes it, or as TensorFlow 2 does."""
    number = b"\x15" + struct.pack("<f", value)
    if tensor:
        number = message(8, b"\x08\x01" + message(4, struct.pack("<f", value)))
    summary = message(1, message(1, tag.encode()) + number)
    return b"\x09" + struct.pack("<d", wall_time) + b"\x10" + varint(step) + message(5, summary)


def record(content: bytes) -> bytes:
    head = struct.pack("<Q", len(content))
    return head + masked(head) + content + masked(content)


def main(folder: Path, steps: int) -> None:
    folder.mkdir(parents=True)
    with (folder / f"events.out.tfevents.{int(time.time())}.host.1.0").open("ab") as file:
        for step in range(1, steps + 1):
            file.write(record(event("train/loss", step, 1.0 / step, time.time())))
            file.flush()
            time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
