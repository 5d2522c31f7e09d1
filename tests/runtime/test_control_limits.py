"""Clients that never read, never finish, send too much or come in crowds (CT-03): bounded, and others are served."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipsecd.control import schema, server
from ipsecd.control.authorize import PeerCred
from ipsecd.control.client import Client, Refusal
from ipsecd.control.schema import MAX_PLAN_TEXT, MAX_REQUEST_BYTES
from ipsecd.control.server import MAX_CLIENTS, READER_CLIENTS
from ipsecd.events import Notice
from tests.runtime.test_control_server import READER, ask, until
from tests.support.control import Running, run_with_server

IDLE_S = 0.2


def test_body_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async def use(running: Running) -> tuple[int, str]:
        reader, writer = await asyncio.open_unix_connection(running.path)
        writer.write(b"POST /v1/up HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n{")
        first = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        await writer.wait_closed()
        return int(first.split()[1]), ""

    assert run_with_server(tmp_path / "c.sock", use)[0] == 413


def test_body_of_unknown_length_is_cut_at_the_limit(tmp_path: Path) -> None:
    async def use(running: Running) -> bytes:
        reader, writer = await asyncio.open_unix_connection(running.path)
        writer.write(b"POST /v1/up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n%s\r\n" % (16384, b" " * 16384)
        writer.write(chunk * (MAX_REQUEST_BYTES // 16384 + 2))
        first = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        await writer.wait_closed()
        return first

    assert b"413" in run_with_server(tmp_path / "c.sock", use)


def test_compressed_body_is_not_unpacked(tmp_path: Path) -> None:
    import gzip

    async def use(running: Running) -> tuple[int, str]:
        head = "POST /v1/up HTTP/1.1\r\nContent-Encoding: gzip\r\nX: "
        return await ask(running.path, head, gzip.compress(b" " * 1_000_000))

    assert run_with_server(tmp_path / "c.sock", use) == (400, "bad_request")


def test_plan_takes_a_large_configuration_and_no_larger(tmp_path: Path) -> None:
    async def use(running: Running) -> None:
        client = Client(running.path, timeout_s=60)
        assert (await asyncio.to_thread(client.plan, "a\n" * (MAX_PLAN_TEXT // 2))).ok
        with pytest.raises(Refusal) as refused:
            await asyncio.to_thread(send_plan, running.path, MAX_PLAN_TEXT + 1)
        assert refused.value.answer.error == "bad_request"

    run_with_server(tmp_path / "c.sock", use)


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"peer": "hq"', b'{"peer": "\xff"}', b"null",
                                  b'{"peer":"hq","x":1}'])
def test_wrong_json_is_a_bad_request(tmp_path: Path, body: bytes) -> None:
    async def use(running: Running) -> tuple[int, str]:
        return await ask(running.path, "POST /v1/up", body)

    assert run_with_server(tmp_path / "c.sock", use) == (400, "bad_request")


@pytest.mark.parametrize("part", [b"", b"GET /v1/sta", b"POST /v1/up HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
                                  b"GET /v1/doctor HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_partial_request_and_idle_connection_are_closed(tmp_path: Path, part: bytes) -> None:
    async def use(running: Running) -> None:
        reader, writer = await asyncio.open_unix_connection(running.path)
        writer.write(part)
        with reset_counts_as_closed():
            await asyncio.wait_for(reader.read(), 10)
        writer.close()

    run_with_server(tmp_path / "c.sock", use, idle_s=IDLE_S)


def test_garbage_is_answered_or_closed_and_others_are_served(tmp_path: Path) -> None:
    async def use(running: Running) -> None:
        for garbage in (b"\x00" * 1000, b"GET " + b"/" * 100_000, b"\x16\x03\x01\x02\x00", b"A: b\r\n" * 10_000):
            reader, writer = await asyncio.open_unix_connection(running.path)
            writer.write(garbage + b"\r\n\r\n")
            with reset_counts_as_closed():
                await asyncio.wait_for(reader.read(), 10)
            writer.close()
        assert (await asyncio.to_thread(Client(running.path).status)).peers

    run_with_server(tmp_path / "c.sock", use, idle_s=IDLE_S)


@pytest.mark.parametrize("rest", [b"Content-Length: 99\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{",
                                  b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"])
def test_client_that_leaves_within_a_body_is_no_fault_of_ours(tmp_path: Path, rest: bytes) -> None:
    async def use(running: Running) -> None:
        _, writer = await asyncio.open_unix_connection(running.path)
        writer.write(b"POST /v1/up HTTP/1.1\r\nHost: x\r\n" + rest)
        await writer.drain()
        assert (await asyncio.to_thread(Client(running.path).status)).peers
        writer.close()
        await writer.wait_closed()
        assert (await asyncio.to_thread(Client(running.path).status)).peers
        assert running.events == []

    run_with_server(tmp_path / "c.sock", use)


def test_follower_that_never_reads_is_closed_and_its_queue_was_bounded(tmp_path: Path) -> None:
    async def use(running: Running) -> None:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(running.path))
            deaf.send(b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: len(running.hub._subscribers) == 1)

            def flood() -> bool:
                for _ in range(50):
                    running.hub.publish(Notice("flood", "x" * 4000), 0.0)
                return len(running.hub._subscribers) == 0

            await until(flood)

    run_with_server(tmp_path / "c.sock", use, idle_s=IDLE_S)


def test_connections_beyond_the_limit_are_refused_and_room_returns(tmp_path: Path) -> None:
    async def use(running: Running) -> None:
        crowd = [await asyncio.open_unix_connection(running.path) for _ in range(MAX_CLIENTS)]
        with pytest.raises(Refusal, match="too many clients"):
            await asyncio.to_thread(Client(running.path).status)
        for _, writer in crowd:
            writer.close()
            await writer.wait_closed()
        assert (await asyncio.to_thread(Client(running.path).status)).peers

    run_with_server(tmp_path / "c.sock", use)


def test_crowd_of_readers_leaves_room_for_an_administrator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(running: Running) -> None:
        monkeypatch.setattr(server, "peer_cred", lambda _: READER)
        crowd = [await asyncio.open_unix_connection(running.path) for _ in range(READER_CLIENTS)]
        with pytest.raises(Refusal, match="too many clients"):
            await asyncio.to_thread(Client(running.path).status)
        monkeypatch.setattr(server, "peer_cred", lambda _: PeerCred(1, 0, 0))
        assert (await asyncio.to_thread(Client(running.path).command, "up", schema.Target(peer="hq"))).ok
        for _, writer in crowd:
            writer.close()
            await writer.wait_closed()

    run_with_server(tmp_path / "c.sock", use)


def test_flood_of_connections_does_not_stop_the_loop(tmp_path: Path) -> None:
    async def use(running: Running) -> float:
        loop, worst = asyncio.get_running_loop(), 0.0
        crowd = [await asyncio.open_unix_connection(running.path) for _ in range(MAX_CLIENTS)]
        flood = asyncio.create_task(asyncio.to_thread(connect_often, running.path, 200))
        while not flood.done():
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            worst = max(worst, loop.time() - due)
        for _, writer in crowd:
            writer.close()
            await writer.wait_closed()
        return worst

    assert run_with_server(tmp_path / "c.sock", use) < 1.0


def connect_often(path: Path, times: int) -> None:
    """Connect and leave, many times."""
    for _ in range(times):
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(5)
            one.connect(str(path))


def send_plan(path: Path, characters: int) -> schema.PlanAnswer:
    """Send a plan that the client's own model would refuse."""
    asked = schema.PlanRequest.model_construct(text="a" * characters, filename="")
    return Client(path, timeout_s=60)._post("/v1/plan", asked, schema.PlanAnswer)


@contextmanager
def reset_counts_as_closed() -> Iterator[None]:
    """Let a connection that is reset count as closed."""
    try:
        yield
    except ConnectionError:
        return
