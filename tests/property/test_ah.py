"""Outer headers of every form against scapy's reading of RFC 4302 appendix A; bytes of no form at all; both engines."""

from __future__ import annotations

import warnings
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecd.drops import DropReason
from ipsecd.engine.choose import native_missing
from ipsecd.ipsec.ah import Ah, spi_and_sequence
from ipsecd.ipsec.ah_transport import part_of
from ipsecd.ipsec.ip import Fault, parse
from ipsecd.ipsec.outer_header import Outer, outer_header
from ipsecd.ipsec.transport import Part
from ipsecd.policy import Action, SpdEntry
from ipsecd.sa import ChildKey, Endpoint, Path, SaPair, SaSpec, Volume
from ipsecd.suites import AhSuite
from tests.property.test_engines_agree import any_packet, inner, mangled, super_packet
from tests.support import ah_packets as a
from tests.support import esp_packets as p
from tests.support.twin_engines import Twins

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.layers.inet import (
        IP,
        IPOption,
        IPOption_LSRR,
        IPOption_NOP,
        IPOption_Router_Alert,
        IPOption_RR,
        IPOption_SDBM,
    )
    from scapy.layers.inet6 import (
        HBHOptUnknown,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
    )
    from scapy.packet import Packet

SPI = 0x55
MISSING = native_missing()
_ADDRESS = st.integers(1, 0xFFFF).map(lambda n: f"2001:db8::{n:x}")
# Scapy knows options by their number alone; those of 22 and more it leaves as they are, so any bytes will do.
_OPTIONS_V4 = st.lists(st.one_of(
    st.just(IPOption_NOP()), st.just(IPOption_Router_Alert()), st.just(IPOption_SDBM(addresses=["192.0.2.9"])),
    st.just(IPOption_RR(routers=["192.0.2.9"])), st.just(IPOption_LSRR(routers=["192.0.2.9"])),
    st.builds(lambda kind, data: IPOption(copy_flag=kind >> 7, optclass=kind >> 5 & 3, option=kind & 31,
                                          length=2 + len(data), value=data),
              st.integers(0, 255).filter(lambda kind: kind & 31 >= 22), st.binary(max_size=6))), max_size=4)
_OPTIONS_V6 = st.lists(st.builds(lambda kind, data: HBHOptUnknown(otype=kind, optlen=len(data), optdata=data),
                                 st.integers(2, 255), st.binary(max_size=12)), max_size=4)
SUITES = st.sampled_from([s for s in a.SUITES if not s.integ.iv_bytes])


def headers_v4() -> st.SearchStrategy[Packet]:
    return st.builds(lambda tos, ttl, number, df, options: IP(
        src="192.0.2.1", dst="203.0.113.7", tos=tos, ttl=ttl, id=number, flags=df * 2, options=options),
        st.integers(0, 255), st.integers(1, 255), st.integers(0, 65535), st.integers(0, 1), _OPTIONS_V4)


@st.composite
def headers_v6(draw: st.DrawFn) -> Packet:
    header = IPv6(src=draw(_ADDRESS), dst=draw(_ADDRESS), tc=draw(st.integers(0, 255)),
                  fl=draw(st.integers(0, 2**20 - 1)), hlim=draw(st.integers(1, 255)))
    if draw(st.booleans()):
        header /= IPv6ExtHdrHopByHop(options=draw(_OPTIONS_V6))
    for kind in draw(st.sampled_from(["", "r", "dr"])):    # behind the last AH would be ahead of destination options
        header /= (IPv6ExtHdrDestOpt(options=draw(_OPTIONS_V6)) if kind == "d" else
                   IPv6ExtHdrRouting(addresses=draw(st.lists(_ADDRESS, min_size=1, max_size=3))))
    return header


def arrived(packet: bytes) -> bytes:
    """The packet as its receiver has it, who is the last that a routing header names (RFC 2460 4.4)."""
    parsed = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    routing = parsed.getlayer(IPv6ExtHdrRouting)
    if routing is not None:
        routing.segleft = 0
        routing.addresses, parsed.dst = [parsed.dst, *routing.addresses[:-1]], routing.addresses[-1]
    return bytes(parsed)


@given(header=st.one_of(headers_v4(), headers_v6()), suite=SUITES, sequence=st.integers(1, 2**32 - 1),
       data=st.binary(max_size=64))
