"""UDP/4500 with segmentation and receive offload: many equal datagrams in one system call, either way.

A socket is bound to one local address, so a reply leaves by the socket that received.  `UDP_SEGMENT` lets one
sendmsg carry a run of datagrams of one size, the last one shorter; `UDP_GRO` gives them back as one buffer with the
size beside it.  The kernel joins only datagrams of equal outer TOS, so one byte of DSCP and ECN tells for all.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from itertools import groupby
from struct import Struct
from typing import NamedTuple

from ipsecd.drops import DropReason
from ipsecd.sa import Endpoint, Path

ESP_PORT = 4500

# Linux's numbers, absent from the socket module
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_MARK, _SO_RXQ_OVFL = 32, 33, 36, 40
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_IP_MTU_DISCOVER, _IP_RECVTOS, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 13, 23, 3

# Tuning
SOCKET_BUFFER_BYTES = 16 * 1024 * 1024             # a burst of 100 ms at 1 Gbit/s
MAX_RUN_SEGMENTS = 64                              # UDP_MAX_SEGMENTS of older kernels
MAX_RUN_BYTES = 65_000                             # below the largest UDP datagram of both families
MAX_PATHS = 1024                                   # peers remembered by one socket; a full table starts afresh
_READ_BYTES = 65_535
_ANCILLARY_BYTES = 128

_INT = Struct("=i")
_U16 = Struct("=H").pack
_U32 = Struct("=I").unpack_from


def open_udp_4500(address: str, mark: int, device: str | None = None, *, port: int = ESP_PORT) -> socket.socket:
    """Return a non-blocking socket bound to one local address, for IKE behind the marker and ESP.

    `mark` keeps its datagrams out of our own routing rules (0: none); `device` binds it to an interface.
    Raises OSError where the address is not ours, or marks need privileges that we do not have.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        set_options(sock, mark, device)
        sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def set_options(sock: socket.socket, mark: int, device: str | None) -> None:
    """Set what a socket for tunnelled packets needs, before it is bound.  Raises OSError."""
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    if device is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
    if sock.family == socket.AF_INET6:
        if sock.type == socket.SOCK_DGRAM:         # another kind has one family anyhow
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # A forged "packet too big" must not set our path MTU: sizes are ours to choose, and DF is always set.
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
    for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER_BYTES)
        except PermissionError:                    # without CAP_NET_ADMIN the system's limit holds
            sock.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER_BYTES)


class Received(NamedTuple):
    """One read: datagrams of `segment_bytes` one behind the other, the last may be shorter."""

    data: bytes
    segment_bytes: int
    tos: int
    path: Path


class BoundPort:
    """One socket, its local endpoint, and the paths seen through it."""

    protocol = socket.IPPROTO_UDP
    joins = True                                   # a run of datagrams may go as one

    def __init__(self, local: Endpoint, sock: socket.socket, read_bytes: int) -> None:
        self.sock = sock
        self.local = local
        self.ipv6 = sock.family == socket.AF_INET6
        self.overflow = 0                          # datagrams that the kernel dropped for want of room
        self._paths: dict[tuple[str, int], Path] = {}
        self._read_bytes = read_bytes
        self._recvmsg = sock.recvmsg

    def receive(self) -> Received | None:
        """Read what is there, None when there is nothing.  Raises OSError for an error queued on the socket."""
        try:
            data, ancillary, _, sender = self._recvmsg(self._read_bytes, _ANCILLARY_BYTES)
        except BlockingIOError:
            return None
        segment_bytes, tos = len(data), 0
        for level, kind, value in ancillary:
            if level == _SOL_UDP and kind == _UDP_GRO:
                segment_bytes = _INT.unpack_from(value)[0]
            elif level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL:
                self.overflow = _U32(value)[0]
            elif level in (socket.IPPROTO_IP, socket.IPPROTO_IPV6):
                tos = value[0]                     # a byte for IPv4, a little-endian or big-endian int for IPv6
                if len(value) == 4:
                    tos = _INT.unpack_from(value)[0] & 0xFF
        return Received(data, segment_bytes, tos, self._path(sender[0], sender[1]))

    def send(self, datagrams: list[bytes], remote: Endpoint, tos: int) -> None:
        """Send a run: equal sizes, the last may be shorter.  Raises OSError as sendmsg does."""
        ancillary: list[tuple[int, int, bytes]] = []
        if len(datagrams) > 1:
            ancillary.append((_SOL_UDP, _UDP_SEGMENT, _U16(len(datagrams[0]))))
        if tos:
            level, kind = ((socket.IPPROTO_IPV6, socket.IPV6_TCLASS) if self.ipv6
                           else (socket.IPPROTO_IP, socket.IP_TOS))
            ancillary.append((level, kind, _INT.pack(tos)))
        self.sock.sendmsg(datagrams, ancillary, 0, tuple(remote))

    def _path(self, address: str, port: int) -> Path:
        path = self._paths.get((address, port))
        if path is None:
            if len(self._paths) >= MAX_PATHS:
                self._paths.clear()
            path = self._paths[address, port] = Path(self.local, Endpoint(address, port))
        return path


