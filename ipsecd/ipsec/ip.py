"""Reads the headers of inner packets: lengths first, then what selectors need (RFC 791 3.1, RFC 8200 3 and 4).

`flow_key` serves the packets that nearly all are, by one unpack; `parse` takes every form of header with all checks.
Neither changes a packet.  A TTL is not counted down here: the kernel that forwards into and out of the TUN does that.
"""

from __future__ import annotations

from enum import Enum
from struct import Struct
from typing import NamedTuple

from ipsecd.selectors import HAS_PORTS, ICMP_PROTOCOLS

IPV4 = 4                                           # next header of a tunnel-mode packet (RFC 4303 2.6)
IPV6 = 41
ICMP, TCP, UDP, ESP, AH, ICMPV6 = 1, 6, 17, 50, 51, 58

# Tuning: no honest chain comes near, and a walk must end (RFC 8504 5.3 lets a node limit what it parses).
MAX_EXTENSION_HEADERS = 8
MAX_EXTENSION_BYTES = 256

HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
_EXTENSIONS = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION})
_MORE_FRAGMENTS, _OFFSET = 0x2000, 0x1FFF

# RFC 792, RFC 4443 2.1: messages that quote the packet they are about.  A redirect is none: see `is_redirect`.
_ICMP_ERRORS = frozenset({(4, 3), (4, 11), (4, 12), (6, 1), (6, 2), (6, 3), (6, 4)})
_REDIRECTS = frozenset({(4, 5), (6, 137)})
_ICMP_HEADER_BYTES = 8
_IKE_PORTS = (500, 4500)
DONT_FRAGMENT = 0x4000                             # of IPv4's flags and offset

_FLOW_V4 = Struct(">2xH2xHxB2xQI").unpack_from     # total length, flags and offset, protocol, addresses, ports
_FLOW_V6 = Struct(">4xHBx32sI").unpack_from        # payload length, next header, addresses, ports
_V4 = Struct(">BxH2xHxB2xII").unpack_from
_V6 = Struct(">4xHBx16s16s").unpack_from
_PORTS = Struct(">HH").unpack_from

FlowKey = tuple[int | bytes, int, int]


class Fault(Enum):
    """Why headers were refused; each direction has its own drop reason for them."""

    MALFORMED = 1                                  # lengths or versions that contradict each other
    FRAGMENT = 2                                   # RFC 4301 7, RFC 1858: a fragment made to hide its ports


class Headers(NamedTuple):
    """What selectors see of a packet.

    Addresses are integers.  A port is None where the packet does not show one; ICMP has type * 256 + code in both
    (RFC 7296 3.13.1).  `length` is the packet's own, in bytes; `payload` the offset of the upper layer.
    """

    version: int
    source: int
    destination: int
    protocol: int
    source_port: int | None
    destination_port: int | None
    length: int
    payload: int


def flow_key(packet: bytes, length: int) -> FlowKey | None:
    """Return what tells flows apart, for an unfragmented TCP or UDP packet of exactly `length` bytes, else None."""
    if length < 24:
        return None
    if packet[0] == 0x45:
        total, fragment, protocol, addresses, ports = _FLOW_V4(packet)
        if total != length or fragment & 0xBFFF or protocol not in (TCP, UDP):
            return None
        return addresses, ports, protocol
    if packet[0] >> 4 == 6 and length >= 44:
        payload, protocol, addresses, ports = _FLOW_V6(packet)
        if payload + 40 != length or protocol not in (TCP, UDP):
            return None
        return addresses, ports, protocol
    return None


def traffic_class(packet: bytes) -> int:
    """Return DSCP and ECN, the byte that encapsulation copies outside (RFC 4301 5.1.2, RFC 6040 4.1)."""
    return packet[1] if packet[0] >> 4 == 4 else (packet[0] & 15) << 4 | packet[1] >> 4


def parse(packet: bytes, *, quoted: bool = False) -> Headers | Fault:
    """Read the headers of a whole packet, or with `quoted` of one that an ICMP error cut short."""
    if not packet:
        return Fault.MALFORMED
    version = packet[0] >> 4
    if version == 4:
        return _parse_v4(packet, quoted)
    if version == 6:
        return _parse_v6(packet, quoted)
    return Fault.MALFORMED


def quoted_packet(packet: bytes, headers: Headers) -> Headers | None:
    """Return the headers of the packet that an ICMP error is about; None when this is no ICMP error (RFC 4301 6.2)."""
    if headers.protocol not in ICMP_PROTOCOLS or headers.source_port is None:
        return None
    if (headers.version, headers.source_port >> 8) not in _ICMP_ERRORS:
        return None
    inner = parse(packet[headers.payload + _ICMP_HEADER_BYTES:headers.length], quoted=True)
    return None if isinstance(inner, Fault) or inner.version != headers.version else inner


