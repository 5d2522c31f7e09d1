"""The socket of AH (protocol 51), whose ICV covers the IP header: we see and make it whole (raw(7), ipv6(7)).

The kernel fills in the IPv4 checksum alone.  In IPv6 it keeps the header to itself: what AH covers of it is known from
the socket and the ancillary data, and what is not told (flow label, hop limit) is not covered.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from struct import Struct

from ipsecd.engine.udp_io import BoundPort, Received
from ipsecd.ipsec.ip import AH, MAX_EXTENSION_BYTES
from ipsecd.sa import Endpoint

_IPV6_HDRINCL, _SO_RXQ_OVFL = 36, 40               # Linux's numbers, absent from the socket module
_EXTENSIONS = {socket.IPV6_HOPOPTS: 0, socket.IPV6_RTHDR: 43, socket.IPV6_DSTOPTS: 60}     # RFC 3542 6 to 8
_READ_BYTES = 65_535                               # the longest packet, its IPv4 header among it
_ANCILLARY_BYTES = 256 + 2 * MAX_EXTENSION_BYTES

_HEADER_V6 = Struct(">IHBB16s16s").pack
_INT = Struct("=i").unpack_from
_U32 = Struct("=I").unpack_from


def take_headers(sock: socket.socket) -> None:
    """Let us write IP headers, and in IPv6 see the extension headers.  Raises OSError."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        return
    for option in (_IPV6_HDRINCL, socket.IPV6_RECVHOPOPTS, socket.IPV6_RECVRTHDR, socket.IPV6_RECVDSTOPTS):
        sock.setsockopt(socket.IPPROTO_IPV6, option, 1)


class AhPort(BoundPort):
    """Reads and sends whole IP packets; its paths have no ports."""

    joins = False
    protocol = AH

    def __init__(self, address: str, sock: socket.socket) -> None:
        super().__init__(Endpoint(address, 0), sock, _READ_BYTES)
        self._own = ip_address(address).packed

    def receive(self) -> Received | None:
        """Read one packet, None when there is none.  Raises OSError for an error of the socket."""
        return self._receive_v6() if self.ipv6 else super().receive()

    def _receive_v6(self) -> Received | None:
        try:
            data, ancillary, _, sender = self.sock.recvmsg(_READ_BYTES, _ANCILLARY_BYTES)
        except BlockingIOError:
            return None
        tos, following, extensions = 0, AH, b""
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL:
                self.overflow = _U32(value)[0]
            elif level == socket.IPPROTO_IPV6 and kind in _EXTENSIONS:
                following = following if extensions else _EXTENSIONS[kind]
                extensions += value
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_TCLASS:
                tos = _INT(value)[0] & 0xFF
        # What does not fit into an honest packet's size is refused behind, as anything whose headers do not add up.
        payload = min(len(extensions) + len(data), 0xFFFF)
        header = _HEADER_V6(6 << 28 | tos << 20, payload, following, 0, ip_address(sender[0]).packed, self._own)
        packet = header + extensions + data
        return Received(packet, len(packet), tos, self._path(sender[0], 0))
