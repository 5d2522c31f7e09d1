"""Driver: hands inputs to the gateway, does the effects, arms the one timer.  The second of the two catch points.

Reports of the engine wait in a bounded queue and are taken in turns of the loop, so a flood of IKE datagrams cannot
starve ESP, nor a burst of ESP the handshakes: each turn takes at most MAX_BATCH of them, and fewer where they are work.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import assert_never

from ipsecd.drops import DropReason
from ipsecd.effects import (
    AbandonHeld,
    Effect,
    Emit,
    FetchRevocation,
    InstallSa,
    RemoveSa,
    Resolve,
    SendIke,
    SendKeepalive,
    SetPathMtu,
    UpdatePath,
    UseOutbound,
    Work,
)
from ipsecd.engine.contract import Engine
from ipsecd.events import Event, LocalFault
from ipsecd.gateway import Gateway
from ipsecd.runtime import clock
from ipsecd.runtime.dummies import Dummies
from ipsecd.runtime.udp import IKE_PORT
from ipsecd.sa import ChildKey, LinkSize, Path, SaPair, SaStats

MAX_BATCH = 64              # reports taken in one turn of the loop
MAX_DUE = 8                 # IKE SAs and peers that are taken in one turn for what nobody waits for: some milliseconds
MAX_REPORTS = 4096          # waiting reports; a datagram beyond is dropped and counted, the peer retransmits
Report = Callable[[float], None]
Fetch = Callable[[FetchRevocation, Callable[[int, object], None]], None]
SendPlain = Callable[[Path, bytes], DropReason | None]


class Driver:
    """Joins gateway, engine, sockets and timer; the engine reports to it (it is the EngineListener)."""

    def __init__(self, gateway: Gateway, pool: Executor, *, publish: Callable[[Event], None],
                 resolve: Callable[[Resolve], None], fetch: Fetch, send_plain: SendPlain,
                 pairs_changed: Callable[[], None], dummies: Dummies) -> None:
        self.gateway = gateway
        self.drops: Counter[DropReason] = Counter()
        self.pairs: dict[int, SaPair] = {}
        self.path_mtus: dict[Path, int] = {}         # what probing found, less than the route's
        self.past: dict[ChildKey, SaStats] = {}      # counters of pairs that are gone, so that sums never fall
        self.past_drops: dict[ChildKey, Counter[DropReason]] = {}
        self._engine: Engine | None = None
        self._pool = pool
        self._publish = publish
        self._resolve = resolve
        self._fetch = fetch
        self._send_plain = send_plain
        self._pairs_changed = pairs_changed
        self._dummies = dummies
        self._loop = asyncio.get_running_loop()
        self._timer = clock.Timer(self._loop, self._timeout)
        self._reports: deque[Report] = deque()
        self._lingering: dict[int, asyncio.TimerHandle] = {}
        self._scheduled = False
        self._closed = False
        self._links: Mapping[int, tuple[Path, LinkSize]] = {}

    def attach(self, engine: Engine) -> None:
        """Give the engine whose listener this is."""
        self._engine = engine

    def enter(self, call: Callable[[float], None]) -> None:
        """Call an entry of the gateway with the time, then do what follows from it."""
        if self._closed:
            return
        try:
            call(clock.now())
        except Exception as error:  # our own bug: one input is lost, the daemon and all SAs go on
            self._fault("gateway", error)
        self._drain()

    def close(self) -> None:
        """Take nothing more."""
        self._closed = True
        self._timer.close()
        self._dummies.close()
        for lingering in self._lingering.values():
            lingering.cancel()

    # Reports of the engine

    def ike_datagram(self, path: Path, datagram: bytes) -> None:
        """Queue an IKE datagram."""
        if len(self._reports) >= MAX_REPORTS:
            self.drops[DropReason.IKE_QUEUE_OVERFLOW] += 1
            return
        self._queue(lambda now: self.gateway.ike_received(datagram, path, now))

    def acquire(self, child: ChildKey, packet: bytes) -> None:
        """Queue an acquire; the child decides what to propose, not the packet."""
        self._queue(lambda now: self.gateway.acquire(child, now))

    def soft_lifetime(self, spi_in: int, why: str) -> None:
        """Queue a soft limit."""
        self._queue(lambda now: self.gateway.soft_lifetime(spi_in, now))

    def hard_lifetime(self, spi_in: int, why: str) -> None:
        """Queue a hard limit."""
        self._queue(lambda now: self.gateway.hard_lifetime(spi_in, now))

    def peer_address(self, spi_in: int, path: Path) -> None:
        """Queue a moved peer."""
        self._queue(lambda now: self.gateway.peer_address(spi_in, path, now))

    def first_inbound(self, spi_in: int) -> None:
        """Queue the first packet of a pair."""
        self._queue(lambda now: self.gateway.first_inbound(spi_in, now))

    def large_outbound(self, spi_in: int) -> None:
        """Queue that large packets leave on a pair."""
        self._queue(lambda now: self.gateway.path_evidence(spi_in, None, now))

    def unknown_spi(self, path: Path, spi: int) -> None:
        """Queue an unknown SPI."""
        self._queue(lambda now: self.gateway.unknown_spi(path, spi, now))

    def last_inbound(self, spi_in: int) -> float | None:
        """Read the time of the last authenticated packet of a pair."""
        return self._engine.last_inbound(spi_in) if self._engine else None

    def plain_received(self, path: Path, datagram: bytes) -> None:
        """Take a datagram of UDP/500."""
        self.enter(lambda now: self.gateway.ike_received(datagram, path, now))

    async def links_measured(self, links: Mapping[int, tuple[Path, LinkSize]]) -> None:
        """Take what the host says of the way of each pair, by inbound SPI; only what is new goes in, in turns."""
        new = {spi: link for spi, link in links.items() if self._links.get(spi) != link}
        self._links = links
        used = {way for path, _ in links.values() for way in (path, path.without_udp())}
        self.path_mtus = {way: size for way, size in self.path_mtus.items() if way in used}
        for number, (spi, (_, link)) in enumerate(new.items()):
            if number % MAX_DUE == 0:
                await asyncio.sleep(0)
            self.enter(lambda now, spi=spi, link=link: self.gateway.path_evidence(spi, link, now))  # type: ignore[misc]

    def forget_links(self) -> None:
        """Take everything for new at the next measurement: another policy may want other paths probed."""
        self._links = {}
        self._pairs_changed()

    # The loop's side

    def _queue(self, report: Report) -> None:
        self._reports.append(report)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._take_reports)

    def _take_reports(self) -> None:
        self._scheduled = False
        until = clock.now() + clock.TURN_S
        for _ in range(min(MAX_BATCH, len(self._reports))):
            self.enter(self._reports.popleft())
            if clock.now() >= until:     # an IKE_AUTH takes a thousand times as long as a repetition
                break
        if self._reports and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._take_reports)

    def _timeout(self) -> None:
        self.enter(lambda now: self.gateway.handle_timeout(now, most=MAX_DUE))

    def _drain(self) -> None:
        for effect in self.gateway.take_effects():
            try:
                self._do(effect)
            except Exception as error:  # one effect fails, the others of the batch still happen
                self._fault(type(effect).__name__, error)
        deadline = self.gateway.next_deadline()
        self._timer.arm(deadline.at if deadline else None)

    def _do(self, effect: Effect) -> None:
        engine = self._engine
        if engine is None:
            return
        match effect:
            case SendIke(path=path, datagram=datagram):
                self._send(engine, path, datagram)
            case SendKeepalive(path=path):
                engine.send_keepalive(path)
            case InstallSa(pair=pair):
                if pair.spi_in in self._lingering:
                    self._remove(engine, pair.spi_in)
                engine.install_sa(pair)
                self.pairs[pair.spi_in] = pair
                self._pairs_changed()
            case UseOutbound(child=child, spi_in=spi_in):
                engine.use_outbound(child, spi_in)
                self._dummies.use(self.pairs[spi_in])
            case UpdatePath(spi_in=spi_in, path=path):
                engine.update_path(spi_in, path)
                if spi_in in self.pairs:
                    self.pairs[spi_in] = replace(self.pairs[spi_in], path=path)
                self._pairs_changed()
            case RemoveSa(spi_in=spi_in, linger_s=0.0):
                self._remove(engine, spi_in)
            case RemoveSa(spi_in=spi_in, linger_s=linger_s):
                self._lingering[spi_in] = self._loop.call_later(linger_s, self._remove, engine, spi_in)
            case SetPathMtu(path=path, size_bytes=size):
                self._set_path_mtu(path, size)
            case AbandonHeld(child=child):
                engine.abandon_held(child)
            case Work():
                self._work(effect)
            case FetchRevocation():
                self._fetch(effect, self._answered)
            case Resolve():
                self._resolve(effect)
            case Emit(event=event):
                self._publish(event)
            case _:
                assert_never(effect)

    def _send(self, engine: Engine, path: Path, datagram: bytes) -> None:
        if path.local.port != IKE_PORT:
            engine.send_ike(path, datagram)
            return
        reason = self._send_plain(path, datagram)
        if reason is not None:
            self.drops[reason] += 1

    def _set_path_mtu(self, path: Path, size: int) -> None:
        """Note what was found of a path, ESP without UDP on it included; routes and engine follow with the pairs."""
        for way in (path, path.without_udp()):
            if size:
                self.path_mtus[way] = size
            else:
                self.path_mtus.pop(way, None)
        self._pairs_changed()

    def _remove(self, engine: Engine, spi_in: int) -> None:
        lingering = self._lingering.pop(spi_in, None)
        if lingering is not None:
            lingering.cancel()
        last, pair = engine.remove_sa(spi_in), self.pairs.pop(spi_in, None)
        if pair is not None:
            self._dummies.forget(pair)
        if last is not None and pair is not None:
            stats, drops = last
            self.past[pair.child] = self.past.get(pair.child, SaStats()) + stats
            self.past_drops.setdefault(pair.child, Counter()).update(drops)
        self._pairs_changed()

    def _work(self, work: Work) -> None:
        def done(future: Future[object]) -> None:
            if future.cancelled():
                return               # the daemon stops
            error = future.exception()
            value = error if error is not None else future.result()

            def resume(now: float) -> None:
                self.gateway.work_done(work.id, value, now)
            if not self._closed:
                self._loop.call_soon_threadsafe(self.enter, resume)
        self._pool.submit(work.job).add_done_callback(done)

    def _answered(self, number: int, value: object) -> None:
        self.enter(lambda now: self.gateway.work_done(number, value, now))

    def _fault(self, where: str, error: Exception) -> None:
        self.drops[DropReason.IKE_LOCAL_ERROR] += 1
        self._publish(LocalFault(where, describe(error)))


def describe(error: BaseException) -> str:
    """Name an exception and where it was raised, without values: a message might quote a key or a peer's bytes."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" at {frame.tb_frame.f_code.co_qualname}:{frame.tb_lineno}" if frame is not None else ""
    return f"{type(error).__name__}{where}"
