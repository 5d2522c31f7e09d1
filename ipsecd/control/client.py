"""Client: the control socket from the other side, for ipsecctl and tests.  Blocking; starts without an event loop."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError

from ipsecd.control import schema
from ipsecd.errors import IpsecdError

DEFAULT_SOCKET = Path("/run/ipsecd/control.sock")
TIMEOUT_S = 10.0
WAIT_TIMEOUT_S = 300.0              # up --wait: longer than the 165 s an exchange may take

_A = TypeVar("_A", bound=BaseModel)


class Unreachable(IpsecdError):
    """No daemon answers on the socket."""


class Refusal(IpsecdError):
    """The daemon answered that it did not carry out the request."""

    def __init__(self, answer: schema.ErrorAnswer) -> None:
        super().__init__(answer.detail)
        self.answer = answer


class Client:
    """One daemon; each call is one connection."""

    def __init__(self, path: Path = DEFAULT_SOCKET, *, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self._timeout_s = timeout_s

    def status(self, peer: str | None = None) -> schema.StatusAnswer:
        """Return the state of everything, or of one peer."""
        return self._get("/v1/status" + (f"?{urlencode({'peer': peer})}" if peer else ""), schema.StatusAnswer)

    def doctor(self) -> schema.DoctorAnswer:
        """Return the findings of doctor; it resolves names, so that it may take its time."""
        return self._call("GET", "/v1/doctor", None, schema.DoctorAnswer, timeout_s=WAIT_TIMEOUT_S)

    def policy(self, query: schema.PolicyQuery) -> schema.PolicyAnswer:
        """Ask which SPD entry decides about a packet."""
        return self._post("/v1/policy", query, schema.PolicyAnswer)

    def plan(self, text: str | None, filename: str = "") -> schema.PlanAnswer:
        """Ask what a reload would change."""
        return self._post("/v1/plan", schema.PlanRequest(text=text, filename=filename), schema.PlanAnswer)

    def command(self, name: str, target: schema.Target) -> schema.CommandAnswer:
        """Carry out "up", "down" or "rekey"."""
        return self._post(f"/v1/{name}", target, schema.CommandAnswer, wait=target.wait)

    def reload(self, *, wait: bool) -> schema.ReloadAnswer:
        """Reload the daemon's configuration file."""
        return self._post("/v1/reload", schema.ReloadRequest(wait=wait), schema.ReloadAnswer, wait=wait)

    def events(self, *, follow: bool, level: str = "info") -> Iterator[dict[str, Any]]:
        """Yield events: the kept ones, and with `follow` new ones until the daemon stops."""
        query = urlencode({"follow": int(follow), "level": level})
        with closing(self._open("GET", f"/v1/events?{query}", None, self._timeout_s * 3)) as connection:
            response = _respond(connection)
            if response.status != http.client.OK:
                raise _refusal(response.read())
            try:
                while line := response.readline():
                    if line.strip():
                        yield json.loads(line)
            except (OSError, http.client.HTTPException):
                raise Unreachable("the daemon closed the stream") from None
            if follow:
                raise Unreachable("the daemon closed the stream")

    def _get(self, path: str, answer: type[_A]) -> _A:
        return self._call("GET", path, None, answer, timeout_s=self._timeout_s)

    def _post(self, path: str, request: schema.Request, answer: type[_A], *, wait: bool = False) -> _A:
        timeout_s = WAIT_TIMEOUT_S if wait else self._timeout_s
        return self._call("POST", path, request.model_dump_json().encode(), answer, timeout_s=timeout_s)

    def _call(self, method: str, path: str, body: bytes | None, answer: type[_A], *, timeout_s: float) -> _A:
        with closing(self._open(method, path, body, timeout_s)) as connection:
            response = _respond(connection)
            try:
                data = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(f"the answer was cut short: {error}") from error
        if response.status != http.client.OK:
            raise _refusal(data)
        try:
            return answer.model_validate_json(data)
        except ValidationError:
            raise Unreachable("this daemon speaks another version of the control protocol") from None

    def _open(self, method: str, path: str, body: bytes | None, timeout_s: float) -> http.client.HTTPConnection:
        connection = _UnixConnection(self.path, timeout_s)
        headers = {"Connection": "close"} | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            connection.request(method, path, body=body, headers=headers)
        except BrokenPipeError:                      # refused before the request was sent: the answer says why
            return connection
        except PermissionError:
            connection.close()
            raise Refusal(schema.ErrorAnswer(error="forbidden", detail=f"{self.path}: only root and the group of this "
                                             "socket may connect")) from None
        except OSError as error:
            connection.close()
            reason = error.strerror or "no answer"
            raise Unreachable(f"no ipsecd answers at {self.path}: {reason}") from error
        return connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's name instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _respond(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    try:
        return connection.getresponse()
    except TimeoutError:
        raise Unreachable("ipsecd does not answer in time") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"ipsecd closed the connection: {error}") from error


def _refusal(data: bytes) -> IpsecdError:
    try:
        return Refusal(schema.ErrorAnswer.model_validate_json(data))
    except ValidationError:
        return Refusal(schema.ErrorAnswer(error="busy", detail="ipsecd refused the connection: too many clients"))
