"""Outbound packets: the SPD's verdict, the choice of the SA, holding, limits (RFC 4301 4.4.1, 5.1, 7)."""

from __future__ import annotations

import pytest

from ipsecd.drops import DropReason
from ipsecd.ipsec import ip
from ipsecd.ipsec.dataplane import ACQUIRE_BYTES, MAX_FLOWS, Dataplane
from ipsecd.ipsec.lifetime import LAST_EXTENDED_SEQUENCE, LAST_SEQUENCE, SOFT_SEQUENCE
from ipsecd.ipsec.reports import Acquire, HardLifetime, SoftLifetime
from ipsecd.ipsec.sad import Pair
from ipsecd.ipsec.slots import Slots, Slotted
from ipsecd.ipsec.spd import outbound_flow
from ipsecd.policy import Action, SpdEntry
from ipsecd.sa import ChildKey, SaPair, Volume
from ipsecd.selectors import ANY_PORTS
from tests.support import esp_packets as p

VOICE = ChildKey("hq", "voice")
OUT4 = p.ipv4()


def entry(action: str = "protect", child: ChildKey = p.CHILD, *, local: tuple[str, ...] = p.LOCAL,
          remote: tuple[str, ...] = p.REMOTE, protocol: int = 0, ports: tuple[int, int] = ANY_PORTS,
          interface: str | None = None) -> SpdEntry:
    return SpdEntry("e", Action(action), p.selectors(local, protocol), p.selectors(remote, protocol, ports),
                    child if action == "protect" else None, interface)


def plane_of(*entries: SpdEntry, pairs: tuple[SaPair, ...] = ()) -> Dataplane:
    plane = Dataplane(p.SeededRng())
    plane.add_device("ipsec0", None)
    plane.add_device("ipsec1", "lan1")
    plane.replace_policy(entries, {})
    for pair in pairs:
        plane.install_sa(pair)
        plane.use_outbound(pair.child, pair.spi_in, 0.0)
    return plane


def verdict(plane: Dataplane, packet: bytes = OUT4, device: str = "ipsec0") -> int | ChildKey | DropReason:
    found = plane.route(packet, device, 1.0)
    return found.spi_in if isinstance(found, Pair) else found


@pytest.mark.parametrize("protocol", [0, 17])
def test_first_match_wins_over_a_later_more_specific_entry(protocol: int) -> None:      # SP-01
    wide, narrow = entry("discard"), entry(remote=("10.2.0.1/32",), protocol=protocol)
    assert verdict(plane_of(wide, narrow)) is DropReason.SPD_DISCARD
    assert verdict(plane_of(narrow, wide)) == p.CHILD


@pytest.mark.parametrize("packet", [p.ipv4("10.9.0.1"), p.ipv4(destination="10.9.0.1"), p.ipv6("2001:db8:9::1")])
def test_packet_that_nothing_selects_is_dropped_and_counted(packet: bytes) -> None:     # SP-03
    plane = plane_of(entry())
    assert verdict(plane, packet) is DropReason.SPD_NO_MATCH
    assert plane.drops == {DropReason.SPD_NO_MATCH: 1}


def test_bypass_packet_in_the_tun_is_dropped_not_encrypted() -> None:
    assert verdict(plane_of(entry("bypass"), entry(), pairs=(p.pair(),))) is DropReason.SPD_BYPASS_IN_TUN


def test_icmp_type_and_code_are_selectors() -> None:                                    # SP-01
    plane = plane_of(entry("discard", protocol=1, ports=(8 << 8, 8 << 8 | 255)), entry())
    assert verdict(plane, p.ipv4(protocol=1, payload=p.icmp(8))) is DropReason.SPD_DISCARD
    assert verdict(plane, p.ipv4(protocol=1, payload=p.icmp(0))) == p.CHILD


