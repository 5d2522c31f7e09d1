"""From a peer's names to the paths to try: addresses by getaddrinfo, our own address by asking the kernel's routing.

A lookup runs in a thread of its own with a deadline, so that a dead resolver delays one peer and nothing else: not the
names that work, which a shared pool of blocked threads would starve, nor the end of the daemon, which joins pools.
The route is asked for through a marked socket: what the answer says is the way that our own datagrams will take.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterable
from threading import Thread
from typing import Any

from ipsecd.sa import Endpoint, Path

LOOKUP_TIMEOUT_S = 5.0
MAX_ADDRESSES = 16          # of one peer: a name with hundreds of addresses must not keep us busy for hours
IKE_PORT = 500
Answers = list[Any]         # what getaddrinfo returns


class Resolver:
    """Finds paths toward peers.  `mark` is our own fwmark (0: none), `listen` the configured addresses (empty: any)."""

    def __init__(self, mark: int, listen: tuple[str, ...], *,
                 look_up: Callable[[str], Answers] | None = None, timeout_s: float = LOOKUP_TIMEOUT_S) -> None:
        self.mark = mark
        self.listen = listen
        self._look_up = look_up or _getaddrinfo
        self._timeout_s = timeout_s
        self._running: dict[str, asyncio.Future[Answers]] = {}   # one thread a name, however often it is asked for

    async def paths(self, names: Iterable[str], local: frozenset[str]) -> tuple[Path, ...]:
        """Return candidate paths in the order to try; `local` are the addresses that this host can send from."""
        found: list[str] = []
        for name in names:
            found += [a for a in await self._addresses(name) if a not in found]
        paths: list[Path] = []
        for address in found[:MAX_ADDRESSES]:
            paths += [Path(Endpoint(own, IKE_PORT), Endpoint(address, IKE_PORT))
                      for own in self._sources(address, local)]
        return tuple(paths)

    def _sources(self, remote: str, local: frozenset[str]) -> list[str]:
        """Our addresses for a peer: the kernel's choice first, then the others that the operator listed."""
        preferred = self._kernel_choice(remote)
        if preferred is None:
            return []
        ours = [a for a in self.listen or sorted(local) if (":" in a) == (":" in remote) and a in local]
        if preferred not in ours:
            return ours              # the kernel would take an address without a socket of ours
        return [preferred, *(a for a in ours if a != preferred and self.listen)]

    def _kernel_choice(self, remote: str) -> str | None:
        family = socket.AF_INET6 if ":" in remote else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as s:
                if self.mark:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.mark)
                s.connect((remote, IKE_PORT))
                return str(ipaddress.ip_address(s.getsockname()[0].split("%")[0]))
        except OSError:          # no route, or a kernel without IPv6: the supervisor says so and tries again
            return None

    async def _addresses(self, name: str) -> list[str]:
        with contextlib.suppress(ValueError):    # a name, not an address
            return [str(ipaddress.ip_address(name))]
        try:
            async with asyncio.timeout(self._timeout_s):
                answers = await asyncio.shield(self._running.get(name) or self._start(name))
        except (OSError, TimeoutError, UnicodeError):
            return []                # reported by the supervisor as "no address"
        return list(dict.fromkeys(str(a[4][0]).split("%")[0] for a in answers))

    def _start(self, name: str) -> asyncio.Future[Answers]:
        loop = asyncio.get_running_loop()
        future = self._running[name] = loop.create_future()

        def settle(answers: Answers | Exception) -> None:
            self._running.pop(name, None)
            if future.cancelled():
                return
            if isinstance(answers, Exception):
                future.set_exception(answers)
                future.exception()   # taken note of: the one who asked may have given up
            else:
                future.set_result(answers)

        def run() -> None:
            answers: Answers | Exception
            try:
                answers = self._look_up(name)
            except (OSError, UnicodeError) as error:
                answers = error
            with contextlib.suppress(RuntimeError):      # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, answers)

        try:
            Thread(target=run, name=f"resolve {name}", daemon=True).start()
        except RuntimeError as error:            # the limit of threads is reached: a look-up that failed, as others do
            settle(OSError(str(error)))
        return future


def _getaddrinfo(name: str) -> Answers:
    return socket.getaddrinfo(name, IKE_PORT, type=socket.SOCK_DGRAM)
