"""What the kernel says about itself: the facts a plan needs, and a watch for changes of them and of what we installed.

The watch looks at message headers and a name or two, so that a router with many routes costs little; whoever is called
compares the whole anyway.  When the kernel had to drop messages (ENOBUFS) everything counts as changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from ipsecd.guard_plan import HELD_SUFFIX
from ipsecd.policy import RoutingDomain
from ipsecd.protected import Host, HostInterface
from ipsecd.routing_plan import MAIN_TABLE

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
# RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE; NFNLGRP_NFTABLES
_ROUTE_GROUPS = (1, 5, 7, 8, 9, 11, 19)
_NFT_GROUPS = (7,)
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE, _DELRULE = 16, 17, 20, 21, 24, 25, 33
_NFT_SUBSYSTEM, _NFT_NEWGEN = 10, 15
_IFLA_IFNAME, _IFLA_IFALIAS = 3, 20
_RTA_TABLE = 15                                     # tables above 255 do not fit the header's byte
_NFTA_TABLE = 1                                     # the table's name in every kind of message but NEWGEN
_IFF_UP = 1
_IFA_F_TENTATIVE = 0x40 | 0x08                      # tentative, or duplicate found
_IFA_F_TEMPORARY = 0x01                             # of IPv6 only; an IPv4 secondary has the same bit
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NFGENMSG_BYTES = 4
_BUFFER_BYTES = 4 << 20                             # a reload of 5,000 selectors is announced in about 2 MiB
_MAX_READS = 64                                     # messages taken in one turn of the loop
_MESSAGE_BYTES = 64 << 10

Told = Callable[[], None]


class Watcher:
    """Calls `damaged` when a route, rule or device of ours may be gone, `guard_touched` when an nft table of ours was
    changed, by us too, and `moved` when facts of the host may have changed.

    All are called on the loop, often more than once for one cause, and must only note it.
    """

    def __init__(self, domain: RoutingDomain, *, damaged: Told, guard_touched: Told, moved: Told) -> None:
        self._domain = domain
        self._tables = tuple(t.encode() + b"\0" for t in (domain.nft_table, domain.nft_table + HELD_SUFFIX))
        self._damaged = damaged
        self._guard_touched = guard_touched
        self._moved = moved
        self._sockets: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Watch from now on, in this thread's network namespace and running loop."""
        self._loop = asyncio.get_running_loop()
        for protocol, groups, look in ((_NETLINK_ROUTE, _ROUTE_GROUPS, self._route_message),
                                       (_NETLINK_NETFILTER, _NFT_GROUPS, self._nft_message)):
            sock = _listen(protocol, groups)
            self._sockets.append(sock)
            self._loop.add_reader(sock, self._read, sock, look)

    def close(self) -> None:
        """Stop watching."""
        for sock in self._sockets:
            if self._loop:
                self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()

    def _read(self, sock: socket.socket, look: Callable[[int, memoryview], None]) -> None:
        for _ in range(_MAX_READS):
            try:
                data = sock.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                for told in (self._damaged, self._guard_touched, self._moved):
                    told()
                continue
            for kind, body in _messages(memoryview(data)):
                look(kind, body)

    def _route_message(self, kind: int, body: memoryview) -> None:
        if kind in (_NEWADDR, _DELADDR):
            self._moved()
            self._damaged()                         # routes with that source went with it, unannounced
        elif kind in (_NEWLINK, _DELLINK):
            self._link(kind, body)
        elif kind == _DELRULE:
            self._damaged()
        elif kind in (_NEWROUTE, _DELROUTE) and len(body) >= _RTMSG.size:
            _, prefix_bits, _, _, table, protocol, _, _, _ = _RTMSG.unpack_from(body)
            ours = protocol == self._domain.protocol
            if (ours and kind == _DELROUTE) or (not ours and kind == _NEWROUTE and self._is_own_table(body)):
                self._damaged()                     # a foreign `replace` is not announced as the end of ours
            elif prefix_bits == 0 and table == MAIN_TABLE:
                self._moved()

    def _is_own_table(self, body: memoryview) -> bool:
        named = _attribute(body[_RTMSG.size:], _RTA_TABLE)
        return named is not None and self._domain.owns_table(int.from_bytes(named, sys.byteorder))

    def _link(self, kind: int, body: memoryview) -> None:
        if len(body) < _IFINFO.size:
            return
        family, _, _, flags, _ = _IFINFO.unpack_from(body)
        if family != socket.AF_UNSPEC:              # bridges and others tell of their own view
            return
        name, alias = (_attribute(body[_IFINFO.size:], wanted) or b"" for wanted in (_IFLA_IFNAME, _IFLA_IFALIAS))
        own = name == self._domain.device.encode() + b"\0" or alias.startswith(owner_alias(self._domain, "").encode())
        if not own:
            self._moved()
        elif kind == _DELLINK or not flags & _IFF_UP:
            self._damaged()

    def _nft_message(self, kind: int, body: memoryview) -> None:
        if kind >> 8 != _NFT_SUBSYSTEM or kind & 0xFF == _NFT_NEWGEN:
            return
        if _attribute(body[_NFGENMSG_BYTES:], _NFTA_TABLE) in self._tables:
            self._guard_touched()


