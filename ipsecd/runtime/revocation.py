"""Fetching CRLs and OCSP responses over HTTP (RFC 5280 4.2.1.13, RFC 6960 A.1), with limits on everything.

The core asks only for URLs in certificates of a verified chain of a peer whose AUTH was verified.  Even so a request
goes only to addresses outside this host and its link, looked at when the socket is made, so that no name leads a
request to the control plane of a cloud; redirects are refused.  Sockets carry our own mark: fetches leave by the way
that IKE takes, and not into a tunnel that waits for them.  The answers are public and signed; plain HTTP is the rule.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import aiohttp
from aiohttp.client_reqrep import ClientResponse

from ipsecd.effects import FetchRevocation, RevocationQuery
from ipsecd.ike.crypto.revocation import MAX_EVIDENCE_BYTES
from ipsecd.runtime import clock
from ipsecd.runtime.revocation_store import MAX_CACHED, MAX_CACHED_BYTES, Key, RevocationStore

ANSWER_S = 5.0              # for all queries of one handshake: peers repeat IKE_AUTH for half a minute at least
AT_HAND_S = 0.25            # to read what was fetched before, from the disk too after a restart
FRESH_S = 3600.0            # evidence is fetched again after this, and used until its own end where that fails
SILENT_S = 60.0             # a URL without a usable answer is left alone: a dead server delays a peer once a minute
MAX_CONNECTIONS = 8
NONCE_BYTES = 32            # RFC 9654 2.1
Address = IPv4Address | IPv6Address


@dataclass(slots=True)
class _Kept:
    """An answer, None where there was none, and when it was looked for."""

    data: bytes | None
    at: float


class RevocationFetcher:
    """Answers queries from its cache or the network.

    `mark` is our own fwmark, 0 for none; `state` the state directory, where what was fetched outlives a restart.
    """

    def __init__(self, mark: int, state: str | None = None, *, outside: Callable[[Address], bool] | None = None,
                 now: Callable[[], float] = clock.now, answer_s: float = ANSWER_S) -> None:
        self.mark = mark
        self._outside = outside or is_outside
        self._now = now
        self._answer_s = answer_s
        self._store = RevocationStore(Path(state)) if state is not None else None
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._running: dict[Key, asyncio.Task[bytes | None]] = {}    # one request a key, however many peers wait
        self._waiting: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(MAX_CONNECTIONS)

    def begin(self, effect: FetchRevocation, done: Callable[[int, object], None]) -> None:
        """Answer in a task of ours; `done` takes the id of the effect and the answers."""
        async def run() -> None:
            done(effect.id, await self.answer(effect))
        task = asyncio.create_task(run(), name="revocation")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def answer(self, effect: FetchRevocation) -> tuple[bytes | None, ...]:
        """Return what could be had within ANSWER_S, or AT_HAND_S, in the order asked.

        Never raises for what the network does.  What did not come in time goes on, and is there the next time.
        """
        found: dict[Key, asyncio.Task[bytes | None]] = {}
        for query in effect.queries:
            key = query.url, query.body
            if key not in self._running:
                task = asyncio.create_task(self._look_up(key, query), name=f"revocation {query.url}")
                self._running[key] = task
                task.add_done_callback(partial(self._ended, key))
            found[key] = self._running[key]
        if found:
            within_s = min(AT_HAND_S, self._answer_s) if effect.at_hand else self._answer_s
            await asyncio.wait(found.values(), timeout=within_s)
        return tuple(self._came((query.url, query.body), found[query.url, query.body]) for query in effect.queries)

    async def close(self) -> None:
        """End what is under way."""
        running = [*self._waiting, *self._running.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _came(self, key: Key, task: asyncio.Task[bytes | None]) -> bytes | None:
        """Return what came of a request; of one that still waits for its server, what there was before it."""
        if task.done():
            return task.result() if not task.cancelled() and not task.exception() else None
        kept = self._kept.get(key)
        return kept.data if kept else None

    async def _look_up(self, key: Key, query: RevocationQuery) -> bytes | None:
        kept = self._kept.get(key)
        if kept is None and self._store is not None:
            stored = await asyncio.to_thread(self._store.load, key)
            if stored is not None:      # from before the restart: asked for again, and used where that fails
                kept = _Kept(stored, -math.inf)
                self._keep(key, kept)
        if kept is not None and self._now() - kept.at < (SILENT_S if kept.data is None else FRESH_S):
            self._kept.move_to_end(key)
            if kept.data is None or await asyncio.to_thread(query.usable, kept.data):
                return kept.data
        try:
            async with asyncio.timeout(self._answer_s), self._gate:
                data = await self._asked(query)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            data = None
        if data is None or not await asyncio.to_thread(query.usable, data):
            data = kept.data if kept is not None else None     # stands until its own end, which the core looks at
        elif self._store is not None:
            await asyncio.to_thread(self._store.save, key, data)
        self._keep(key, _Kept(data, self._now()))
        return data

    async def _asked(self, query: RevocationQuery) -> bytes | None:
        """Ask, with a nonce where that shows that an answer is no old one, and none that shows another (RFC 9654)."""
        if query.asking is None or query.echoes is None:
            return await self._request(query, query.body)
        nonce = os.urandom(NONCE_BYTES)
        data = await self._request(query, query.asking(nonce))
        return data if data is not None and query.echoes(data, nonce) else None

    async def _request(self, query: RevocationQuery, body: bytes) -> bytes | None:
        connector = aiohttp.TCPConnector(socket_factory=self._socket, force_close=True)
        headers = {"Content-Type": "application/ocsp-request"} if query.body else {}
        async with (aiohttp.ClientSession(connector=connector, auto_decompress=False, trust_env=False) as session,
                    session.request("POST" if query.body else "GET", query.url, data=body or None,
                                    headers=headers, allow_redirects=False) as response):
            return await _body(response)

    def _ended(self, key: Key, _: object) -> None:
        self._running.pop(key, None)

    def _socket(self, info: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
        family, type_, protocol, _, address = info
        if not self._outside(ip_address(str(address[0]).partition("%")[0])):
            raise OSError(f"{address[0]} is not outside this host and its links")
        made = socket.socket(family, type_, protocol)
        made.setblocking(False)
        if self.mark:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.mark)
        return made

    def _keep(self, key: Key, kept: _Kept) -> None:
        self._kept[key] = kept
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_CACHED or sum(len(k.data or b"") for k in self._kept.values()) > MAX_CACHED_BYTES:
            self._kept.popitem(last=False)


def is_outside(address: Address) -> bool:
    """Return whether an address may be one of a server on the network: private ones may, our own and the link's not."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    found = mapped or address
    return not (found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified
                or found.is_reserved)


async def _body(response: ClientResponse) -> bytes | None:
    if response.status != 200:
        return None
    data = b""
    async for piece in response.content.iter_chunked(65536):
        data += piece
        if len(data) > MAX_EVIDENCE_BYTES:
            return None
    return data
