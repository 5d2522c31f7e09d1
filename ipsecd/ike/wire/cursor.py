"""The bounded cursor through which all bytes of a peer are read, and its counterparts for writing.

Python slices never fail: `data[4:2]` is empty and a short read is silent.  So no other file of the codec slices what it
received; each length is checked here, once.  A `Reader` sees a window of the data, can only move forward, and its
`block()` makes a smaller window which must be read to its end.
"""

from __future__ import annotations

from struct import Struct
from types import TracebackType
from typing import Any, Self

from ipsecd.errors import LocalError, WireError


class Reader:
    """Reads big-endian fields from a window of bytes; every method raises WireError rather than read past its end.

    As a context manager it also raises when the block leaves bytes unread.
    """

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._end = len(data)

    @property
    def remaining(self) -> int:
        """Return how many bytes are left to read."""
        return self._end - self._at

    @property
    def offset(self) -> int:
        """Return how many bytes of the whole data lie before the next one, also inside a block."""
        return self._at

    def u8(self) -> int:
        """Read one byte."""
        return self._data[self._advance(1)]

    def u16(self) -> int:
        """Read two bytes."""
        return self.uint(2)

    def u32(self) -> int:
        """Read four bytes."""
        return self.uint(4)

    def uint(self, size: int) -> int:
        """Read an unsigned integer of `size` bytes, such as an address."""
        start = self._advance(size)
        return int.from_bytes(self._data[start:self._at], "big")

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """Read fields of a fixed layout (big-endian, by "!") with one check of its length."""
        return layout.unpack_from(self._data, self._advance(layout.size))

    def take(self, count: int) -> bytes:
        """Read exactly `count` bytes."""
        start = self._advance(count)
        return self._data[start:self._at]

    def rest(self) -> bytes:
        """Read whatever is left, possibly nothing."""
        return self.take(self.remaining)

    def skip(self, count: int) -> None:
        """Pass over `count` bytes: reserved fields, which a receiver ignores (RFC 7296 3.1)."""
        self._advance(count)

    def block(self, length: int, *, counted: int = 0) -> Reader:
        """Return a reader of the next bytes, and pass over them.

        `length` is a length field as received; `counted` says how many of the bytes it covers were read already (the
        header that holds it), so a length below its own header raises here, and no loop can stand still.
        """
        if length < counted:
            raise WireError(f"length {length} is less than its own header of {counted} bytes")
        inner = Reader(self._data)
        inner._at = self._advance(length - counted)
        inner._end = self._at
        return inner

    def end(self) -> None:
        """Raise unless everything has been read."""
        if self.remaining:
            raise WireError(f"{self.remaining} bytes too many")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            self.end()

    def _advance(self, count: int) -> int:
        start = self._at
        end = start + count
        if not start <= end <= self._end:        # the innermost step of all parsing: no call, no attribute twice
            raise WireError(f"{count} bytes expected, {self._end - start} left")
        self._at = end
        return start


def u8(value: int, what: str) -> bytes:
    """Write one byte; raise LocalError naming `what` when the value does not fit."""
    return uint(value, 1, what)


def u16(value: int, what: str) -> bytes:
    """Write two bytes; raise LocalError naming `what` when the value does not fit."""
    return uint(value, 2, what)


def u32(value: int, what: str) -> bytes:
    """Write four bytes; raise LocalError naming `what` when the value does not fit."""
    return uint(value, 4, what)


def u15(value: int, what: str) -> bytes:
    """Write two bytes whose top bit stays 0; raise LocalError naming `what` when the value does not fit."""
    if value >> 15:
        raise LocalError(f"{what} {value} does not fit into 15 bits")
    return uint(value, 2, what)


def uint(value: int, size: int, what: str) -> bytes:
    """Write an unsigned integer of `size` bytes; raise LocalError naming `what` when the value does not fit."""
    try:
        return value.to_bytes(size, "big")
    except OverflowError as error:
        raise LocalError(f"{what} {value} does not fit into {size} bytes") from error


def exactly(data: bytes, size: int, what: str) -> bytes:
    """Return `data`, of which a field demands exactly `size` bytes; raise LocalError naming `what` otherwise."""
    if len(data) != size:
        raise LocalError(f"{what} of {len(data)} bytes; {size} are needed")
    return data

