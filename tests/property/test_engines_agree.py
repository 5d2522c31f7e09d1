"""The native engine against the reference: any policy, SAs and packets have one outcome and drop reason in both."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecd.aead import make_sealer
from ipsecd.engine.choose import native_missing
from ipsecd.engine.native import path_tuple
from ipsecd.policy import Action, SpdEntry
from ipsecd.sa import ChildKey, Endpoint, Path, SaPair, Tfc, TransportEnds, Volume
from ipsecd.selectors import ANY_PORTS, OPAQUE_PORTS, TrafficSelector, from_prefix
from tests.support import esp_packets as p
from tests.support.twin_engines import Twins, padded

MISSING = native_missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

CHILDREN = [ChildKey("hq", "a"), ChildKey("hq", "b"), ChildKey("branch", "a")]
DEVICES: dict[str, str | None] = {"ipsec0": None, "ipsec1": "lan1"}
OWN = ["192.0.2.1", "2001:db8:ffff::1"]
PEERS = [Endpoint("203.0.113.7", 4500), Endpoint("203.0.113.7", 61234), Endpoint("2001:db8:9::9", 4500),
         Endpoint("203.0.113.7", 0), Endpoint("203.0.113.9", 0)]                # ESP without UDP
INSIDE = {4: ["10.1.0.1", "10.1.255.255", "10.2.0.0", "10.2.7.7", "10.3.0.1", "127.0.0.1", "224.0.0.5", "0.0.0.0",
              OWN[0]],
          6: ["2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::1", "::1", "::", "ff02::1", "::ffff:1.2.3.4", OWN[1]]}
PREFIXES = {4: ["10.1.0.0/16", "10.2.0.0/16", "10.2.7.0/24", "10.0.0.0/8", "0.0.0.0/0", "10.1.0.1",
                "10.2.0.0-10.3.0.9"],
            6: ["2001:db8:1::/48", "2001:db8:2::/48", "::/0", "2001:db8::/32"]}
PROTOCOLS = [0, 1, 6, 17, 58, 132, 44]
PORTS = [ANY_PORTS, OPAQUE_PORTS, (0, 1023), (53, 53), (443, 5060), (0, 255), (2048, 2303)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 64))
def test_engines_agree_on_whatever_happens(seed: int) -> None:
    chance = Random(seed)
    twins = Twins(DEVICES)
    try:
        twins.own_addresses(OWN)
        twins.policy(*policy(chance))
        senders: dict[int, Sender] = {}
        for _ in range(3):
            install(twins, senders, chance)
        for _ in range(60):
            one_step(twins, senders, chance)
    finally:
        twins.close()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 64))
def test_super_packet_has_the_outcome_of_its_segments(seed: int) -> None:
    chance = Random(seed)
    twins = Twins(DEVICES)
    try:
        pair = sa_pair(chance, 0x1000, CHILDREN[0], everything=True)
        twins.policy([SpdEntry("all", Action.PROTECT, pair.ts_local, pair.ts_remote, CHILDREN[0])],
                     {CHILDREN[0]: chance.choice([0, 1200, 9000])})
        if chance.random() < 0.8:                  # else held, segment by segment
            twins.install(pair)
            twins.use(CHILDREN[0], 0x1000)
        for _ in range(5):
            frame, segments = super_packet(chance)
            twins.out_cut("ipsec0", frame, segments, offload=True)
    finally:
        twins.close()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 64))
def test_broken_frames_of_a_device_end_as_datagrams_or_counted(seed: int) -> None:
    chance = Random(seed)
    twins = Twins(DEVICES)
    try:
        pair = sa_pair(chance, 0x1000, CHILDREN[0], everything=True)
        twins.policy([SpdEntry("all", Action.PROTECT, pair.ts_local, pair.ts_remote, CHILDREN[0])], {})
        twins.install(pair)
        twins.use(CHILDREN[0], 0x1000)
        plane = twins.native.plane
        for _ in range(10):
            frame = bytearray(super_packet(chance)[0] if chance.random() < 0.9 else chance.randbytes(100))
            for _ in range(chance.randrange(4)):
                at = chance.randrange(chance.choice([10, min(80, len(frame))]))
                frame[at] = chance.randrange(256)
            del frame[chance.choice([len(frame), chance.randrange(len(frame) + 1)]):]
            before = sum(count for _, count in plane.drops())
            sent = plane.step_out(0, bytes(frame), True, 1.0)
            assert sent or sum(count for _, count in plane.drops()) > before
            plane.step_in(bytes(frame), chance.choice([1, 100, 1400, 65535]), 0, path_tuple(pair.path), 1.0)
    finally:
        twins.close()


def one_step(twins: Twins, senders: dict[int, Sender], chance: Random) -> None:
    kind = chance.randrange(20)
    if kind == 0:
        twins.policy(*policy(chance))
    elif kind <= 2:
        install(twins, senders, chance)
    elif kind == 3 and senders:
        spi = chance.choice(sorted(senders))
        if chance.random() < 0.3:
            twins.remove(spi)
            del senders[spi]
        else:
            twins.move(spi, way(chance.choice(PEERS)))
    elif kind <= 11 or not senders:
        twins.out(chance.choice(sorted(DEVICES)), mangled(inner(chance), chance))
    else:
        receive(twins, chance.choice(list(senders.values())), chance)
    twins.compare()


def install(twins: Twins, senders: dict[int, Sender], chance: Random) -> None:
    spi, child = 0x1000 + chance.randrange(4), chance.choice(CHILDREN)
    pair = sa_pair(chance, spi, child)
    twins.install(pair)
    senders[spi] = Sender(pair)
    if chance.random() < 0.8:
        twins.abandon(child)
        twins.use(child, spi)


class Sender:
    """The peer's end of a pair, which can also do wrong."""

    def __init__(self, pair: SaPair) -> None:
        self.pair = pair
        self.sequence = 0
        suite, spec = pair.suite, pair.inbound
        self._sealer = make_sealer(suite.encr, suite.integ, encr_key=spec.encr_key, integ_key=spec.integ_key)

    def sealed(self, plaintext: bytes, sequence: int) -> bytes:
        esn, encr = self.pair.suite.esn, self.pair.suite.encr
        low, high = sequence & 0xFFFFFFFF, (sequence >> 32) & 0xFFFFFFFF
        header = struct.pack(">II", self.pair.spi_in, low)
        iv = struct.pack(">Q", sequence) if encr.aead else bytes(range(16))
        extended = struct.pack(">III", self.pair.spi_in, high, low)
        if encr.aead:
            return header + iv + self._sealer.seal(iv, plaintext, extended if esn else header)
        return header + iv + self._sealer.seal(iv, plaintext, header, struct.pack(">I", high) if esn else b"")


