"""Transport mode with AH (RFC 4302 3.1.1): which headers of a packet stay ahead of AH, and the packet made of it again.

    IPv4   header, options | AH | upper layer
    IPv6   header, hop-by-hop, routing, and what stands ahead of those | AH | destination options | upper layer

Unlike ESP, AH has its headers from the packet itself and we write them, so IP options are carried.  A packet whose
route they prescribe is not: its destination is another at each hop.  What routers may change is not authentic, so it
does not reach the host: options that change become no-operations, and data of IPv6 options that do become zero.
"""

from __future__ import annotations

from struct import Struct

from ipsecd.drops import DropReason
from ipsecd.ipsec.ip import AH, DESTINATION, DONT_FRAGMENT, FRAGMENT, HOP_BY_HOP, ROUTING, traffic_class
from ipsecd.ipsec.offload import ones_sum
from ipsecd.ipsec.outer_header import NO_OPERATION, V4_NAMED_AT, V6_NAMED_AT, Outer, unchanging_options
from ipsecd.ipsec.transport import HOP_LIMIT, NEVER_INSIDE, Part, Rebuilder

_SOURCE_ROUTES = frozenset({131, 137})             # RFC 791 3.1: loose and strict
_WALKED = frozenset({HOP_BY_HOP, ROUTING, DESTINATION})
_U16 = Struct(">H")
_U32 = Struct(">I").pack


def part_of(packet: bytes) -> Part | DropReason:
    """Return what of a packet, whose headers `ip.parse` has found to be sound, stands behind AH."""
    if packet[0] >> 4 == 6:
        return _part_of_v6(packet)
    if packet[6] & 0x3F or packet[7]:
        return DropReason.OUTBOUND_FRAGMENT
    start = (packet[0] & 15) * 4
    if _is_source_routed(packet[20:start]):
        return DropReason.TRANSPORT_OPTIONS
    return Part(packet[V4_NAMED_AT], start, _U16.unpack_from(packet, 2)[0], V4_NAMED_AT)


def _part_of_v6(packet: bytes) -> Part | DropReason:
    end = 40 + _U16.unpack_from(packet, 4)[0]
    start = at = 40
    named_at, said_at = V6_NAMED_AT, V6_NAMED_AT
    while packet[said_at] in _WALKED:
        kind, said_at = packet[said_at], at
        if kind == ROUTING and packet[at + 3]:     # RFC 8200 4.4: segments left
            return DropReason.TRANSPORT_OPTIONS
        at += (packet[at + 1] + 1) * 8
        if kind != DESTINATION:
            start, named_at = at, said_at
    if packet[said_at] == FRAGMENT:
        return DropReason.OUTBOUND_FRAGMENT
    return Part(packet[named_at], start, end, named_at)


def _is_source_routed(options: bytes) -> bool:
    at = 0
    while at < len(options) and options[at]:
        if options[at] in _SOURCE_ROUTES:
            return True
        at += 1 if options[at] == NO_OPERATION else max(2, options[at + 1] if at + 1 < len(options) else 2)
    return False


def head_of(packet: bytes, part: Part, source: bytes, destination: bytes, *, ah_bytes: int, sequence: int) -> bytes:
    """Return the headers ahead of AH between these addresses, nothing where those are of the other family.

    The checksum of an IPv4 header and its Identification are as `Ah.seal` has them.
    """
    if len(source) != (4 if packet[0] >> 4 == 4 else 16):
        return b""
    head = bytearray(packet[:part.start])
    head[part.named_at] = AH
    length = ah_bytes + part.end
    if len(source) == 16:
        head[4:6], head[8:40] = _U16.pack(length - 40), source + destination
        return bytes(head)
    head[2:4], head[12:20] = _U16.pack(length), source + destination
    if not any(head[4:6]):
        head[4:6] = _U16.pack(sequence % 0xFFFF + 1)
    head[6:8], head[10:12] = _U16.pack(DONT_FRAGMENT), b"\0\0"
    return bytes(head)


def restored(packet: bytes, outer: Outer, ah_bytes: int, ends: Rebuilder) -> bytes | DropReason:
    """Return the packet of a verified one between the two hosts of its pair."""
    next_header, carried = packet[outer.at], packet[outer.at + ah_bytes:outer.end]
    if next_header in NEVER_INSIDE:
        return DropReason.AH_NEXT_HEADER
    if packet[0] >> 4 != ends.version:
        return DropReason.INNER_MALFORMED
    head, tos = bytearray(outer.covered), traffic_class(packet)
    head[outer.named_at] = next_header
    if ends.version == 6:
        head[:4], head[4:6] = _U32(6 << 28 | tos << 20), _U16.pack(outer.at - 40 + len(carried))
        head[7], head[8:40] = HOP_LIMIT, ends.addresses
        return bytes(head) + carried
    head[1], head[2:4], head[6:8] = tos, _U16.pack(outer.at + len(carried)), _U16.pack(DONT_FRAGMENT)
    head[8], head[12:20] = HOP_LIMIT, ends.addresses
    head[20:] = unchanging_options(packet[20:outer.at], fill=NO_OPERATION) or b""
    head[10:12] = _U16.pack(~ones_sum(bytes(head)) & 0xFFFF)
    return bytes(head) + carried