class UdpPort(BoundPort):
    """A socket of UDP/4500."""

    def __init__(self, address: str, sock: socket.socket) -> None:
        super().__init__(Endpoint(address, sock.getsockname()[1]), sock, _READ_BYTES)


class RunSender:
    """Collects datagrams into runs and sends each by one system call.

    A run ends where path or TOS changes, where a datagram is larger than the first, behind a shorter one, and at the
    limits of the kernel.  `dropped` counts what was not sent, by reason.
    """

    def __init__(self, port_of: Callable[[Path], BoundPort | None], dropped: Callable[[DropReason, int], None]) -> None:
        self._port_of = port_of
        self._dropped = dropped
        self._run: list[bytes] = []
        self._path: Path | None = None
        self._tos = 0
        self._size = 0
        self._bytes = 0

    def add(self, path: Path, tos: int, datagrams: Iterable[bytes]) -> None:
        """Queue datagrams behind those before them; `flush` at the end of a batch."""
        for size, equal in groupby(datagrams, len):
            rest = list(equal)
            while rest:
                room = self._room(path, tos, size)
                self._run += rest[:room]
                self._bytes += size * min(room, len(rest))
                del rest[:room]
                if size < self._size:
                    self.flush()

    def _room(self, path: Path, tos: int, size: int) -> int:
        """Return how many of this size may go on with the open run, or with the one that is begun then."""
        if path is self._path and tos == self._tos and size <= self._size and self._run:
            room = min(MAX_RUN_SEGMENTS - len(self._run), (MAX_RUN_BYTES - self._bytes) // size)
            if room > 0:
                return room if size == self._size else 1
        self.flush()
        self._path, self._tos, self._size, self._bytes = path, tos, size, 0
        return max(1, min(MAX_RUN_SEGMENTS, MAX_RUN_BYTES // size))

    def flush(self) -> None:
        """Send the run that is open."""
        run, path = self._run, self._path
        if not run or path is None:
            return
        self._run = []
        port = self._port_of(path)
        if port is None:                           # our address went away and the path was not moved yet
            self._dropped(DropReason.SEND_FAILED, len(run))
            return
        if not port.joins:
            self._send_singly(port, run, path.remote)
            return
        try:
            port.send(run, path.remote, self._tos)
        except OSError as error:
            if len(run) > 1 and error.errno in (errno.EINVAL, errno.EIO, errno.EMSGSIZE):
                self._send_singly(port, run, path.remote)    # a device or path that takes no segmentation
            else:
                self._dropped(drop_reason(error), len(run))

    def _send_singly(self, port: BoundPort, run: list[bytes], remote: Endpoint) -> None:
        for datagram in run:
            try:
                port.send([datagram], remote, self._tos)
            except OSError as error:
                self._dropped(drop_reason(error), 1)


def drop_reason(error: OSError) -> DropReason:
    """Name what the kernel said to a datagram of ours."""
    if error.errno in (errno.EAGAIN, errno.ENOBUFS):
        return DropReason.SEND_QUEUE_FULL
    return DropReason.TOO_BIG if error.errno == errno.EMSGSIZE else DropReason.SEND_FAILED
