"""The tunnel device (Documentation/networking/tuntap.rst): persistent, so that its index, routes and counters outlive
the daemon, and adopted by the next start.

It is made for several queues, whatever the engine of today reads.  One that an earlier version made for a single queue
stays as it is, for what the kernel routes into it is held back by it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from array import array
from collections.abc import Generator

from ipsecd.errors import LocalError
from ipsecd.policy import RoutingDomain

_CLONE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_TUNSETOWNER = 0x400454CC
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TUN = 0x0001
_IFF_MULTI_QUEUE = 0x0100
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_SIOCETHTOOL = 0x8946
_ETHTOOL_GLINK = 0x0A
_DROPPED_COLUMN = 11                                # of /proc/net/dev: after eight inbound ones the fourth
_SIOCSIFTXQLEN = 0x8943
QUEUE_PACKETS = 2000                                # what a fast LAN sends while the loop is busy for 20 ms
_MAX_NAME = 15                                      # IFNAMSIZ less its zero

OFFLOAD_CHECKSUM = 0x01                             # TUN_F_CSUM
OFFLOAD_TSO4 = 0x02                                 # TUN_F_TSO4
OFFLOAD_TSO6 = 0x04                                 # TUN_F_TSO6
OFFLOAD_USO4 = 0x20                                 # TUN_F_USO4, from Linux 6.2
OFFLOAD_USO6 = 0x40                                 # TUN_F_USO6


class DeviceBusyError(LocalError):
    """Another process has the device, or its lock."""


def open_tun(name: str, *, vnet_hdr_bytes: int = 0, owner: int | None = None) -> int:
    """Make or adopt a persistent TUN device and return the non-blocking descriptor of one queue of it."""
    return open_queues(name, 1, vnet_hdr_bytes=vnet_hdr_bytes, owner=owner)[0]


def open_queues(name: str, most: int, *, vnet_hdr_bytes: int = 0, owner: int | None = None) -> tuple[int, ...]:
    """Make or adopt a persistent TUN device and return non-blocking descriptors of its queues, which the caller closes.

    There are `most` of them, or one where the device was made for a single one.  `vnet_hdr_bytes` (0, 10 or 12) puts a
    virtio_net_hdr ahead of every packet; `owner` is a user ID that may attach without CAP_NET_ADMIN.  Raises
    DeviceBusyError while another process is attached, LocalError otherwise.
    """
    present = _is_present(name)
    if present and _has_link(name):                    # of a TUN device that is up: somebody reads it
        raise DeviceBusyError(f"{name} is in use by another process")
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_MULTI_QUEUE | (_IFF_VNET_HDR if vnet_hdr_bytes else 0)
    try:
        first = _attach(name, flags)
    except LocalError as error:
        if not present or not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EINVAL:
            raise
        most, first = 1, _attach(name, flags & ~_IFF_MULTI_QUEUE)
    found = [first]
    try:
        fcntl.ioctl(first, _TUNSETPERSIST, 1)
        if owner is not None:
            fcntl.ioctl(first, _TUNSETOWNER, owner)
        if vnet_hdr_bytes:
            fcntl.ioctl(first, _TUNSETVNETHDRSZ, struct.pack("i", vnet_hdr_bytes))
        _set_queue(name)
        for _ in range(most - 1):
            found.append(_attach(name, flags))
    except (OSError, LocalError) as e:
        for descriptor in found:
            os.close(descriptor)
        raise e if isinstance(e, LocalError) else LocalError(f"{name}: {e.strerror}") from e
    return tuple(found)


def _is_present(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def _has_link(name: str) -> bool:
    """Return whether an interface is up and has a carrier, as it is at this moment: its flags follow a second later."""
    value = array("I", [_ETHTOOL_GLINK, 0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            fcntl.ioctl(s, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), value.buffer_info()[0]))
        except OSError:
            return False
    return value[1] == 1


def _attach(name: str, flags: int) -> int:
    if not 0 < len(name.encode()) <= _MAX_NAME:
        raise LocalError(f"{name!r} is no name of an interface")
    try:
        descriptor = os.open(_CLONE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        raise LocalError(f"{_CLONE}: {e.strerror}: is the tun module loaded?") from e
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as e:
        os.close(descriptor)
        if e.errno == errno.EBUSY:
            raise DeviceBusyError(f"{name} is in use by another process") from e
        raise LocalError(f"{name}: {e.strerror}") from e
    return descriptor


def _set_queue(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, _SIOCSIFTXQLEN, struct.pack("16si20x", name.encode(), QUEUE_PACKETS))


def set_offload(descriptor: int, offloads: int) -> bool:
    """Tell the kernel which super-packets (OFFLOAD_*) we take; return whether it agrees."""
    try:
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, offloads)
    except OSError:
        return False
    return True


def queue_overflow(name: str, table: str = "/proc/net/dev") -> int:
    """Return how many packets the kernel dropped because the device's queue was full: nobody read it in time.

    0 for a device that does not exist.  `table` is the kernel's list of devices in our network namespace.
    """
    with open(table, encoding="ascii", errors="replace") as lines:
        for line in lines:
            device, _, counts = line.partition(":")
            if device.strip() == name:
                return int(counts.split()[_DROPPED_COLUMN])
    return 0


def make_device(name: str) -> None:
    """Make the device where it does not exist; one that is there stays as it is."""
    if not _is_present(name):
        os.close(open_tun(name))


def lock_device(name: str) -> socket.socket:
    """Take the lock of (network namespace, device) until the socket is closed or the process ends.

    An abstract unix socket: its names are apart in each network namespace, and no crash leaves one behind.
    Raises DeviceBusyError.
    """
    return _lock(name, f"another ipsecd runs {name} in this network namespace")


@contextlib.contextmanager
def lock_domain(domain: RoutingDomain) -> Generator[None]:
    """Hold what belongs to one daemon in a network namespace: the device and the tables.  Raises DeviceBusyError."""
    with contextlib.ExitStack() as locks:
        locks.enter_context(lock_device(domain.device))
        for table in (domain.protected_table, domain.wide_table):
            locks.enter_context(_lock(f"table/{table}", f"another ipsecd has routing table {table} in this network "
                                      "namespace: set gateway.tables, priority and mark"))
        yield


def _lock(name: str, refusal: str) -> socket.socket:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(f"\0ipsecd/{name}")
    except OSError as e:
        lock.close()
        raise DeviceBusyError(refusal) from e
    return lock
