"""Two engines back to back on loopback addresses; each TUN is one end of a socket pair that keeps packet borders."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from ipsecd.drops import DropReason
from ipsecd.engine.contract import Engine
from ipsecd.engine.udp_io import open_udp_4500
from ipsecd.policy import Action, SpdEntry
from ipsecd.sa import ChildKey, Endpoint, Path
from tests.support import esp_packets as p

A_ADDRESS, B_ADDRESS, MOVED_ADDRESS = "127.0.0.1", "127.0.0.2", "127.0.0.3"
A_SPI, B_SPI = 0x1000, 0x2000
DEVICE = "ipsec0"


class Recorder:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def ike_datagram(self, path: Path, datagram: bytes) -> None:
        self.told.append(("ike", path, datagram))

    def acquire(self, child: ChildKey, packet: bytes) -> None:
        self.told.append(("acquire", child, packet))

    def soft_lifetime(self, spi_in: int, why: str) -> None:
        self.told.append(("soft", spi_in))

    def hard_lifetime(self, spi_in: int, why: str) -> None:
        self.told.append(("hard", spi_in))

    def peer_address(self, spi_in: int, path: Path) -> None:
        self.told.append(("peer_address", spi_in, path))

    def first_inbound(self, spi_in: int) -> None:
        self.told.append(("first", spi_in))

    def large_outbound(self, spi_in: int) -> None:
        self.told.append(("large", spi_in))

    def unknown_spi(self, path: Path, spi: int) -> None:
        self.told.append(("unknown", path, spi))

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [entry for entry in self.told if entry[0] == kind]


class Gateway:
    """One engine with its TUN and socket."""

    def __init__(self, address: str, build: Callable[..., Engine], loop: asyncio.AbstractEventLoop,
                 header: bytes) -> None:
        self.header = header
        self.lan, tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.tun = tun
        for end in (self.lan, tun):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.sock = open_udp_4500(address, 0, port=0)
        self.endpoint = Endpoint(address, self.sock.getsockname()[1])
        self.recorder = Recorder()
        self.engine = build(loop, self.recorder, (DEVICE, tun.fileno()), {address: self.sock})

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.lan.send(self.header + packet)

    def received(self) -> list[bytes]:
        packets = []
        while True:
            try:
                packets.append(self.lan.recv(65536)[len(self.header):])
            except BlockingIOError:
                return packets

    def close(self) -> None:
        self.engine.close()
        for sock in (self.lan, self.tun, self.sock):
            sock.close()


class Rig:
    """Gateways a and b, and the loop that turns them."""

    def __init__(self, build: Callable[..., Engine], header: bytes,
                 addresses: tuple[str, str] = (A_ADDRESS, B_ADDRESS)) -> None:
        self.loop = asyncio.new_event_loop()
        self.a, self.b = (Gateway(address, build, self.loop, header) for address in addresses)
        self.path = Path(self.a.endpoint, self.b.endpoint)
        for side, local, remote in ((self.a, p.LOCAL, p.REMOTE), (self.b, p.REMOTE, p.LOCAL)):
            entry = SpdEntry("office", Action.PROTECT, p.selectors(local), p.selectors(remote), p.CHILD)
            side.engine.replace_policy([entry], {})

    def install(self, **options: Any) -> None:
        self.a.engine.install_sa(p.pair(path=self.path, **options))
        self.b.engine.install_sa(p.pair(path=self.path, mirror=True, **options))

    def connect(self, **options: Any) -> None:
        self.install(**options)
        self.a.engine.use_outbound(p.CHILD, A_SPI)
        self.b.engine.use_outbound(p.CHILD, B_SPI)

    def until(self, condition: Callable[[], object]) -> None:
        """Turn the loop until the condition holds; five seconds are for busy machines."""
        async def turn() -> None:
            end = time.monotonic() + 5
            while not condition():
                assert time.monotonic() < end, "the condition did not come to hold"
                await asyncio.sleep(0.001)
        self.loop.run_until_complete(turn())

    def carried(self, side: Gateway, count: int) -> list[bytes]:
        got: list[bytes] = []

        def complete() -> bool:
            got.extend(side.received())
            return len(got) >= count
        self.until(complete)
        return got

    def drops(self, side: Gateway, reason: DropReason) -> int:
        return side.engine.stats().drops.get(reason, 0)

    def close(self) -> None:
        self.a.close()
        self.b.close()
        self.loop.close()
