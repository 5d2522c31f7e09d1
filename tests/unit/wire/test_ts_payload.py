from __future__ import annotations

import pytest

from ipsecd.errors import LocalError, WireError
from ipsecd.ike.consts import PayloadType
from ipsecd.ike.wire.ts_payload import MAX_SELECTORS, TsPayload
from ipsecd.selectors import OPAQUE_PORTS, TrafficSelector, from_prefix

# Laid out by hand from RFC 7296 3.13.1: TCP to 192.0.2.0/24 ports 80-90, and all of 2001:db8::/32.
V4 = bytes.fromhex("07 06 0010 0050 005a c0000200 c00002ff")
V6 = bytes.fromhex("08 00 0028 0000 ffff 20010db8000000000000000000000000 20010db8ffffffffffffffffffffffff")
UNKNOWN = bytes.fromhex("09 00 0008 00000000")
SELECTORS = (from_prefix("192.0.2.0/24", 6, (80, 90)), from_prefix("2001:db8::/32"))


def test_ts_has_the_layout_of_the_rfc() -> None:
    assert parse(ts(2, V4, V6)) == SELECTORS
    assert TsPayload(PayloadType.TSI, SELECTORS).build() == ts(2, V4, V6)


def test_payload_type_tells_the_side() -> None:
    assert TsPayload.parse(ts(1, V4), payload_type=PayloadType.TSR).payload_type == PayloadType.TSR


@pytest.mark.parametrize(("protocol", "ports"), [
    (0, (0, 65535)), (6, (0, 65535)), (6, (443, 443)), (17, (1024, 2048)), (6, OPAQUE_PORTS), (1, (0x0800, 0x08FF)),
    (58, (128 * 256, 129 * 256 + 255)),
])
def test_protocols_and_ports_survive(protocol: int, ports: tuple[int, int]) -> None:
    # TS-05: any, one, range, OPAQUE, ICMP type and code, range of ICMP types
    selector = from_prefix("10.0.0.0/8", protocol, ports)
    assert parse(TsPayload(PayloadType.TSI, (selector,)).build()) == (selector,)


@pytest.mark.parametrize("ports", ["0051 0050", "ffff 0001", "0001 0000", "fffe 0000"])
def test_ports_that_fall_are_refused_unless_opaque(ports: str) -> None:
    # TS-05
    with pytest.raises(WireError, match="ports fall"):
        parse(ts(1, V4[:4] + bytes.fromhex(ports) + V4[8:]))


@pytest.mark.parametrize("body", [
    b"\0\0\0\0", b"\1\0\0\0", b"", b"\1",
    b"\0\0\0\0" + V4, b"\1\0\0\0" + V4 + V6, b"\3\0\0\0" + V4 + V6, b"\xff\0\0\0" + V4, b"\1\0\0\0" + V4 + b"\0",
    b"\1\0\0\0" + V4[:-1],
])
def test_count_that_does_not_fit_is_refused(body: bytes) -> None:
    # TS-06
    with pytest.raises(WireError):
        parse(body)


@pytest.mark.parametrize(("selector", "length"), [
    (V4, 0), (V4, 3), (V4, 4), (V4, 8), (V4, 15), (V4, 17), (V4, 40), (V6, 16), (V6, 39), (V6, 41), (V4, 0xFFFF),
    (UNKNOWN, 0), (UNKNOWN, 3), (UNKNOWN, 9),
])
def test_length_that_does_not_fit_the_type_is_refused(selector: bytes, length: int) -> None:
    # TS-06
    with pytest.raises(WireError):
        parse(ts(1, selector[:2] + length.to_bytes(2, "big") + selector[4:]))


def test_addresses_that_fall_are_refused() -> None:
    # TS-06
    with pytest.raises(WireError, match="addresses fall"):
        parse(ts(1, V4[:8] + V4[12:] + V4[8:12]))


def test_selector_of_unknown_type_is_skipped() -> None:
    # TS-06
    assert parse(ts(3, V4, UNKNOWN, V6)) == SELECTORS
    assert parse(ts(1, UNKNOWN)) == ()


def test_as_many_selectors_as_the_count_can_say_are_taken_and_no_more_are_built() -> None:
    full = parse(ts(MAX_SELECTORS, V4 * MAX_SELECTORS))
    assert len(full) == MAX_SELECTORS
    with pytest.raises(LocalError):
        TsPayload(PayloadType.TSI, (*full, full[0])).build()


@pytest.mark.parametrize("selector", [
    TrafficSelector(5, 0, 1), TrafficSelector(4, 0, 2**32), TrafficSelector(6, -1, 1), TrafficSelector(4, 0, 1, 256),
    TrafficSelector(4, 0, 1, 6, 0, 65536),
])
def test_selector_that_does_not_fit_is_our_own_fault(selector: TrafficSelector) -> None:
    with pytest.raises(LocalError):
        TsPayload(PayloadType.TSI, (selector,)).build()


def ts(count: int, *selectors: bytes) -> bytes:
    return bytes([count, 0, 0, 0]) + b"".join(selectors)


def parse(body: bytes) -> tuple[TrafficSelector, ...]:
    return TsPayload.parse(body, payload_type=PayloadType.TSI).selectors
