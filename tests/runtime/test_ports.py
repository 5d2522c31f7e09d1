"""Which addresses get sockets, and what happens when one cannot have them.  Only loopback is bound."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace

import pytest

from ipsecd.drops import DropReason
from ipsecd.engine.raw_io import protocol_of
from ipsecd.events import Event, Warned
from ipsecd.protected import Host, HostInterface
from ipsecd.runtime.ports import Ports, usable_addresses
from ipsecd.sa import Endpoint, Path
from tests.support.policies import policy

HOST = Host((HostInterface("lo", ("127.0.0.1/8", "::1/128")),
             HostInterface("wan", ("192.0.2.1/24", "192.0.2.9/24", "2001:db8:a::1/64", "fe80::1/64")),
             HostInterface("mgmt", ("198.51.100.1/24",)),
             HostInterface("ipsec0", ("10.9.9.9/32",))), ("wan",), ())


class NoEngine:
    """Keeps the sockets it is given."""

    def __init__(self) -> None:
        self.sockets: dict[tuple[str, int], socket.socket] = {}

    def add_socket(self, address: str, sock: socket.socket) -> None:
        self.sockets[address, protocol_of(sock)] = sock

    def remove_socket(self, address: str, protocol: int) -> socket.socket | None:
        return self.sockets.pop((address, protocol), None)


def test_every_address_serves_but_those_of_the_tunnel_loopback_links_and_excluded_interfaces() -> None:
    chosen = replace(policy(), exclude=("mgmt",))
    assert usable_addresses(chosen, HOST) == ["192.0.2.1", "192.0.2.9", "2001:db8:a::1"]


def test_listen_names_the_addresses_in_its_own_order_once_they_are_held() -> None:
    chosen = replace(policy(), listen=("192.0.2.9", "203.0.113.1", "192.0.2.1"))
    assert usable_addresses(chosen, HOST) == ["192.0.2.9", "192.0.2.1"]


def test_address_that_cannot_be_bound_is_reported_once_and_tried_again() -> None:
    async def body() -> None:
        events: list[Event] = []
        ports = Ports(NoEngine(), lambda path, data: None, events.append)
        async with asyncio.TaskGroup() as tasks:
            chosen = replace(policy(), listen=("192.0.2.1",))
            for _ in range(3):
                assert ports.update(chosen, HOST, tasks) is False
        assert len(events) == 1
        assert isinstance(events[0], Warned)
        assert ports.addresses == frozenset()
        assert ports.send(Path(Endpoint("192.0.2.1", 500), Endpoint("192.0.2.2", 500)), b"x") is DropReason.SEND_FAILED
    asyncio.run(body())


@pytest.mark.skipif(os.geteuid() != 0, reason="SO_MARK and port 500 need CAP_NET_ADMIN and CAP_NET_BIND_SERVICE")
def test_sockets_come_and_go_with_their_address_and_pass_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipsecd.runtime.ports.usable_addresses",
                        lambda policy, host: list(host.interfaces[0].addresses))

    def holding(*addresses: str) -> Host:
        return Host((HostInterface("lo", addresses),), (), ())

    async def body() -> None:
        engine, got, news = NoEngine(), [], asyncio.Event()

        def receive(path: Path, data: bytes) -> None:
            got.append((path, data))
            news.set()
        ports = Ports(engine, receive, lambda event: None)
        a, b = f"127.{os.getpid() % 200 + 20}.7.1", f"127.{os.getpid() % 200 + 20}.7.2"
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            assert ports.update(policy(), holding(a, b), tasks) is True
            assert ports.update(policy(), holding(a, b), tasks) is False
            assert ports.addresses == {a, b}
            assert set(engine.sockets) == {(address, protocol) for address in (a, b) for protocol in (17, 50, 51)}
            await asyncio.sleep(0)
            path = Path(Endpoint(a, 500), Endpoint(b, 500))
            assert ports.send(path, b"hello") is None
            await news.wait()
            assert got == [(Path(path.remote, path.local), b"hello")]
            assert ports.overflows == {f"udp500_{a}": 0, f"udp500_{b}": 0}
            closed = [engine.sockets[a, protocol] for protocol in (17, 50, 51)]
            assert ports.update(policy(), holding(b), tasks) is True
            assert [sock.fileno() for sock in closed] == [-1, -1, -1]
            assert ports.send(path, b"x") is DropReason.SEND_FAILED
            while a not in ports.addresses:          # the transport closes its socket in the loop's next turn
                await asyncio.sleep(0)
                ports.update(policy(), holding(a, b), tasks)
            ports.close()
            await asyncio.sleep(0)
    asyncio.run(body())


@pytest.mark.skipif(os.geteuid() != 0, reason="SO_MARK and port 500 need CAP_NET_ADMIN and CAP_NET_BIND_SERVICE")
def test_address_without_raw_sockets_serves_udp_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError("no CAP_NET_RAW")
    monkeypatch.setattr("ipsecd.runtime.ports.usable_addresses", lambda policy, host: ["127.0.0.1"])
    monkeypatch.setattr("ipsecd.runtime.ports.open_raw", refuse)

    async def body() -> None:
        engine, events = NoEngine(), list[Event]()
        async with asyncio.TaskGroup() as tasks:
            ports = Ports(engine, lambda path, data: None, events.append)
            assert ports.update(policy(), HOST, tasks) is True
            assert set(engine.sockets) == {("127.0.0.1", 17)}
            assert [event.what for event in events if isinstance(event, Warned)] == ["raw_socket_refused"] * 2
            ports.close()
    asyncio.run(body())
