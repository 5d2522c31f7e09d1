"""What the control socket asks of the daemon: the Service of control/service.py over a running Daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ipsecd import __version__
from ipsecd.config.change import change_lines
from ipsecd.config.compile import Loaded, compile_text, load_policy
from ipsecd.control.doctor import Findings, examine
from ipsecd.control.explain import explain
from ipsecd.control.schema import (
    CommandAnswer,
    ConfigView,
    DoctorAnswer,
    GatewayView,
    GuardView,
    LoopLag,
    Outcome,
    PeerView,
    PlanAnswer,
    PolicyAnswer,
    PolicyQuery,
    ReloadAnswer,
    StatusAnswer,
)
from ipsecd.control.service import UnknownName
from ipsecd.control.status import Readings, build_peers, installed_pairs
from ipsecd.errors import ConfigError
from ipsecd.runtime import clock

if TYPE_CHECKING:
    from ipsecd.daemon import Daemon

WAIT_S = 30.0               # longest wait of up, down and rekey
POLL_S = 0.05
PEERS_A_TURN = 8            # of status, in one turn of the loop: some milliseconds
PLANS = 1                   # compiled at once: whoever may read may ask, and each takes a core from the data path


class DaemonService:
    """Answers from a daemon; every method runs in its loop."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._compiling = asyncio.Semaphore(PLANS)

    async def status(self, peer: str | None = None) -> StatusAnswer:
        """Return everything, for every peer or one.  Each is shown as it is when its turn comes: the loop goes on."""
        d = self._daemon
        now, stats = clock.now(), d.engine.stats()
        drops = {str(r): n for r, n in stats.drops.items()}
        for source in (d.driver.drops, d.gateway.endpoint.drops):
            for reason, count in source.items():
                drops[str(reason)] = drops.get(str(reason), 0) + count
        p50, p99, worst = d.lag.percentiles()
        counters = {name: count.packets for name, count in (await d.router.counters()).items()}
        guard = GuardView(installed=d.router.plan is not None, repairs=d.repairs, counters=counters)
        gateway = GatewayView(
            version=__version__, engine=d.engine.name, uptime_s=now - d.started_at, interface=d.policy.domain.device,
            half_open=d.gateway.endpoint.half_open, cookies=d.gateway.endpoint.cookies_on,
            loop_lag=LoopLag(p50_ms=p50, p99_ms=p99, max_ms=worst), drops=drops,
            overflows={**d.ports.overflows, **stats.overflows}, guard=guard)
        config = ConfigView(file=str(d.path), generation=d.generation, age_s=now - d.applied_at,
                            running_old=bool(d.problems), problems=list(d.problems),
                            warnings=list(d.advice.warnings))
        readings = Readings(now, stats, d.driver.pairs, d.driver.past, d.driver.past_drops, d.sizes.inner,
                            d.sizes.outer, d.loaded.places.of)
        policies, installed = {p.name: p for p in d.policy.peers}, installed_pairs(readings)
        names, peers = d.gateway.names if peer is None else (peer,), list[PeerView]()
        for at in range(0, len(names), PEERS_A_TURN):
            await asyncio.sleep(0)
            peers += build_peers(d.gateway.view(names[at:at + PEERS_A_TURN]).peers, policies, readings, installed)
        return StatusAnswer(gateway=gateway, config=config, peers=peers)

    async def up(self, peer: str, child: str | None, *, wait: bool) -> CommandAnswer:
        """Bring a peer's children up, or one of them."""
        self._check(peer, child)
        self._daemon.driver.enter(lambda now: self._daemon.gateway.up(peer, child, now))
        return await self._outcome(peer, child, wait=wait, done="up",
                                   is_done=lambda v: all(c.sas for c in v.children if child in (None, c.name)))

    async def down(self, peer: str, child: str | None, *, wait: bool) -> CommandAnswer:
        """Take a peer or one child down until `up`; one remote of many is closed, and may come again."""
        self._check(peer, child)
        self._daemon.driver.enter(lambda now: self._daemon.gateway.down(peer, child, now))
        try:
            return await self._outcome(peer, child, wait=wait, done="down",
                                       is_done=lambda v: not any(c.sas for c in v.children if child in (None, c.name)))
        except UnknownName:
            if self._daemon.policy.peer(peer) is not None:
                raise
            return CommandAnswer(ok=True, outcomes=[Outcome(peer=peer, child=child, result="down")])

    async def rekey(self, peer: str, child: str | None, *, wait: bool) -> CommandAnswer:
        """Rekey the IKE SA, or one child."""
        self._check(peer, child)
        before = {sa.spi_in for c in (await self._peer(peer)).children for sa in c.sas}
        spis = {ike.ike for ike in (await self._peer(peer)).ike}
        started: list[int] = []
        self._daemon.driver.enter(lambda now: started.append(self._daemon.gateway.rekey(peer, child, now)))
        if not sum(started):
            return CommandAnswer(ok=False, outcomes=[Outcome(peer=peer, child=child, result="nothing is up")])

        def rekeyed(view: PeerView) -> bool:
            if child is None:
                return bool(view.ike) and not spis & {ike.ike for ike in view.ike}
            return any(sa.spi_in not in before for c in view.children if c.name == child for sa in c.sas)
        return await self._outcome(peer, child, wait=wait, done="rekeyed", is_done=rekeyed)

    async def plan(self, text: str | None, filename: str, *, may_open_files: bool) -> PlanAnswer:
        """Return what a reload would change."""
        d = self._daemon
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        try:
            async with self._compiling:
                new: Loaded = (await asyncio.to_thread(load_policy, d.path, credentials_directory=credentials)
                               if text is None else
                               await asyncio.to_thread(compile_text, text, filename or "text",
                                                       known_sources=(d.loaded.settings.secret_sources
                                                                      if may_open_files else frozenset[str]()),
                                                       credentials_directory=credentials))
        except ConfigError as error:
            return PlanAnswer(ok=False, problems=error.problems)
        return PlanAnswer(ok=True, changes=change_lines(d.loaded, new), warnings=list(new.warnings))

    async def reload(self, *, wait: bool) -> ReloadAnswer:
        """Reload our own file as one transaction."""
        d = self._daemon
        applied, lines = await d.reloader.reload()
        return ReloadAnswer(ok=applied, generation=d.generation, changes=lines if applied else [],
                            problems=[] if applied else lines, warnings=list(d.loaded.warnings))

    async def policy(self, query: PolicyQuery) -> PolicyAnswer:
        """Return the entry that decides about a packet."""
        return explain(self._daemon.policy, tuple(self._daemon.driver.pairs.values()), query)

    async def doctor(self) -> DoctorAnswer:
        """Look at the host for what commonly breaks a gateway."""
        d = self._daemon
        findings = Findings(policy=d.policy, warnings=d.loaded.warnings, status=await self.status(),
                            addresses=d.ports.addresses, not_native=d.not_native)
        return DoctorAnswer(checks=await asyncio.to_thread(examine, findings))

    # Waiting for what a command started

    def _check(self, peer: str, child: str | None) -> None:
        policy = self._daemon.policy.peer(peer) or self._daemon.gateway.policy_of(peer)
        if policy is None:
            raise UnknownName(f"no peer {peer!r}")
        if child is not None and policy.child(child) is None:
            raise UnknownName(f"peer {peer!r} has no child {child!r}")

    async def _peer(self, name: str) -> PeerView:
        found = (await self.status(name)).peers
        if not found:
            raise UnknownName(f"peer {name!r} is gone: a reload took it away")
        return found[0]

    async def _outcome(self, peer: str, child: str | None, *, wait: bool, done: str,
                       is_done: Callable[[PeerView], bool]) -> CommandAnswer:
        loop = asyncio.get_running_loop()
        began, until = clock.now(), loop.time() + (WAIT_S if wait else 0)
        while True:
            view = await self._peer(peer)
            shown = next((c for c in view.children if c.name == child), None)
            if child is not None and shown is None:
                raise UnknownName(f"child {child!r} of peer {peer!r} is gone: a reload took it away")
            error = (shown.last_error if shown else None) or view.last_error
            fresh = error is not None and error.age_s is not None and clock.now() - error.age_s >= began
            if is_done(view):
                return CommandAnswer(ok=True, outcomes=[Outcome(peer=peer, child=child, result=done)])
            if fresh or loop.time() >= until:
                result = "failed" if fresh else ("not yet " + done if wait else "started")
                return CommandAnswer(ok=not wait and not fresh,
                                     outcomes=[Outcome(peer=peer, child=child, result=result,
                                                       failure=error if fresh else None)])
            await asyncio.sleep(POLL_S)
