"""AH in transport mode against scapy, in both directions: where it stands, what it covers, what of it is delivered."""

from __future__ import annotations

import pytest

from ipsecd.drops import DropReason
from ipsecd.ipsec.ah import Ah
from ipsecd.ipsec.ah_inbound import Opened, open_ah
from ipsecd.ipsec.ah_transport import part_of
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.mtu import ah_bytes
from ipsecd.ipsec.sad import Pair
from ipsecd.ipsec.transport import Part
from ipsecd.sa import Endpoint, Path
from ipsecd.suites import AhSuite
from tests.support import ah_packets as a
from tests.support import esp_packets as p

SPI_IN, SPI_OUT = 0x1000, 0x2000
PATHS = {4: a.PATH_V4, 6: a.PATH_V6}
NO_GMAC = [suite for suite in a.SUITES if not suite.integ.iv_bytes]       # which scapy lacks
ROUTER_ALERT, CIPSO = bytes((148, 4, 0, 0)), bytes((134, 6, 0, 0, 0, 1))
RECORD_ROUTE, UNCHANGED_BY_ROUTERS = bytes((7, 7, 4)) + bytes(4), bytes((1,)) * 7
STAYS, CHANGES = bytes((0x1E, 4)) + b"same", bytes((0x3E, 4)) + b"next"    # RFC 8200 4.2: the third-highest bit
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60


def v4(options: bytes = b"", *, tos: int = 0, fragment: int = 0x4000, turned: bool = False) -> bytes:
    ends = [end.address for end in a.PATH_V4]
    return p.ipv4(*(ends[::-1] if turned else ends), options=options + bytes(-len(options) % 4), tos=tos,
                  fragment=fragment)


def v6(*chain: tuple[int, bytes], tos: int = 0, turned: bool = False) -> bytes:
    """A packet with these extension headers: kind, and what is behind its length."""
    ends, payload, following = [end.address for end in a.PATH_V6], p.udp(), 17
    for kind, data in reversed(chain):
        words = (len(data) + 9) // 8
        payload, following = bytes((following, words - 1)) + data.ljust(words * 8 - 2, b"\0") + payload, kind
    return p.ipv6(*(ends[::-1] if turned else ends), following, payload, tos=tos)


# Of each packet, where AH begins, and what names it there.
PACKETS = [(v4(), 20, 9), (v4(tos=0xBA), 20, 9), (v4(ROUTER_ALERT + CIPSO), 32, 9), (v4(CIPSO + RECORD_ROUTE), 36, 9),
           (v6(), 40, 6), (v6((HOP_BY_HOP, STAYS + CHANGES)), 56, 40), (v6((DESTINATION, STAYS)), 40, 6),
           (v6((HOP_BY_HOP, STAYS), (DESTINATION, CHANGES), tos=0xB8), 48, 40),
           (v6((HOP_BY_HOP, CHANGES), (DESTINATION, STAYS), (ROUTING, bytes(6)), (DESTINATION, STAYS)), 64, 56)]


@pytest.mark.parametrize(("packet", "at", "named_at"), PACKETS)
@pytest.mark.parametrize("suite", NO_GMAC, ids=str)
def test_our_packet_verifies_in_scapy_and_is_the_same_without_ah(suite: AhSuite, packet: bytes, at: int,
                                                                named_at: int) -> None:
    version, sequence = packet[0] >> 4, (5 << 32 if suite.esn else 0) + 7
    plane, pair = installed(suite, PATHS[version])
    pair.sequence = sequence - 1
    sealed = plane.seal(pair, packet, 1.0)
    assert isinstance(sealed, bytes)
    size = ah_bytes(suite.integ, version)
    assert (sealed[named_at], sealed[at], len(sealed)) == (51, packet[named_at], len(packet) + size)
    assert sealed[at + size:] == packet[at:]
    assert a.opened_part(suite, a.spec(suite, SPI_OUT), sealed, sequence) == packet
    assert plane.sad.by_spi[SPI_IN].outward.bytes == len(packet) - at


