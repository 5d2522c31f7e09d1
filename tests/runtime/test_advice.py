"""The warnings of a running daemon: they follow the host, and none is said twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ipsecd import advice
from ipsecd.events import Event
from ipsecd.protected import Host
from tests.runtime.test_daemon import LAN, Played


def test_host_warnings_are_looked_up_again_when_the_host_changed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = ["forwarding IPv4: net.ipv4.ip_forward is 0"]
    monkeypatch.setattr(advice, "host_warnings", lambda _policy: tuple(found))

    async def scene() -> list[str]:
        daemon, said = Played(tmp_path), asyncio.Queue[str]()

        def publish(event: Event) -> None:
            said.put_nowait(str(event.as_dict()))
        daemon.publish = publish  # type: ignore[method-assign]
        await daemon.advice.say()
        heard = [said.get_nowait() for _ in range(said.qsize())]
        found.append("host firewall: inet filter input drops by default")
        daemon.found = Host((LAN,), (), ())
        watching = asyncio.create_task(daemon.advice.watch())
        await daemon._read_host()
        heard.append(await said.get())
        watching.cancel()
        assert said.empty()
        return heard

    heard = asyncio.run(scene())
    assert sum("ip_forward" in line for line in heard) == 1
    assert "host firewall" in heard[-1]
    assert len({*heard}) == len(heard)