def receive(twins: Twins, sender: Sender, chance: Random) -> None:
    """One datagram, most of them good, for a pair that may be gone."""
    step = chance.choice([1, 1, 1, 1, 2, 0, -1, -3, 63, 64, 70, -64, -70, 1000, 9000, 1 << 31])
    sequence = max(0, sender.sequence + step)
    if not sender.pair.suite.esn:
        sequence &= 0xFFFFFFFF
    sender.sequence = max(sender.sequence, sequence)
    packet = mangled(inner(chance, reverse=True), chance)
    next_header = chance.choice([4 if packet[:1] < b"\x60" else 41] * 9 + [4, 41, 59, 6])
    if sender.pair.transport is not None and len(packet) > 40 and chance.random() < 0.9:
        upper = packet[9 if packet[0] < 0x60 else 6]
        next_header = chance.choice([upper] * 9 + [0, 43, 44, 60, 59])
        packet = packet[20 if packet[0] < 0x60 else 40:]
    block = sender.pair.suite.encr.block_bytes
    plaintext = padded(packet, next_header=next_header, block=block, extra=chance.choice([0] * 8 + [1, 5]))
    if chance.random() < 0.05:                     # padding that does not count
        wrong = min(len(plaintext) - 2, block)
        plaintext = plaintext[:-2 - wrong] + bytes(wrong) + plaintext[-2:]
    datagram = bytearray(sender.sealed(plaintext, sequence))
    if chance.random() < 0.1:
        datagram[chance.randrange(len(datagram))] ^= 1 << chance.randrange(8)
    if chance.random() < 0.05:
        del datagram[chance.randrange(len(datagram)):]
    remote = sender.pair.path.remote if chance.random() < 0.9 else chance.choice(PEERS)
    twins.into(bytes(datagram), way(remote), chance.choice([0] * 5 + [1, 2, 3, 0xB8, 0xFF]))


def way(remote: Endpoint) -> Path:
    return Path(Endpoint(OWN[0], 4500 if remote.port else 0), remote)


