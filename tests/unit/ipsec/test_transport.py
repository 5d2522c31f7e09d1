"""Transport mode: what goes into ESP, what is made of it, checksums through a NAT; against scapy in both directions."""

from __future__ import annotations

import struct
import warnings
from ipaddress import ip_address

import pytest

from ipsecd.drops import DropReason
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.esp import make_seal
from ipsecd.ipsec.mtu import inner_mtu
from ipsecd.ipsec.sad import Pair
from ipsecd.ipsec.transport import part_of, trailers_of
from ipsecd.policy import Action, SpdEntry
from ipsecd.sa import SaPair, TransportEnds
from tests.support import esp_packets as p
from tests.support.esp_packets import checksum

with warnings.catch_warnings():                    # scapy names ciphers that cryptography deprecates
    warnings.simplefilter("ignore")
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.ipsec import ESP, SecurityAssociation

HERE, PEER, BEHIND = ("192.0.2.1", "2001:db8::1"), ("203.0.113.7", "2001:db8::7"), "10.9.9.9"
OPTIONS = bytes([17, 0]) + bytes(6)                # destination options ahead of UDP


class Ends:
    """Our data plane with one pair between two hosts, and the peer's sealing side."""

    def __init__(self, family: int = 4, *, nat_sum: int = 0, entries: list[SpdEntry] | None = None) -> None:
        self.ours = host_pair(family, nat_sum=nat_sum)
        self.plane = Dataplane(p.SeededRng())
        self.plane.add_device("ipsec0", None)
        protect = SpdEntry("hosts", Action.PROTECT, self.ours.ts_local, self.ours.ts_remote, p.CHILD)
        self.plane.replace_policy([*(entries or []), protect], {})
        self.plane.install_sa(self.ours)
        self.plane.use_outbound(p.CHILD, self.ours.spi_in, 0.0)
        self.sealer = make_seal(self.ours.suite, self.ours.inbound, p.SeededRng(2))
        self.sequence = 0

    def seal(self, packet: bytes) -> bytes | DropReason:
        pair = self.plane.route(packet, "ipsec0", 1.0)
        return self.plane.seal(pair, packet, 1.0) if isinstance(pair, Pair) else DropReason(str(pair))

    def carry(self, payload: bytes, next_header: int, *, tos: int = 0) -> bytes | DropReason:
        self.sequence += 1
        return self.open(self.sealer.seal(payload, trailers_of(next_header), self.sequence), tos)

    def open(self, datagram: bytes, tos: int = 0) -> bytes | DropReason:
        pair = self.plane.sad.by_spi[self.ours.spi_in]
        return self.plane.open(pair, datagram, 0, len(datagram), pair.path, tos, 1.0)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tos", [0, 0xBB])
def test_packet_of_a_host_arrives_with_its_addresses_traffic_class_and_payload(family: int, tos: int) -> None:
    ends = Ends(family)
    got = ends.carry(p.udp(data=b"abcde"), 17, tos=tos)
    assert isinstance(got, bytes)
    assert got.endswith(p.udp(data=b"abcde"))
    seen, at = (IP(got), 0) if family == 4 else (IPv6(got), 1)
    assert (seen.src, seen.dst) == (PEER[at], HERE[at])
    assert (seen.tos if family == 4 else seen.tc) == tos
    if family == 4:
        assert checksum(got[:20]) == 0
        assert (seen.ttl, seen.flags, seen.id, len(got)) == (64, "DF", 0, 33)
    assert ends.carry(p.udp(data=b"abcdef"), 17) != got            # the next of the flow, by the cache


@pytest.mark.parametrize("family", [4, 6])
def test_what_we_seal_opens_in_scapy_as_a_transport_mode_packet(family: int) -> None:
    ends = Ends(family)
    packet = host_packet(family, p.udp())
    sealed = ends.seal(packet)
    assert isinstance(sealed, bytes)
    outer = outer_of(family) / ESP(sealed)
    opened = scapy_sa(ends.ours.outbound).decrypt(outer.__class__(bytes(outer)))  # type: ignore[no-untyped-call]
    assert bytes(opened)[-len(p.udp()):] == p.udp()
    assert (opened.proto if family == 4 else opened.nh) == 17


@pytest.mark.parametrize("family", [4, 6])
def test_what_scapy_seals_in_transport_mode_arrives(family: int) -> None:
    ends = Ends(family)
    packet = (IP if family == 4 else IPv6)(host_packet(family, p.udp(), back=True))
    sealed = scapy_sa(ends.ours.inbound).encrypt(packet, seq_num=1)  # type: ignore[no-untyped-call]
    got = ends.open(bytes(sealed[ESP]))
    assert isinstance(got, bytes)
    assert got.endswith(p.udp())


