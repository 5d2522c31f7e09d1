"""UDP/500: one marked socket for each local address, read through asyncio-dgram.

asyncio-dgram queues without a bound and cannot tell the local address, so it gets sockets of our own, each bound to
one address.  Its transport takes one datagram each turn of the loop and the reader below empties the queue in the
same turn, so what waits in user space stays at one datagram a socket; the kernel's buffer bounds and drops the rest.
The reader then goes on with what else is there, up to a bound: a flood costs a turn of the loop for each batch only.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable
from typing import Any

import asyncio_dgram

from ipsecd.drops import DropReason
from ipsecd.runtime import clock
from ipsecd.sa import Endpoint, Path

IKE_PORT = 500
# Tuning
MAX_BATCH = 64              # datagrams in one turn of the loop, and no more than clock.TURN_S takes
RECEIVE_BYTES = 4 << 20     # some thousand requests: what a flood brings while a busy machine does something else
_MAX_DATAGRAM_BYTES = 65535
_SO_RCVBUFFORCE = 33        # beyond the system's limit; not in the socket module
_SO_MEMINFO = 55            # an array of u32 (linux/sock_diag.h), also not in the socket module
_MEMINFO_BYTES, _DROPS = 9 * 4, slice(8 * 4, 9 * 4)
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT = 0
Receive = Callable[[Path, bytes], None]


def open_ike_port(address: str, mark: int) -> socket.socket:
    """Return a marked socket bound to UDP/500 of one address; raises OSError.

    Without DF: an IKE_SA_INIT cannot be fragmented by IKE (RFC 7383 2.1) and may be larger than the path.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        with contextlib.suppress(PermissionError):       # without CAP_NET_ADMIN the system's default has to do
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BYTES)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        sock.bind((address, IKE_PORT))
    except OSError:
        sock.close()
        raise
    return sock


class IkePort:
    """One socket on UDP/500."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        address, port = sock.getsockname()[:2]
        self.local = Endpoint(address.split("%")[0], port)
        self._stream: asyncio_dgram.aio.DatagramStream | None = None
        self._running = self._closed = False

    async def run(self, receive: Receive) -> None:
        """Hand every datagram to `receive` until closed; awaits nothing else."""
        self._running = True
        self._stream = stream = await asyncio_dgram.from_socket(self._socket)
        if self._closed:             # while the transport was made
            stream.close()
        while True:
            try:
                data, remote = await stream.recv()
            except asyncio_dgram.TransportClosed:
                return
            except OSError:
                continue         # an ICMP error that the transport kept: a hint at most (RFC 7296 2.4)
            until = clock.now() + clock.TURN_S
            self._hand_over(data, remote, receive)
            self._read_on(receive, until)

    def _read_on(self, receive: Receive, until: float) -> None:
        """Read what came with the datagram that woke us."""
        for _ in range(MAX_BATCH - 1):
            if clock.now() >= until:
                return
            try:
                data, remote = self._socket.recvfrom(_MAX_DATAGRAM_BYTES)
            except OSError:          # nothing there, or an ICMP error as above: the transport reads next
                return
            self._hand_over(data, remote, receive)

    def _hand_over(self, data: bytes, remote: Any, receive: Receive) -> None:
        host, port = remote[:2]
        receive(Path(self.local, Endpoint(host.split("%")[0], port)), data)

    def send(self, remote: Endpoint, datagram: bytes) -> DropReason | None:
        """Send one datagram; a refusal of the kernel is a reason to count, never an exception."""
        try:
            self._socket.sendto(datagram, (remote.address, remote.port))
        except BlockingIOError:
            return DropReason.SEND_QUEUE_FULL
        except OSError:          # ENETUNREACH, EPERM, EMSGSIZE, ENOBUFS: retransmission copes
            return DropReason.SEND_FAILED
        return None

    @property
    def overflow(self) -> int:
        """Datagrams that the kernel dropped for want of room."""
        try:
            return int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_BYTES)[_DROPS],
                                  sys.byteorder)
        except OSError:              # closed just now
            return 0

    def close(self) -> None:
        """End `run` and close the socket."""
        self._closed = True
        if self._stream is not None:
            self._stream.close()
        elif not self._running:
            self._socket.close()
