"""The metrics address: one path, bounded, cached."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from ipsecd.control.schema import StatusAnswer
from ipsecd.errors import LocalError
from ipsecd.events import Event, LocalFault
from ipsecd.metrics import MetricsServer
from tests.support.control import FakeService


def test_scrape_answers_and_other_paths_do_not() -> None:
    async def body() -> list[tuple[int, bytes]]:
        async with scraped(FakeService().status, []) as port:
            return [await asyncio.to_thread(get, port, path) for path in ("/metrics", "/", "/v1/status")]

    metrics, root, control = asyncio.run(body())
    assert metrics[0] == 200 and b'ipsecd_peer_up{peer="hq"} 1.0' in metrics[1]
    assert (root[0], control[0]) == (404, 404)


def test_scrapes_close_together_share_one_reading() -> None:
    readings: list[None] = []

    async def status() -> StatusAnswer:
        readings.append(None)
        return await FakeService().status()

    async def body() -> None:
        async with scraped(status, []) as port:
            for _ in range(5):
                await asyncio.to_thread(get, port, "/metrics")

    asyncio.run(body())
    assert len(readings) <= 2


def test_fault_is_reported() -> None:
    events: list[Event] = []

    async def body() -> int:
        async with scraped(FakeService(fault=RuntimeError("kaput")).status, events) as port:
            return (await asyncio.to_thread(get, port, "/metrics"))[0]

    assert asyncio.run(body()) == 500
    assert events == [LocalFault("metrics", "RuntimeError: kaput")]


def test_address_in_use_is_a_local_error() -> None:
    async def body() -> None:
        async with scraped(FakeService().status, []) as port:
            with pytest.raises(LocalError, match=r"metrics\.listen 127\.0\.0\.1"):
                MetricsServer(FakeService().status, print).bind("127.0.0.1", port)

    asyncio.run(body())


@asynccontextmanager
async def scraped(status: Callable[[], Awaitable[StatusAnswer]], events: list[Event]) -> AsyncIterator[int]:
    """Serve metrics on a port of the kernel's choice."""
    server = MetricsServer(status, events.append)
    port = server.bind("127.0.0.1", 0)
    task = asyncio.create_task(server.serve())
    await asyncio.sleep(0)
    try:
        yield port
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def get(port: int, path: str) -> tuple[int, bytes]:
    """Make one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
