"""Two data planes back to back: what one seals the other opens, for every suite and pair of families."""

from __future__ import annotations

import pytest

from ipsecd.drops import DropReason
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.reports import Acquire, FirstInbound
from ipsecd.ipsec.sad import Pair
from ipsecd.policy import Action, SpdEntry
from ipsecd.sa import Endpoint, Path, SaPair
from ipsecd.suites import EspSuite
from tests.support import esp_packets as p

DEVICE = "ipsec0"


@pytest.mark.parametrize("suite", p.SUITES, ids=str)
def test_packet_sealed_by_one_end_opens_at_the_other_with_every_suite(suite: EspSuite) -> None:
    a, b = _two_ends(p.pair(suite))
    for packet in (p.ipv4(), p.ipv6(), p.ipv4(payload=p.udp(data=bytes(1301))), p.ipv6(payload=p.udp(data=b""))):
        assert _carry(a, b, packet) == packet


@pytest.mark.parametrize("outside", [("192.0.2.1", "203.0.113.7"), ("2001:db8::1", "2001:db8::2")])
@pytest.mark.parametrize("packet", [p.ipv4(), p.ipv6()], ids=["inner4", "inner6"])
def test_every_pair_of_families_is_carried(outside: tuple[str, str], packet: bytes) -> None:
    path = Path(Endpoint(outside[0], 4500), Endpoint(outside[1], 4500))
    a, b = _two_ends(p.pair(path=path))
    assert _carry(a, b, packet) == packet


@pytest.mark.parametrize("length", range(20, 40))
def test_every_length_is_carried_whatever_the_padding(length: int) -> None:
    packet = p.ipv4(protocol=47, payload=bytes(length))
    for suite in (p.suite(), p.suite("aes128", "sha256")):
        a, b = _two_ends(p.pair(suite))
        assert _carry(a, b, packet) == packet


def test_first_packet_is_reported_once_and_counted_on_both_sides() -> None:
    a, b = _two_ends(p.pair())
    a.take_reports()
    for _ in range(3):
        _carry(a, b, p.ipv4())
    assert b.take_reports() == [FirstInbound(0x2000)]
    sent, received = a.sad.by_spi[0x1000].stats(), b.sad.by_spi[0x2000].stats()
    assert (sent.packets_out, sent.bytes_out, sent.last_out) == (3, 3 * len(p.ipv4()), 5.0)
    assert (received.packets_in, received.bytes_in, received.last_in) == (3, 3 * len(p.ipv4()), 5.0)


def test_held_packets_leave_in_order_when_the_child_moves() -> None:
    a = _plane(p.LOCAL, p.REMOTE)
    waiting = [p.ipv4(payload=p.udp(data=bytes([n]))) for n in range(3)]
    for packet in waiting:
        assert a.route(packet, DEVICE, 1.0) == p.CHILD
        a.hold(p.CHILD, DEVICE, packet, 1.0)
    assert a.take_reports() == [Acquire(p.CHILD, waiting[0])]
    a.install_sa(p.pair())
    assert a.use_outbound(p.CHILD, 0x1000, 2.0) == [(DEVICE, packet) for packet in waiting]
    assert a.drops == {}


def _two_ends(pair: SaPair) -> tuple[Dataplane, Dataplane]:
    a, b = _plane(p.LOCAL, p.REMOTE), _plane(p.REMOTE, p.LOCAL)
    a.install_sa(pair)
    a.use_outbound(p.CHILD, pair.spi_in, 0.0)
    b.install_sa(p.pair(pair.suite, mirror=True, path=pair.path))
    return a, b


def _plane(local: tuple[str, ...], remote: tuple[str, ...]) -> Dataplane:
    plane = Dataplane(p.SeededRng())
    plane.add_device(DEVICE, None)
    entry = SpdEntry("office", Action.PROTECT, p.selectors(local), p.selectors(remote), p.CHILD)
    plane.replace_policy([entry], {})
    return plane


def _carry(a: Dataplane, b: Dataplane, packet: bytes) -> bytes | DropReason:
    out = a.route(packet, DEVICE, 5.0)
    assert isinstance(out, Pair)
    sealed = a.seal(out, packet, 5.0)
    assert isinstance(sealed, bytes)
    arrived = Path(out.path.remote, out.path.local)
    return b.open(b.sad.by_spi[0x2000], sealed, 0, len(sealed), arrived, 0, 5.0)


def test_held_packets_of_a_removed_device_are_dropped_with_a_count() -> None:
    a = _plane(p.LOCAL, p.REMOTE)
    assert a.route(p.ipv4(), DEVICE, 1.0) == p.CHILD
    a.hold(p.CHILD, DEVICE, p.ipv4(), 1.0)
    a.install_sa(p.pair())
    a.remove_device(DEVICE)
    assert a.use_outbound(p.CHILD, 0x1000, 1.0) == []
    assert a.drops[DropReason.HELD_ABANDONED] == 1
