"""What the daemon makes of changes of the host, with kernel, sockets and gateway played by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from ipsecd.config.compile import compile_text
from ipsecd.control.stream import EventHub
from ipsecd.daemon import Daemon
from ipsecd.errors import LocalError
from ipsecd.protected import Host, HostInterface
from ipsecd.routing_plan import RoutingPlan, make_plan

TEXT = """
gateway: {identity: a.example.net}
peers:
  hq:
    address: 192.0.2.2
    identity: b.example.net
    auth: {psk_credential: hq}
    children:
      office: {local: [10.1.0.0/16], remote: [10.2.0.0/16]}
"""
LAN = HostInterface("lan", ("10.1.0.1/24",))
WAN = HostInterface("wan", ("192.0.2.1/24",))
HOST = Host((LAN, WAN), ("wan",), ("192.0.2.254",))


class Played(Daemon):
    """A daemon without engine, sockets and kernel; `told` and `replaced` count what gateway and engine heard."""

    def __init__(self, tmp_path: Path) -> None:
        (tmp_path / "hq").write_text("0s" + "QUJD" * 11)
        (tmp_path / "hq").chmod(0o600)
        loaded = compile_text(TEXT, "x", known_sources=frozenset({str(tmp_path / "hq")}),
                              credentials_directory=str(tmp_path))
        super().__init__(tmp_path, loaded, SimpleNamespace(write=lambda event: None), EventHub())  # type: ignore[arg-type]
        self.told = self.replaced = 0
        self.rerouted = asyncio.Event()
        self.found = self.host = HOST
        self.router = SimpleNamespace(read_host=self._found, plan=None, update=self._refused)  # type: ignore[assignment]
        self.ports = SimpleNamespace(update=lambda *_: False, refused={}, addresses=frozenset())  # type: ignore[assignment]
        self.driver = SimpleNamespace(  # type: ignore[assignment]
            enter=lambda call: call(0.0), pairs={}, path_mtus={}, links_measured=self._measured,
            forget_links=lambda: None)
        self.gateway = SimpleNamespace(host_changed=self._tell, replace_policy=lambda policy, now: None)  # type: ignore[assignment]
        self.engine = SimpleNamespace(replace_policy=self._replace)  # type: ignore[assignment]
        self.tasks = None  # type: ignore[assignment]

    async def _found(self) -> Host:
        return self.found

    async def _refused(self, plan: RoutingPlan) -> None:
        raise LocalError("the kernel refused it")

    async def _measured(self, links: object) -> None:
        self.rerouted.set()

    async def save(self, plan: RoutingPlan) -> None:
        """Store nothing."""

    def _tell(self, addresses: frozenset[str], now: float) -> None:
        self.told += 1

    def _replace(self, *_: object) -> None:
        self.replaced += 1


def test_supervisors_hear_of_the_host_only_where_it_changed(tmp_path: Path) -> None:
    # Each link of a container host that comes and goes is news, and would end every wait and lookup.
    daemon = Played(tmp_path)
    asyncio.run(daemon._read_host())
    assert daemon.told == 0
    daemon.found = Host((LAN, WAN), ("wan",), ("192.0.2.253",))
    asyncio.run(daemon._read_host())
    assert daemon.told == 1


def test_engine_takes_the_sizes_of_routes_that_only_the_repair_will_set(tmp_path: Path) -> None:
    daemon = Played(tmp_path)
    asyncio.run(daemon._reroute())
    assert daemon.replaced == 1


def test_reload_that_closes_a_port_tells_the_supervisors(tmp_path: Path) -> None:
    daemon = Played(tmp_path)
    plan = make_plan(daemon.policy, HOST, {})

    async def apply() -> None:
        daemon.router = SimpleNamespace(plan=plan, widen=held, shrink=held)  # type: ignore[assignment]
        daemon.control = SimpleNamespace(authority=None)  # type: ignore[assignment]
        await daemon.reloader._apply(daemon.loaded)

    async def held(*_: RoutingPlan) -> None:
        """As the kernel would."""

    asyncio.run(apply())
    assert daemon.told == 0
    daemon.ports.update = lambda *_: True  # type: ignore[method-assign]
    asyncio.run(apply())
    assert daemon.told == 1


def test_routes_rest_after_they_followed_but_not_where_the_host_changed(tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    # Five hundred tunnels that come up move the routes a few times, not five hundred times.
    monkeypatch.setattr("ipsecd.daemon.REST", 1e9)
    monkeypatch.setattr("ipsecd.daemon.MAX_REST_S", 3600.0)

    async def body() -> None:
        daemon = Played(tmp_path)
        following = asyncio.create_task(daemon._follow())
        async with asyncio.timeout(10):
            daemon._moved.set()
            await daemon.rerouted.wait()
            daemon.rerouted.clear()
            daemon._moved.set()                              # pairs: they wait
            daemon.found = Host((LAN, WAN), ("wan",), ("192.0.2.253",))
            daemon._host_changed()
            await daemon.rerouted.wait()
        assert daemon.told == 1
        following.cancel()
    asyncio.run(body())
