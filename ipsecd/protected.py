"""What a policy protects on this host, as address ranges: the ground that routes and guard are both drawn on.

Each address family is surveyed apart, and so is each ingress interface: a territory holds the protect entries without
an interface selector, or those of one interface.  Only packets forwarded from there meet the latter, never the
gateway's own, so nothing in it is wide.  Words used everywhere below:

local      every address that a protect entry has on our side
routed     remote prefixes that the protected table catches, whoever sends
wide       remote prefixes whose route would catch the gateway's own way out (the whole family, or an address, a
           connected network or a next hop of an outside interface); caught only when sent from `wide_from`
home       local addresses inside a remote prefix, less any remote prefix that is more specific still: LAN to LAN
inside     (interface, local range): where packets for that range may leave in clear
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network

from ipsecd.intervals import ADDRESS_BITS, Range, merge, within, without
from ipsecd.policy import Action, Policy, SpdEntry
from ipsecd.sa import ChildKey
from ipsecd.selectors import TrafficSelector

# 1500 less the worst overhead: IPv6 40, UDP 8, ESP 8, IV 16, padding and trailer 17, ICV 32 at most with AES-CBC is
# 121, with AES-GCM 89; children that are up bring their true figure.
DEFAULT_MTU = 1376
IPV6_MINIMUM_MTU = 1280                             # RFC 8200 5
MINIMUM_MTU = 68                                    # RFC 791 3.2: what no link needs to fragment

# A name outside this could end the quotes of nft text, or be a wildcard there.
_NAMEABLE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HostInterface:
    """A network interface and its addresses with prefix length ("10.1.0.1/24"), in the kernel's order."""

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Host:
    """What a plan must know about the machine; runtime/netlink.py reads it from the kernel.

    `outside` names the interfaces of the default routes, `next_hops` the gateways of any route.
    """

    interfaces: tuple[HostInterface, ...] = ()
    outside: tuple[str, ...] = ()
    next_hops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemotePrefix:
    """One prefix of a remote selector and how it is routed; `mtu` in bytes of the inner packet."""

    prefix: str
    wide: bool
    source: str | None
    mtu: int


@dataclass(frozen=True, slots=True)
class Territory:
    """One address family of the survey; the words are explained on top of this module."""

    version: int
    interface: str | None                           # the ingress interface that its entries select by
    local: tuple[Range, ...]
    home: tuple[Range, ...]
    routed: tuple[Range, ...]
    wide: tuple[Range, ...]
    wide_from: tuple[Range, ...]
    inside: tuple[tuple[str, Range], ...]
    remotes: tuple[RemotePrefix, ...]


def survey(policy: Policy, host: Host, mtus: Mapping[ChildKey, int], version: int,
           interface: str | None = None) -> Territory:
    """Return what the protect entries of one ingress interface mean for one address family on this host."""
    entries = [e for e in policy.entries if e.action is Action.PROTECT and e.interface == interface]
    local = [_span(s) for e in entries for s in e.local if s.version == version]
    remote = sorted({_span(s) for e in entries for s in e.remote if s.version == version})
    outside = _outside_points(policy, host, version) if interface is None else None
    remotes = tuple(_remotes(entries, host, mtus, version, outside))
    wide = {r.prefix for r in remotes if r.wide}
    return Territory(
        version=version,
        interface=interface,
        local=merge(local),
        home=_home(local, remote, _connected(policy, host, version)),
        routed=merge(_prefix_span(r.prefix) for r in remotes if not r.wide),
        wide=merge(_prefix_span(r.prefix) for r in remotes if r.wide),
        wide_from=merge(_span(s) for e in entries if wide.intersection(_entry_prefixes(e, version))
                        for s in e.local if s.version == version),
        inside=tuple(_inside(policy, host, version, local, interface)),
        remotes=remotes)


def nameable(names: Iterable[str]) -> tuple[str, ...]:
    """Return the interface names, sorted and without doubles, that may stand in nft text; others never match."""
    return tuple(sorted({n for n in names if _NAMEABLE.fullmatch(n)}))


def outside_interfaces(policy: Policy, host: Host) -> tuple[str, ...]:
    """Return the interfaces that lead away: default routes and `listen` addresses, less inside, exclude and device."""
    listening = [i.name for i in host.interfaces if any(str(a.ip) in policy.listen for a in _addresses(i))]
    kept = {*host.outside, *listening} - {*policy.inside, *policy.exclude, *own_devices(policy), "lo"}
    return nameable(kept)


