from __future__ import annotations

import pytest

from ipsecd.errors import LocalError, WireError
from ipsecd.ike.wire.cursor import Reader, exactly, u8, u15, u16, u32, uint


def test_reader_reads_big_endian_fields_in_order() -> None:
    reader = Reader(bytes(range(1, 20)))
    assert (reader.u8(), reader.u16(), reader.u32(), reader.uint(8)) == (1, 0x0203, 0x04050607, 0x08090A0B0C0D0E0F)
    assert (reader.take(2), reader.remaining, reader.offset) == (b"\x10\x11", 2, 17)
    assert reader.rest() == b"\x12\x13"
    reader.end()


@pytest.mark.parametrize("read", [
    Reader.u16, Reader.u32, lambda r: r.take(2), lambda r: r.take(-1), lambda r: r.skip(2),
    lambda r: r.uint(16), lambda r: r.block(2), lambda r: r.block(5, counted=3),
])
def test_reader_refuses_to_pass_its_end_or_to_go_back(read) -> None:
    reader = Reader(b"x")
    with pytest.raises(WireError):
        read(reader)
    assert reader.offset == 0


def test_block_refuses_length_below_its_own_header() -> None:
    # A length of 0 must never let a loop stand still.
    for length in (0, 3):
        with pytest.raises(WireError, match="less than its own header"):
            Reader(bytes(8)).block(length, counted=4)


def test_block_ends_where_it_says_and_its_parent_goes_on_behind_it() -> None:
    reader = Reader(b"abcdef")
    block = reader.block(5, counted=2)
    assert (reader.offset, reader.rest()) == (3, b"def")
    assert (block.offset, block.remaining, block.rest()) == (0, 3, b"abc")
    with pytest.raises(WireError):
        block.u8()


def test_block_as_context_refuses_unread_bytes_but_hides_no_other_error() -> None:
    with pytest.raises(WireError, match="1 bytes too many"), Reader(b"ab") as reader:
        reader.u8()
    with pytest.raises(KeyError), Reader(b"ab"):
        raise KeyError


@pytest.mark.parametrize(("write", "value", "data"), [
    (u8, 0xFF, b"\xff"), (u15, 0x7FFF, b"\x7f\xff"), (u16, 0xFFFF, b"\xff\xff"), (u32, 1, b"\0\0\0\1"),
])
def test_writers_write_big_endian(write, value: int, data: bytes) -> None:
    assert write(value, "field") == data


@pytest.mark.parametrize(("write", "value"), [
    (u8, 256), (u15, 0x8000), (u16, 65536), (u32, 2**32), (u8, -1), (u15, -1),
    (lambda v, what: uint(v, 16, what), 2**128), (lambda v, what: exactly(bytes(v), 3, what), 2),
])
def test_writers_blame_ourselves_for_what_does_not_fit(write, value: int) -> None:
    with pytest.raises(LocalError, match="field"):
        write(value, "field")
