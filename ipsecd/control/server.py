"""ControlServer: the routes of the control socket.  Each request: who is it, how much, what does it say, then Service.

1 admit the connection  2 authorize  3 read a bounded body  4 parse  5 call the service  6 answer, or an ErrorAnswer
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from ipsecd.control import schema
from ipsecd.control.authorize import Authority, PeerCred, peer_cred
from ipsecd.control.jsonin import BadRequest, parse_request
from ipsecd.control.schema import MAX_PLAN_BYTES, MAX_REQUEST_BYTES
from ipsecd.control.service import Service, UnknownName
from ipsecd.control.site import IDLE_S, BoundedSite
from ipsecd.control.stream import EventHub
from ipsecd.control.unix import bind_control, remove_control
from ipsecd.events import Event, Level, LocalFault, Notice, Warned
from ipsecd.text import printable

MAX_CLIENTS = 16                    # connections at once
READER_CLIENTS = 12                 # of them, those who may only read: an administrator always gets in
HEARTBEAT_S = 10.0                  # an empty line on a quiet event stream shows both ends that the other is there

_R = TypeVar("_R", bound=schema.Request)
_ErrorCode = str
_STATUS = {"bad_request": 400, "forbidden": 403, "not_found": 404, "too_large": 413, "timeout": 408, "local_error": 500}


class Refused(Exception):
    """A request that is not carried out; `code` is one of schema.ErrorAnswer.error."""

    def __init__(self, code: _ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class ClientGone(Exception):
    """The client left, or takes nothing: there is nobody to answer."""


class ControlServer:
    """The control socket of one daemon."""

    def __init__(self, service: Service, hub: EventHub, authority: Authority, report: Callable[[Event], None], *,
                 idle_s: float = IDLE_S) -> None:
        self._service = service
        self._hub = hub
        self._report = report
        self._idle_s = idle_s
        self.authority = authority          # replaced by a reload that changes control.admins
        self._site = BoundedSite(self._application(), self._admit, idle_s=idle_s)
        self._listener: socket.socket | None = None
        self._path: Path | None = None

    def bind(self, path: Path, *, gid: int | None = None) -> None:
        """Take the socket's name, before the daemon reports that it is ready.  Raises LocalError."""
        self._listener = bind_control(path, gid=gid)
        self._path = path

    async def serve(self) -> None:
        """Serve until cancelled, then remove the socket."""
        assert self._listener is not None, "bind() comes first"
        assert self._path is not None, "set with the listener"
        try:
            await self._site.serve(self._listener)
        finally:
            remove_control(self._path)

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._answer_errors], client_max_size=MAX_REQUEST_BYTES)
        app.add_routes([
            web.get("/v1/status", self._status),
            web.get("/v1/doctor", self._doctor),
            web.get("/v1/events", self._events),
            web.post("/v1/policy", self._policy),
            web.post("/v1/plan", self._plan),
            web.post("/v1/up", self._up),
            web.post("/v1/down", self._down),
            web.post("/v1/rekey", self._rekey),
            web.post("/v1/reload", self._reload),
        ])
        return app

    def _admit(self, connection: socket.socket, connections: int) -> bool:
        limit = MAX_CLIENTS if self.authority.may_change(peer_cred(connection)) else READER_CLIENTS
        return connections < limit

    # 2 authorize

    def _cred(self, request: web.Request) -> PeerCred:
        sock = request.get_extra_info("socket")
        if sock is None:
            raise Refused("forbidden", "the connection is gone")
        return peer_cred(sock)

    def _require_change(self, request: web.Request, what: str) -> None:
        cred = self._cred(request)
        allowed = self.authority.may_change(cred)
        if allowed:
            self._report(Notice("control_request", f"{what} by {cred}"))
        else:                                        # a warning, because those are rate-limited
            self._report(Warned("control_refused", f"{what} by {cred}"))
            raise Refused("forbidden", f"{what} needs root or a name in control.admins")

    # 3 read, 4 parse

    async def _parse(self, request: web.Request, model: type[_R], limit: int = MAX_REQUEST_BYTES) -> _R:
        if request.content_length is not None and request.content_length > limit:
            raise Refused("too_large", f"a request has at most {limit} bytes")
        try:
            async with asyncio.timeout(self._idle_s):
                body = await request.clone(client_max_size=limit).read()
        except web.HTTPRequestEntityTooLarge:
            raise Refused("too_large", f"a request has at most {limit} bytes") from None
        except TimeoutError:
            raise Refused("timeout", "the request did not arrive in time") from None
        except web.RequestPayloadError:
            raise BadRequest("the body is not what its headers say") from None
        except ConnectionError:
            raise ClientGone from None
        return parse_request(body, model)

    # 5 call the service

    async def _status(self, request: web.Request) -> web.StreamResponse:
        peer = request.query.get("peer")
        answer = await self._service.status(peer)
        if peer is not None and not answer.peers:
            raise UnknownName(f"no peer {peer}")
        return _json(answer)

    async def _doctor(self, _: web.Request) -> web.StreamResponse:
        return _json(await self._service.doctor())

    async def _policy(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._service.policy(await self._parse(request, schema.PolicyQuery)))

    async def _plan(self, request: web.Request) -> web.StreamResponse:
        asked = await self._parse(request, schema.PlanRequest, MAX_PLAN_BYTES)
        may_open = self.authority.may_change(self._cred(request))
        return _json(await self._service.plan(asked.text, printable(asked.filename), may_open_files=may_open))

    async def _up(self, request: web.Request) -> web.StreamResponse:
        return await self._command(request, "up", self._service.up)

    async def _down(self, request: web.Request) -> web.StreamResponse:
        return await self._command(request, "down", self._service.down)

    async def _rekey(self, request: web.Request) -> web.StreamResponse:
        return await self._command(request, "rekey", self._service.rekey)

    async def _command(self, request: web.Request, name: str,
                       method: Callable[..., Awaitable[schema.CommandAnswer]]) -> web.StreamResponse:
        target = await self._parse(request, schema.Target)
        place = target.peer if target.child is None else f"{target.peer}/{target.child}"
        self._require_change(request, f"{name} {printable(place)}")
        return _json(await method(target.peer, target.child, wait=target.wait))

    async def _reload(self, request: web.Request) -> web.StreamResponse:
        asked = await self._parse(request, schema.ReloadRequest)
        self._require_change(request, "reload")
        return _json(await self._service.reload(wait=asked.wait))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        level = _level(request.query.get("level", "info"))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with self._hub.subscribe(level) as subscription:
            with _client_may_leave():
                await response.prepare(request)
            await self._send(response, self._hub.history(level))
            while request.query.get("follow") == "1":
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        lines = await subscription.take()
                except TimeoutError:
                    lines = b"\n"
                await self._send(response, lines)
        return response

    async def _send(self, response: web.StreamResponse, lines: bytes) -> None:
        with _client_may_leave():
            async with asyncio.timeout(self._idle_s):    # one that never reads is closed; its queue was bounded
                await response.write(lines)

    # 6 answer

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refusal:
            return _error(refusal.code, refusal.detail)
        except BadRequest as error:
            return _error("bad_request", str(error))
        except UnknownName as error:
            return _error("not_found", str(error))
        except web.HTTPException as error:           # no such route or method
            return _error("not_found" if error.status == 404 else "bad_request", error.reason)
        except ClientGone:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=_STATUS["timeout"])
        except Exception as error:                   # one request's fault must not end the daemon
            self._report(LocalFault(f"control {request.path}", printable(f"{type(error).__name__}: {error}")))
            return _error("local_error", "a fault in ipsecd; see its log")


@contextmanager
def _client_may_leave() -> Generator[None]:
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise ClientGone from None


def _level(text: str) -> Level:
    try:
        return Level(text)
    except ValueError:
        raise BadRequest(f"level: one of {', '.join(Level)}") from None


def _json(answer: BaseModel, status: int = 200) -> web.Response:
    # ASCII only: JSON's own escapes leave nothing for a terminal to act on.
    return web.Response(body=answer.model_dump_json(ensure_ascii=True).encode(), content_type="application/json",
                        status=status)


def _error(code: _ErrorCode, detail: str) -> web.Response:
    answer = schema.ErrorAnswer.model_validate({"error": code, "detail": detail})
    return _json(answer, _STATUS.get(code, 503))