def own_devices(policy: Policy) -> tuple[str, ...]:
    """Return the names of the TUN devices that a policy wants, the one of everything else first."""
    return tuple(policy.domain.device_for(interface) for interface in (None, *policy.protected_interfaces))


def _remotes(entries: list[SpdEntry], host: Host, mtus: Mapping[ChildKey, int], version: int,
             outside: list[Range] | None) -> Iterator[RemotePrefix]:
    """Yield each remote prefix once, rising; children that share a prefix share the smallest MTU.

    Without `outside` nothing is wide, and no route needs a source: the gateway itself does not use them.
    """
    found: dict[str, list[SpdEntry]] = {}
    for entry in entries:
        for prefix in _entry_prefixes(entry, version):
            found.setdefault(prefix, []).append(entry)
    for prefix in sorted(found, key=_prefix_span):
        users = found[prefix]
        mtu = min(mtus.get(e.child, DEFAULT_MTU) if e.child else DEFAULT_MTU for e in users)
        local = merge(_span(s) for e in users for s in e.local if s.version == version)
        yield RemotePrefix(prefix, outside is not None and _is_wide(prefix, version, outside),
                           _source(host, version, local) if outside is not None else None,
                           max(mtu, MINIMUM_MTU))


def _entry_prefixes(entry: SpdEntry, version: int) -> list[str]:
    return [p for s in entry.remote if s.version == version for p in s.prefixes()]


def _is_wide(prefix: str, version: int, outside: list[Range]) -> bool:
    span = _prefix_span(prefix)
    return span == (0, 2 ** ADDRESS_BITS[version] - 1) or any(within(point, span) for point in outside)


def _outside_points(policy: Policy, host: Host, version: int) -> list[Range]:
    """Return addresses, connected networks and next hops that a route must not take the gateway's own packets from."""
    names = outside_interfaces(policy, host)
    held = [a for i in host.interfaces if i.name in names for a in _addresses(i) if a.version == version]
    hops = [ip_address(h) for h in host.next_hops]
    return ([(int(a.ip), int(a.ip)) for a in held]
            + [_network_span(a) for a in held]
            + [(int(h), int(h)) for h in hops if h.version == version])


def _home(local: list[Range], remote: list[Range], connected: list[Range]) -> tuple[Range, ...]:
    """Return the local addresses that a remote selector would swallow.

    Where both sides are the same range (any to any) the prefixes do not tell what is ours: the networks on interfaces
    that do not lead away do.
    """
    kept: list[Range] = []
    for mine in sorted(set(local)):
        finer = [r for r in remote if r != mine and within(r, mine)]
        if any(theirs != mine and within(mine, theirs) for theirs in remote):
            kept += without([mine], finer)
        elif mine in remote:
            kept += without([c for c in connected if within(c, mine)], finer)
    return merge(kept)


def _connected(policy: Policy, host: Host, version: int) -> list[Range]:
    away = {*outside_interfaces(policy, host), *own_devices(policy)}
    return [_network_span(a) for i in host.interfaces if i.name not in away for a in _addresses(i)
            if a.version == version]


def _inside(policy: Policy, host: Host, version: int, local: list[Range],
            entered_by: str | None) -> Iterator[tuple[str, Range]]:
    always = (*policy.inside, *((entered_by,) if entered_by else ()))
    held: dict[str, list[Range]] = {name: list(local) for name in always}
    for interface in host.interfaces:
        points = [int(a.ip) for a in _addresses(interface) if a.version == version]
        if interface.name not in always:
            held[interface.name] = [r for r in local if any(r[0] <= p <= r[1] for p in points)]
    for device in own_devices(policy):
        held.pop(device, None)
    for name in nameable(held):
        for span in merge(held[name]):
            yield name, span


def _source(host: Host, version: int, local: tuple[Range, ...]) -> str | None:
    """Return the gateway's first address in its own local selectors: the peer would refuse any other."""
    for interface in host.interfaces:
        for address in _addresses(interface):
            if address.version == version and any(low <= int(address.ip) <= high for low, high in local):
                return str(address.ip)
    return None


def _addresses(interface: HostInterface) -> list[IPv4Interface | IPv6Interface]:
    return [a for a in map(ip_interface, interface.addresses) if not a.is_link_local]


def _span(selector: TrafficSelector) -> Range:
    return selector.low, selector.high


def _network_span(address: IPv4Interface | IPv6Interface) -> Range:
    return int(address.network.network_address), int(address.network.broadcast_address)


def _prefix_span(prefix: str) -> Range:
    network = ip_network(prefix)
    return int(network.network_address), int(network.broadcast_address)