@pytest.mark.parametrize(("packet", "delivered"), [
    (v4(turned=True, tos=0xBA), None), (v4(ROUTER_ALERT + CIPSO, turned=True), None),
    (v4(CIPSO + RECORD_ROUTE, turned=True), v4(CIPSO + UNCHANGED_BY_ROUTERS, turned=True)), (v6(turned=True), None),
    (v6((HOP_BY_HOP, STAYS), (DESTINATION, STAYS), turned=True, tos=0xB9), None),
    (v6((HOP_BY_HOP, STAYS + CHANGES), turned=True),
     v6((HOP_BY_HOP, STAYS + CHANGES[:2] + bytes(4)), turned=True)),
    (v6((DESTINATION, STAYS), (ROUTING, bytes(6)), (DESTINATION, CHANGES), turned=True), None)])
@pytest.mark.parametrize("suite", NO_GMAC, ids=str)
def test_packet_of_scapy_is_delivered_with_what_was_verified(suite: AhSuite, packet: bytes,
                                                             delivered: bytes | None) -> None:
    path = PATHS[packet[0] >> 4]
    plane, _ = installed(suite, path)
    made = bytearray(a.sealed_part(suite, a.spec(suite, SPI_IN), packet, 1))
    made[8 if packet[0] < 0x60 else 7] = 3         # hops that are left; nobody vouches for them
    opened = open_ah(plane, bytes(made), path, 1.0)
    assert isinstance(opened, Opened), opened
    assert opened.packet == (delivered or packet)
    assert plane.drops == {}


@pytest.mark.parametrize("suite", a.SUITES, ids=str)
@pytest.mark.parametrize("packet", [v4(ROUTER_ALERT), v6((HOP_BY_HOP, STAYS))])
def test_every_suite_carries_both_families_and_notices_each_change(suite: AhSuite, packet: bytes) -> None:
    path = PATHS[packet[0] >> 4]
    (near, pair), (far, _) = installed(suite, path), installed(suite, path, mirror=True, window=0)
    sealed = near.seal(pair, packet, 1.0)
    assert isinstance(sealed, bytes)
    back = Path(path.remote, path.local)
    assert open_ah(far, sealed, back, 1.0) == Opened(far.sad.by_spi[SPI_OUT], packet)
    mutable = {1, 8, 10, 11} if packet[0] < 0x60 else {0, 1, 2, 3, 7}
    for at in range(len(sealed)):
        changed = bytes((*sealed[:at], sealed[at] ^ 1, *sealed[at + 1:]))
        good = isinstance(open_ah(far, changed, back, 1.0), Opened)
        # Changed bits of flags or offset make a fragment; the lowest of the first byte is the header's length, or in
        # IPv6 of the traffic class.
        assert good == (at in mutable), at


@pytest.mark.parametrize(("packet", "reason"), [
    (v4(fragment=0x2000), DropReason.OUTBOUND_FRAGMENT), (v4(fragment=5), DropReason.OUTBOUND_FRAGMENT),
    (v4(bytes((1, 131, 3, 4))), DropReason.TRANSPORT_OPTIONS), (v4(bytes((137, 3, 4))), DropReason.TRANSPORT_OPTIONS),
    (v4(bytes((7, 0, 137, 0))), DropReason.TRANSPORT_OPTIONS), (v4(bytes((7,))), DropReason.SEND_FAILED),
    (v6((ROUTING, bytes((0, 1)) + bytes(4))), DropReason.TRANSPORT_OPTIONS),
    (v6((DESTINATION, STAYS), (FRAGMENT, bytes((0, 1, 0, 0, 0, 9)))), DropReason.OUTBOUND_FRAGMENT),
    (v6((HOP_BY_HOP, bytes((5, 9)))), DropReason.SEND_FAILED)])