def test_packet_of_scapy_with_any_headers_verifies_here(header: Packet, suite: AhSuite, sequence: int,
                                                        data: bytes) -> None:
    spec, inner = a.spec(suite, SPI), p.ipv4(payload=p.udp(data=data))
    made = arrived(a.sealed(suite, spec, header, inner, sequence))
    outer, ah = outer_header(made), Ah(suite, spec)
    assert isinstance(outer, Outer)
    assert spi_and_sequence(made, outer) == (SPI, sequence)
    assert ah.is_whole(made, outer)
    assert ah.verify(made, outer, sequence)
    assert made[outer.at + ah.size(made):outer.end] == inner


@given(data=st.one_of(st.binary(max_size=120), st.builds(
    lambda head, options, rest: bytes([0x45 + len(options) // 4]) + head[:8] + b"\x33" + head[8:] + options + rest,
    st.binary(min_size=18, max_size=18), st.binary(max_size=40).map(lambda o: o[:len(o) // 4 * 4]),
    st.binary(max_size=60)), st.builds(
    lambda head, following, rest: b"\x60" + head[:3] + len(rest).to_bytes(2, "big") + bytes([following]) + head[3:]
    + rest, st.binary(min_size=36, max_size=36), st.sampled_from([0, 43, 44, 51, 60]), st.binary(max_size=80))))
def test_any_bytes_end_in_headers_within_the_packet_or_in_a_reason(data: bytes) -> None:
    outer = outer_header(data)
    if isinstance(outer, DropReason):
        assert outer.name.startswith("AH_")
        return
    assert len(outer.covered) == outer.at <= outer.end <= len(data)
    found = spi_and_sequence(data, outer)
    for suite in a.SUITES:
        ah = Ah(suite, a.spec(suite, SPI))
        assert not ah.is_whole(data, outer) or (found is not None and not ah.verify(data, outer, 1))


@pytest.mark.parametrize("path", [a.PATH_V4, a.PATH_V6])
@given(inner=st.one_of(st.binary(max_size=100).map(lambda d: p.ipv4(payload=p.udp(data=d))),
                       st.binary(max_size=100).map(lambda d: p.ipv6(payload=p.udp(data=d)))),
       suite=st.sampled_from(a.SUITES), sequence=st.integers(1, 2**64 - 1))
def test_what_is_sealed_verifies_at_the_other_end_after_any_way(path: object, inner: bytes, suite: AhSuite,
                                                                sequence: int) -> None:
    assert path in (a.PATH_V4, a.PATH_V6)
    way = a.PATH_V4 if path is a.PATH_V4 else a.PATH_V6
    spec = a.spec(suite, SPI)
    ah, packet = Ah(suite, spec), bytearray(Ah(suite, spec).seal(inner, way, sequence))
    if way is a.PATH_V4:
        packet[1], packet[6], packet[8], packet[10:12] = 0x03, 0, 1, b"\xab\xcd"
    else:
        packet[1:4], packet[7] = b"\x31\x23\x45", 1
    outer = outer_header(bytes(packet))
    assert isinstance(outer, Outer)
    assert ah.verify(bytes(packet), outer, sequence)


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 64))
def test_engines_agree_on_whatever_happens_with_ah(seed: int) -> None:
    chance = Random(seed)
    twins = Twins({"ipsec0": None})
    path, transport = chance.choice([a.PATH_V4, a.PATH_V6]), chance.random() < 0.5
    try:
        twins.own_addresses([path.local.address])
        hosts = a.hosts_of(path) if transport else None
        pair = replace(a.pair(chance.choice(a.SUITES), path=path, window=chance.choice([0, 64, 100]), hosts=hosts),
                       volume=Volume(hard_packets=chance.choice([0, 0, 0, 20])))
        twins.policy([SpdEntry("all", Action.PROTECT, pair.ts_local, pair.ts_remote, p.CHILD)], {})
        twins.install(pair)
        twins.install(p.pair(spi_in=0x3000, child=ChildKey("hq", "other")))
        twins.use(p.CHILD, pair.spi_in)
        sequence = 0
        for _ in range(40):
            if chance.random() < 0.4:
                packet = between(pair, chance) if transport else inner(chance)
                twins.out("ipsec0", mangled(packet, chance))
                continue
            if transport and chance.random() < 0.05:
                twins.move(pair.spi_in, chance.choice([path, a.PATH_V4, a.PATH_V6]))
            sequence = max(1, sequence + chance.choice([1, 1, 1, 1, 2, 0, -1, -70, 1000]))
            packet = between(pair, chance, reverse=True) if transport else inner(chance, reverse=True)
            packet = from_peer(pair, mangled(packet, chance), sequence, chance)
            if chance.random() < 0.1:
                twins.into(packet[20:], path)      # AH's bytes where ESP is expected
            else:
                twins.into_ah(packet, path)
    finally:
        twins.close()


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 64))
def test_engines_agree_on_super_packets_between_two_hosts_with_ah(seed: int) -> None:
    chance = Random(seed)
    frame, segments = super_packet(chance)
    hosts = ("10.1.0.1", "10.2.0.1") if segments[0][0] < 0x60 else ("2001:db8:1::1", "2001:db8:2::1")
    path = Path(*(Endpoint(host, 0) for host in hosts))
    twins = Twins({"ipsec0": None})
    try:
        pair = a.pair(chance.choice(a.SUITES), path=path, hosts=hosts)
        twins.policy([SpdEntry("hosts", Action.PROTECT, pair.ts_local, pair.ts_remote, p.CHILD)],
                     {p.CHILD: chance.choice([0, 0, 600])})
        twins.install(pair)
        twins.use(p.CHILD, pair.spi_in)
        twins.out_cut("ipsec0", frame, segments, offload=True)
    finally:
        twins.close()