def policy(chance: Random) -> tuple[list[SpdEntry], dict[ChildKey, int]]:
    entries = []
    for n in range(chance.randrange(6)):
        action = chance.choice([Action.PROTECT] * 4 + [Action.BYPASS, Action.DISCARD])
        child = chance.choice(CHILDREN) if action is Action.PROTECT else None
        wide = chance.random() < 0.5
        entries.append(SpdEntry(f"entry{n}", action, selectors(chance, everything=wide),
                                selectors(chance, everything=wide), child,
                                chance.choice([None, None, None, "lan1", "lan2"])))
    return entries, {child: chance.choice([0, 576, 1400]) for child in CHILDREN if chance.random() < 0.5}


def selectors(chance: Random, *, everything: bool = False) -> tuple[TrafficSelector, ...]:
    if everything:
        return from_prefix("0.0.0.0/0"), from_prefix("::/0")
    found = []
    for _ in range(chance.choice([1, 1, 2, 3])):
        prefix = chance.choice(PREFIXES[chance.choice([4, 4, 6])])
        if chance.random() < 0.6:
            found.append(from_prefix(prefix))
        else:
            found.append(from_prefix(prefix, chance.choice(PROTOCOLS), chance.choice(PORTS)))
    return tuple(found)


def sa_pair(chance: Random, spi: int, child: ChildKey, *, everything: bool = False) -> SaPair:
    wide = everything or chance.random() < 0.4
    volume = Volume() if chance.random() < 0.7 else Volume(
        soft_bytes=chance.choice([0, 500]), hard_bytes=chance.choice([0, 2000]),
        soft_packets=chance.choice([0, 3]), hard_packets=chance.choice([0, 8]))
    return p.pair(chance.choice(p.SUITES), spi_in=spi, spi_out=spi + 0x1000, child=child,
                  local=selectors(chance, everything=wide), remote=selectors(chance, everything=wide),
                  slot=chance.randrange(2), window=chance.choice([0, 64, 100, 1024, 8192]),
                  tfc=Tfc(chance.choice([0, 0, 0, 64, 500, 9000])), follow=chance.random() < 0.7, volume=volume,
                  path=Path(Endpoint(OWN[0], 4500), PEERS[0]),
                  device=chance.choice(sorted(DEVICES)), transport=ends(chance))


def ends(chance: Random) -> TransportEnds | None:
    """The two hosts of a pair in transport mode, now and then with a NAT between them."""
    if chance.random() < 0.6:
        return None
    version = chance.choice([4, 6])
    return TransportEnds(*INSIDE[version][::2][:2], chance.choice([0, 0, 1, 65534, 4711]))


def inner(chance: Random, *, reverse: bool = False) -> bytes:
    """A packet whose addresses often, but not always, lie in the usual selectors."""
    version = chance.choice([4, 4, 4, 6])
    source, destination = chance.choice(INSIDE[version][:2]), chance.choice(INSIDE[version][2:4])
    if chance.random() < 0.2:
        source, destination = chance.choice(INSIDE[version]), chance.choice(INSIDE[version])
    if reverse:
        source, destination = destination, source
    return any_packet(version, source, destination, chance)


def any_packet(version: int, source: str, destination: str, chance: Random, depth: int = 0) -> bytes:
    protocol, payload = upper_layer(version, source, destination, chance, depth)
    tos = chance.choice([0, 0, 0, 1, 2, 3, 0xB8])
    if version == 4:
        options = chance.choice([b""] * 5 + [b"\x01" * 4, b"\x94\x04\0\0" * 2])
        fragment = chance.choice([0x4000] * 8 + [0, 0x2000, 1, 2, 0x2005, 0x1FFF])
        return p.ipv4(source, destination, protocol, payload, tos=tos, fragment=fragment, options=options)
    for _ in range(chance.choice([0] * 6 + [1, 2, 9])):
        header = chance.choice([0, 43, 44, 60, 51])
        size = chance.choice([0, 0, 1])
        if header == 44:
            payload = struct.pack(">BBHI", protocol, 0, chance.choice([0, 1, 8, 0xFFF8]), 9) + payload
        else:
            payload = bytes([protocol, size]) + bytes(6 + 8 * size) + payload
        protocol = header
    return p.ipv6(source, destination, protocol, payload, tos=tos)