def test_children_that_differ_in_ports_get_their_own_sa() -> None:                      # SP-12
    voice = p.pair(spi_in=0x1111, spi_out=0x2222, child=VOICE, remote=p.selectors(p.REMOTE, 17, (5060, 5061)),
                   local=p.selectors(p.LOCAL, 17))
    plane = plane_of(entry(child=VOICE, protocol=17, ports=(5060, 5061)), entry(), pairs=(voice, p.pair()))
    assert verdict(plane) == 0x1111
    assert verdict(plane, p.ipv4(payload=p.udp(1234, 5062))) == 0x1000


def test_device_is_a_selector() -> None:
    plane = plane_of(entry(child=VOICE, interface="lan1"), entry())
    assert verdict(plane, device="ipsec0") == p.CHILD
    assert verdict(plane, device="ipsec1") == VOICE


def test_cached_flow_follows_a_replaced_policy_at_once() -> None:                       # SP-06
    plane = plane_of(entry(), pairs=(p.pair(),))
    assert verdict(plane) == verdict(plane) == 0x1000
    for entries, expected in (([entry("discard")], DropReason.SPD_DISCARD), ([], DropReason.SPD_NO_MATCH),
                              ([entry()], 0x1000)):
        plane.replace_policy(entries, {})
        assert verdict(plane) == expected


def test_cached_flow_follows_a_removed_and_a_new_pair_at_once() -> None:
    plane = plane_of(entry(), pairs=(p.pair(),))
    assert verdict(plane) == 0x1000
    plane.install_sa(p.pair(spi_in=0x1001, spi_out=0x2001))
    assert verdict(plane) == 0x1000
    plane.use_outbound(p.CHILD, 0x1001, 1.0)
    assert verdict(plane) == 0x1001
    plane.remove_sa(0x1001)
    assert verdict(plane) == p.CHILD


def test_flow_cache_is_bounded() -> None:
    plane = plane_of(entry(), pairs=(p.pair(),))
    for n in range(MAX_FLOWS + 10):
        assert verdict(plane, p.ipv4(payload=p.udp(n % 65536, n >> 16))) == 0x1000
    assert max(len(flows) for flows in plane.flows.values()) <= MAX_FLOWS


def test_pair_of_a_flow_is_found_without_a_look_at_all_others() -> None:
    def of_remote(number: int) -> SaPair:
        network = (f"10.2.{number}.0/24",)
        return p.pair(spi_in=0x1000 + number, spi_out=0x2000 + number, slot=number, remote=p.selectors(network))

    def packet(number: int) -> bytes:
        return p.ipv4(destination=f"10.2.{number}.1")
    plane = plane_of(entry(), pairs=tuple(map(of_remote, reversed(range(200)))))
    slots: Slots[Slotted] = Slots()
    for number in reversed(range(200)):
        slots.set(Pair(of_remote(number), p.SeededRng(), 0))
    for number in range(200):
        headers = ip.parse(packet(number))
        assert isinstance(headers, ip.Headers)
        assert [pair.slot for pair in slots.candidates(outbound_flow(headers))] == [number]
        assert verdict(plane, packet(number)) == 0x1000 + number
    plane.remove_sa(0x1000 + 77)
    assert verdict(plane, packet(77)) is DropReason.OUTSIDE_NEGOTIATED
    plane.install_sa(of_remote(77))
    plane.use_outbound(p.CHILD, 0x1000 + 77, 1.0)
    assert verdict(plane, packet(77)) == 0x1000 + 77


def test_slots_are_tried_in_order_and_the_first_that_selects_carries() -> None:
    first = p.pair(remote=p.selectors(("10.2.1.0/24",)))
    second = p.pair(spi_in=0x1001, spi_out=0x2001, slot=1, remote=p.selectors(("10.2.0.0/16",)))
    plane = plane_of(entry(), pairs=(second, first))
    assert verdict(plane, p.ipv4(destination="10.2.1.1")) == 0x1000
    assert verdict(plane, p.ipv4(destination="10.2.2.1")) == 0x1001