def between(pair: SaPair, chance: Random, *, reverse: bool = False) -> bytes:
    """A packet of any kind between the two hosts of a pair, sometimes with headers that belong ahead of AH."""
    assert pair.transport is not None
    ends = [pair.transport.local, pair.transport.remote]
    version = 6 if ":" in ends[0] else 4
    source, destination = ends[::-1] if reverse else ends
    if version == 4 and chance.random() < 0.4:
        kinds = [b"\1", b"\x94\x04\0\0", b"\x07\x07\x04abcd", b"\x86\x06\0\0\0\1", b"\x83\x03\x04", b"\7", b"\x44\0"]
        options = b"".join(chance.choices(kinds, k=chance.choice([1, 2, 4])))
        return p.ipv4(source, destination, options=options + bytes(-len(options) % 4))
    if version == 6 and chance.random() < 0.4:
        payload, following = p.udp(), 17
        for kind in chance.choice([[0], [60], [0, 60], [60, 43, 0], [60, 43], [43], [60, 43, 60, 0]]):
            data = chance.choice([bytes(6), b"\x1e\x04same", b"\x3e\x04next", b"\0\1\0\0\0\0", b"\x1e\x09same"])
            payload, following = bytes((following, 0)) + data + payload, kind
        return p.ipv6(source, destination, following, payload)
    return any_packet(version, source, destination, chance)


def from_peer(pair: SaPair, data: bytes, sequence: int, chance: Random) -> bytes:
    """A packet of the other end, sometimes changed on its way, or wrong."""
    spec, back = pair.inbound, Path(pair.path.remote, pair.path.local)
    if chance.random() < 0.1:
        spec = SaSpec(chance.choice([0x1001, 0x3000]), spec.encr_key, spec.integ_key)
    assert isinstance(pair.suite, AhSuite)
    ah = Ah(pair.suite, spec)
    part = part_of(data) if pair.transport is not None and not isinstance(parse(data), Fault) else None
    made = ah.seal_part(data, part, back, sequence) if isinstance(part, Part) else DropReason.SEND_FAILED
    packet = bytearray(made if isinstance(made, bytes) else ah.seal(data.ljust(2, b"\0"), back, sequence))
    if chance.random() < 0.3:                      # hops, congestion
        packet[8 if packet[0] == 0x45 else 7] = chance.randrange(1, 255)
        packet[1] |= chance.choice([0, 1, 2, 3]) << (0 if packet[0] == 0x45 else 4)
    if chance.random() < 0.2:
        packet[chance.randrange(min(len(packet), 80))] ^= 1 << chance.randrange(8)
    if chance.random() < 0.1:
        del packet[chance.randrange(len(packet)):]
    return bytes(packet)
