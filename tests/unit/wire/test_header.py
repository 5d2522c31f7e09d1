from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.errors import LocalError, WireError
from ipsecd.ike.wire.header import FLAG_INITIATOR, FLAG_RESPONSE, HEADER_BYTES, VERSION, IkeHeader

# Laid out by hand from RFC 7296 3.1.
HEADER = IkeHeader(spi_i=bytes.fromhex("0102030405060708"), spi_r=bytes.fromhex("1112131415161718"), next_payload=33,
                   version=VERSION, exchange=34, flags=0x28, message_id=0x01020304, length=30)
WIRE = bytes.fromhex("0102030405060708 1112131415161718 21 20 22 28 01020304 0000001e")


def test_header_has_the_layout_of_the_rfc() -> None:
    assert HEADER.build() == WIRE
    assert IkeHeader.parse(WIRE + b"ab") == HEADER


def test_header_flags_tell_role_and_direction() -> None:
    assert HEADER.is_response
    assert HEADER.is_initiator
    assert not replace(HEADER, flags=FLAG_RESPONSE).is_initiator
    assert not replace(HEADER, flags=FLAG_INITIATOR).is_response


@pytest.mark.parametrize("length", [0, 3, 27, 28, 29, 31, 0xDEAD, 0xFFFFFFFF])
def test_header_length_must_be_that_of_the_datagram(length: int) -> None:
    # IN-04
    with pytest.raises(WireError):
        IkeHeader.parse(replace(HEADER, length=length).build() + b"ab")


@pytest.mark.parametrize("datagram", [b"", b"\xff", b"\0", bytes(3), bytes(4), WIRE[:27]])
def test_datagram_shorter_than_a_header_is_refused(datagram: bytes) -> None:
    # IN-05
    with pytest.raises(WireError):
        IkeHeader.parse(datagram)


@pytest.mark.parametrize(("version", "major"), [(0x10, 1), (0x20, 2), (0x29, 2), (0x30, 3)])
def test_header_of_any_version_parses_for_the_endpoint_to_answer(version: int, major: int) -> None:
    # IN-07
    datagram = replace(HEADER, version=version, length=HEADER_BYTES).build()
    assert IkeHeader.parse(datagram).major == major


@pytest.mark.parametrize("change", [
    {"spi_i": b"short"}, {"spi_r": bytes(9)}, {"next_payload": 256}, {"version": -1}, {"exchange": 999}, {"flags": 256},
    {"message_id": 2**32}, {"length": 2**32},
])
def test_header_that_does_not_fit_is_our_own_fault(change) -> None:
    with pytest.raises(LocalError):
        replace(HEADER, **change).build()
