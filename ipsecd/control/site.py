"""BoundedSite: an aiohttp application on a listening socket of ours, with limits that aiohttp does not have.

A connection beyond the limit is refused at once; one that sends no complete request, or does not take its answer, is
closed after IDLE_S.  Handlers of clients that went away count as connections until they end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler

IDLE_S = 30.0                       # to send a request, to take an answer, between two requests
REFUSAL_PAUSE_S = 0.01              # a hundred refusals a second: a flood of connections must not starve the loop
BACKLOG = 16
_LINGER_S = 1.0                     # to let a client that sent too much read why it was refused
_STOP_S = 0.2                       # for handlers to end once their connections are gone
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

# aiohttp would log every malformed request line that a client sends; handlers report their own faults as events.
_quiet = logging.getLogger("ipsecd.http")
_quiet.disabled = True


class BoundedSite:
    """Serves one application; `admit(socket, open connections)` decides about each new connection."""

    def __init__(self, app: web.Application, admit: Callable[[socket.socket, int], bool], *,
                 idle_s: float = IDLE_S) -> None:
        app.middlewares.insert(0, self._track)
        self._runner = web.AppRunner(app, access_log=None, logger=_quiet, keepalive_timeout=idle_s,
                                     lingering_time=_LINGER_S, auto_decompress=False, shutdown_timeout=_STOP_S)
        self._admit = admit
        self._idle_s = idle_s
        self._idle_since: dict[web.RequestHandler, float] = {}

    async def serve(self, listener: socket.socket) -> None:
        """Serve until cancelled; then close every connection, and the listener."""
        listener.setblocking(False)
        await self._runner.setup()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._accept(listener), name="http accept")
                tasks.create_task(self._close_idle(), name="http idle")
        finally:
            listener.close()
            for handler in self._server.connections:
                _abort(handler)
            await self._runner.cleanup()

    @property
    def _server(self) -> web.Server:
        server = self._runner.server
        assert server is not None, "set up before it serves"
        return server

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:                      # aborted by the client, or out of descriptors
                await asyncio.sleep(REFUSAL_PAUSE_S)
                continue
            if not self._admit(connection, len(self._server.connections)):
                _refuse(connection)
                await asyncio.sleep(REFUSAL_PAUSE_S)
                continue
            await self._connect(connection)

    async def _connect(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, handler = await loop.connect_accepted_socket(self._server, connection)
        except OSError:
            connection.close()
            return
        self._idle_since[handler] = loop.time()

    async def _close_idle(self) -> None:
        while True:
            await asyncio.sleep(self._idle_s / 4)
            now = asyncio.get_running_loop().time()
            alive = frozenset(self._server.connections)
            self._idle_since = {h: since for h, since in self._idle_since.items() if h in alive}
            for handler, since in self._idle_since.items():
                if now - since > self._idle_s:
                    _abort(handler)

    @web.middleware
    async def _track(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        protocol = request.protocol
        self._idle_since.pop(protocol, None)
        try:
            return await handler(request)
        finally:
            self._idle_since[protocol] = asyncio.get_running_loop().time()


def _abort(handler: web.RequestHandler) -> None:
    if isinstance(handler.transport, asyncio.WriteTransport):
        handler.transport.abort()


def _refuse(connection: socket.socket) -> None:
    connection.setblocking(False)
    with suppress(OSError):
        connection.send(_REFUSAL)
    connection.close()