def test_packet_narrowed_away_is_dropped_and_asks_for_its_own_pair() -> None:
    plane = plane_of(entry(), pairs=(p.pair(remote=p.selectors(("10.2.1.0/24",))),))
    assert verdict(plane) is verdict(plane) is DropReason.OUTSIDE_NEGOTIATED
    assert plane.take_reports() == [Acquire(p.CHILD, OUT4[:ACQUIRE_BYTES])]


def test_use_of_a_pair_that_is_not_installed_changes_nothing() -> None:
    plane = plane_of(entry(), pairs=(p.pair(),))
    assert plane.use_outbound(p.CHILD, 0x9999, 0.0) == plane.use_outbound(VOICE, 0x1000, 0.0) == []
    assert verdict(plane) == 0x1000


def test_later_fragment_skips_entries_with_ports_and_is_dropped_where_only_they_remain() -> None:   # FG-02, FG-05
    later = p.ipv4(fragment=0x0010)
    with_ports = entry(child=VOICE, protocol=17, ports=(5060, 5061))
    assert verdict(plane_of(with_ports, entry()), later) == p.CHILD
    assert verdict(plane_of(with_ports), later) is DropReason.OUTBOUND_FRAGMENT
    voice = p.pair(remote=p.selectors(p.REMOTE, 17, (5060, 5061)), local=p.selectors(p.LOCAL, 17))
    assert verdict(plane_of(entry(), pairs=(voice,)), later) is DropReason.OUTBOUND_FRAGMENT


@pytest.mark.parametrize("packet", [b"", b"\x45", OUT4[:19], b"\x50" + OUT4[1:], p.ipv4(total=999), p.ipv6()[:39]])
def test_malformed_packets_from_the_tun_are_counted(packet: bytes) -> None:
    assert verdict(plane_of(entry()), packet) is DropReason.TUN_MALFORMED


def test_own_ike_and_esp_are_loops_and_others_are_not() -> None:
    plane = plane_of(entry(local=("0.0.0.0/0",), remote=("0.0.0.0/0",)))
    plane.set_own_addresses(frozenset({(4, 0x0A010001)}))
    for payload in (p.udp(500, 500), p.udp(4500, 40000), p.udp(40000, 4500)):
        assert verdict(plane, p.ipv4(payload=payload)) is DropReason.TUN_LOOPED
        assert verdict(plane, p.ipv4("10.1.0.2", payload=payload)) == p.CHILD
    assert verdict(plane, p.ipv4(protocol=50)) is DropReason.TUN_LOOPED
    assert verdict(plane, p.ipv4()) == p.CHILD


def test_icmp_error_travels_on_the_sa_of_the_packet_it_is_about() -> None:              # IC-06
    plane = plane_of(entry(), pairs=(p.pair(),))
    about = p.ipv4("10.2.0.1", "10.1.0.1")[:28]
    assert verdict(plane, p.ipv4("172.16.0.1", "10.2.0.1", 1, p.icmp(3, 4, about))) == 0x1000
    for other in (p.ipv4("172.16.0.1", "10.2.0.9", 1, p.icmp(3, 4, about)),
                  p.ipv4("172.16.0.1", "10.2.0.1", 1, p.icmp(8, 0, about)),
                  p.ipv4("172.16.0.1", "10.2.0.1", 1, p.icmp(3, 4, p.ipv4("10.2.0.1", "10.9.0.1")[:28]))):
        assert verdict(plane, other) is DropReason.SPD_NO_MATCH


def test_acquire_is_told_once_until_the_child_moves() -> None:                          # SP-04
    plane = plane_of(entry())
    for _ in range(3):
        plane.hold(p.CHILD, "ipsec0", OUT4, 1.0)
    assert len(plane.take_reports()) == 1
    plane.abandon_held(p.CHILD)
    assert plane.drops == {DropReason.HELD_ABANDONED: 3}
    plane.hold(p.CHILD, "ipsec0", OUT4, 1.5)
    assert plane.take_reports() == []              # within a second of the last: not at packet rate
    plane.hold(p.CHILD, "ipsec0", OUT4, 2.0)
    assert plane.take_reports() == [Acquire(p.CHILD, OUT4[:ACQUIRE_BYTES])]


