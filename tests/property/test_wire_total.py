"""Any bytes end in a value or in WireError or PeerError, and cost grows no faster than their number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipsecd.errors import WireError
from ipsecd.ike.consts import PayloadType
from ipsecd.ike.wire.header import IkeHeader
from ipsecd.ike.wire.message import build_clear, build_payloads, parse_payloads, split
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import CfgAttribute, CpPayload, DeletePayload, VendorPayload
from ipsecd.ike.wire.sa_payload import Attribute, SaPayload, WireProposal, WireTransform
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.selectors import TrafficSelector
from tests.support.calls import calls
from tests.support.codec import take_datagram
from tests.support.wire_capture import datagrams
from tests.support.wire_strategies import payloads

LENGTHS = (0, 1, 3, 4, 7, 8, 0xFFFF, 0xDEAD)


@given(st.binary(max_size=300))
@example(b"\xff")
def test_any_datagram_ends_in_a_value_or_wire_error(data: bytes) -> None:
    take_datagram(data)


@given(st.integers(0, 255), st.binary(max_size=300))
@settings(max_examples=500)
def test_any_chain_ends_in_a_value_or_wire_error(first: int, data: bytes) -> None:
    try:
        found = parse_payloads(first, data)
    except WireError:
        return
    assert parse_payloads(*build_payloads(found)) == found or any(isinstance(p, TsPayload) for p in found)


@given(st.lists(payloads, min_size=1, max_size=5), st.data())
@settings(max_examples=500)
def test_any_mutation_of_a_message_ends_in_a_value_or_wire_error(chain, data) -> None:
    datagram = bytearray(message(chain))
    for _ in range(data.draw(st.integers(1, 3))):
        datagram[data.draw(st.integers(16, len(datagram) - 1))] = data.draw(st.integers(0, 255))
    take_datagram(bytes(datagram))


@pytest.mark.parametrize("name", sorted(datagrams()))
def test_every_cut_and_flip_of_a_real_message_ends_in_a_value_or_wire_error(name: str) -> None:
    # Mutation ladder: each cut (its header length both stale and corrected), each byte set to edge values.
    whole = datagrams()[name]
    for size in range(len(whole)):
        with pytest.raises(WireError):
            split(whole[:size])
        take_datagram(whole[:24] + size.to_bytes(4, "big") + whole[28:size])
    for at in range(len(whole)):
        for value in (0, 1, whole[at] ^ 0x80, whole[at] ^ 0x01, 0xFF):
            take_datagram(whole[:at] + bytes([value]) + whole[at + 1:])
    for at in range(28, len(whole) - 1):
        for length in LENGTHS:
            take_datagram(whole[:at] + length.to_bytes(2, "big") + whole[at + 2:])


def _sa(n: int) -> list:
    transforms = tuple(WireTransform(1, 12, (Attribute(14, 128),)) for _ in range(min(n, 64)))
    return [SaPayload(tuple(WireProposal(i + 1, 3, b"1234", transforms) for i in range(n)))]


def _ts(n: int) -> list:
    return [TsPayload(PayloadType.TSI, (TrafficSelector(4, 0, 1),) * n)]


SHAPES: dict[str, Callable[[int], list]] = {
    "vendors": lambda n: [VendorPayload(bytes(n))] * n,
    "notifies": lambda n: [NotifyPayload(16384, bytes(n))] * n,
    "proposals": _sa,
    "selectors": _ts,
    "attributes": lambda n: [CpPayload(1, (CfgAttribute(1, b""),) * n)],
    "deletes": lambda n: [DeletePayload(3, (b"1234",) * n)],
}


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_parsing_costs_a_bounded_number_of_calls_for_each_byte(shape: str) -> None:
    # IN-43: calls are counted, not time; 16 bytes of generic header, transform or selector are what costs most.
    for n in (8, 16, 32, 64):
        datagram = message(SHAPES[shape](n))
        assert calls(lambda data=datagram: take_datagram(data)) < 200 + 12 * len(datagram)


def test_largest_datagram_of_smallest_payloads_is_refused_early() -> None:
    # 16,000 empty vendor IDs: parsing stops at the 65th.
    chain = bytes([PayloadType.VENDOR, 0, 0, 4]) * 16000
    datagram = IkeHeader(b"i" * 8, bytes(8), PayloadType.VENDOR, 0x20, 34, 8, 0, 28 + len(chain)).build() + chain
    assert calls(lambda: take_datagram(datagram)) < 3000


def message(chain: list) -> bytes:
    return build_clear(spi_i=b"i" * 8, spi_r=bytes(8), exchange=34, flags=8, message_id=0, payloads=chain)