def is_tunnel_traffic(headers: Headers) -> bool:
    """Return whether this is IKE, ESP or AH."""
    return headers.protocol in (ESP, AH) or (headers.protocol == UDP and (
        headers.source_port in _IKE_PORTS or headers.destination_port in _IKE_PORTS))


def is_redirect(headers: Headers) -> bool:
    """Return whether this is an ICMP redirect, which no tunnel delivers (RFC 4301 6.1.2)."""
    return (headers.protocol in ICMP_PROTOCOLS and headers.source_port is not None
            and (headers.version, headers.source_port >> 8) in _REDIRECTS)


def is_martian(version: int, address: int) -> bool:
    """Return whether no host can have this source address (RFC 1812 5.3.7, RFC 4291 2.5.2, 2.5.3, 2.5.5.2, 2.7)."""
    if version == 4:
        first = address >> 24
        return first in (0, 127) or first >= 224
    return address in (0, 1) or address >> 120 == 0xFF or address >> 32 == 0xFFFF


def _parse_v4(packet: bytes, quoted: bool) -> Headers | Fault:
    if len(packet) < 20:
        return Fault.MALFORMED
    first, total, fragment, protocol, source, destination = _V4(packet)
    header = (first & 15) * 4
    if header < 20 or total < header or len(packet) < header or (total > len(packet) and not quoted):
        return Fault.MALFORMED
    offset = (fragment & _OFFSET) * 8
    if offset + total - header > 65535:
        return Fault.MALFORMED
    if offset:
        # RFC 1858 3.2.2, RFC 4301 7.2: at offset 8 it could overwrite the TCP flags that were judged.
        if offset == 8 and protocol == TCP:
            return Fault.FRAGMENT
        return Headers(4, source, destination, protocol, None, None, total, header)
    first_fragment = bool(fragment & _MORE_FRAGMENTS)
    ports = _ports(packet, header, min(total, len(packet)), protocol, first_fragment)
    if isinstance(ports, Fault):
        return ports
    return Headers(4, source, destination, protocol, *ports, total, header)


def _parse_v6(packet: bytes, quoted: bool) -> Headers | Fault:
    if len(packet) < 40:
        return Fault.MALFORMED
    payload, following, source_bytes, destination_bytes = _V6(packet)
    total = payload + 40
    # A jumbogram (RFC 2675) says 0 here: no path of ours carries one.
    if payload == 0 or (total > len(packet) and not quoted):
        return Fault.MALFORMED
    source, destination = int.from_bytes(source_bytes, "big"), int.from_bytes(destination_bytes, "big")
    end = min(total, len(packet))
    at, first_fragment, seen = 40, False, 0
    while following in _EXTENSIONS:
        seen += 1
        if seen > MAX_EXTENSION_HEADERS or at + 8 > end or (following == HOP_BY_HOP and at != 40):
            return Fault.MALFORMED
        kind, following = following, packet[at]
        if kind == FRAGMENT:
            field = packet[at + 2] << 8 | packet[at + 3]
            # RFC 8200 4.5 has one such header; an atomic fragment (RFC 6946) no longer has a sender (RFC 8021).
            if first_fragment or not field & 0xFFF9:
                return Fault.FRAGMENT
            at += 8
            if field & 0xFFF8:
                return Headers(6, source, destination, following, None, None, total, at)
            first_fragment = True
        else:
            at += (packet[at + 1] + 1) * 8
        if at > end or at - 40 > MAX_EXTENSION_BYTES:
            return Fault.MALFORMED
    ports = _ports(packet, at, end, following, first_fragment)
    if isinstance(ports, Fault):
        return ports
    return Headers(6, source, destination, following, *ports, total, at)


def _ports(packet: bytes, at: int, end: int, protocol: int, first_fragment: bool
           ) -> tuple[int | None, int | None] | Fault:
    if protocol in HAS_PORTS:
        if at + 4 <= end:
            source, destination = _PORTS(packet, at)
            return source, destination
    elif protocol in ICMP_PROTOCOLS:
        if at + 2 <= end:
            kind = packet[at] << 8 | packet[at + 1]
            return kind, kind
    else:
        return None, None
    # RFC 1858 3: a first fragment too small for its ports exists only to slip past selectors.
    return Fault.FRAGMENT if first_fragment else Fault.MALFORMED
