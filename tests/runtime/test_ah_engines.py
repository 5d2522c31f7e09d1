"""AH (protocol 51) in both engines: two of them back to back on loopback addresses of this process's own."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from ipsecd.drops import DropReason
from ipsecd.ipsec.ah import Ah
from ipsecd.ipsec.ip import AH
from ipsecd.sa import Endpoint, Path
from ipsecd.suites import AhSuite
from tests.runtime.engine_rig import A_SPI, B_SPI
from tests.runtime.raw_rig import ENGINES, NEEDS_ROOT, RawRig, engine_of, own_addresses, peeked, witness
from tests.support import ah_packets as a
from tests.support import esp_packets as p

pytestmark = NEEDS_ROOT
A, B, OTHER = own_addresses(200)
ROUTER_ALERT, PADDING = bytes((148, 4, 0, 0)), bytes((1, 4, 0, 0, 0, 0))     # RFC 2113, RFC 8200 4.2


class AhRig(RawRig):
    """The pairs are of AH."""

    def __init__(self, engine: str, addresses: tuple[str, str]) -> None:
        super().__init__(engine, AH, addresses)

    def install(self, **options: Any) -> None:
        self.a.engine.install_sa(a.pair(path=self.path, **options))
        self.b.engine.install_sa(a.pair(path=self.path, mirror=True, **options))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rig(engine: str) -> Iterator[AhRig]:
    rig = AhRig(engine, (A, B))
    yield rig
    rig.close()


@pytest.fixture
def rig_v6(engine: str) -> Iterator[AhRig]:
    rig = AhRig(engine, ("::1", "::1"))            # the one address of loopback: both hear both
    yield rig
    rig.close()


@pytest.mark.parametrize("suite", a.SUITES, ids=str)
def test_packets_of_both_families_pass_both_ways_with_every_suite(rig: AhRig, suite: AhSuite) -> None:
    rig.connect(chosen=suite)
    there = [p.ipv4(tos=0xB8 | ecn) for ecn in (0, 1, 2, 3)] + [p.ipv6(), p.ipv4(payload=p.udp(data=bytes(1300)))]
    back = [p.ipv4("10.2.0.1", "10.1.0.1"), p.ipv6("2001:db8:2::1", "2001:db8:1::1")]
    rig.a.send(*there)
    rig.b.send(*back)
    assert rig.carried(rig.b, len(there)) == there
    assert rig.carried(rig.a, 2) == back
    assert rig.a.engine.stats().drops == rig.b.engine.stats().drops == {}
    received = rig.b.engine.stats().pairs[B_SPI]
    assert (received.packets_in, received.bytes_in) == (len(there), sum(map(len, there)))


def test_outer_packet_verifies_in_scapy_as_it_is_on_the_wire(rig: AhRig) -> None:
    rig.connect(chosen=a.suite("sha512", esn=True))
    for tos in (0, 0xBA):
        packet = sealed_by(rig, p.ipv4(tos=tos))
        assert (packet[1], packet[6], packet[9]) == (tos, 0x40, AH)
        assert p.checksum(packet[:20]) == 0
        sequence, = struct.unpack_from(">I", packet, 28)
        spec = a.spec(a.suite("sha512", esn=True), B_SPI)
        assert a.opened(a.suite("sha512", esn=True), spec, packet, sequence) == p.ipv4(tos=tos)


def test_congestion_on_the_way_reaches_the_inner_packet_and_spoils_no_icv(rig: AhRig) -> None:
    rig.connect()
    packet = bytearray(sealed_by(rig, p.ipv4(tos=2)))
    packet[1], packet[8] = 3, 1
    with witness(OTHER, AH) as way:
        way.sendto(packet, (B, 0))
        assert [inner[1] for inner in rig.carried(rig.b, 1)] == [3]


def test_each_wrong_packet_ends_in_its_reason_and_the_sa_goes_on(rig: AhRig) -> None:
    rig.connect(window=64)
    good = sealed_by(rig, p.ipv4())
    unknown = good[:24] + (0x7777).to_bytes(4, "big") + good[28:]
    cases = [(good, None), (good, DropReason.AH_REPLAYED), (good[:-1] + b"\xff", DropReason.AH_REPLAYED),
             (later(good, 2), DropReason.AH_BAD_ICV), (unknown, DropReason.AH_UNKNOWN_SPI),
             (resized(good[:30]), DropReason.AH_SHORT), (good[:21] + b"\x09" + good[22:], DropReason.AH_MALFORMED),
             (from_b_peer(b"\x45" + bytes(3), 2, path=rig.path), DropReason.INNER_MALFORMED),
             (from_b_peer(p.ipv4("10.9.0.1", "10.2.0.1"), 3, path=rig.path), DropReason.INNER_SELECTOR),
             (from_b_peer(p.ipv4(), 300, path=rig.path), None), (from_b_peer(p.ipv4(), 100, path=rig.path),
                                                                  DropReason.AH_TOO_OLD)]
    with witness(OTHER, AH) as way:
        for packet, reason in cases:
            before = {reason: rig.drops(rig.b, reason)} if reason else {}
            way.sendto(packet, (B, 0))
            if reason is None:
                assert rig.carried(rig.b, 1) == [p.ipv4()]
            else:
                rig.until(lambda r=reason, then=before: rig.drops(rig.b, r) == then[r] + 1)
    assert rig.b.received() == []
    assert rig.b.recorder.of("unknown") == [("unknown", Path(Endpoint(B, 0), Endpoint(A, 0)), 0x7777)]


def test_esp_with_the_spi_of_an_ah_pair_is_unknown_and_the_other_way_round(rig: AhRig) -> None:
    rig.connect()
    rig.b.engine.install_sa(p.pair(spi_in=0x5000, spi_out=0x6000, path=Path(rig.path.remote, rig.path.local)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, witness(OTHER, AH) as way:
        udp.sendto(B_SPI.to_bytes(4, "big") + bytes(60), tuple(rig.b.endpoint))
        rig.until(lambda: rig.drops(rig.b, DropReason.ESP_UNKNOWN_SPI) == 1)
        good = sealed_by(rig, p.ipv4())
        way.sendto(good[:24] + (0x5000).to_bytes(4, "big") + good[28:], (B, 0))
        rig.until(lambda: rig.drops(rig.b, DropReason.AH_UNKNOWN_SPI) == 1)


def test_options_that_no_sender_of_ours_makes_are_verified(rig: AhRig) -> None:
    rig.connect(chosen=a.suite("sha384"))
    header = a.IP(src=A, dst=B, options=[a.IPOption_Router_Alert(), a.IPOption_RR(routers=["192.0.2.1"])])
    packet = a.sealed(a.suite("sha384"), a.spec(a.suite("sha384"), B_SPI), header, p.ipv4(), 1)
    with witness(OTHER, AH) as way:
        way.sendto(packet, (B, 0))
        assert rig.carried(rig.b, 1) == [p.ipv4()]


def test_two_hosts_have_their_packets_with_their_options_around_ah(rig: AhRig) -> None:
    rig.connect(chosen=a.suite("sha384", esn=True), hosts=("10.1.0.1", "10.2.0.1"))
    there = [p.ipv4(tos=0xBA), p.ipv4(options=ROUTER_ALERT), p.ipv4(payload=p.udp(data=bytes(1300)))]
    rig.a.send(*there)
    rig.b.send(p.ipv4("10.2.0.1", "10.1.0.1"))
    assert rig.carried(rig.b, len(there)) == there
    assert rig.carried(rig.a, 1) == [p.ipv4("10.2.0.1", "10.1.0.1")]
    rig.a.send(p.ipv4("10.1.0.9"), p.ipv4(fragment=0x2000), p.ipv4(options=bytes((131, 3, 4, 0))))
    rig.until(lambda: len(rig.a.engine.stats().drops) == 3)
    assert rig.a.engine.stats().drops == {DropReason.OUTSIDE_NEGOTIATED: 1, DropReason.OUTBOUND_FRAGMENT: 1,
                                          DropReason.TRANSPORT_OPTIONS: 1}
    packet = sealed_by(rig, p.ipv4(options=ROUTER_ALERT))
    assert (packet[9], packet[20:24], packet[24], packet[60:]) == (AH, ROUTER_ALERT, 17, p.ipv4()[20:])
    with witness(OTHER, AH) as way:                    # whoever holds the keys is heard as the peer, from wherever
        way.sendto(packet[:24] + b"\x2b" + packet[25:], (B, 0))
        rig.until(lambda: rig.drops(rig.b, DropReason.AH_BAD_ICV) == 1)
        way.sendto(packet, (B, 0))
        assert rig.carried(rig.b, 1) == [p.ipv4(options=ROUTER_ALERT)]


def test_two_hosts_have_their_ipv6_extension_headers_on_each_side_of_ah(rig_v6: AhRig) -> None:
    rig_v6.connect(hosts=("2001:db8:1::1", "2001:db8:2::1"))
    behind = p.ipv6(following=60, payload=bytes((17, 0)) + PADDING + p.udp())
    ahead = p.ipv6(following=0, payload=bytes((60, 0)) + PADDING + bytes((17, 0)) + PADDING + p.udp(), tos=0xB9)
    sent = [p.ipv6(tos=3), behind, ahead]
    rig_v6.a.send(*sent)
    assert rig_v6.carried(rig_v6.b, len(sent)) == sent
    assert rig_v6.b.engine.stats().pair_drops[B_SPI] == {}


@pytest.mark.parametrize("suite", a.SUITES[::2], ids=str)
def test_ipv6_outside_carries_every_suite_and_the_traffic_class(rig_v6: AhRig, suite: AhSuite) -> None:
    rig_v6.connect(chosen=suite)
    sent = [p.ipv6(tos=0xB8 | ecn) for ecn in (0, 1, 2, 3)] + [p.ipv4(payload=p.udp(data=bytes(1300)))]
    rig_v6.a.send(*sent)
    assert rig_v6.carried(rig_v6.b, len(sent)) == sent
    assert rig_v6.b.engine.stats().pair_drops[B_SPI] == {}


def test_ipv6_extension_headers_ahead_of_ah_are_verified(rig_v6: AhRig) -> None:
    rig_v6.connect()
    options = [a.HBHOptUnknown(otype=kind, optlen=len(data), optdata=data)
               for kind, data in ((0x3E, b"may change"), (0x1E, b"stays"))]
    header = a.IPv6(src="::1", dst="::1") / a.IPv6ExtHdrHopByHop(options=options) / a.IPv6ExtHdrDestOpt(options=options)
    spec = a.spec(a.suite(), B_SPI)
    inner = p.ipv6()
    packet = bytearray(a.sealed_ahead(a.suite(), spec, header, inner, 1))
    changed = packet.replace(b"may change", b"changed it")
    broken = packet.replace(b"stays", b"stayz")
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as way:
        way.sendto(broken, ("::1", 0))
        rig_v6.until(lambda: rig_v6.b.engine.stats().pair_drops[B_SPI] == {DropReason.AH_BAD_ICV: 1})
        way.sendto(changed, ("::1", 0))
        assert rig_v6.carried(rig_v6.b, 1) == [inner]


def test_arbitrary_bytes_end_as_drops_and_leave_the_sa_working(rig: AhRig) -> None:
    rig.connect()
    chance = p.SeededRng(7)
    with witness(OTHER, AH) as stranger:
        for n in range(200):
            head = bytes([4, 5, 0, 0]) + B_SPI.to_bytes(4, "big")
            stranger.sendto(p.ipv4(OTHER, B, AH, (head + chance.random_bytes(n))[:n]), (B, 0))
        rig.until(lambda: sum(rig.b.engine.stats().drops.values()) == 200)
    rig.a.send(p.ipv4())
    assert rig.carried(rig.b, 1) == [p.ipv4()]


def test_ah_that_came_ahead_of_its_sa_is_delivered_once_it_stands(rig: AhRig) -> None:
    rig.a.engine.install_sa(a.pair(path=rig.path))
    rig.a.engine.use_outbound(p.CHILD, A_SPI)
    rig.a.send(p.ipv4(), p.ipv6())
    rig.until(lambda: rig.drops(rig.b, DropReason.AH_UNKNOWN_SPI) == 2)
    rig.b.engine.install_sa(a.pair(path=rig.path, mirror=True))
    assert rig.carried(rig.b, 2) == [p.ipv4(), p.ipv6()]


def test_own_ah_in_the_tun_is_a_loop(rig: AhRig) -> None:
    rig.connect()
    rig.a.send(sealed_by(rig, p.ipv4()))
    rig.until(lambda: rig.drops(rig.a, DropReason.TUN_LOOPED) == 1)


def test_socket_that_is_gone_is_a_failed_send(rig: AhRig) -> None:
    rig.connect()
    assert engine_of(rig.a).remove_socket(A, AH) is rig.raw_sockets[0]
    rig.a.send(p.ipv4())
    rig.until(lambda: rig.drops(rig.a, DropReason.SEND_FAILED) == 1)


def sealed_by(rig: AhRig, packet: bytes) -> bytes:
    """Have a seal a packet for b, and keep it from b, whose socket is away meanwhile."""
    sock = engine_of(rig.b).remove_socket(B, AH)
    assert sock is not None
    with witness(B, AH) as catcher:
        rig.a.send(packet)
        rig.until(lambda: peeked(catcher))
        sealed = catcher.recv(65535)
    sock.recv(65535)
    engine_of(rig.b).add_socket(B, sock)
    return sealed


def from_b_peer(inner: bytes, sequence: int, *, path: Path) -> bytes:
    return Ah(a.suite(), a.spec(a.suite(), B_SPI)).seal(inner, path, sequence)


def later(packet: bytes, by: int) -> bytes:
    sequence, = struct.unpack_from(">I", packet, 28)
    return packet[:28] + struct.pack(">I", sequence + by) + packet[32:]


def resized(packet: bytes) -> bytes:
    return packet[:2] + len(packet).to_bytes(2, "big") + packet[4:]
