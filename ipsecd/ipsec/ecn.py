"""Explicit congestion notification through the tunnel (RFC 6040).

Encapsulation copies the inner field outside ("normal mode", 4.1).  Decapsulation joins both fields by the table of
section 4.2; DSCP stays as it is inside.
"""

from __future__ import annotations

NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3
DROP = 4

# RFC 6040 4.2, figure 4: row = inner, column = outer Not-ECT, ECT(1), ECT(0), CE.
_TABLE = (
    (NOT_ECT, NOT_ECT, NOT_ECT, DROP),
    (ECT_1, ECT_1, ECT_1, CE),
    (ECT_0, ECT_1, ECT_0, CE),
    (CE, CE, CE, CE),
)
# The combinations that the same figure marks "(!!!)" and "(!)": no sender of today makes them.
_UNEXPECTED = frozenset({(NOT_ECT, ECT_1), (NOT_ECT, ECT_0), (NOT_ECT, CE), (ECT_1, ECT_0), (CE, ECT_1)})


def decapsulated(inner: int, outer: int) -> int:
    """Return the field that leaves the tunnel, or DROP."""
    return _TABLE[inner][outer]


def is_unexpected(inner: int, outer: int) -> bool:
    """Return whether an operator might want to know of this combination (RFC 6040 4.2)."""
    return (inner, outer) in _UNEXPECTED


def with_ecn(packet: bytes, ecn: int) -> bytes:
    """Return the packet with another ECN field; the IPv4 header checksum follows (RFC 1624)."""
    if packet[0] >> 4 == 6:
        return packet[:1] + bytes([packet[1] & 0xCF | ecn << 4]) + packet[2:]
    tos = packet[1] & 0xFC | ecn
    checksum = packet[10] << 8 | packet[11]
    # RFC 1624 3, equation 3: HC' = ~(~HC + ~m + m') over the word of version, IHL and TOS.
    total = (~checksum & 0xFFFF) + (~(packet[0] << 8 | packet[1]) & 0xFFFF) + (packet[0] << 8 | tos)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:1] + bytes([tos]) + packet[2:10] + (~total & 0xFFFF).to_bytes(2, "big") + packet[12:]
