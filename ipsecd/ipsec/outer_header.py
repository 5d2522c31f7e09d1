"""The IP headers ahead of AH: where it begins, and what of them its ICV covers (RFC 4302 3.3.3.1, appendix A).

What routers may change is taken as zero: in IPv4 TOS, flags, fragment offset, TTL, checksum and whole options of kinds
that change; in IPv6 traffic class, flow label, hop limit and the data of options that say so themselves.  A routing
header has arrived, so it is as the sender predicted it.  Everything else counts as it is.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from ipsecd.drops import DropReason
from ipsecd.ipsec.ip import AH, MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS

# RFC 4302 appendix A1: options that are covered.  The table has the others, and unknown ones, as mutable.
IMMUTABLE_OPTIONS = frozenset({130, 133, 134, 148, 149})
_END, NO_OPERATION = 0, 1
V4_NAMED_AT, V6_NAMED_AT = 9, 6                    # of the header itself
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_PAD1, _CHANGES_EN_ROUTE = 0, 0x20                 # RFC 8200 4.2: the third-highest bit of an option's type
_FRAGMENTED = 0x3FFF                               # more fragments, and offset

_V4 = Struct(">BxHxxHxB").unpack_from              # IHL, total length, flags and offset, protocol
_V6 = Struct(">4xHB").unpack_from                  # payload length, next header


class Outer(NamedTuple):
    """The headers with what is mutable zeroed; AH begins behind them, and the packet ends at `end`.

    `named_at` is where they say that AH follows.
    """

    covered: bytes
    end: int
    named_at: int

    @property
    def at(self) -> int:
        """Where AH begins."""
        return len(self.covered)


def outer_header(packet: bytes) -> Outer | DropReason:
    """Read the headers of a whole packet, up to AH."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return _outer_v4(packet)
    return _outer_v6(packet) if version == 6 else DropReason.AH_MALFORMED


def _outer_v4(packet: bytes) -> Outer | DropReason:
    if len(packet) < 20:
        return DropReason.AH_SHORT
    first, total, fragment, protocol = _V4(packet)
    header = (first & 15) * 4
    if header < 20 or not header <= total <= len(packet) or protocol != AH:
        return DropReason.AH_MALFORMED
    if fragment & _FRAGMENTED:
        return DropReason.AH_FRAGMENT
    options = unchanging_options(packet[20:header], fill=0)
    if options is None:
        return DropReason.AH_MALFORMED
    return Outer(b"".join((packet[:1], b"\0", packet[2:6], b"\0\0\0", packet[9:10], b"\0\0", packet[12:20], options)),
                 total, V4_NAMED_AT)


def unchanging_options(options: bytes, *, fill: int) -> bytes | None:
    """Return IPv4 options with those that change filled as a whole (RFC 4302 3.3.3.1.1.2); None for wrong lengths."""
    covered = bytearray(options)
    at = 0
    while at < len(options) and options[at] != _END:
        if options[at] == NO_OPERATION:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            return None
        if options[at] not in IMMUTABLE_OPTIONS:
            covered[at:at + length] = bytes((fill,)) * length
        at += length
    return bytes(covered)


def _outer_v6(packet: bytes) -> Outer | DropReason:
    if len(packet) < 40:
        return DropReason.AH_SHORT
    payload, following = _V6(packet)
    end = payload + 40
    if end > len(packet):
        return DropReason.AH_MALFORMED
    parts = [b"\x60\0\0\0", packet[4:7], b"\0", packet[8:40]]
    at, seen, named_at = 40, 0, V6_NAMED_AT
    while following != AH:
        seen += 1
        if following == _FRAGMENT:                 # whole when it comes from the kernel; RFC 4302 3.4.1
            return DropReason.AH_FRAGMENT
        misplaced = following == _HOP_BY_HOP and at != 40
        if following not in (_HOP_BY_HOP, _ROUTING, _DESTINATION) or misplaced or at + 8 > end:
            return DropReason.AH_MALFORMED
        size = (packet[at + 1] + 1) * 8
        header = packet[at:at + size]
        if at + size > end or at + size - 40 > MAX_EXTENSION_BYTES or seen > MAX_EXTENSION_HEADERS:
            return DropReason.AH_MALFORMED
        covered = header if following == _ROUTING else _covered_extension(header)
        if covered is None:
            return DropReason.AH_MALFORMED
        parts.append(covered)
        following, named_at = header[0], at
        at += size
    return Outer(b"".join(parts), end, named_at)


def _covered_extension(header: bytes) -> bytes | None:
    """Return hop-by-hop or destination options with the data of those zeroed that may change (RFC 4302 3.3.3.1.2.2)."""
    covered = bytearray(header)
    at = 2
    while at < len(header):
        if header[at] == _PAD1:
            at += 1
            continue
        length = header[at + 1] if at + 1 < len(header) else len(header)
        if at + 2 + length > len(header):
            return None
        if header[at] & _CHANGES_EN_ROUTE:
            covered[at + 2:at + 2 + length] = bytes(length)
        at += 2 + length
    return bytes(covered)
