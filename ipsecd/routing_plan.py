"""Policy in, everything that the kernel must hold out: device, routes, rules and the guard.

Two lines of defence.  Routes carry protected packets to the tunnel device, with an unreachable route beneath each one
for when the device is down or gone; the guard (guard_plan.py) drops what leaves or arrives in clear whatever the
routes say.  Tables of our own; the main table is never touched:

protected  every remote prefix that is not wide; asked for each packet without our mark
wide       prefixes that would catch the gateway's own way out; asked only for packets from local selectors
one each   for every ingress interface that protect entries select by, with a TUN device of its own: the device says by
           which interface a packet came in.  It holds every remote prefix of those entries.  A source check of what
           was decrypted (rp_filter) asks for the way back from the interface it goes to, and so finds this table too

All are asked before main by rules of one priority block:

priority      own mark -> past the end           our IKE and ESP
priority + 1  bypass mark -> past the end
priority + 2  by an interface of its own, to home -> main, but not its default route (suppress_prefixlength 0)
priority + 3  by an interface of its own: lookup its table
priority + 4  to home -> main, but not its default route
priority + 5  lookup protected
priority + 6  from local selectors: lookup wide
priority + 9  the end: no operation
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ipsecd.guard_plan import Clamp, GuardPlan, compile_guard
from ipsecd.intervals import FAMILIES, Range, merge, prefixes
from ipsecd.policy import Policy, RoutingDomain
from ipsecd.protected import IPV6_MINIMUM_MTU, Host, Territory, survey
from ipsecd.sa import ChildKey
from ipsecd.selectors import from_prefix

MAIN_TABLE = 254                                    # RT_TABLE_MAIN
WORST_METRIC = 0xFFFFFFFF
DEVICE_MTU = 1500                                   # bytes; the routes carry the true figure


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy routing rule; a `table` of 0 with a `goto` of 0 is no operation."""

    version: int
    priority: int
    mark: int = 0
    mask: int = 0
    source: str = ""
    destination: str = ""
    table: int = 0
    goto: int = 0
    suppress_prefixlength: int | None = None
    interface: str = ""


@dataclass(frozen=True, slots=True)
class DeviceRoute:
    """A prefix that goes into the tunnel device; `mtu` in bytes of the inner packet."""

    version: int
    prefix: str
    table: int
    device: str
    source: str | None
    mtu: int

    @property
    def place(self) -> tuple[int, str, int]:
        """Family, prefix and table: routes of one place replace each other."""
        return self.version, self.prefix, self.table


@dataclass(frozen=True, slots=True)
class UnreachableRoute:
    """The same prefix with the worst metric, for when the device route is not there."""

    version: int
    prefix: str
    table: int


@dataclass(frozen=True, slots=True)
class Device:
    """A tunnel device, the ingress interface that it serves (None: all that have no device of their own), and the
    settings under /proc/sys/net that belong to it.
    """

    name: str
    interface: str | None
    mtu: int
    sysctls: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RoutingPlan:
    """All that one policy wants of the kernel on one host; equal plans need no work.

    Rules, routes and unreachable routes stand in the order of setting up, which loses no packet: a rule before the
    route that it excepts from.  Taking away goes backwards.
    """

    domain: RoutingDomain
    devices: tuple[Device, ...]
    rules: tuple[Rule, ...]
    routes: tuple[DeviceRoute, ...]
    unreachable: tuple[UnreachableRoute, ...]
    guard: GuardPlan

    def devices_beyond(self, other: RoutingPlan) -> list[Device]:
        """Return the devices that `other` does not have."""
        names = {d.name for d in other.devices}
        return [d for d in self.devices if d.name not in names]


def make_plan(policy: Policy, host: Host, mtus: Mapping[ChildKey, int]) -> RoutingPlan:
    """Return the plan for a policy on a host; `mtus` are inner packet sizes in bytes of the children that are up."""
    domain = policy.domain
    interfaces = (None, *policy.protected_interfaces)
    territories = [survey(policy, host, mtus, version, interface) for interface in interfaces for version in FAMILIES]
    routes = tuple(route for t in territories for route in _routes(domain, t))
    clamps = [Clamp(domain.device_for(t.interface), t.version, mtu, ranges) for t in territories
              for mtu, ranges in sorted(_by_mtu(t).items())]
    mtu = max([DEVICE_MTU, *(r.mtu for r in routes)])
    return RoutingPlan(
        domain=domain,
        devices=tuple(_device(domain.device_for(i), i, mtu) for i in interfaces),
        rules=tuple(rule for t in territories for rule in _rules(domain, t)),
        routes=routes,
        unreachable=tuple(UnreachableRoute(r.version, r.prefix, r.table) for r in routes),
        guard=compile_guard(policy, host, territories, clamps))


def _device(name: str, interface: str | None, mtu: int) -> Device:
    # A redirect or an advertised router would teach hosts a way around the tunnel.
    settings = ((f"ipv4/conf/{name}/send_redirects", "0"), (f"ipv4/conf/{name}/accept_redirects", "0"),
                (f"ipv6/conf/{name}/accept_redirects", "0"), (f"ipv6/conf/{name}/accept_ra", "0"))
    return Device(name, interface, mtu, settings)


def _routes(domain: RoutingDomain, ground: Territory) -> Iterator[DeviceRoute]:
    for remote in ground.remotes:
        table = domain.wide_table if remote.wide else domain.protected_table
        if ground.interface is not None:
            table = domain.table_for(ground.interface)
        # Nobody can be told of less (RFC 8201 4); a TCP connection of IPv6 gets by with the clamp, which may be less.
        mtu = max(remote.mtu, IPV6_MINIMUM_MTU) if ground.version == 6 else remote.mtu
        yield DeviceRoute(ground.version, remote.prefix, table, domain.device_for(ground.interface), remote.source, mtu)


def _rules(domain: RoutingDomain, ground: Territory) -> list[Rule]:
    version, first, end = ground.version, domain.priority, domain.priority + 9
    if ground.interface is not None:
        rules = [Rule(version, first + 2, destination=p, table=MAIN_TABLE, suppress_prefixlength=0,
                      interface=ground.interface) for p in prefixes(version, ground.home)]
        own = Rule(version, first + 3, table=domain.table_for(ground.interface), interface=ground.interface)
        return [*rules, own]
    # A goto to a target that does not stand yet would let packets fall through: the end comes first.
    rules = [Rule(version, end),
             Rule(version, first, mark=domain.own_mark, mask=domain.mask, goto=end),
             Rule(version, first + 1, mark=domain.bypass_mark, mask=domain.mask, goto=end)]
    rules += [Rule(version, first + 4, destination=p, table=MAIN_TABLE, suppress_prefixlength=0)
              for p in prefixes(version, ground.home)]
    rules.append(Rule(version, first + 5, table=domain.protected_table))
    rules += [Rule(version, first + 6, source=p, table=domain.wide_table)
              for p in prefixes(version, ground.wide_from)]
    return rules


def _by_mtu(ground: Territory) -> dict[int, tuple[Range, ...]]:
    """Return remote ranges by MTU; nested prefixes stand under each of their figures and the lowest wins."""
    found: dict[int, list[Range]] = {}
    for remote in ground.remotes:
        selector = from_prefix(remote.prefix)
        found.setdefault(remote.mtu, []).append((selector.low, selector.high))
    return {mtu: merge(ranges) for mtu, ranges in found.items()}
