"""Reload: one transaction.  Guard and routes of both policies first, then engine and IKE, then what is old goes.

What is refused at any step leaves the old configuration in force, whole.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from ipsecd.config.change import change_lines, needs_restart
from ipsecd.config.compile import Loaded, load_policy
from ipsecd.control.authorize import authority_of
from ipsecd.errors import ConfigError, LocalError
from ipsecd.events import Level, Notice, Warned
from ipsecd.runtime import clock
from ipsecd.runtime.resolver import Resolver

if TYPE_CHECKING:
    from ipsecd.daemon import Daemon


class Reloader:
    """Reloads a daemon's configuration; every method runs in its loop."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.busy = asyncio.Lock()              # held during a reload; who ends the daemon takes it and keeps it
        self._hung_up = asyncio.Event()         # SIGHUP: the file may have changed

    def hang_up(self) -> None:
        """Ask for a reload: the handler of SIGHUP."""
        self._hung_up.set()

    async def run(self) -> None:
        """Reload for SIGHUP, for ever; those that come during a reload are worth one more, however many."""
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            await self.reload()

    async def reload(self) -> tuple[bool, list[str]]:
        """Read the file again and apply it; return whether it was applied, and the plan or the errors."""
        d = self._daemon
        async with self.busy:
            if d.stopping.is_set():
                return False, ["ipsecd is stopping"]
            d.notifier.reloading()
            try:
                return await self._read_and_apply()
            finally:
                d.notifier.ready(f"{len(d.policy.peers)} peers")

    async def _read_and_apply(self) -> tuple[bool, list[str]]:
        d = self._daemon
        try:
            new = await asyncio.to_thread(load_policy, d.path,
                                          credentials_directory=os.environ.get("CREDENTIALS_DIRECTORY"))
            refused = needs_restart(d.loaded, new)
            if refused:
                raise ConfigError(refused)
            lines = change_lines(d.loaded, new)
            await self._apply(new)
        except (ConfigError, LocalError) as error:
            d.problems = tuple(error.problems) if isinstance(error, ConfigError) else (str(error),)
            d.publish(Warned("reload_refused", "; ".join(d.problems)))
            return False, list(d.problems)
        d.problems = ()
        d.generation += 1
        d.applied_at = clock.now()
        d.publish(Notice("reloaded", "; ".join(lines) or "no change"))
        await d.advice.say()
        return True, lines

    async def _apply(self, new: Loaded) -> None:
        """Put a configuration in force.  Raises LocalError, nothing changed."""
        d = self._daemon
        async with d.routing:
            old = d.router.plan
            assert old is not None, "start() came first"
            d.sizes.adopt(new.policy)
            plan = await d.make_plan(new.policy)
            added, removed = plan.devices_beyond(old), old.devices_beyond(plan)
            try:
                d.open_tuns(added)               # before routes lead there: what comes is read at once
                await d.router.widen(old, plan)
            except LocalError:
                d.sizes.adopt(d.policy)
                try:
                    await d.router.shrink(plan, old)
                finally:
                    d.close_tuns(added)
                raise
            self._switch(new)
            try:
                await d.router.shrink(old, plan)
            except LocalError as error:          # what protects too much stays; the new policy is in force
                d.publish(Warned("routes_not_updated", str(error)))
                d.router.poke()
            d.close_tuns(removed)
            await d.save(plan)

    def _switch(self, new: Loaded) -> None:
        """Let sockets, engine, IKE, control and log go by the new configuration."""
        d = self._daemon
        d.loaded = new
        d.resolver = Resolver(new.policy.domain.own_mark, new.policy.listen)
        other_ports = d.ports.update(new.policy, d.host, d.tasks)
        addresses = d.ports.addresses
        d.engine.replace_policy(new.policy.entries, d.sizes.inner)
        d.driver.enter(lambda now: d.gateway.replace_policy(new.policy, now))
        d.driver.forget_links()
        if other_ports:                          # `listen` or `exclude` changed: what ran over them has to move
            d.driver.enter(lambda now: d.gateway.host_changed(addresses, now))
        d.control.authority = authority_of(os.geteuid(), new.settings.admins)[0]
        d.log.level = Level(new.settings.log_level)
