"""The outer size of a path as this host sees it: the MTU of the link and of the route toward the peer, and as a hint
what an ICMP error left in the kernel's cache.

A forged "fragmentation needed" makes a route exception and would show in IP_MTU of a socket; link and configured route
do not move for anybody outside (RFC 4301 8.2, RFC 8899).  What probing found (ike.sizing) lowers the figure further.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import Any, cast

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ipsecd.ipsec.mtu import inner_mtu
from ipsecd.policy import Policy
from ipsecd.sa import ChildKey, LinkSize, Path, SaPair

DEFAULT_OUTER_MTU = 1500
CAUTIOUS_INNER_MTU = 1366        # AES-CBC with HMAC-SHA2-512 behind UDP over IPv6 takes 1374 of 1500: not more
_RTM_F_FIB_MATCH = 0x2000        # the route as it was configured, not as the cache has it


def link_size(remote: str, mark: int) -> LinkSize:
    """Return what the first link and the route toward `remote` take, and what ICMP said of it."""
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    try:
        with IPRoute() as opened:
            netlink = cast("Any", opened)
            cached, configured = (next(iter(netlink.route("get", family=family, dst=remote, mark=mark, flags=flags)))
                                  for flags in (0, _RTM_F_FIB_MATCH))
            index: int = cached.get_attr("RTA_OIF")
            link: int = next(iter(netlink.get_links(index))).get_attr("IFLA_MTU")
    except (NetlinkError, OSError, StopIteration, TypeError):
        return LinkSize(DEFAULT_OUTER_MTU)       # no route or link just now: set again when the path changes
    size = min(link, _mtu(configured) or link)
    said = _mtu(cached)
    return LinkSize(size, said if said < size else 0)


def _mtu(route: Any) -> int:
    metrics = route.get_attr("RTA_METRICS")
    return int(metrics.get_attr("RTAX_MTU") or 0) if metrics else 0


class ChildSizes:
    """The largest inner packet of each child, and the outer size toward each peer, in bytes.

    `links` has the path of each pair and what the host says of it, by inbound SPI.
    """

    def __init__(self, policy: Policy) -> None:
        self.inner: dict[ChildKey, int] = {}
        self.outer: dict[str, int] = {}
        self.links: dict[int, tuple[Path, LinkSize]] = {}
        self._mark = policy.domain.own_mark
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """Take a new policy's children; one that is not up yet begins with a size that every suite can carry."""
        self.inner = {c.key: self.inner.get(c.key, CAUTIOUS_INNER_MTU) for p in policy.peers for c in p.children}
        self._fixed = {p.name: p.ike.path_mtu for p in policy.peers if p.ike.path_mtu}
        self._probed = frozenset(p.name for p in policy.peers if p.ike.probe_path)

    def update(self, pairs: Iterable[SaPair], found: Mapping[Path, int]) -> None:
        """Measure the paths of all pairs, less what was `found` by probing; may take a millisecond for each peer."""
        inner, outer = dict(self.inner), dict[str, int]()
        links: dict[int, tuple[Path, LinkSize]] = {}
        measured: dict[str, LinkSize] = {}
        seen: dict[ChildKey, int] = {}
        for pair in pairs:
            remote, peer = pair.path.remote.address, pair.child.peer
            if remote not in measured:
                measured[remote] = link_size(remote, self._mark)
            link = measured[remote]
            links[pair.spi_in] = pair.path, link
            size = min(link.link_bytes, self._fixed.get(peer, link.link_bytes))
            if peer in self._probed:
                size = min(size, found.get(pair.path, size))
            outer[peer] = min(size, outer.get(peer, size))
            inside = inner_mtu(pair.suite, outer_mtu=size, outer_version=6 if ":" in remote else 4,
                               udp=not pair.path.raw, transport=pair.transport is not None)
            seen[pair.child] = min(inside, seen.get(pair.child, inside))
        self.inner = inner | {child: size for child, size in seen.items() if child in inner}
        self.outer, self.links = outer, links
