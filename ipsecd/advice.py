"""What the configuration, this host and its disk have against the tunnels: shown by status, said when new."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from ipsecd.control.doctor import host_warnings
from ipsecd.events import Warned

if TYPE_CHECKING:
    from ipsecd.daemon import Daemon

LOOK_S = 3600.0             # certificates end by the day, and not every setting of the host is announced
BETWEEN_LOOKS_S = 5.0       # listing a large ruleset takes 2 s of a core: addresses that flap must not ask for more


class Advice:
    """The warnings of a daemon; every method runs in its loop."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._host: tuple[str, ...] = ()
        self._said: tuple[str, ...] = ()
        self._moved = asyncio.Event()
        self.disk: tuple[str, ...] = ()         # what could not be stored

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that is known now."""
        return (*self._daemon.loaded.warnings, *self._beside_the_file())

    def _beside_the_file(self) -> tuple[str, ...]:
        ports, listen = self._daemon.ports, self._daemon.policy.listen
        silent = (*(f"{address}: {why}" for address, why in ports.refused.items()),
                  *(f"{a}: no interface has this address of gateway.listen" for a in listen
                    if a not in ports.addresses and a not in ports.refused))
        return (*self._host, *self.disk, *(f"no IKE on {why}" for why in silent))

    def host_changed(self) -> None:
        """Ask for another look at the host soon."""
        self._moved.set()

    async def say(self) -> None:
        """Look at the host and publish all warnings: at the start and after a reload."""
        self._said = ()
        await self._say_new()

    async def watch(self) -> None:
        """Look again when the host changed, and each hour, for ever; publish what was not said before."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._moved.wait()
            self._moved.clear()
            await self._say_new()
            await asyncio.sleep(BETWEEN_LOOKS_S)

    async def _say_new(self) -> None:
        self._host = await asyncio.to_thread(host_warnings, self._daemon.policy)
        by_file = self._daemon.loaded.warnings
        before, self._said = self._said, (*by_file, *self._beside_the_file())
        for warning in self._said:
            if warning not in before:
                self._daemon.publish(Warned("configuration" if warning in by_file else "host", warning))
