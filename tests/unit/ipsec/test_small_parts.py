"""Held packets, path MTU arithmetic, and headers that are rare."""

from __future__ import annotations

import pytest

from ipsecd.ipsec import held as limits
from ipsecd.ipsec import ip
from ipsecd.ipsec.ecn import with_ecn
from ipsecd.ipsec.held import HeldPackets
from ipsecd.ipsec.ip import Fault
from ipsecd.ipsec.mtu import inner_mtu
from ipsecd.sa import ChildKey
from tests.support import esp_packets as p

OTHER = ChildKey("hq", "voice")


def test_oldest_held_packets_go_first_by_count() -> None:
    held = HeldPackets()
    dropped = [held.add(p.CHILD, "ipsec0", bytes([n]), 0.0) for n in range(limits.MAX_CHILD_PACKETS + 2)]
    assert sum(dropped) == 2
    assert held.release(p.CHILD, 1.0) == ([("ipsec0", bytes([n])) for n in range(2, 66)], 0)
    assert held.release(p.CHILD, 1.0) == ([], 0)


def test_oldest_held_packets_go_first_by_bytes() -> None:
    held = HeldPackets()
    assert [held.add(p.CHILD, "ipsec0", bytes(100_000), 0.0) for _ in range(4)] == [0, 0, 1, 1]
    assert held.counts() == {p.CHILD: 2}


def test_all_children_together_hold_a_bounded_amount() -> None:
    held = HeldPackets()
    for n in range(80):
        held.add(ChildKey("hq", str(n)), "ipsec0", bytes(limits.MAX_CHILD_BYTES), 0.0)
    assert len(held.counts()) == limits.MAX_TOTAL_BYTES // limits.MAX_CHILD_BYTES
    assert ChildKey("hq", "79") in held.counts()


def test_packet_larger_than_every_bound_is_dropped_at_once() -> None:
    held = HeldPackets()
    assert held.add(p.CHILD, "ipsec0", bytes(limits.MAX_CHILD_BYTES + 1), 0.0) == 1
    assert held.counts() == {}
    assert held.add(p.CHILD, "ipsec0", b"x", 0.0) == 0


def test_stale_packets_are_not_released() -> None:
    held = HeldPackets()
    held.add(p.CHILD, "ipsec0", b"old", 0.0)
    held.add(p.CHILD, "ipsec0", b"new", 20.0)
    assert held.release(p.CHILD, 31.0) == ([("ipsec0", b"new")], 1)


def test_abandoning_one_child_leaves_the_other() -> None:
    held = HeldPackets()
    held.add(p.CHILD, "ipsec0", b"a", 0.0)
    held.add(OTHER, "ipsec0", b"b", 0.0)
    assert (held.abandon(p.CHILD), held.abandon(p.CHILD)) == (1, 0)
    assert held.counts() == {OTHER: 1}


# Outer MTU 1500, 1492, 1400, 1280; the figures for 1500 and AES-GCM are those that cloud providers publish.
MTUS = [
    ("aes256gcm16", None, 4, False, (1446, 1438, 1346, 1226)), ("aes256gcm16", None, 4, True, (1438, 1430, 1338, 1218)),
    ("aes256gcm16", None, 6, False, (1426, 1418, 1326, 1206)), ("aes256gcm16", None, 6, True, (1418, 1410, 1318, 1198)),
    ("chacha20poly1305", None, 4, True, (1438, 1430, 1338, 1218)),
    ("aes128", "sha1", 4, False, (1438, 1422, 1342, 1214)), ("aes128", "sha1", 4, True, (1422, 1422, 1326, 1214)),
    ("aes256", "sha256", 4, False, (1438, 1422, 1326, 1214)), ("aes256", "sha256", 4, True, (1422, 1422, 1326, 1198)),
    ("aes256", "sha256", 6, False, (1406, 1406, 1310, 1198)), ("aes256", "sha256", 6, True, (1406, 1390, 1310, 1182)),
    ("aes256", "sha384", 4, True, (1422, 1406, 1310, 1198)), ("aes256", "sha512", 4, True, (1406, 1406, 1310, 1182)),
    ("aes256", "sha512", 6, True, (1390, 1374, 1294, 1166)),
]


