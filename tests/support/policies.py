"""Short ways to write a Policy for routing tests; the gateway and world they describe is that of `GATEWAY`."""

from __future__ import annotations

from collections.abc import Iterable

from ipsecd.policy import Action, Policy, RoutingDomain, SpdEntry
from ipsecd.protected import Host, HostInterface
from ipsecd.sa import ChildKey
from ipsecd.selectors import ANY_PORTS, TrafficSelector, from_prefix

EVERYWHERE = ("0.0.0.0/0", "::/0")
SITE_A = ("10.1.0.0/16", "2001:db8:1::/48")
SITE_B = ("10.2.0.0/16", "2001:db8:2::/48")
GATEWAY = Host((HostInterface("lan0", ("10.1.0.1/24", "2001:db8:1::1/64")),
                HostInterface("lan1", ("10.1.1.1/24", "2001:db8:1:1::1/64")),
                HostInterface("wan", ("192.0.2.1/24", "2001:db8:a::1/64"))),
               ("wan",), ("192.0.2.254", "2001:db8:a::254"))


def side(addresses: Iterable[str], protocol: int = 0,
         ports: tuple[int, int] = ANY_PORTS) -> tuple[TrafficSelector, ...]:
    return tuple(from_prefix(a, protocol, ports) for a in addresses)


def entry(action: str, local: Iterable[str] = EVERYWHERE, remote: Iterable[str] = EVERYWHERE, *, protocol: int = 0,
          local_ports: tuple[int, int] = ANY_PORTS, remote_ports: tuple[int, int] = ANY_PORTS,
          interface: str | None = None, name: str = "e") -> SpdEntry:
    child = ChildKey("hq", name) if action == "protect" else None
    return SpdEntry(name, Action(action), side(local, protocol, local_ports), side(remote, protocol, remote_ports),
                    child, interface)


def policy(*entries: SpdEntry, default: str = "bypass", inside: tuple[str, ...] = (),
           domain: RoutingDomain | None = None) -> Policy:
    return Policy(listen=(), peers=(), entries=entries, default_action=Action(default),
                  domain=domain or RoutingDomain(), inside=inside, exclude=(), cookie_threshold=30, source_limit=64)
