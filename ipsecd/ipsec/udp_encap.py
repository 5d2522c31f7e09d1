"""ESP and IKE on one UDP port (RFC 3948 2): what a datagram is, told by its first four bytes."""

from __future__ import annotations

from ipsecd.drops import DropReason

NON_ESP_MARKER = b"\0\0\0\0"                       # RFC 3948 2.2: an SPI of 0 is never used
KEEPALIVE = b"\xff"                                # RFC 3948 2.3
MARKER_BYTES = 4


def runt_reason(datagram: bytes, *, raw: bool) -> DropReason:
    """Name a datagram of fewer than four bytes, too short to be told apart; `raw` where no UDP was around it."""
    if raw:
        return DropReason.ESP_SHORT
    if not datagram:
        return DropReason.UDP_EMPTY
    return DropReason.UDP_KEEPALIVE if datagram == KEEPALIVE else DropReason.UDP_TRUNCATED
