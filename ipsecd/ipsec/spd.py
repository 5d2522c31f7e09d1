"""The Security Policy Database: the ordered list, searched so that the first match wins (RFC 4301 4.4.1).

A lookup bisects the address ranges of whichever side divides the list finer, and tries in order only the entries that
hold the packet's address there: a list of thousands of branches costs what a short one does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from ipsecd.ipsec.ip import Headers
from ipsecd.policy import SpdEntry
from ipsecd.selectors import TrafficSelector

T = TypeVar("T")
Sides = tuple[Sequence[TrafficSelector], Sequence[TrafficSelector]]     # local and remote selectors


class Flow(NamedTuple):
    """A packet as selectors see it from this gateway, whichever way it goes; ports as in `ip.Headers`."""

    version: int
    local: int
    remote: int
    protocol: int
    local_port: int | None
    remote_port: int | None


def outbound_flow(headers: Headers) -> Flow:
    """View a packet on its way to the peer."""
    return Flow(headers.version, headers.source, headers.destination, headers.protocol, headers.source_port,
                headers.destination_port)


def inbound_flow(headers: Headers) -> Flow:
    """View a packet that came from the peer, or reverse one that an ICMP error quotes (RFC 4301 6.2)."""
    return Flow(headers.version, headers.destination, headers.source, headers.protocol, headers.destination_port,
                headers.source_port)


def selects(local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector], flow: Flow) -> bool:
    """Return whether one selector of each side takes the flow."""
    for ts in local:
        if ts.matches(version=flow.version, address=flow.local, protocol=flow.protocol, port=flow.local_port):
            break
    else:
        return False
    return any(ts.matches(version=flow.version, address=flow.remote, protocol=flow.protocol, port=flow.remote_port)
               for ts in remote)


def selects_but_for_ports(local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector], flow: Flow) -> bool:
    """Return whether only ports that the packet does not show can have kept it out (RFC 4301 7)."""
    return (flow.local_port is None and any(_matches_address(ts, flow.version, flow.local, flow.protocol)
                                            for ts in local)
            and any(_matches_address(ts, flow.version, flow.remote, flow.protocol) for ts in remote))


class Spd:
    """One generation of the policy, never changed: a reload makes another."""

    def __init__(self, entries: Sequence[SpdEntry]) -> None:
        self.entries = tuple(entries)
        self._index = SelectorIndex(self.entries, [(entry.local, entry.remote) for entry in self.entries])

    def lookup(self, flow: Flow, interface: str | None) -> SpdEntry | None:
        """Return the first entry that takes the flow, or None.  `interface` is where the packet came from, if known."""
        for entry in self._index.candidates(flow):
            if entry.interface in (None, interface) and selects(entry.local, entry.remote, flow):
                return entry
        return None

    def hidden_ports_matter(self, flow: Flow, interface: str | None) -> bool:
        """Return whether some entry would take the flow if its ports could be seen."""
        return any(entry.interface in (None, interface) and selects_but_for_ports(entry.local, entry.remote, flow)
                   for entry in self._index.candidates(flow))


class SelectorIndex(Generic[T]):
    """Finds in a list of things those whose selectors (local, remote) may take a flow, in order; never changed."""

    def __init__(self, things: Sequence[T], selectors: Sequence[Sides]) -> None:
        self._by_version = {version: _AddressIndex(things, selectors, version) for version in (4, 6)}

    def candidates(self, flow: Flow) -> tuple[T, ...]:
        """Return, in order, those whose selectors hold the flow's address on the side by which they are indexed."""
        return self._by_version[flow.version].candidates(flow)


class _AddressIndex(Generic[T]):
    """The same by the address ranges of one side, for one family."""

    def __init__(self, things: Sequence[T], selectors: Sequence[Sides], version: int) -> None:
        local, remote = ([(ts.low, ts.high + 1, number) for number, sides in enumerate(selectors)
                          for ts in sides[side] if ts.version == version] for side in (0, 1))
        self._by_remote = len({r[:2] for r in remote}) >= len({r[:2] for r in local})
        self._starts, self._found = _slices(remote if self._by_remote else local, things)

    def candidates(self, flow: Flow) -> tuple[T, ...]:
        """See `SelectorIndex`."""
        at = bisect_right(self._starts, flow.remote if self._by_remote else flow.local)
        return self._found[at - 1] if at else ()


def _slices(ranges: list[tuple[int, int, int]], things: Sequence[T]) -> tuple[list[int], list[tuple[T, ...]]]:
    """Cut the address space where any range begins or ends."""
    changes: dict[int, list[tuple[int, int]]] = {}
    for low, end, number in ranges:
        changes.setdefault(low, []).append((number, 1))
        changes.setdefault(end, []).append((number, -1))
    starts: list[int] = []
    found: list[tuple[T, ...]] = []
    active: dict[int, int] = {}
    for at in sorted(changes):
        for number, step in changes[at]:
            active[number] = active.get(number, 0) + step
            if not active[number]:
                del active[number]
        starts.append(at)
        found.append(tuple(things[number] for number in sorted(active)))
    return starts, found


def _matches_address(ts: TrafficSelector, version: int, address: int, protocol: int) -> bool:
    return ts.version == version and ts.low <= address <= ts.high and ts.protocol in (0, protocol)