@pytest.mark.parametrize(("encr", "integ", "version", "udp", "expected"), MTUS)
def test_inner_mtu_leaves_room_for_the_true_overhead(encr: str, integ: str | None, version: int, udp: bool,
                                                     expected: tuple[int, ...]) -> None:
    suite = p.suite(encr, integ)
    assert tuple(inner_mtu(suite, outer_mtu=outer, outer_version=version, udp=udp)
                 for outer in (1500, 1492, 1400, 1280)) == expected


EXTENSION = bytes(7)                               # of eight bytes, behind the next header field


def chain(*kinds: int, last: int = 17, payload: bytes | None = None) -> bytes:
    body = b"".join(bytes([following]) + EXTENSION for following in (*kinds[1:], last))
    return p.ipv6(following=kinds[0], payload=body + (p.udp() if payload is None else payload))


def fragment_header(following: int, field: int) -> bytes:
    return bytes([following, 0]) + field.to_bytes(2, "big") + bytes(4)


def test_ports_are_found_behind_extension_headers() -> None:                            # FG-06
    headers = ip.parse(chain(0, 43, 60))
    assert not isinstance(headers, Fault)
    assert (headers.protocol, headers.source_port, headers.destination_port, headers.payload) == (17, 1234, 5060, 64)


@pytest.mark.parametrize(("packet", "fault"), [
    (chain(*[60] * 9), Fault.MALFORMED),                                                # too many
    (p.ipv6(following=60, payload=b"\x11\x20" + bytes(262) + p.udp()), Fault.MALFORMED),    # too long
    (p.ipv6(following=60, payload=b"\x11\xff" + bytes(6)), Fault.MALFORMED),            # beyond the packet
    (chain(60, 0), Fault.MALFORMED),                                                    # hop-by-hop comes first
    (p.ipv6(following=44, payload=fragment_header(17, 0) + p.udp()), Fault.FRAGMENT),   # atomic
    (p.ipv6(following=44, payload=fragment_header(44, 1) + fragment_header(17, 1) + p.udp()), Fault.FRAGMENT),
    (p.ipv6(following=44, payload=fragment_header(17, 1) + b"\0\0"), Fault.FRAGMENT),   # tiny first
    (p.ipv6(following=17, payload=b"\0\0"), Fault.MALFORMED),
    (p.ipv6(following=60, payload=b""), Fault.MALFORMED),
    (p.ipv4(payload=b"\0\0\0"), Fault.MALFORMED), (p.ipv4(protocol=1, payload=b"\0"), Fault.MALFORMED),
    (p.ipv4(fragment=0x1FFF, payload=bytes(200)), Fault.MALFORMED),                     # ends beyond 65,535
])
def test_headers_that_mislead_are_faults(packet: bytes, fault: Fault) -> None:
    assert ip.parse(packet) is fault


def test_ipv6_fragments_show_ports_in_the_first_only() -> None:
    first = ip.parse(p.ipv6(following=44, payload=fragment_header(17, 1) + p.udp()))
    later = ip.parse(p.ipv6(following=44, payload=fragment_header(17, 8) + p.udp()))
    assert not isinstance(first, Fault) and not isinstance(later, Fault)
    assert first.source_port == 1234
    assert (later.source_port, later.protocol) == (None, 17)


def test_ports_are_found_behind_ipv4_options() -> None:
    headers = ip.parse(p.ipv4(options=bytes(12)))
    assert not isinstance(headers, Fault)
    assert (headers.source_port, headers.destination_port) == (1234, 5060)


@pytest.mark.parametrize("packet", [
    p.ipv4(fragment=0x2000), p.ipv4(fragment=0x8000), p.ipv4(options=bytes(4)), p.ipv4(protocol=1, payload=p.icmp(8)),
    p.ipv4() + b"\0", p.ipv6() + b"\0", chain(60), p.ipv4()[:23], b""])
def test_unusual_packets_have_no_flow_key(packet: bytes) -> None:
    assert ip.flow_key(packet, len(packet)) is None


@pytest.mark.parametrize("packet", [p.ipv4(tos=0xB9), p.ipv6(tos=0xB9)])
@pytest.mark.parametrize("field", range(4))
def test_changed_congestion_field_keeps_dscp_and_header_checksum(packet: bytes, field: int) -> None:
    changed = with_ecn(packet, field)
    assert ip.traffic_class(changed) == 0xB8 | field
    if packet[0] >> 4 == 4:
        assert p.checksum(changed[:20]) == 0
    assert changed == (p.ipv4 if packet[0] >> 4 == 4 else p.ipv6)(tos=0xB8 | field)
