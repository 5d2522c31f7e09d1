"""IP protocols without ports beside UDP/4500: a socket for each local address and protocol (raw(7), ipv6(7)).

There is no segmentation offload: each packet costs a system call, or a place in one of several (`sendmmsg`, native
engine).  The kernel makes the IP header when it sends.  What it gives back has the header in IPv4 and not in IPv6, and
is reassembled in both.  While such a socket is open, the kernel answers none of its protocol's packets with "protocol
unreachable".
"""

from __future__ import annotations

import socket

from ipsecd.engine.ah_io import take_headers
from ipsecd.engine.udp_io import BoundPort, Received, set_options
from ipsecd.ipsec.ip import AH
from ipsecd.sa import Endpoint, Path

ESP_PROTOCOL = 50                                  # RFC 4303 2
RAW_PROTOCOLS = (ESP_PROTOCOL, AH)                   # what the daemon opens beside UDP/4500
_NAMES = {socket.IPPROTO_UDP: "udp", ESP_PROTOCOL: "esp", AH: "ah"}

# The longest packet, its IPv4 header among it: one that the kernel reassembled can be as long.
_READ_BYTES = 65_535


def open_raw(address: str, protocol: int, mark: int, device: str | None = None) -> socket.socket:
    """Return a non-blocking socket for packets of `protocol` to and from one local address.

    `mark` and `device` as in `udp_io.open_udp_4500`.  Raises OSError where the address is not ours, or without
    CAP_NET_RAW.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        set_options(sock, mark, device)
        if protocol == AH:
            take_headers(sock)
        sock.bind((address, 0))
    except OSError:
        sock.close()
        raise
    return sock


def protocol_of(sock: socket.socket) -> int:
    """Return the IP protocol of a socket that was opened here or in `udp_io`."""
    return sock.proto if sock.type == socket.SOCK_RAW else socket.IPPROTO_UDP


def carrier(path: Path) -> int:
    """Return the IP protocol of what goes over a path: by it and the local address its socket is found."""
    return ESP_PROTOCOL if path.raw else socket.IPPROTO_UDP


def socket_name(address: str, protocol: int) -> str:
    """Name a socket for the counters of what it lost."""
    return f"{_NAMES[protocol]}_{address}"


class RawPort(BoundPort):
    """One such socket; its paths have no ports."""

    joins = False

    def __init__(self, address: str, sock: socket.socket) -> None:
        super().__init__(Endpoint(address, 0), sock, _READ_BYTES)
        self.protocol = sock.proto

    def receive(self) -> Received | None:
        """Read one packet less its IP header, None when there is none.  Raises OSError for an error of the socket."""
        received = super().receive()
        if received is None or self.ipv6 or not received.data:
            return received
        packet = received.data[(received.data[0] & 15) * 4:]
        return received._replace(data=packet, segment_bytes=len(packet))
