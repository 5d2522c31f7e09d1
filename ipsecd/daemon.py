"""The daemon's life: guard first, then device, engine, sockets, IKE, control; and the same backwards at the end.

Every task lives in one TaskGroup: a crash of one stops the daemon with a message, and systemd restarts it.  What fails
closed (guard, unreachable routes, rules, device) stays when the daemon goes, however it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as FilePath
from typing import Any

from ipsecd.advice import Advice
from ipsecd.config.compile import Loaded
from ipsecd.control.authorize import authority_of
from ipsecd.control.server import ControlServer
from ipsecd.control.stream import EventHub
from ipsecd.effects import Resolve
from ipsecd.engine.choose import choose
from ipsecd.engine.reference import Tun
from ipsecd.errors import LocalError
from ipsecd.events import Event, LocalFault, Notice, Warned
from ipsecd.gateway import Gateway
from ipsecd.ike.crypto.selftest import self_test
from ipsecd.ipsec.offload import VNET_BYTES
from ipsecd.log import EventLog
from ipsecd.metrics import MetricsServer
from ipsecd.policy import Policy
from ipsecd.protected import Host
from ipsecd.reload import Reloader
from ipsecd.routing_plan import Device, RoutingPlan, make_plan
from ipsecd.runtime import clock
from ipsecd.runtime.crash_secret import crash_secret
from ipsecd.runtime.driver import Driver, describe
from ipsecd.runtime.dummies import Dummies
from ipsecd.runtime.entropy import SystemRng
from ipsecd.runtime.kernel import made
from ipsecd.runtime.lag import LagMeter
from ipsecd.runtime.netlink import Watcher
from ipsecd.runtime.path_mtu import ChildSizes
from ipsecd.runtime.ports import Ports
from ipsecd.runtime.resolver import Resolver
from ipsecd.runtime.revocation import RevocationFetcher
from ipsecd.runtime.routing import Router
from ipsecd.runtime.staples import keep_at_hand
from ipsecd.runtime.state import note_directory, save_plan
from ipsecd.runtime.systemd import Notifier
from ipsecd.runtime.tun import lock_domain, open_queues
from ipsecd.sa import ChildKey, Path
from ipsecd.service import DaemonService

WORKERS = max(2, os.cpu_count() or 2)   # threads for key exchange and signatures
DRAIN_S = 1.0                           # to send DELETE and hear the answers at the end
DRAIN_POLL_S = 0.01
PORT_RETRY_S = 5.0                      # another program may give a port back at any time, and says nothing
SWITCH_S = 0.0005                       # plans are made in threads: the loop gets the interpreter back this soon
SETTLE_S = 0.05                         # pairs or addresses that change together move the routes once
REST, MAX_REST_S = 4, 2.0               # times as long as routes took to follow, they rest: handshakes come first


class Daemon:
    """One running gateway.  `loaded` is what runs, `problems` why a newer file does not."""

    def __init__(self, path: FilePath, loaded: Loaded, log: EventLog, hub: EventHub) -> None:
        self.path = path
        self.loaded = loaded
        self.generation = 1
        self.started_at = self.applied_at = clock.now()
        self.problems: tuple[str, ...] = ()
        self.repairs = 0
        self.advice = Advice(self)
        self.reloader = Reloader(self)
        self.notifier = Notifier()
        self.lag = LagMeter(self.notifier.alive, self.notifier.watchdog_s)
        self.sizes = ChildSizes(loaded.policy)
        self.log = log
        self._hub = hub
        self.resolver = Resolver(loaded.policy.domain.own_mark, loaded.policy.listen)
        self._fetcher = RevocationFetcher(loaded.policy.domain.own_mark, loaded.settings.state_directory)
        self.routing = asyncio.Lock()
        self.stopping = asyncio.Event()
        self._moved = asyncio.Event()           # facts of the host, or pairs, may have changed
        self._host_moved = asyncio.Event()
        self._planned: tuple[Policy, Host, Mapping[ChildKey, int], RoutingPlan] | None = None
        self._lookups: dict[str, asyncio.Task[None]] = {}

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.loaded.policy

    def publish(self, event: Event) -> None:
        """Hand an event to the log and to everybody who listens."""
        self.log.write(event := self.loaded.places.placed(event))
        self._hub.publish(event, time.time())

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT.  Raises LocalError when it cannot start."""
        self_test(p for peer in self.policy.peers
                  for p in (*peer.ike.proposals, *(p for c in peer.children for p in c.proposals)))
        domain = self.policy.domain
        with lock_domain(domain):
            self.router = Router(domain, repaired=self._repaired,
                                 failed=lambda why: self.publish(Warned("repair_failed", why)),
                                 unheld=lambda why: self.publish(Warned("guard_copy_given_up", why)))
            try:
                self.host = await self.router.read_host()
                plan = await self.make_plan(self.policy)
                await self.router.start(plan)
                await self.save(plan)
                await self._run_engine(plan)
            finally:
                await self.router.close()

    async def make_plan(self, policy: Policy) -> RoutingPlan:
        """Plan in a thread: thousands of prefixes take a second, which the loop must not miss.  The same facts give the
        plan that was made of them: with thousands of pairs some are renewed every second, and mostly nothing moves.
        """
        basis = policy, self.host, self.sizes.inner
        if self._planned is None or self._planned[0] is not policy or self._planned[:3] != basis:
            self._planned = *basis, await asyncio.to_thread(make_plan, *basis)
        return self._planned[3]

    async def save(self, plan: RoutingPlan) -> None:
        """Store the plan for the next boot.  What runs does not need it: a disk that is full stops no tunnel."""
        self.advice.disk = ()
        directory, root = FilePath(self.loaded.settings.state_directory), os.environ.get("STATE_DIRECTORY")
        try:
            await asyncio.to_thread(save_plan, directory, plan)
            if root:
                note_directory(FilePath(root), self.path, directory)
        except LocalError as error:
            self.advice.disk = (f"gateway.state: {error}; until a reload can write it, the guard at boot is that of an "
                                "older policy",)

    async def _run_engine(self, plan: RoutingPlan) -> None:
        watcher = Watcher(self.policy.domain, damaged=self.router.poke, guard_touched=self.router.poke_guard,
                          moved=self._host_changed)
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="work") as pool:
            self._build(pool)
            try:
                self.open_tuns(plan.devices)
                watcher.start()
                await self._serve()
            finally:
                watcher.close()
                self.driver.close()
                self.ports.close()
                self.engine.close()
                pool.shutdown(wait=False, cancel_futures=True)   # key exchanges that nobody waits for any more
                self.close_tuns(self.router.plan.devices if self.router.plan else ())

    def open_tuns(self, devices: Iterable[Device]) -> None:
        """Let the engine read the devices; raises LocalError."""
        for device in devices:
            first, *further = open_queues(device.name, self.engine.queues, vnet_hdr_bytes=VNET_BYTES)
            self.engine.add_tun(Tun(device.name, first, device.interface, offload=True, further=tuple(further)))
            single = "" if len(further) + 1 == self.engine.queues else (
                f" of {self.engine.queues}: the device was made for one, and keeps it until it is made anew")
            self.publish(Notice("device", f"{device.name}: queues {len(further) + 1}{single}"))

    def close_tuns(self, devices: Iterable[Device]) -> None:
        """Let the engine go of the devices, which stay."""
        for device in devices:
            for descriptor in self.engine.remove_tun(device.name):
                os.close(descriptor)

    def _build(self, pool: ThreadPoolExecutor) -> None:
        rng = SystemRng()
        self.gateway = Gateway(self.policy, rng, now=clock.now(),
                               last_inbound=lambda spi: self.driver.last_inbound(spi), wall_clock=clock.wall,
                               crash_secret=crash_secret(FilePath(self.loaded.settings.state_directory), self.publish))
        dummies = Dummies(asyncio.get_running_loop(), rng, send=lambda spi, size: self.engine.send_dummy(spi, size),
                          largest=lambda child: self.sizes.inner.get(child, 0))
        self.driver = Driver(self.gateway, pool, publish=self.publish, resolve=self._resolve, fetch=self._fetcher.begin,
                             send_plain=lambda path, data: self.ports.send(path, data), pairs_changed=self._moved.set,
                             dummies=dummies)
        self.engine, self.not_native = choose(
            self.loaded.settings.engine, asyncio.get_running_loop(), self.driver, [], clock=clock.now, rng=rng,
            fault=lambda what: self.publish(LocalFault("engine", what)))
        self.publish(Notice("engine", f"{self.engine.name}" + (f": {self.not_native}" if self.not_native else "")))
        self.engine.replace_policy(self.policy.entries, self.sizes.inner)
        self.driver.attach(self.engine)
        self.ports = Ports(self.engine, self.driver.plain_received, self.publish)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                self.tasks = tasks
                background = [tasks.create_task(work, name=name) for name, work in self._background().items()]
                self.ports.update(self.policy, self.host, tasks)
                # What stands by now stays: to walk it in search of cycles takes 80 ms with 500 peers, again and again.
                gc.collect()
                gc.freeze()
                self.driver.enter(lambda now: self.gateway.start(now, self.ports.addresses))
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, self.stopping.set)
                loop.add_signal_handler(signal.SIGHUP, self.reloader.hang_up)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})     # blocked since the file was read
                self.publish(Notice("started", f"{self.path}: {len(self.policy.peers)} peers"))
                await self.advice.say()
                self.notifier.ready(f"{len(self.policy.peers)} peers")
                await self.stopping.wait()
                async with self.reloader.busy:   # one that is under way ends first, and no other begins
                    await self._finish()
                for task in (*background, *self._lookups.values()):
                    task.cancel()
                await self._fetcher.close()
                self.ports.close()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _background(self) -> dict[str, Coroutine[Any, Any, None]]:
        settings = self.loaded.settings
        authority, unknown = authority_of(os.geteuid(), settings.admins)
        for name in unknown:
            self.publish(Warned("unknown_admin", name))
        self.control = ControlServer(DaemonService(self), self._hub, authority, self.publish)
        self.control.bind(FilePath(settings.control_socket))
        work: dict[str, Coroutine[Any, Any, None]] = {
            "lag": self.lag.run(), "repair": self.router.run(), "follow": self._follow(),
            "control": self.control.serve(), "advice": self.advice.watch(), "hangup": self.reloader.run(),
            "log": self.log.run(), "staples": keep_at_hand(self._fetcher, lambda: self.policy)}
        if settings.metrics_listen is not None:
            metrics = MetricsServer(DaemonService(self).status, self.publish)
            metrics.bind(*settings.metrics_listen)
            work["metrics"] = metrics.serve()
        return work

    async def _finish(self) -> None:
        """Send DELETE for every IKE SA and give the answers a second; guard, routes and device stay."""
        self.notifier.stopping()
        self.publish(Notice("stopping", ""))
        self.driver.enter(self.gateway.shutdown)
        until = time.monotonic() + DRAIN_S
        while self.gateway.endpoint.views() and time.monotonic() < until:  # noqa: ASYNC110 - a second, once
            await asyncio.sleep(DRAIN_POLL_S)

    # What the outside changes

    def _repaired(self, what: Sequence[str]) -> None:
        self.repairs += 1
        self.publish(Warned("repaired", "; ".join(what)))
        devices = self.router.plan.devices if self.router.plan else ()
        lost = [d for d in devices if made(d.name) in what]     # our descriptor of it belongs to no device any more
        self.close_tuns(lost)
        self.open_tuns(lost)

    def _host_changed(self) -> None:
        self._host_moved.set()
        self._moved.set()

    async def _follow(self) -> None:
        """Let sockets, supervisors and routes follow addresses, routes and pairs, for ever.

        What a hundred tunnels that come up change of the routes waits a little: with thousands of routes each look at
        them takes a core for a while.  Until then the routes of a pair have a size that any pair can carry.
        """
        rested_at = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PORT_RETRY_S if self.ports.refused else None):
                    await self._moved.wait()
            look = not self._moved.is_set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rested_at - time.monotonic()):
                    await self._host_moved.wait()
            await asyncio.sleep(SETTLE_S)
            self._moved.clear()
            look |= self._host_moved.is_set()
            self._host_moved.clear()
            began = time.monotonic()
            if look:
                await self._read_host()
            await self._reroute()
            ended = time.monotonic()
            rested_at = ended + min(REST * (ended - began), MAX_REST_S)

    async def _read_host(self) -> None:
        """Look at the host again.  Supervisors hear of a change alone: it ends their waits and lookups."""
        before = self.host
        try:
            self.host = await self.router.read_host()
        except LocalError as error:              # a dump that failed: the next event, or the port retry, looks again
            self.publish(Warned("host_not_read", str(error)))
            return
        other_ports = self.ports.update(self.policy, self.host, self.tasks)
        addresses = self.ports.addresses
        if other_ports:
            self.publish(Notice("addresses", ", ".join(sorted(addresses))))
        if other_ports or self.host != before:
            self.driver.enter(lambda now: self.gateway.host_changed(addresses, now))
            self.advice.host_changed()

    async def _reroute(self) -> None:
        async with self.routing:
            pairs = list(self.driver.pairs.values())
            await asyncio.to_thread(self.sizes.update, pairs, dict(self.driver.path_mtus))
            await self.driver.links_measured(self.sizes.links)
            plan = await self.make_plan(self.policy)
            if plan == self.router.plan:
                return
            try:
                await self.router.update(plan)
            except LocalError as error:          # the repair goes on trying: the engine's sizes are to fit its routes
                self.publish(Warned("routes_not_updated", str(error)))
            self.engine.replace_policy(self.policy.entries, self.sizes.inner)

    def _resolve(self, effect: Resolve) -> None:
        async def look_up() -> None:
            paths: tuple[Path, ...] = ()
            try:
                paths = await self.resolver.paths(effect.names, self.ports.addresses)
            except Exception as error:           # concerns one peer, which tries again
                self.publish(LocalFault("resolver", describe(error)))
            self._lookups.pop(place, None)
            self.driver.enter(lambda now: self.gateway.resolved(effect.peer, paths, now, effect.handle))
        place = f"{effect.peer} {effect.handle}"
        if place in self._lookups:
            self._lookups.pop(place).cancel()
        self._lookups[place] = self.tasks.create_task(look_up(), name=f"resolve {effect.peer}")


def serve(path: FilePath, loaded: Loaded, log: EventLog) -> None:
    """Run a daemon until it is told to stop; raises LocalError."""
    # After each system call the loop waits for whoever has the interpreter, by default 5 ms.
    sys.setswitchinterval(SWITCH_S)

    async def main() -> None:
        await Daemon(path, loaded, log, EventHub()).run()
    asyncio.run(main())
