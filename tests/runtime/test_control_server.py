"""The control socket with a real client: authority, faults, events, and the socket's own name."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from ipsecd.control import schema, server
from ipsecd.control.authorize import Authority, PeerCred
from ipsecd.control.client import Client, Refusal, Unreachable
from ipsecd.control.unix import bind_control
from ipsecd.errors import LocalError
from ipsecd.events import LocalFault, Notice, Warned
from tests.support.control import FakeService, Running, run_with_server, serving

READER = PeerCred(pid=4242, uid=12345, gid=12345)


def test_socket_opens_for_owner_and_group_only(tmp_path: Path) -> None:
    async def use(running: Running) -> int:
        return stat.S_IMODE(running.path.stat().st_mode)

    assert run_with_server(tmp_path / "c.sock", use) == 0o660
    assert not (tmp_path / "c.sock").exists()


def test_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    socket.socket(socket.AF_UNIX).close()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    bind_control(path).close()


def test_socket_of_a_living_daemon_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with bind_control(path), pytest.raises(LocalError, match="another ipsecd"):
        bind_control(path)


def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    path.write_text("precious")
    link = tmp_path / "link.sock"
    link.symlink_to(path)

    for place in (path, link):
        with pytest.raises(LocalError, match="not our socket"):
            bind_control(place)
    assert path.read_text() == "precious"


def test_path_too_long_is_a_local_error(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="control socket"):
        bind_control(tmp_path / ("x" * 120))


@pytest.mark.parametrize("request_", ["up", "down", "rekey"])
def test_reader_may_not_change_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: str) -> None:
    monkeypatch.setattr(server, "peer_cred", lambda _: READER)

    async def use(running: Running) -> None:
        client = Client(running.path)
        with pytest.raises(Refusal, match=r"control\.admins") as refused:
            await asyncio.to_thread(client.command, request_, schema.Target(peer="hq"))
        assert refused.value.answer.error == "forbidden"
        with pytest.raises(Refusal, match=r"control\.admins"):
            await asyncio.to_thread(lambda: client.reload(wait=True))
        assert running.service.asked == []
        assert running.events[0] == Warned("control_refused", f"{request_} hq by uid 12345 pid 4242")

    run_with_server(tmp_path / "c.sock", use)


def test_reader_may_read_and_its_plan_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "peer_cred", lambda _: READER)

    async def use(running: Running) -> None:
        client = Client(running.path)
        assert (await asyncio.to_thread(client.status)).peers
        await asyncio.to_thread(client.plan, "peers: {hq: {auth: {psk_file: /etc/shadow}}}", "mine.yaml")
        assert running.service.asked[-1][-1] is False

    run_with_server(tmp_path / "c.sock", use)


def test_admin_may_change_and_is_named_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "peer_cred", lambda _: READER)

    async def use(running: Running) -> None:
        answer = await asyncio.to_thread(Client(running.path).command, "up", schema.Target(peer="hq", child="office"))
        assert answer.ok
        assert running.events == [Notice("control_request", "up hq/office by uid 12345 pid 4242")]

    run_with_server(tmp_path / "c.sock", use, uids=frozenset({READER.uid}))


def test_reload_may_change_who_is_an_admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "peer_cred", lambda _: READER)

    async def use(running: Running) -> None:
        running.server.authority = Authority(frozenset({READER.uid}))
        assert (await asyncio.to_thread(Client(running.path).command, "up", schema.Target(peer="hq"))).ok

    run_with_server(tmp_path / "c.sock", use)


def test_fault_of_the_service_is_reported_and_the_next_request_works(tmp_path: Path) -> None:
    service = FakeService(fault=RuntimeError("kaput \x1b"))

    async def use(running: Running) -> None:
        with pytest.raises(Refusal, match="see its log"):
            await asyncio.to_thread(Client(running.path).status)
        assert running.events == [LocalFault("control /v1/status", "RuntimeError: kaput \\x1b")]
        service.fault = None
        assert (await asyncio.to_thread(Client(running.path).status)).peers

    run_with_server(tmp_path / "c.sock", use, service)


def test_timeout_within_the_service_is_a_fault_and_not_a_client_that_left(tmp_path: Path) -> None:
    async def use(running: Running) -> None:
        with pytest.raises(Refusal, match="see its log"):
            await asyncio.to_thread(Client(running.path).status)
        assert running.events == [LocalFault("control /v1/status", "TimeoutError: slow kernel")]

    run_with_server(tmp_path / "c.sock", use, FakeService(fault=TimeoutError("slow kernel")))


def test_command_goes_on_when_its_client_is_gone(tmp_path: Path) -> None:
    async def body() -> int:
        service = FakeService(gate=asyncio.Event())
        async with serving(tmp_path / "c.sock", service) as running:
            _, writer = await asyncio.open_unix_connection(running.path)
            writer.write(b'POST /v1/up HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{"peer": "hq"}')
            await until(lambda: bool(service.asked))
            writer.close()
            await writer.wait_closed()
            assert service.gate
            service.gate.set()
            await until(lambda: service.finished == 1)
        return service.finished

    assert asyncio.run(body()) == 1


def test_commands_while_others_wait_are_all_answered(tmp_path: Path) -> None:
    async def body() -> list[bool]:
        service = FakeService(gate=asyncio.Event())
        async with serving(tmp_path / "c.sock", service) as running:
            client = Client(running.path)
            asked = [asyncio.create_task(asyncio.to_thread(client.command, name, schema.Target(peer="hq")))
                     for name in ("rekey", "down", "up", "up")]
            await until(lambda: len(service.asked) == 4)
            assert service.gate
            service.gate.set()
            return [(await task).ok for task in asked]

    assert asyncio.run(body()) == [True] * 4


def test_followed_events_arrive_as_they_happen(tmp_path: Path) -> None:
    async def use(running: Running) -> list[str]:
        running.hub.publish(Notice("before", ""), 0.0)
        stream = Client(running.path).events(follow=True)
        first = await asyncio.to_thread(next, stream)
        running.hub.publish(Notice("after", ""), 0.0)
        second = await asyncio.to_thread(next, stream)
        stream.close()
        return [first["what"], second["what"]]

    assert run_with_server(tmp_path / "c.sock", use) == ["before", "after"]


def test_follower_learns_that_the_daemon_stopped(tmp_path: Path) -> None:
    async def body() -> str:
        async with serving(tmp_path / "c.sock") as running:
            running.hub.publish(Notice("before", ""), 0.0)
            stream = Client(running.path).events(follow=True)
            await asyncio.to_thread(next, stream)
        with pytest.raises(Unreachable) as ended:
            await asyncio.to_thread(next, stream)
        return str(ended.value)

    assert asyncio.run(body()) == "the daemon closed the stream"


def test_unknown_path_method_and_level_are_error_answers(tmp_path: Path) -> None:
    async def use(running: Running) -> list[tuple[int, str]]:
        heads = ("GET /etc/passwd", "POST /v1/status", "GET /v1/events?level=x")
        return [await ask(running.path, head) for head in heads]

    bad = (400, "bad_request")
    assert run_with_server(tmp_path / "c.sock", use) == [(404, "not_found"), bad, bad]


async def ask(path: Path, head: str, body: bytes = b"") -> tuple[int, str]:
    """Send one raw request; return status and the error's code."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        lengths = f"Content-Length: {len(body)}\r\n" if body else ""
        writer.write(f"{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lengths}\r\n".encode() + body)
        answer = await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()
    first, _, content = answer.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(content)["error"]


async def until(condition: object) -> None:
    """Let the loop run until something holds."""
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():      # noqa: ASYNC110 - the condition is the server's, which tells nobody
            await asyncio.sleep(0.001)


def test_own_user_may_change() -> None:
    assert Authority(frozenset({os.getuid()})).may_change(PeerCred(1, os.getuid(), 1))
