"""The data plane against models too simple to be wrong, and against bytes of any kind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipsecd.drops import DropReason
from ipsecd.ipsec import ip
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.offload import VNET_BYTES, frames
from ipsecd.ipsec.replay import ReplayWindow, full_sequence
from ipsecd.ipsec.sad import Pair
from ipsecd.ipsec.spd import Flow, Spd, selects
from ipsecd.policy import Action, SpdEntry
from ipsecd.sa import ChildKey
from ipsecd.selectors import ANY_PORTS, OPAQUE_PORTS, TrafficSelector
from tests.support import esp_packets as p

SIZES = st.sampled_from([64, 128, 1024, 8192])


@given(SIZES, st.lists(st.integers(-9000, 9000), max_size=300), st.sampled_from([0, 1 << 31, (1 << 32) - 5000]))
def test_replay_window_agrees_with_a_set(size: int, steps: list[int], start: int) -> None:
    window, seen, top = ReplayWindow(size), set[int](), 0
    for step in [start, *steps]:
        number = max(top + step, 0)
        expected = number > 0 and number > top - size and number not in seen
        assert (window.check(number) is None) == expected
        assert (window.commit(number) is None) == expected
        if expected:
            seen.add(number)
            top = max(top, number)
        assert window.top == top


@given(SIZES, st.randoms())
def test_any_order_inside_the_window_is_accepted_exactly_once(size: int, chance: object) -> None:
    window, numbers = ReplayWindow(size), list(range(1, size + 1))
    chance.shuffle(numbers)  # type: ignore[attr-defined]
    assert [window.commit(number) for number in numbers] == [None] * size
    assert all(window.commit(number) is not None for number in numbers)
    window.commit(3 * size)
    assert window.lost == size


@given(SIZES, st.integers(1 << 13, 1 << 63), st.integers(-8191, 1 << 31))
def test_extended_number_is_recovered_from_its_low_half(size: int, top: int, step: int) -> None:
    sequence = top + max(step, 1 - size)
    assert full_sequence(sequence & 0xFFFFFFFF, top=top, size=size) == sequence


# Few addresses, protocols and ports, so that entries overlap and packets hit them.
ADDRESS = st.integers(0, 15)
PORT = st.integers(0, 5)


@st.composite
def a_selector(draw: st.DrawFn) -> TrafficSelector:
    low, high = sorted((draw(ADDRESS), draw(ADDRESS)))
    protocol = draw(st.sampled_from([0, 6, 17]))
    ports = draw(st.one_of(st.just(ANY_PORTS), st.just(OPAQUE_PORTS), st.tuples(PORT, PORT).map(sorted).map(tuple)))
    return TrafficSelector(draw(st.sampled_from([4, 6])), low, high, protocol, *ports)


SELECTORS = st.lists(a_selector(), min_size=1, max_size=3).map(tuple)
ENTRIES = st.lists(st.builds(SpdEntry, st.just("e"), st.sampled_from(Action), SELECTORS, SELECTORS, st.just(p.CHILD),
                             st.sampled_from([None, "lan0", "lan1"])), max_size=12)


@st.composite
def a_flow(draw: st.DrawFn) -> Flow:
    ports = draw(st.one_of(st.just((None, None)), st.tuples(PORT, PORT)))
    return Flow(draw(st.sampled_from([4, 6])), draw(ADDRESS), draw(ADDRESS), draw(st.sampled_from([6, 17, 47])), *ports)


@given(ENTRIES, st.lists(a_flow(), min_size=1, max_size=20), st.sampled_from([None, "lan0"]))
def test_indexed_lookup_finds_the_first_entry_of_the_list(entries: list[SpdEntry], flows: list[Flow],
                                                          interface: str | None) -> None:
    spd = Spd(entries)
    for flow in flows:
        expected = next((e for e in entries if e.interface in (None, interface) and selects(e.local, e.remote, flow)),
                        None)
        assert spd.lookup(flow, interface) is expected


@st.composite
def a_mutated_packet(draw: st.DrawFn) -> bytes:
    packet = bytearray(draw(st.sampled_from([
        p.ipv4(), p.ipv6(), p.ipv4(protocol=1, payload=p.icmp(3, 0, p.ipv4())), p.ipv4(options=bytes(8)),
        p.ipv6(following=0, payload=b"\x3c\0" + bytes(6) + b"\x2c\0" + bytes(6) + b"\x11\0\0\1" + bytes(4) + p.udp()),
        p.ipv6(following=58, payload=p.icmp(1, 0, p.ipv6()))])))
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(packet) - 1), st.integers(0, 255)), max_size=6)):
        packet[at] = value
    return bytes(packet[:draw(st.integers(0, len(packet)))]) + draw(st.binary(max_size=8))


ANY_PACKET = st.one_of(st.binary(max_size=120), a_mutated_packet())


@given(ANY_PACKET)
def test_any_packet_from_the_tun_ends_in_a_pair_a_child_or_a_counted_drop(packet: bytes) -> None:
    plane = _plane()
    verdict = plane.route(packet, "ipsec0", 0.0)
    assert isinstance(verdict, (Pair, ChildKey, DropReason))
    assert plane.drops == ({verdict: 1} if isinstance(verdict, DropReason) else {})


@given(st.binary(max_size=200), st.integers(0, 255))
def test_any_datagram_on_an_sa_is_dropped_and_leaves_the_window(data: bytes, tos: int) -> None:
    plane = _plane()
    pair = plane.sad.by_spi[0x1000]
    datagram = (0x1000).to_bytes(4, "big") + data
    assert plane.open(pair, datagram, 0, len(datagram), pair.path, tos, 0.0) in (
        DropReason.ESP_SHORT, DropReason.ESP_BAD_ICV, DropReason.ESP_TOO_OLD)
    assert (pair.window.top, pair.inward.packets) == (0, 0)


@given(ANY_PACKET, st.integers(0, 255), st.sampled_from([4, 41]), st.binary(max_size=6))
def test_any_authenticated_content_is_delivered_within_the_selectors_or_dropped(
        inner: bytes, tos: int, next_header: int, after: bytes) -> None:
    plane, sender = _plane(), Pair(p.pair(mirror=True), p.SeededRng(), 0)
    trailers = tuple(bytes(range(1, n + 1)) + bytes((n, next_header)) for n in range(4))
    datagram = sender.sealer.seal(inner + after, trailers, 1)
    pair = plane.sad.by_spi[0x1000]
    result = plane.open(pair, datagram, 0, len(datagram), pair.path, tos, 0.0)
    if isinstance(result, bytes):
        headers = ip.parse(result)
        assert not isinstance(headers, ip.Fault)
        assert headers.length == len(result)
        assert pair.selects(Flow(headers.version, headers.destination, headers.source, headers.protocol,
                                 headers.destination_port, headers.source_port)) or ip.quoted_packet(result, headers)
    else:
        assert plane.drops == {result: 1}


@given(st.lists(ANY_PACKET.filter(bool), max_size=6), st.booleans())
def test_joining_takes_any_packets_and_loses_none(packets: list[bytes], udp: bool) -> None:
    assert sorted(frames(packets, udp=udp)) == sorted(bytes(VNET_BYTES) + packet for packet in packets)


def _plane() -> Dataplane:
    plane = Dataplane(p.SeededRng())
    plane.add_device("ipsec0", None)
    plane.replace_policy([SpdEntry("office", Action.PROTECT, p.selectors(p.LOCAL), p.selectors(p.REMOTE), p.CHILD)], {})
    plane.install_sa(p.pair())
    plane.use_outbound(p.CHILD, 0x1000, 0.0)
    return plane
