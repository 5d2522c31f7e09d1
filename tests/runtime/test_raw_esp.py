"""ESP without UDP in both engines: two of them back to back on loopback addresses of this process's own."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from ipsecd.drops import DropReason
from ipsecd.engine.raw_io import ESP_PROTOCOL
from ipsecd.sa import Endpoint, Path
from tests.runtime.engine_rig import A_SPI, B_SPI
from tests.runtime.raw_rig import ENGINES, NEEDS_ROOT, RawRig, engine_of, own_addresses, peeked, witness
from tests.support import esp_packets as p

pytestmark = NEEDS_ROOT
A, B, MOVED = own_addresses(100)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rig(engine: str) -> Iterator[RawRig]:
    rig = RawRig(engine, ESP_PROTOCOL, (A, B))
    yield rig
    rig.close()


def test_burst_of_mixed_sizes_arrives_whole_and_in_order(rig: RawRig) -> None:
    rig.connect(window=1024)
    sizes = [1300] * 70 + [50] * 30 + [1300, 40, 40, 900] * 10 + [30_000]
    burst = [p.ipv4(payload=p.udp(data=n.to_bytes(4, "big") + bytes(size))) for n, size in enumerate(sizes)]
    rig.a.send(*burst)
    assert rig.carried(rig.b, len(burst)) == burst
    assert rig.a.engine.stats().drops == rig.b.engine.stats().drops == {}


def test_outer_header_is_esp_with_df_and_the_inner_traffic_class(rig: RawRig) -> None:
    rig.connect()
    with witness(B, ESP_PROTOCOL) as wire:
        for tos in (0, 0xBA):
            rig.a.send(p.ipv4(tos=tos))
            rig.until(lambda: peeked(wire))
            packet = wire.recv(65535)
            assert (packet[9], packet[1], packet[6] & 0x40) == (ESP_PROTOCOL, tos, 0x40)
            assert packet[20:24] == B_SPI.to_bytes(4, "big")


def test_congestion_field_reaches_the_inner_packet(rig: RawRig) -> None:
    rig.connect()
    marked = [p.ipv4(tos=0xB8 | ecn) for ecn in (0, 1, 2, 3)]
    rig.a.send(*marked)
    assert rig.carried(rig.b, 4) == marked
    sealed = sealed_by(rig, p.ipv4(tos=2))
    with witness(A, ESP_PROTOCOL) as sock:                       # congestion on the way
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 3)
        sock.sendto(sealed, (B, 0))
        assert [packet[1] for packet in rig.carried(rig.b, 1)] == [3]


def test_one_sa_takes_both_forms_and_keeps_its_own(rig: RawRig) -> None:
    rig.connect()
    for way in (rig.udp, rig.path, rig.udp):
        rig.a.engine.update_path(A_SPI, way)
        rig.a.send(p.ipv4())
        rig.carried(rig.b, 1)
    rig.b.engine.update_path(B_SPI, Path(rig.udp.remote, rig.udp.local))
    rig.a.engine.update_path(A_SPI, rig.path)      # b sends in UDP, to a peer that keeps to raw ESP
    for _ in range(2):
        rig.a.send(p.ipv4())
        rig.b.send(p.ipv4("10.2.0.1", "10.1.0.1"))
        rig.carried(rig.b, 1)
        rig.carried(rig.a, 1)
    for side in (rig.a, rig.b):
        assert side.recorder.of("peer_address") == []
        assert side.engine.stats().drops == {}


def test_engine_follows_and_reports_a_peer_that_moved(rig: RawRig) -> None:
    rig.connect()
    sealed = sealed_by(rig, p.ipv4())
    with witness(MOVED, ESP_PROTOCOL) as moved:
        moved.sendto(sealed, (B, 0))
        rig.carried(rig.b, 1)
        told = rig.b.recorder.of("peer_address")
        assert told == [("peer_address", B_SPI, Path(Endpoint(B, 0), Endpoint(MOVED, 0)))]
        rig.b.send(p.ipv4("10.2.0.1", "10.1.0.1"))
        rig.until(lambda: peeked(moved))


def test_move_in_the_form_that_is_not_sent_is_not_followed(rig: RawRig) -> None:
    rig.connect()
    sealed = sealed_by(rig, p.ipv4())
    rig.b.engine.update_path(B_SPI, Path(rig.udp.remote, rig.udp.local))
    with witness(MOVED, ESP_PROTOCOL) as moved:
        moved.sendto(sealed, (B, 0))
        rig.carried(rig.b, 1)
    assert rig.b.recorder.of("peer_address") == []


def test_runts_and_unknown_spis_are_counted_and_never_taken_for_ike(rig: RawRig) -> None:
    with witness(MOVED, ESP_PROTOCOL) as stranger:
        for length in range(4):
            stranger.sendto(bytes(length), (B, 0))
        stranger.sendto(bytes(40), (B, 0))         # an SPI of zero is no marker here
        stranger.sendto((0x7777).to_bytes(4, "big") + bytes(36), (B, 0))
        rig.until(lambda: sum(rig.b.engine.stats().drops.values()) == 6)
    assert rig.b.engine.stats().drops == {DropReason.ESP_SHORT: 4, DropReason.ESP_UNKNOWN_SPI: 2}
    path = Path(Endpoint(B, 0), Endpoint(MOVED, 0))
    assert rig.b.recorder.told == [("unknown", path, 0), ("unknown", path, 0x7777)]


def test_arbitrary_bytes_end_as_drops_and_leave_the_sa_working(rig: RawRig) -> None:
    rig.connect()
    chance = p.SeededRng(7)
    with witness(MOVED, ESP_PROTOCOL) as stranger:
        for n in range(200):
            stranger.sendto(B_SPI.to_bytes(4, "big") + chance.random_bytes(n), (B, 0))
        rig.until(lambda: sum(rig.b.engine.stats().drops.values()) == 200)
    assert sum(rig.b.engine.stats().pair_drops[B_SPI].values()) == 200
    rig.a.send(p.ipv4())
    assert rig.carried(rig.b, 1) == [p.ipv4()]


def test_esp_that_came_ahead_of_its_sa_is_delivered_once_it_stands_in_either_form(rig: RawRig) -> None:
    rig.a.engine.install_sa(p.pair(path=rig.path))
    rig.a.engine.use_outbound(p.CHILD, A_SPI)
    for way in (rig.path, rig.udp):
        rig.a.engine.update_path(A_SPI, way)
        rig.a.send(p.ipv4())
    rig.until(lambda: rig.drops(rig.b, DropReason.ESP_UNKNOWN_SPI) == 2)
    rig.b.engine.install_sa(p.pair(path=rig.path, mirror=True))
    assert rig.carried(rig.b, 2) == [p.ipv4()] * 2
    assert rig.b.engine.stats().drops == {DropReason.ESP_UNKNOWN_SPI: 2}


def test_own_esp_in_the_tun_is_a_loop(rig: RawRig) -> None:
    rig.connect(local=p.selectors(("0.0.0.0/0",)), remote=p.selectors(("0.0.0.0/0",)))
    rig.a.send(p.ipv4(A, B, protocol=ESP_PROTOCOL, payload=sealed_by(rig, p.ipv4())))
    rig.until(lambda: rig.drops(rig.a, DropReason.TUN_LOOPED) == 1)


def test_raw_socket_comes_and_goes_beside_that_of_udp(rig: RawRig) -> None:
    rig.connect()
    engine = engine_of(rig.a)
    assert engine.remove_socket(A, ESP_PROTOCOL) is rig.raw_sockets[0]
    assert engine.remove_socket(A, ESP_PROTOCOL) is None
    rig.a.send(p.ipv4())
    rig.until(lambda: rig.drops(rig.a, DropReason.SEND_FAILED) == 1)
    engine.update_path(A_SPI, rig.udp)
    rig.a.send(p.ipv4())
    rig.carried(rig.b, 1)
    engine.add_socket(A, rig.raw_sockets[0])
    engine.update_path(A_SPI, rig.path)
    rig.a.send(p.ipv4())
    assert rig.carried(rig.b, 1) == [p.ipv4()]
    assert {f"udp_{A}", f"esp_{A}"} <= set(rig.a.engine.stats().overflows)


def test_traffic_class_passes_over_ipv6(engine: str) -> None:
    rig = RawRig(engine, ESP_PROTOCOL, ("::1", "::1"))           # the one address of loopback: both hear both
    try:
        rig.connect()
        sent = [p.ipv6(tos=0xB8 | ecn) for ecn in (0, 1, 2, 3)] + [p.ipv4(payload=p.udp(data=bytes(1300)))]
        rig.a.send(*sent)
        assert rig.carried(rig.b, len(sent)) == sent
        assert rig.b.engine.stats().drops == {}
    finally:
        rig.close()


def sealed_by(rig: RawRig, packet: bytes) -> bytes:
    """Have a seal a packet for b, and keep it from b."""
    with witness(MOVED, ESP_PROTOCOL) as catcher:
        rig.a.engine.update_path(A_SPI, Path(rig.path.local, Endpoint(MOVED, 0)))
        rig.a.send(packet)
        rig.until(lambda: peeked(catcher))
        rig.a.engine.update_path(A_SPI, rig.path)
        sealed = catcher.recv(65535)[20:]
        assert struct.unpack_from(">I", sealed)[0] == B_SPI
        return sealed
