"""Applies routing plans, keeps them in place, and takes them away.

start    guard, rules, devices, device routes, unreachable; then what an earlier policy left behind goes
reload   widen(): both generations of the guard, then what is new; the engine changes over; shrink(): what is old, in
         exactly the reverse order, then the guard of the new policy alone.  In between both policies hold
stop     nothing is removed
boot     install(): guard, rules and unreachable routes of the stored plan, before any daemon
flush    everything is removed, without a daemon
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pyroute2.netlink.exceptions import NetlinkError

from ipsecd.errors import LocalError
from ipsecd.guard_plan import Count
from ipsecd.policy import RoutingDomain
from ipsecd.protected import Host
from ipsecd.routing_plan import RoutingPlan
from ipsecd.runtime.kernel import Kernel, words
from ipsecd.runtime.tun import lock_domain

_SETTLE_S = 0.02            # `ip route flush` takes its routes one by one; look once they are all gone
_BETWEEN_REPAIRS_S = 0.2    # a program that fights us must not get a whole core
T = TypeVar("T")


class Router:
    """Keeps the plans of one domain in the network namespace of the thread that makes it.

    Netlink work runs in one thread of its own, in order; the loop never waits for the kernel.
    """

    def __init__(self, domain: RoutingDomain, *, repaired: Callable[[Sequence[str]], None],
                 failed: Callable[[str], None], unheld: Callable[[str], None]) -> None:
        """`unheld` hears why the copy of the guard that nobody else can change was given up, once for each reason."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="routing")
        try:
            self._kernel = self._pool.submit(Kernel, domain).result()
        except BaseException:
            self._pool.shutdown()
            raise
        self._repaired = repaired
        self._failed = failed
        self._unheld = unheld
        self._said_unheld = ""
        self._plans: tuple[RoutingPlan, ...] = ()
        self._order = asyncio.Lock()
        self._poked = asyncio.Event()
        self._only_guard = True                 # of what was poked

    async def start(self, plan: RoutingPlan) -> None:
        """Set everything up, adopting what stands from before; raises LocalError."""
        async with self._order:
            self._plans = (plan,)
            await self._do(lambda: _start(self._kernel, plan))

    async def widen(self, old: RoutingPlan, new: RoutingPlan) -> None:
        """Let both plans hold; on LocalError call shrink(new, old) to go back."""
        if old.domain != new.domain:
            raise LocalError("device, tables, marks and protocol numbers change only with a restart")
        async with self._order:
            self._plans = (old, new)
            await self._do(lambda: _widen(self._kernel, old, new))

    async def shrink(self, old: RoutingPlan, new: RoutingPlan) -> None:
        """Take away what only `old` had."""
        async with self._order:
            self._plans = (new,)
            await self._do(lambda: _shrink(self._kernel, old, new))

    async def update(self, plan: RoutingPlan) -> None:
        """Follow the host or path MTUs under the same policy; does nothing for an equal plan.

        What policy protects is the same before and after, so one generation of the guard is enough.  On LocalError
        the repair goes on trying.
        """
        async with self._order:
            old = self.plan
            if old is None or plan == old:
                return
            self._plans = (plan,)
            try:
                await self._do(lambda: _update(self._kernel, old, plan))
            except LocalError:
                self.poke()
                raise

    @property
    def plan(self) -> RoutingPlan | None:
        """The plan that holds, the newer one during a reload."""
        return self._plans[-1] if self._plans else None

    async def repair(self, *, only_guard: bool = False) -> list[str]:
        """Put back what others removed; return what, in words, empty for nothing.

        "device NAME" among them means that it had to be made anew: the engine must open it again.
        """
        async with self._order:
            plans = self._plans
            work = self._kernel.repair_guard if only_guard else self._kernel.repair
            return await self._do(lambda: work(plans, hold=True)) if plans else []

    def poke(self) -> None:
        """Ask for a repair soon; the Watcher's `damaged`."""
        self._only_guard = False
        self._poked.set()

    def poke_guard(self) -> None:
        """Ask for a look at the guard soon; the Watcher's `guard_touched`.

        Each of our own updates of the guard ends here too, and to list all routes takes a core for a while.
        """
        self._poked.set()

    async def run(self) -> None:
        """Repair whenever poked, for ever; a task of the daemon."""
        while True:
            await self._poked.wait()
            await asyncio.sleep(_SETTLE_S)
            self._poked.clear()
            only_guard, self._only_guard = self._only_guard, True
            try:
                done = await self.repair(only_guard=only_guard)
            except LocalError as e:
                self._failed(str(e))
                self.poke()
                done = []
            if done:
                self._repaired(done)
            if done or self._poked.is_set():
                await asyncio.sleep(_BETWEEN_REPAIRS_S)

    async def read_host(self) -> Host:
        """Return the facts a plan needs."""
        return await self._do(self._kernel.host)

    async def counters(self) -> dict[str, Count]:
        """Return what the guard dropped, by reason (guard_plan.COUNTERS); values go on through reloads."""
        return await self._do(self._kernel.counters)

    async def close(self) -> None:
        """Free sockets and thread; guard, routes, rules and device stay."""
        async with self._order:
            self._plans = ()
            await self._do(self._kernel.close)
            self._pool.shutdown()

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except NetlinkError as e:
            raise LocalError(f"netlink: {words(e)}") from e
        finally:
            why, before = self._kernel.unheld, self._said_unheld
            self._said_unheld = why
            if why and why != before:
                self._unheld(why)