def test_what_ah_cannot_carry_is_dropped_with_its_reason(packet: bytes, reason: DropReason) -> None:
    plane, pair = installed(a.suite(), PATHS[packet[0] >> 4])
    assert plane.seal(pair, packet, 1.0) == reason
    assert pair.drops == {reason: 1}
    assert pair.outward.packets == (reason is DropReason.SEND_FAILED)     # it had its number


@pytest.mark.parametrize("version", [4, 6])
def test_pair_that_moved_writes_the_addresses_of_its_path_and_delivers_those_of_its_hosts(version: int) -> None:
    path, packet = PATHS[version], v4() if version == 4 else v6()
    address = {4: "192.0.2.99", 6: "2001:db8:a::99"}[version]
    moved = Path(Endpoint(address, 0), path.remote)
    (near, pair), (far, _) = installed(a.suite(), path), installed(a.suite(), path, mirror=True)
    near.update_path(SPI_IN, moved)
    sealed = near.seal(pair, packet, 1.0)
    assert isinstance(sealed, bytes)
    at = slice(12, 16) if version == 4 else slice(8, 24)
    assert sealed[at] != packet[at]
    opened = open_ah(far, sealed, Path(moved.remote, moved.local), 1.0)
    assert isinstance(opened, Opened)
    assert opened.packet == packet
    near.update_path(SPI_IN, PATHS[10 - version])  # a header of the one family cannot become one of the other
    assert near.seal(pair, packet, 1.0) is DropReason.SEND_FAILED


@pytest.mark.parametrize("inside", [HOP_BY_HOP, ROUTING, FRAGMENT])
def test_header_that_belongs_ahead_of_ah_is_refused_behind_it(inside: int) -> None:
    plane, pair = installed(a.suite(), a.PATH_V6)
    packet = v6(turned=True)
    made = Ah(a.suite(), a.spec(a.suite(), SPI_IN)).seal_part(
        packet, Part(inside, 40, len(packet), 6), Path(a.PATH_V6.remote, a.PATH_V6.local), 1)
    assert isinstance(made, bytes)
    assert open_ah(plane, made, a.PATH_V6, 1.0) is DropReason.AH_NEXT_HEADER
    assert pair.inward.packets == 1                # it was authentic


def test_outer_packet_of_the_other_family_makes_no_packet_of_the_hosts() -> None:
    plane, _ = installed(a.suite(), a.PATH_V4)
    packet = a.sealed_part(a.suite(), a.spec(a.suite(), SPI_IN), v6(turned=True), 1)
    assert open_ah(plane, packet, a.PATH_V6, 1.0) is DropReason.INNER_MALFORMED


def test_identification_is_kept_and_never_zero_so_that_the_kernel_leaves_it() -> None:
    plane, pair = installed(a.suite(), a.PATH_V4)
    for identification in (b"\0\7", b"\0\0"):
        packet = v4()
        packet = packet[:4] + identification + packet[6:]
        sealed = plane.seal(pair, packet, 1.0)
        assert isinstance(sealed, bytes)
        assert sealed[4:6] == (identification if any(identification) else pair.sequence.to_bytes(2, "big")[:1]
                               + bytes((pair.sequence + 1,)))


def test_bytes_behind_the_packet_stay_at_home() -> None:
    part = part_of(v4() + b"more")
    assert part == Part(17, 20, len(v4()), 9)
    plane, pair = installed(a.suite(), a.PATH_V4)
    sealed = plane.seal(pair, v4() + b"more", 1.0)
    assert isinstance(sealed, bytes)
    assert a.opened_part(a.suite(), a.spec(a.suite(), SPI_OUT), sealed, 1) == v4()


def installed(suite: AhSuite, path: Path, *, mirror: bool = False, window: int = 64) -> tuple[Dataplane, Pair]:
    pair = a.pair(suite, path=path, mirror=mirror, window=window, hosts=a.hosts_of(path))
    plane = Dataplane(p.SeededRng())
    plane.install_sa(pair)
    return plane, plane.sad.by_spi[pair.spi_in]