def owner_alias(domain: RoutingDomain, interface: str | None) -> str:
    """Return the alias that our device of an ingress interface carries, so that it is known whatever its name."""
    return f"ipsecd {domain.device}" + ("" if interface is None else f" for {interface}")


def own_devices(ip: Any, domain: RoutingDomain) -> dict[str, tuple[int, str]]:
    """Return index and name of the domain's devices by ingress interface, the common one under ""."""
    found: dict[str, tuple[int, str]] = {}
    for link in ip.link("dump"):
        name, alias = link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_IFALIAS") or ""
        prefix = owner_alias(domain, "")
        if name == domain.device or alias.startswith(prefix):
            found["" if name == domain.device else alias.removeprefix(prefix)] = link["index"], name
    return found


def read_host(ip: Any, domain: RoutingDomain) -> Host:
    """Read interfaces, addresses and default routes through a pyroute2 IPRoute; our own devices are left out."""
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.link("dump")}
    ours = {"lo", *(name for _, name in own_devices(ip, domain).values())}
    held: dict[int, list[str]] = {index: [] for index, name in sorted(names.items()) if name not in ours}
    for address in ip.addr("dump"):
        flags = address.get_attr("IFA_FLAGS") or address["flags"]
        temporary = address["family"] == socket.AF_INET6 and flags & _IFA_F_TEMPORARY
        if address["index"] in held and not flags & _IFA_F_TENTATIVE and not temporary:
            own = address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")
            held[address["index"]].append(f"{own}/{address['prefixlen']}")
    hops = [hop for family in (socket.AF_INET, socket.AF_INET6) for hop in _default_hops(ip, family)]
    return Host(
        interfaces=tuple(HostInterface(names[index], tuple(found)) for index, found in held.items()),
        outside=tuple(dict.fromkeys(names[index] for index, _ in hops if index in held)),
        next_hops=tuple(dict.fromkeys(gateway for _, gateway in hops if gateway)))


def _default_hops(ip: Any, family: int) -> Iterator[tuple[int, str | None]]:
    """Yield (interface index, gateway) of the default routes in main."""
    routes: list[Any] = []
    with contextlib.suppress(NetlinkError):          # a kernel without this family, or an empty table
        routes = [r for r in ip.route("dump", family=family, table=MAIN_TABLE) if r["dst_len"] == 0]
    for route in routes:
        for hop in route.get_attr("RTA_MULTIPATH") or [route]:
            via = hop.get_attr("RTA_VIA")
            gateway = hop.get_attr("RTA_GATEWAY") or (via and via.get("addr"))
            index = hop["oif"] if hop is not route and "oif" in hop else hop.get_attr("RTA_OIF")
            if index:
                yield index, gateway


def _listen(protocol: int, groups: tuple[int, ...]) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        with contextlib.suppress(OSError):          # without CAP_NET_ADMIN; an overflow is noticed anyway
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        sock.close()
        raise
    return sock


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, body) of the netlink messages in one datagram."""
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            return
        yield kind, data[_HEADER.size:length]
        data = data[(length + 3) & ~3:]


def _attribute(data: memoryview, wanted: int) -> bytes | None:
    """Return the value of an attribute, None where there is none."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return None
        if kind & 0x3FFF == wanted:
            return bytes(data[_ATTRIBUTE.size:length])
        data = data[(length + 3) & ~3:]
    return None
