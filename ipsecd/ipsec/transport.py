"""Transport mode (RFC 4301 3.2): what of a packet goes into ESP, and the packet made of what comes out of it.

    IPv4   header | upper layer                          ESP carries all behind the header
    IPv6   header | [destination options] | upper layer  and here too (RFC 4303 3.1.1)

The header itself travels as that of the outer datagram, which has the packet's DSCP and ECN; on the other side one is
made with the addresses that the SA is for.  Options of IPv4, hop-by-hop options and routing headers would stand ahead
of ESP, where a datagram socket has no place for them, and an SA in transport mode carries no fragments (RFC 4301 7).
"""

from __future__ import annotations

from ipaddress import ip_address
from struct import Struct
from typing import NamedTuple

from ipsecd.drops import DropReason
from ipsecd.ipsec.esp import TRAILERS
from ipsecd.ipsec.ip import DESTINATION, DONT_FRAGMENT, FRAGMENT, HOP_BY_HOP, ICMPV6, IPV4, ROUTING, TCP, UDP
from ipsecd.ipsec.offload import ones_sum
from ipsecd.sa import TransportEnds

NEVER_INSIDE = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT})      # RFC 4303 3.1.1: these stand ahead of ESP
HOP_LIMIT = 64                                     # RFC 1700: the sender's is not told, and the way was one hop

_DCCP, _UDP_LITE = 33, 136
# Where protocols that sum their addresses keep that sum (RFC 9293 3.1, 768, 4340 5.1, 4443 2.1, 3828 3.1).
_CHECKSUMS = {TCP: 16, UDP: 6, _DCCP: 6, ICMPV6: 2, _UDP_LITE: 6}
_LONGEST_PADDING = 16                              # of a cipher's blocks (RFC 4303 2.4)
_COUNTING = TRAILERS[IPV4][255][:255]
_V4 = Struct(">BBHHHBBH8s").pack
_V6 = Struct(">IHBB32s").pack
_U16 = Struct(">H")


class Part(NamedTuple):
    """What of a packet is protected: packet[start:end], whose next header is named at packet[named_at]."""

    next_header: int
    start: int
    end: int
    named_at: int


def part_of(packet: bytes) -> Part | DropReason:
    """Return what of a packet, whose headers `ip.parse` has found to be sound, is protected."""
    if packet[0] >> 4 == 4:
        if packet[6] & 0x3F or packet[7]:
            return DropReason.OUTBOUND_FRAGMENT
        if packet[0] != 0x45:
            return DropReason.TRANSPORT_OPTIONS
        return Part(packet[9], 20, _U16.unpack_from(packet, 2)[0], 9)
    end = 40 + _U16.unpack_from(packet, 4)[0]
    following, _ = _behind_options(packet[40:end], packet[6])
    if following == FRAGMENT:
        return DropReason.OUTBOUND_FRAGMENT
    if following in NEVER_INSIDE:
        return DropReason.TRANSPORT_OPTIONS
    return Part(packet[6], 40, end, 6)


def trailers_of(next_header: int) -> tuple[bytes, ...]:
    """Return the row of `esp.TRAILERS` for a next header, as far as a cipher's blocks need it."""
    return tuple(_COUNTING[:pad] + bytes((pad, next_header)) for pad in range(_LONGEST_PADDING))


def is_padding(padding: bytes) -> bool:
    """Return whether padding counts 1, 2, 3 (RFC 4303 2.4)."""
    return padding == _COUNTING[:len(padding)]


class Rebuilder:
    """Makes packets of what ESP carried between two hosts."""

    __slots__ = ("_nat_sum", "addresses", "version")

    def __init__(self, ends: TransportEnds) -> None:
        local, remote = ip_address(ends.local), ip_address(ends.remote)
        self.version = local.version
        self.addresses = remote.packed + local.packed
        self._nat_sum = ends.nat_sum

    def packet(self, payload: bytes, next_header: int, tos: int) -> bytes:
        """Return the packet from the peer, `tos` its byte of DSCP and ECN."""
        if self._nat_sum:
            payload = self._with_checksum(payload, next_header)
        if self.version == 6:
            return _V6(6 << 28 | tos << 20, len(payload), next_header, HOP_LIMIT, self.addresses) + payload
        # Without an identification, which an atomic packet does not need (RFC 6864 4.1).
        head = _V4(0x45, tos, 20 + len(payload), 0, DONT_FRAGMENT, HOP_LIMIT, next_header, 0, self.addresses)
        return head[:10] + _U16.pack(~ones_sum(head) & 0xFFFF) + head[12:] + payload

    def _with_checksum(self, payload: bytes, next_header: int) -> bytes:
        """Set a checksum to what the sender would have made it over our addresses (RFC 1624)."""
        protocol, at = _behind_options(payload, next_header)
        at += _CHECKSUMS.get(protocol, len(payload))
        if at + 2 > len(payload):
            return payload
        was: int = _U16.unpack_from(payload, at)[0]
        if protocol == UDP and was == 0:           # RFC 768: there is none
            return payload
        # Zero and all ones are one sum; only the latter never means "none".
        return payload[:at] + _U16.pack((was + self._nat_sum) % 65535 or 65535) + payload[at + 2:]


def _behind_options(payload: bytes, following: int) -> tuple[int, int]:
    """Return the header behind destination options, and where it begins."""
    at = 0
    while following == DESTINATION and at + 2 <= len(payload):
        following, at = payload[at], at + (payload[at + 1] + 1) * 8
    return following, at
