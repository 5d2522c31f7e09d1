"""What ESP or AH adds to a packet, and the largest inner packet that still fits.

RFC 4303 2, RFC 3948 2.1, RFC 4302 2.
"""

from __future__ import annotations

from ipsecd.suites import AhSuite, ChildSuite, Integ

IP_HEADER_BYTES = {4: 20, 6: 40}
UDP_HEADER_BYTES = 8
ESP_HEADER_BYTES = 8                               # SPI and sequence number
ESP_TRAILER_BYTES = 2                              # pad length and next header
AH_FIXED_BYTES = 12                                # all ahead of the ICV
AH_ALIGN_BYTES = {4: 4, 6: 8}                      # RFC 4302 2.6
# Tuning
LARGE_PACKET_BYTES = 1024       # larger ones, TFC padding among it, tell that large datagrams flow: 1280 carry less
LARGE_REPORT_S = 2.0            # of one pair at most once in so long: a peer costs one exchange then (ike.pmtud)


def inner_mtu(suite: ChildSuite, *, outer_mtu: int, outer_version: int, udp: bool = True,
              transport: bool = False) -> int:
    """Return the size in bytes of the largest inner packet that fits into one outer packet of `outer_mtu` bytes.

    In transport mode the outer header is the packet's own, so that it counts as the packet's.
    """
    header = IP_HEADER_BYTES[outer_version]
    room = outer_mtu - header - (UDP_HEADER_BYTES if udp else 0)
    if isinstance(suite, AhSuite):
        return room - ah_bytes(suite.integ, outer_version) + (header if transport else 0)
    room -= ESP_HEADER_BYTES + suite.encr.iv_bytes + suite.icv_bytes
    carried = room // suite.encr.block_bytes * suite.encr.block_bytes - ESP_TRAILER_BYTES
    return carried + header if transport else carried


def ah_bytes(integ: Integ, outer_version: int) -> int:
    """Return the length of AH with its ICV, in an outer packet of this IP version (RFC 4302 2.6)."""
    align = AH_ALIGN_BYTES[outer_version]
    return -(-(AH_FIXED_BYTES + integ.iv_bytes + integ.icv_bytes) // align) * align
