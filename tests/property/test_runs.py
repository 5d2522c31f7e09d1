"""Rows of packets leave everything as the same packets do that go one by one: what comes out, counters, windows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsecd.drops import DropReason
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.runs import open_run, seal_run
from ipsecd.ipsec.sad import Pair
from ipsecd.policy import Action, SpdEntry
from ipsecd.sa import Path, Volume
from ipsecd.suites import EspSuite
from tests.support import esp_packets as p

DEVICE = "ipsec0"
SUITES = [p.suite(), p.suite(esn=True), p.suite("aes128", "sha256", esn=True)]
PACKETS = [p.ipv4(), p.ipv4(payload=p.udp(destination=53)), p.ipv4(tos=0x20), p.ipv6(), p.ipv4(protocol=1),
           p.ipv4(destination="10.9.0.1"), p.ipv4(payload=p.udp(data=b"some more of it")), b"\x45"]
VOLUMES = [Volume(), Volume(soft_packets=5, hard_packets=9), Volume(soft_bytes=200, hard_bytes=400)]
MANGLED = st.tuples(st.integers(0, 30), st.sampled_from(["", "", "", "repeat", "flip", "drop", "swap"]))

many = st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]), max_size=40)


@pytest.mark.parametrize("suite", SUITES, ids=str)
@given(indices=many, volume=st.sampled_from(VOLUMES), mtu=st.sampled_from([0, 34]))
def test_rows_are_sealed_as_packets_one_by_one(suite: EspSuite, indices: list[int], volume: Volume, mtu: int) -> None:
    packets = [PACKETS[index] for index in indices]
    one, many_ = _plane(suite, volume, mtu), _plane(suite, volume, mtu)
    assert _sealed_in_rows(many_, packets) == [_sealed(one, packet) for packet in packets]
    assert _state(many_) == _state(one)


@pytest.mark.parametrize("suite", SUITES, ids=str)
@given(indices=many, mangled=st.lists(MANGLED, max_size=4), volume=st.sampled_from(VOLUMES), seen=st.booleans())
def test_rows_are_opened_as_datagrams_one_by_one(
        suite: EspSuite, indices: list[int], mangled: list[tuple[int, str]], volume: Volume, seen: bool) -> None:
    sender = Pair(p.pair(suite, mirror=True), p.SeededRng(), 0)
    trailers = tuple(bytes(range(1, n + 1)) + bytes((n, 4)) for n in range(16))
    datagrams = [sender.sealer.seal(_mirrored(PACKETS[index]), trailers, number)
                 for number, index in enumerate(indices, 1)]
    for at, how in mangled:
        _mangle(datagrams, at, how)
    one, many_ = _plane(suite, volume), _plane(suite, volume)
    path = Path(p.A_OUTSIDE, p.B_OUTSIDE)
    if seen:                                       # in the middle of a conversation, where rows begin at once
        first = sender.sealer.seal(_mirrored(PACKETS[0]), trailers, 1000)
        for plane in (one, many_):
            pair = plane.sad.by_spi[0x1000]
            assert plane.open(pair, first, 0, len(first), path, 0, 0.5) == _mirrored(PACKETS[0])
            pair.window.top = 0
    assert _opened_in_rows(many_, datagrams, path) == [
        found for found in (_opened(one, d, 0, len(d), path) for d in datagrams) if isinstance(found, bytes)]
    assert _state(many_) == _state(one)


def test_long_row_leaves_the_long_way_after_its_first_packet() -> None:
    plane = _plane(p.suite(), Volume())
    sender = Pair(p.pair(mirror=True), p.SeededRng(), 0)
    trailers = tuple(bytes(range(1, n + 1)) + bytes((n, 4)) for n in range(4))
    data = b"".join(sender.sealer.seal(_mirrored(PACKETS[0]), trailers, number) for number in range(1, 11))
    path, size, packets = Path(p.A_OUTSIDE, p.B_OUTSIDE), len(data) // 10, list[bytes]()
    pair = plane.sad.by_spi[0x1000]
    assert open_run(plane, pair, data, 0, size, path, 1.0, packets) == 0       # nobody was heard yet
    first = plane.open(pair, data, 0, size, path, 0, 1.0)
    assert open_run(plane, pair, data, size, size, pair.path, 1.0, packets) == len(data)
    assert packets == [first] * 9


def _sealed(plane: Dataplane, packet: bytes) -> bytes | str:
    pair = plane.route(packet, DEVICE, 1.0)
    if not isinstance(pair, Pair):
        return str(pair)
    sealed = plane.seal(pair, packet, 1.0)
    return sealed if isinstance(sealed, bytes) else str(sealed)


def _sealed_in_rows(plane: Dataplane, packets: list[bytes]) -> list[bytes | str]:
    out: list[bytes | str] = []
    while len(out) < len(packets):
        sealed: list[bytes] = []
        if seal_run(plane, packets, len(out), DEVICE, 1.0, sealed) is None:
            out.append(_sealed(plane, packets[len(out)]))
        else:
            assert sealed
            out += sealed
    return out


def _opened(plane: Dataplane, data: bytes, start: int, end: int, path: Path) -> bytes | DropReason:
    return plane.open(plane.sad.by_spi[0x1000], data, start, end, path, 0, 1.0)


def _opened_in_rows(plane: Dataplane, datagrams: list[bytes], path: Path) -> list[bytes]:
    """Hand over reads as the kernel joins them: equal sizes, and one shorter at the end."""
    packets: list[bytes] = []
    pair = plane.sad.by_spi[0x1000]
    while datagrams:
        size, taken = len(datagrams[0]), 1
        while taken < len(datagrams) and len(datagrams[taken - 1]) == size >= len(datagrams[taken]):
            taken += 1
        data, start = b"".join(datagrams[:taken]), 0
        datagrams = datagrams[taken:]
        while start < len(data):
            at = open_run(plane, pair, data, start, size, path, 1.0, packets)
            if at == start:
                at = min(start + size, len(data))
                opened = _opened(plane, data, start, at, path)
                packets += [opened] if isinstance(opened, bytes) else []
            start = at
    return packets


def _mangle(datagrams: list[bytes], at: int, how: str) -> None:
    if at >= len(datagrams) or not how:
        return
    if how == "repeat":
        datagrams.insert(at, datagrams[at])
    elif how == "flip":
        datagrams[at] = datagrams[at][:-1] + bytes((datagrams[at][-1] ^ 1,))
    elif how == "drop":
        del datagrams[at]
    else:
        datagrams[at - 1], datagrams[at] = datagrams[at], datagrams[at - 1]


def _mirrored(packet: bytes) -> bytes:
    """Exchange the addresses of an IPv4 packet."""
    return packet[:12] + packet[16:20] + packet[12:16] + packet[20:] if packet[0] == 0x45 else packet


def _state(plane: Dataplane) -> tuple[object, ...]:
    pair = plane.sad.by_spi[0x1000]
    return (pair.stats(), pair.sequence, pair.refusal, pair.window.top, pair.window.check(pair.window.top - 3),
            [pair.window.check(n) for n in range(pair.window.top + 2)], plane.drops, pair.drops, plane.take_reports())


def _plane(suite: EspSuite, volume: Volume, mtu: int = 0) -> Dataplane:
    plane = Dataplane(p.SeededRng())
    plane.add_device(DEVICE, None)
    entry = SpdEntry("office", Action.PROTECT, p.selectors(p.LOCAL), p.selectors(p.REMOTE), p.CHILD)
    plane.replace_policy([entry], {p.CHILD: mtu} if mtu else {})
    plane.install_sa(p.pair(suite, volume=volume))
    plane.use_outbound(p.CHILD, 0x1000, 0.0)
    return plane