def test_packets_held_for_a_child_that_left_the_policy_are_abandoned() -> None:
    plane = plane_of(entry())
    plane.hold(p.CHILD, "ipsec0", OUT4, 1.0)
    plane.replace_policy([entry(child=VOICE)], {})
    assert plane.held.counts() == {}
    assert plane.drops == {DropReason.HELD_ABANDONED: 1}


def test_packet_larger_than_the_inner_mtu_is_dropped_and_uses_no_number() -> None:
    plane = plane_of(entry(), pairs=(p.pair(),))
    plane.replace_policy([entry()], {p.CHILD: len(OUT4) - 1})
    pair = plane.sad.by_spi[0x1000]
    assert plane.seal(pair, OUT4, 1.0) is DropReason.TOO_BIG
    assert (pair.sequence, pair.outward.packets) == (0, 0)


def test_numbers_never_repeat_for_a_key() -> None:                                      # RP-12, RP-14
    plane = plane_of(entry(), pairs=(p.pair(),))
    pair = plane.sad.by_spi[0x1000]
    sealed = [plane.seal(pair, OUT4, 1.0) for _ in range(5)]
    assert [packet[4:16] for packet in sealed if isinstance(packet, bytes)] == [
        number.to_bytes(4, "big") + number.to_bytes(8, "big") for number in range(1, 6)]


def test_sa_without_esn_is_reported_at_half_and_stops_before_the_wrap() -> None:        # RP-11
    plane = plane_of(entry(), pairs=(p.pair(),))
    pair = plane.sad.by_spi[0x1000]
    pair.sequence = SOFT_SEQUENCE - 1
    plane.seal(pair, OUT4, 1.0)
    plane.seal(pair, OUT4, 1.0)
    assert [type(report) for report in plane.take_reports()] == [SoftLifetime]
    pair.sequence = LAST_SEQUENCE - 1
    assert isinstance(plane.seal(pair, OUT4, 1.0), bytes)
    assert plane.seal(pair, OUT4, 1.0) is plane.seal(pair, OUT4, 1.0) is DropReason.SEQUENCE_EXHAUSTED
    assert [type(report) for report in plane.take_reports()] == [HardLifetime]
    assert pair.sequence == LAST_SEQUENCE


def test_sa_with_esn_passes_32_bits_and_stops_at_64() -> None:                          # RP-10
    plane = plane_of(entry(), pairs=(p.pair(p.suite(esn=True)),))
    pair = plane.sad.by_spi[0x1000]
    pair.sequence = LAST_SEQUENCE
    sealed = plane.seal(pair, OUT4, 1.0)
    assert isinstance(sealed, bytes) and sealed[4:16] == b"\0\0\0\0" + (1 << 32).to_bytes(8, "big")
    pair.sequence = LAST_EXTENDED_SEQUENCE
    pair.alarm_sequence = LAST_EXTENDED_SEQUENCE
    plane.ring(pair, pair.outward)
    assert plane.seal(pair, OUT4, 1.0) is DropReason.SEQUENCE_EXHAUSTED


@pytest.mark.parametrize(("volume", "carried"), [
    (Volume(soft_packets=2, hard_packets=3), 3), (Volume(hard_packets=1), 1),
    (Volume(soft_bytes=1, hard_bytes=2 * len(OUT4)), 2), (Volume(hard_bytes=2 * len(OUT4) + 1), 3)])
def test_volume_limits_end_the_pair(volume: Volume, carried: int) -> None:
    plane = plane_of(entry(), pairs=(p.pair(volume=volume),))
    pair = plane.sad.by_spi[0x1000]
    results = [plane.seal(pair, OUT4, 1.0) for _ in range(carried + 2)]
    assert [isinstance(result, bytes) for result in results] == [True] * carried + [False] * 2
    assert results[-1] is DropReason.SA_EXPIRED
    soft = bool(volume.soft_packets or volume.soft_bytes)
    assert [type(report) for report in plane.take_reports()] == [SoftLifetime] * soft + [HardLifetime]