def install(plan: RoutingPlan) -> None:
    """Fail closed at boot: guard, rules and unreachable routes, no device.

    Raises DeviceBusyError where the daemon was faster: then it all stands already.
    """
    with lock_domain(plan.domain), contextlib.closing(Kernel(plan.domain)) as kernel:
        kernel.put_guard([plan.guard], hold=False)
        kernel.add_rules(plan.rules)
        kernel.put_unreachable(plan.unreachable)


def flush(domain: RoutingDomain) -> None:
    """Remove all that a domain installed, the guard last: from then on nothing is protected.

    Works without a daemon, and raises DeviceBusyError while one runs: it would put everything back.
    """
    with lock_domain(domain), contextlib.closing(Kernel(domain)) as kernel:
        through, beneath = kernel.routes()
        kernel.remove_routes(through)
        kernel.remove_unreachable(beneath)
        kernel.remove_rules(kernel.rules())
        kernel.remove_devices()
        kernel.remove_guard()


def _start(kernel: Kernel, plan: RoutingPlan) -> None:
    kernel.put_guard([plan.guard], hold=True)
    kernel.add_rules(plan.rules)
    for device in plan.devices:
        kernel.put_device(device)
    kernel.put_routes(plan.routes)
    kernel.put_unreachable(plan.unreachable)
    through, beneath = kernel.routes()
    places, sunk, rules = {r.place for r in plan.routes}, set(plan.unreachable), set(plan.rules)
    kernel.remove_unreachable([u for u in beneath if u not in sunk])
    kernel.remove_routes([r for r in through if r.place not in places])
    kernel.remove_rules([r for r in kernel.rules() if r not in rules])
    kernel.remove_devices(but=[d.name for d in plan.devices])


def _widen(kernel: Kernel, old: RoutingPlan, new: RoutingPlan) -> None:
    if old.guard != new.guard:
        kernel.put_guard([old.guard, new.guard], hold=True)
    _add(kernel, old, new)


def _shrink(kernel: Kernel, old: RoutingPlan, new: RoutingPlan) -> None:
    _take_away(kernel, old, new)
    if old.guard != new.guard:
        kernel.put_guard([new.guard], hold=True)


def _update(kernel: Kernel, old: RoutingPlan, new: RoutingPlan) -> None:
    if old.guard != new.guard:
        kernel.put_guard([new.guard], hold=True)
    _add(kernel, old, new)
    _take_away(kernel, old, new)


def _add(kernel: Kernel, old: RoutingPlan, new: RoutingPlan) -> None:
    present, routes, sunk = set(old.rules), set(old.routes), set(old.unreachable)
    kernel.add_rules([r for r in new.rules if r not in present])
    for device in new.devices:
        if device not in old.devices:
            kernel.put_device(device)
    kernel.put_routes([r for r in new.routes if r not in routes])
    kernel.put_unreachable([u for u in new.unreachable if u not in sunk])


def _take_away(kernel: Kernel, old: RoutingPlan, new: RoutingPlan) -> None:
    places, sunk, rules = {r.place for r in new.routes}, set(new.unreachable), set(new.rules)
    kernel.remove_unreachable([u for u in reversed(old.unreachable) if u not in sunk])
    kernel.remove_routes([r for r in reversed(old.routes) if r.place not in places])
    kernel.remove_rules([r for r in reversed(old.rules) if r not in rules])
    kept = [d.name for d in new.devices]
    if any(d.name not in kept for d in old.devices):
        kernel.remove_devices(but=kept)