def test_destination_options_travel_inside_and_come_out_again() -> None:                # RFC 4303 3.1.1
    ends = Ends(6)
    packet = host_packet(6, OPTIONS + p.udp(), protocol=60)
    assert part_of(packet) == (60, 40, len(packet), 6)
    assert isinstance(ends.seal(packet), bytes)
    got = ends.carry(OPTIONS + p.udp(), 60)
    assert isinstance(got, bytes)
    assert (got[6], got[40:]) == (60, OPTIONS + p.udp())


@pytest.mark.parametrize(("packet", "reason"), [
    (p.ipv4(HERE[0], PEER[0], options=b"\x94\x04\0\0"), DropReason.TRANSPORT_OPTIONS),
    (p.ipv6(HERE[1], PEER[1], 0, OPTIONS + p.udp()), DropReason.TRANSPORT_OPTIONS),
    (p.ipv6(HERE[1], PEER[1], 43, OPTIONS + p.udp()), DropReason.TRANSPORT_OPTIONS),
    (p.ipv6(HERE[1], PEER[1], 60, bytes([43, 0]) + bytes(6) + OPTIONS + p.udp()), DropReason.TRANSPORT_OPTIONS),
    (p.ipv4(HERE[0], PEER[0], fragment=0x2000), DropReason.OUTBOUND_FRAGMENT),
    (p.ipv4(HERE[0], PEER[0], fragment=0x0005), DropReason.OUTBOUND_FRAGMENT),
    (p.ipv6(HERE[1], PEER[1], 44, struct.pack(">BBHI", 17, 0, 1, 9) + p.udp()), DropReason.OUTBOUND_FRAGMENT),
])
def test_what_has_no_place_in_transport_mode_is_dropped_and_uses_no_number(packet: bytes, reason: DropReason) -> None:
    ends = Ends(packet[0] >> 4)
    assert ends.seal(packet) is reason
    assert ends.plane.drops == {reason: 1}
    assert ends.plane.sad.by_spi[ends.ours.spi_in].sequence == 0


def test_bytes_behind_the_packets_own_length_are_not_sent() -> None:
    assert part_of(host_packet(4, p.udp()) + b"xyz") == (17, 20, 20 + len(p.udp()), 9)
    assert part_of(host_packet(6, p.udp()) + b"xyz") == (17, 40, 40 + len(p.udp()), 6)


@pytest.mark.parametrize(("payload", "next_header", "reason"), [
    (p.udp(), 59, DropReason.ESP_DUMMY), (p.udp(), 0, DropReason.ESP_NEXT_HEADER),
    (p.udp(), 43, DropReason.ESP_NEXT_HEADER), (p.udp(), 44, DropReason.ESP_NEXT_HEADER),
    (b"", 17, DropReason.INNER_MALFORMED), (b"abc", 6, DropReason.INNER_MALFORMED),
    (p.icmp(5), 1, DropReason.INNER_REDIRECT)])
def test_payload_that_no_host_may_get_is_dropped(payload: bytes, next_header: int, reason: DropReason) -> None:
    ends = Ends()
    assert ends.carry(payload, next_header) is reason
    assert isinstance(ends.carry(p.udp(), 17), bytes)


def test_padding_that_does_not_count_is_refused_in_transport_mode_too() -> None:
    ends = Ends()
    wrong = tuple(bytes(pad) + bytes([pad, 17]) for pad in range(16))
    assert ends.open(ends.sealer.seal(p.udp(data=b"a"), wrong, 1)) is DropReason.ESP_BAD_PADDING
    beyond = ends.sealer.seal(b"ab", (bytes([200, 17]),) * 16, 2)
    assert ends.open(beyond) is DropReason.ESP_BAD_PADDING


def test_packet_inside_a_packet_is_within_any_protocol_and_outside_of_one() -> None:    # IB-08
    ends = Ends()
    assert isinstance(ends.carry(p.ipv4(), 4), bytes)
    udp_only = host_pair(4, protocol=17)
    ends.plane.install_sa(udp_only)
    ends.sequence = 0
    assert ends.carry(p.ipv4(), 4) is DropReason.INNER_SELECTOR
    assert isinstance(ends.carry(p.udp(), 17), bytes)


def test_discard_entry_holds_for_what_comes_in_transport_mode() -> None:
    both = (p.selectors(HERE[:1], 17, (5060, 5060)), p.selectors(PEER[:1]))
    ends = Ends(entries=[SpdEntry("no", Action.DISCARD, *both)])
    assert ends.carry(p.udp(), 17) is DropReason.SPD_DISCARD


def test_forwarded_packets_are_none_of_a_transport_mode_pair() -> None:
    ends = Ends()
    assert ends.plane.route(p.ipv4("10.1.0.5", PEER[0]), "ipsec0", 1.0) is DropReason.SPD_NO_MATCH


