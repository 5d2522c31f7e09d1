"""SimNet: hosts with IKE endpoints on a network whose time jumps to the next thing that happens.

Every datagram takes `latency_s`; the network may lose, duplicate, reorder, hold or rewrite it.  A `Nat` maps what
leaves its inside.  Nothing sleeps: `run` moves `now` from event to event.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeVar

from ipsecd.effects import (
    Emit,
    FetchRevocation,
    InstallSa,
    RemoveSa,
    Resolve,
    SendIke,
    SendKeepalive,
    UpdatePath,
    UseOutbound,
    Work,
)
from ipsecd.errors import LocalError
from ipsecd.events import Event
from ipsecd.ike.endpoint import IkeEndpoint
from ipsecd.policy import Policy
from ipsecd.sa import Deadline, Endpoint, Path, SaPair
from tests.support.impair import LATE_S, impaired
from tests.support.nat import Datagram, Nat
from tests.support.seeded_rng import SeededRng

_E = TypeVar("_E")
START = 1000.0
WORKER_FAILED = "the worker failed"    # what an impaired worker raises
WALL_START = 1780272000.0       # 2026-06-01 in Unix seconds, when the certificates of tests.support.pki are valid


@dataclass
class Host:
    """A gateway: an endpoint, and what its effects did."""

    net: SimNet
    name: str
    address: str
    rng: SeededRng
    endpoint: IkeEndpoint
    nat: Nat | None = None
    log: list[object] = field(default_factory=list)
    pairs: dict[int, SaPair] = field(default_factory=dict)      # what the engine holds
    outbound: dict[tuple[Any, int], int] = field(default_factory=dict)
    seen_at: dict[int, float] = field(default_factory=dict)     # last authenticated packet by inbound SPI
    dark: list[float] = field(default_factory=list)             # when a slot lost its last sending pair
    keepalives: int = 0
    web: dict[str, bytes] = field(default_factory=dict)         # what HTTP servers would answer, by URL
    fetched: list[str] = field(default_factory=list)            # what was asked of them
    work_s: float = 0.0
    alive: bool = True
    more: list[str] = field(default_factory=list)               # addresses beside `address`
    asleep_until: float = 0.0       # suspended, or its loop blocked: hears nothing, and is late for what is due
    impairments: dict[str, deque[str]] = field(default_factory=dict)    # by point, what goes wrong next there

    def collect(self) -> None:
        """Do the effects; loops until jobs done at once bring no more."""
        while effects := self.endpoint.take_effects():
            for effect in effects:
                self._do(effect)

    def _do(self, effect: object) -> None:
        match effect:
            case SendIke() if effect.path.local.address in self.addresses:
                self.net.send(self, Datagram(effect.path.local, effect.path.remote, effect.datagram))
            case SendKeepalive():
                self.keepalives += 1
            case Work():
                wrong, by = self.goes_wrong("work"), self.endpoint
                self.net.after(LATE_S if wrong == "delay" else self.work_s,
                               lambda: self._work(effect, wrong, by))
            case FetchRevocation():
                found = tuple(self.web.get(q.url) for q in effect.queries)
                self.fetched += [q.url for q in effect.queries]
                self.net.after(self.work_s, lambda: self._done(effect.id, found))
            case InstallSa():
                assert effect.pair.spi_in not in self.pairs
                self.pairs[effect.pair.spi_in] = effect.pair
            case UseOutbound():
                self.outbound[effect.child, self.pairs[effect.spi_in].slot] = effect.spi_in
            case UpdatePath():
                self.pairs[effect.spi_in] = replace(self.pairs[effect.spi_in], path=effect.path)
            case Resolve(handle=handle) if handle is not None:
                self.net.after(0.0, lambda: self._found(handle, effect.names))
            case RemoveSa():
                pair = self.pairs.pop(effect.spi_in)
                place = (pair.child, pair.slot)
                if self.outbound.get(place) == effect.spi_in:
                    del self.outbound[place]
                    self.dark.append(self.net.now)
        if not isinstance(effect, SendIke | Work):
            self.log.append(effect)
            self.net.watch(self, effect)

    @property
    def addresses(self) -> list[str]:
        """Every address that the host holds."""
        return [a for a in (self.address, *self.more) if a]

    def readdress(self, *addresses: str) -> None:
        """The host has these addresses from here on, the first of them preferred."""
        self.address, *self.more = addresses or ("",)
        self.endpoint.host_changed(frozenset(addresses), self.net.now)
        self.collect()

    def _found(self, handle: int, remotes: tuple[str, ...]) -> None:
        paths = tuple(Path(Endpoint(own, 500), Endpoint(remote, 500)) for remote in remotes for own in self.addresses)
        self.endpoint.paths_found(handle, paths, self.net.now)
        self.collect()

    def _work(self, work: Work, wrong: str | None, by: IkeEndpoint) -> None:
        if not self.alive or self.endpoint is not by:
            return                              # the daemon died meanwhile
        if self.asleep:
            self.net.after(self.asleep_until - self.net.now, lambda: self._work(work, wrong, by))
            return
        try:
            value: object = work.job()
        except Exception as error:
            value = error
        if wrong in ("drop", "corrupt"):
            value = LocalError(WORKER_FAILED)
        for _ in range(2 if wrong == "repeat" else 1):
            self._done(work.id, value)

    def _done(self, number: int, value: object) -> None:
        if self.alive:
            self.endpoint.work_done(number, value, self.net.now)
            self.collect()

    @property
    def asleep(self) -> bool:
        return self.net.now < self.asleep_until

    def impair(self, point: str, how: str) -> None:
        """Have the next thing at a point of ours ("send", "receive", "work", "timer") go wrong.

        `how`: "drop", "delay" (by LATE_S), "repeat" or "corrupt"; a job of a worker that is lost or spoilt raises.
        """
        self.impairments.setdefault(point, deque()).append(how)

    def goes_wrong(self, point: str) -> str | None:
        waiting = self.impairments.get(point)
        return waiting.popleft() if waiting else None

    def reports(self, kind: type[_E]) -> list[_E]:
        """Return the reports or effects of one class, in order."""
        return [entry for entry in self.log if isinstance(entry, kind)]

    def events(self, kind: type[_E]) -> list[_E]:
        """Return the events of one class, in order."""
        return [e.event for e in self.log if isinstance(e, Emit) and isinstance(e.event, kind)]

    def last_event(self, kind: type[_E]) -> _E:
        return self.events(kind)[-1]

    def established(self) -> list[Any]:
        return [v for v in self.endpoint.views() if v.state == "Established"]


Filter = Callable[[Datagram], bool]


class SimNet:
    """The network and its clock."""

    def __init__(self, seed: object = 0, *, latency_s: float = 0.01) -> None:
        self.now = START
        self.wall_offset = WALL_START - START   # set it to move every host's time of day
        self.latency_s = latency_s
        self.loss = 0.0
        self.duplicate = 0.0
        self.reorder_s = 0.0
        self.hosts: dict[str, Host] = {}
        self.sent: list[Datagram] = []          # everything that reached the wire, as the receiver would see it
        self.held: list[Datagram] = []
        self._holding: list[Filter] = []
        self._dropping: list[Filter] = []
        self._rewrite: list[Callable[[Datagram], Datagram | None]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self._seed = seed
        self._random = random.Random(repr(seed))
        self.watch: Callable[[Host, object], None] = lambda host, effect: None     # sees each effect once it is done

    def add(self, name: str, address: str, policy: Policy, *, nat: Nat | None = None) -> Host:
        rng = SeededRng((self._seed, name))
        host: Host

        def last_inbound(spi_in: int) -> float | None:
            return host.seen_at.get(spi_in)

        endpoint = IkeEndpoint(policy, rng, now=self.now, last_inbound=last_inbound, wall_clock=self.wall_now)
        host = Host(self, name, address, rng, endpoint, nat)
        self.hosts[name] = host
        return host

    def restart(self, host: Host, policy: Policy) -> None:
        """The daemon dies and starts again: everything is forgotten but the address."""
        host.rng = SeededRng((self._seed, host.name, self.now))
        host.endpoint = IkeEndpoint(policy, host.rng, now=self.now, last_inbound=host.seen_at.get,
                                    wall_clock=self.wall_now)
        host.pairs.clear()
        host.outbound.clear()
        host.log.clear()

    def wall_now(self) -> float:
        return self.now + self.wall_offset

    # What the network does to datagrams

    def hold(self, which: Filter) -> None:
        """Keep matching datagrams back until `release`."""
        self._holding.append(which)

    def release(self) -> None:
        """Deliver what was held, in order, and hold no more."""
        held, self.held = self.held, []
        self._holding.clear()
        for datagram in held:
            self._deliver_later(datagram, self.latency_s)

    def drop(self, which: Filter) -> None:
        self._dropping.append(which)

    def heal(self) -> None:
        self._dropping.clear()
        self._holding.clear()
        self.loss = 0.0

    def rewrite(self, change: Callable[[Datagram], Datagram | None]) -> None:
        """Have a man in the middle change or swallow datagrams."""
        self._rewrite.append(change)

    def send(self, host: Host, datagram: Datagram) -> None:
        for seconds, passed in impaired(datagram, host.goes_wrong("send")):
            if seconds:
                self.after(seconds, lambda d=passed: self._send(host, d))  # type: ignore[misc]
            else:
                self._send(host, passed)

    def _send(self, host: Host, datagram: Datagram) -> None:
        if host.nat is not None:
            datagram = host.nat.leave(datagram)
        for change in self._rewrite:
            changed = change(datagram)
            if changed is None:
                return
            datagram = changed
        self.sent.append(datagram)
        if any(which(datagram) for which in self._dropping) or self._random.random() < self.loss:
            return
        if any(which(datagram) for which in self._holding):
            self.held.append(datagram)
            return
        for _ in range(2 if self._random.random() < self.duplicate else 1):
            self._deliver_later(datagram, self.latency_s + self._random.random() * self.reorder_s)

    def carries(self) -> bool:
        """Return whether a data packet would get through at the moment."""
        return not self._dropping and not self._holding and self._random.random() >= self.loss

    def inject(self, datagram: Datagram) -> None:
        """Deliver a datagram that nobody here sent."""
        self._deliver_later(datagram, 0.0)

    # Time

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._serial), what))

    def run(self, seconds: float = 1.0) -> None:
        """Let everything happen that happens in this time."""
        end = self.now + seconds
        for host in self.hosts.values():
            host.collect()
        while (at := self._next()) is not None and at <= end:
            self.now = max(self.now, at)
            self._step()
        self.now = end

    def run_until(self, done: Callable[[], bool], limit_s: float = 600.0) -> None:
        """Run until something holds; fail where it does not in time."""
        end = self.now + limit_s
        for host in self.hosts.values():
            host.collect()
        while not done():
            at = self._next()
            assert at is not None and at <= end, "it did not happen"
            self.now = max(self.now, at)
            self._step()

    def _next(self) -> float | None:
        times = [max(d.at, h.asleep_until) for h in self.hosts.values()
                 if h.alive and (d := h.endpoint.next_deadline()) is not None]
        if self._events:
            times.append(self._events[0][0])
        return min(times, default=None)

    def _step(self) -> None:
        if self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()
        else:
            for host in self.hosts.values():
                deadline = host.endpoint.next_deadline()
                if host.alive and not host.asleep and deadline is not None and deadline.at <= self.now:
                    self._timeout(host, deadline)
        for host in self.hosts.values():
            host.collect()

    def _timeout(self, host: Host, deadline: Deadline) -> None:
        assert deadline.why
        wrong = host.goes_wrong("timer")
        if wrong in ("drop", "delay"):
            host.asleep_until = self.now + LATE_S
            return
        for _ in range(2 if wrong == "repeat" else 1):
            host.endpoint.handle_timeout(self.now)
        after = host.endpoint.next_deadline()
        assert after is None or after.at > self.now, f"stuck at {after}"

    def _deliver_later(self, datagram: Datagram, seconds: float) -> None:
        self.after(seconds, lambda: self._deliver(datagram))

    def _deliver(self, datagram: Datagram) -> None:
        for host in self.hosts.values():
            arriving: Datagram | None = datagram
            if host.nat is not None and datagram.destination.address == host.nat.outside:
                arriving = host.nat.enter(datagram)
            if arriving is not None and arriving.destination.address in host.addresses and host.alive:
                if not host.asleep:
                    self._hand_in(host, arriving)
                return

    def _hand_in(self, host: Host, datagram: Datagram) -> None:
        def receive(arriving: Datagram) -> None:
            host.endpoint.receive(arriving.data, Path(arriving.destination, arriving.source), self.now)

        for seconds, passed in impaired(datagram, host.goes_wrong("receive")):
            if seconds:
                self.after(seconds, lambda d=passed: receive(d))  # type: ignore[misc]
            else:
                receive(passed)

def exchange(number: int, *, response: bool | None = None) -> Filter:
    """Match datagrams of one exchange type."""
    return lambda d: d.header.exchange == number and response in (None, d.header.is_response)


def sent_by(host: Host, inner: Filter | None = None) -> Filter:
    """Match datagrams that a host without NAT sends."""
    return lambda d: d.source.address == host.address and (inner is None or inner(d))


def last_event_of(host: Host, kind: type[Event]) -> Event:
    return host.events(kind)[-1]
