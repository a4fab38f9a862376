"""Metric points as bytes: exact to the last bit, and small where they are regular.

A column of 64-bit numbers is written as *lanes*: of the eight bytes of its numbers, those that are
the same in every number are written once, the others number after number. Steps and wall times are
written as the excess of their differences over the smallest one: nothing for regular steps, the
jitter for wall times. Floats are taken by their bits, whose differences count the floats between.

Whole columns are processed as one large integer, a number in each 64 bits: adding and shifting
those costs less than a loop over a tenth of the points.
"""

from array import array
from collections.abc import Iterator
from functools import lru_cache

FEWEST = 16
"""A shorter column is stored plainly: its lanes would be more heads than tails."""


def pack_lanes(data: bytes) -> bytes:
    """Pack 64-bit numbers, little-endian, as a mask of the lanes that vary, the constants, and
    those lanes."""
    count, mask, constants, varying = len(data) // 8, 0, bytearray(8), []
    for lane in range(8):
        own = data[lane::8]
        if own.count(own[0]) == count:
            constants[lane] = own[0]
        else:
            mask |= 1 << lane
            varying.append(own)
    return bytes((mask, *constants)) + b"".join(varying)


class Reader:
    """Takes packed parts from bytes, one after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def take(self, size: int) -> bytes:
        """Return the next bytes. Raises ValueError if there are fewer."""
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise ValueError("packed points end early")
        self._at += size
        return taken

    def unpack_lanes(self, count: int) -> bytes:
        """Return the inverse of `pack_lanes`, of so many numbers."""
        mask, *constants = self.take(9)
        data = bytearray(bytes(constants) * count)
        for lane in range(8):
            if mask >> lane & 1:
                data[lane::8] = self.take(count)
        return bytes(data)

    def number(self) -> int:
        """Return the next 8 bytes as a number."""
        return int.from_bytes(self.take(8), "little")

    def unpack_rising(self, count: int) -> bytes:
        """Return the inverse of `pack_rising`, of so many numbers."""
        mask = self._data[self._at + 16 : self._at + 17]
        return _unpack_rising(self.take(25 + int.from_bytes(mask).bit_count() * count), count)


@lru_cache(256)
def _unpack_rising(packed: bytes, count: int) -> bytes:
    """Return the numbers that `pack_rising` packed. All keys of a report have the same steps."""
    reader = Reader(packed, 0)
    first, least = reader.number(), reader.number()
    if packed[16:] == bytes(9):
        return (_ones(count) * first + _ramp(count) * least).to_bytes(8 * count, "little")
    total = int.from_bytes(reader.unpack_lanes(count), "little")
    total += (_ones(count) - 1) * least + first
    # Each number becomes the sum of those up to it: 1, 2, 4, … at a time.
    whole = (1 << 64 * count) - 1
    for shift in _doublings(count):
        total = (total + (total << 64 * shift)) & whole
    return total.to_bytes(8 * count, "little")


def pack_rising(data: bytes) -> bytes | None:
    """Pack numbers of which none is lower than the one before; None if they are others.

    They are not negative: steps, and the bits of times after 1970.
    """
    numbers = array("q")
    numbers.frombytes(data)
    count, total, first = len(numbers), int.from_bytes(data, "little"), numbers[0]
    step = numbers[1] - first if count > 1 else 0
    if first < 0 or step < 0:
        return None
    if total == _ones(count) * first + _ramp(count) * step:
        return first.to_bytes(8, "little") + step.to_bytes(8, "little") + bytes(9)
    if sorted(numbers) != numbers.tolist():
        return None
    # No borrow from one number to the next, as none is lower than the one before.
    differences = (total - ((total << 64) & ((1 << 64 * count) - 1))) - first
    rest = array("q")
    rest.frombytes(differences.to_bytes(8 * count, "little"))
    least = min(rest[1:], default=0)
    above = differences - (_ones(count) - 1) * least
    head = first.to_bytes(8, "little") + least.to_bytes(8, "little")
    return head + pack_lanes(above.to_bytes(8 * count, "little"))


@lru_cache(1_024)
def _ones(count: int) -> int:
    """Return the number that has a 1 in each 64 bits."""
    return ((1 << 64 * count) - 1) // ((1 << 64) - 1)


@lru_cache(1_024)
def _ramp(count: int) -> int:
    """Return the number that has 0, 1, 2, … in each 64 bits."""
    return int.from_bytes(array("q", range(count)).tobytes(), "little")


def _doublings(count: int) -> Iterator[int]:
    shift = 1
    while shift < count:
        yield shift
        shift *= 2