@pytest.mark.parametrize(("protocol", "at"), [(6, 16), (17, 6), (33, 6), (136, 6)])
@pytest.mark.parametrize("peer_sees", [BEHIND, "255.255.255.254", "10.0.0.0", PEER[0]])
@pytest.mark.parametrize("filler", [0, 0xFF])
def test_checksum_that_a_nat_made_wrong_is_right_again(protocol: int, at: int, peer_sees: str, filler: int) -> None:
    # RFC 3948 3.1.2: the peer sums over the address that it has behind the NAT, we over the NAT's.
    upper = bytes([4, 1, 0, 80]) + bytes([filler] * 40)
    sent = with_checksum(peer_sees, HERE[0], protocol, upper, at)
    got = Ends(nat_sum=(value(peer_sees) - value(PEER[0])) % 65535).carry(sent, protocol)
    assert isinstance(got, bytes)
    assert checksum(pseudo(PEER[0], HERE[0], protocol, len(upper)) + got[20:]) == 0
    assert got[20:20 + at] + got[22 + at:] == sent[:at] + sent[at + 2:]


def test_broken_checksum_stays_broken_through_a_nat() -> None:
    sent = with_checksum(BEHIND, HERE[0], 17, p.udp(), 6)
    broken = sent[:-1] + bytes([sent[-1] ^ 1])
    got = Ends(nat_sum=(value(BEHIND) - value(PEER[0])) % 65535).carry(broken, 17)
    assert isinstance(got, bytes)
    assert checksum(pseudo(PEER[0], HERE[0], 17, len(broken)) + got[20:]) != 0


def test_udp_without_checksum_and_icmp_pass_a_nat_unchanged() -> None:
    ends = Ends(nat_sum=4711)
    for payload, protocol in ((p.udp(), 17), (p.icmp(8), 1), (b"\0" * 3 + b"\1", 47)):
        got = ends.carry(payload, protocol)
        assert isinstance(got, bytes)
        assert got[20:] == payload


def test_icmpv6_checksum_is_set_right_behind_destination_options() -> None:
    echo = p.icmp(128, body=b"ping")
    sent = with_checksum("2001:db8:9::9", HERE[1], 58, echo, 2)
    nat_sum = (value("2001:db8:9::9") - value(PEER[1])) % 65535
    got = Ends(6, nat_sum=nat_sum).carry(bytes([58, 0]) + bytes(6) + sent, 60)
    assert isinstance(got, bytes)
    assert checksum(pseudo(PEER[1], HERE[1], 58, len(echo)) + got[48:]) == 0


@pytest.mark.parametrize(("family", "udp", "expected"), [(4, True, 1458), (4, False, 1466), (6, True, 1458)])
def test_inner_mtu_of_transport_mode_counts_the_header_once(family: int, udp: bool, expected: int) -> None:
    assert inner_mtu(p.suite(), outer_mtu=1500, outer_version=family, udp=udp, transport=True) == expected


def host_pair(family: int, *, nat_sum: int = 0, protocol: int = 0) -> SaPair:
    at = 0 if family == 4 else 1
    return p.pair(local=p.selectors(HERE[at:at + 1], protocol), remote=p.selectors(PEER[at:at + 1], protocol),
                  transport=TransportEnds(HERE[at], PEER[at], nat_sum))


def host_packet(family: int, payload: bytes, *, protocol: int = 17, back: bool = False) -> bytes:
    at = 0 if family == 4 else 1
    source, destination = (PEER[at], HERE[at]) if back else (HERE[at], PEER[at])
    return (p.ipv4 if family == 4 else p.ipv6)(source, destination, protocol, payload)


def outer_of(family: int) -> IP | IPv6:
    return IP(src=HERE[0], dst=PEER[0], proto=50) if family == 4 else IPv6(src=HERE[1], dst=PEER[1], nh=50)


def scapy_sa(spec: object) -> SecurityAssociation:
    return SecurityAssociation(ESP, spi=spec.spi, crypt_algo="AES-GCM",  # type: ignore[attr-defined, no-untyped-call]
                               crypt_key=spec.encr_key.reveal())  # type: ignore[attr-defined]


def value(address: str) -> int:
    return int(ip_address(address))


def pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    return ip_address(source).packed + ip_address(destination).packed + struct.pack(">II", length, protocol)


def with_checksum(source: str, destination: str, protocol: int, upper: bytes, at: int) -> bytes:
    """The upper layer as its sender makes it."""
    bare = upper[:at] + b"\0\0" + upper[at + 2:]
    found = checksum(pseudo(source, destination, protocol, len(bare)) + bare) or 0xFFFF
    return bare[:at] + struct.pack(">H", found) + bare[at + 2:]