def upper_layer(version: int, source: str, destination: str, chance: Random, depth: int) -> tuple[int, bytes]:
    kind = chance.randrange(10)
    ports = chance.choice([53, 80, 443, 500, 4500, 5060]), chance.choice([53, 500, 1234, 4500, 40000])
    data = bytes(chance.choice([0, 1, 4, 100, 600, 1300]))
    if kind <= 3:
        return 17, p.udp(*ports, data)
    if kind <= 6:
        return 6, struct.pack(">HHIIBBHHH", *ports, 1, 2, 0x50, 0x10, 512, 0, 0) + data
    if kind == 7 and depth == 0:
        quoted = any_packet(version, destination, source, chance, 1)
        quoted = quoted[:chance.choice([len(quoted), 28, 48, 68, 100, 10])]
        types = [3, 11, 12, 5, 4, 8] if version == 4 else [1, 2, 3, 4, 137, 128]
        return (1 if version == 4 else 58), p.icmp(chance.choice(types), chance.randrange(3), quoted)
    if kind == 8:
        return chance.choice([1, 58]), p.icmp(chance.choice([0, 8, 128, 129]), 0, data)
    return chance.choice([50, 132, 47, 89, 33]), data


def mangled(packet: bytes, chance: Random) -> bytes:
    """Most packets as they are, some with a wrong byte, cut short, or with something behind."""
    kind = chance.randrange(12)
    if kind == 0:
        at = chance.randrange(min(len(packet), 60))
        return packet[:at] + bytes([chance.randrange(256)]) + packet[at + 1:]
    if kind == 1:
        return packet[:chance.randrange(1, len(packet) + 1)]
    if kind == 2:
        return packet + bytes(chance.randrange(1, 20))
    return packet


def super_packet(chance: Random) -> tuple[bytes, list[bytes]]:
    """A frame with its virtio header, and the packets that it stands for."""
    version, protocol = chance.choice([4, 6]), chance.choice([6, 17])
    size = chance.choice([1, 99, 536, 1160, 1400, 8960])
    data = chance.randbytes(min(size * chance.randrange(1, 50) + chance.randrange(size), 60_000))
    flags, tos = chance.choice([0x10, 0x18, 0x11, 0x19]), chance.choice([0, 2, 0xB8])
    count = max(1, -(-len(data) // size))
    segments = []
    for n in range(count):
        flag = flags if n == count - 1 else flags & ~0x09
        segments.append(_packet(version, protocol, data[n * size:(n + 1) * size], n, n * size, flag, tos))
    whole = bytearray(_packet(version, protocol, data, 0, 0, flags, tos))
    upper, at = (20 if version == 4 else 40), (16 if protocol == 6 else 6)
    pseudo = _pseudo(bytes(whole), upper, protocol)
    whole[upper + at:upper + at + 2] = (~p.checksum(pseudo) & 0xFFFF).to_bytes(2, "big")
    kind = 5 if protocol == 17 else (1 if version == 4 else 4)
    header = struct.pack("=BBHHHH", 1, kind, upper + (20 if protocol == 6 else 8), size, upper, at)
    return header + bytes(whole), segments


def _packet(version: int, protocol: int, data: bytes, n: int, offset: int, flags: int, tos: int) -> bytes:
    """One whole packet with right checksums."""
    if protocol == 6:
        sequence = (0xFFFFF000 + offset) & 0xFFFFFFFF
        upper = struct.pack(">HHIIBBHHH", 1234, 443, sequence, 2, 0x50, flags, 512, 0, 0) + data
    else:
        upper = p.udp(1234, 443, data)
    if version == 4:
        packet = bytearray(p.ipv4(protocol=protocol, payload=upper, tos=tos))
        packet[4:6] = (7 + n & 0xFFFF).to_bytes(2, "big")
        packet[10:12] = bytes(2)
        packet[10:12] = p.checksum(bytes(packet[:20])).to_bytes(2, "big")
    else:
        packet = bytearray(p.ipv6(following=protocol, payload=upper, tos=tos))
    start, at = (20 if version == 4 else 40), (16 if protocol == 6 else 6)
    found = p.checksum(_pseudo(bytes(packet), start, protocol) + bytes(packet[start:]))
    packet[start + at:start + at + 2] = (found or (0xFFFF if protocol == 17 else 0)).to_bytes(2, "big")
    return bytes(packet)


def _pseudo(packet: bytes, start: int, protocol: int) -> bytes:
    addresses = packet[12:20] if start == 20 else packet[8:40]
    return addresses + struct.pack(">II", protocol, len(packet) - start)
