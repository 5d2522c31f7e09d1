"""Two engines back to back on loopback addresses, with sockets of an IP protocol without ports beside UDP."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ipsecd.engine.choose import native_missing
from ipsecd.engine.contract import Engine, EngineListener
from ipsecd.engine.native import NativeEngine
from ipsecd.engine.raw_io import open_raw
from ipsecd.engine.reference import ReferenceEngine, Tun
from ipsecd.ipsec.ip import AH
from ipsecd.ipsec.offload import VNET_BYTES
from tests.runtime.engine_rig import Gateway, Rig
from tests.support import esp_packets as p

MISSING = native_missing()
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need CAP_NET_RAW")
ENGINES = ["reference", pytest.param("native", marks=pytest.mark.skipif(bool(MISSING), reason=MISSING))]


def own_addresses(first: int) -> tuple[str, str, str]:
    """Loopback addresses of this process's own, in 50 networks from 127.`first` on."""
    net = f"127.{first + os.getpid() // 250 % 50}.{os.getpid() % 250}"
    return f"{net}.1", f"{net}.2", f"{net}.3"


class RawRig(Rig):
    """Both gateways have sockets of `protocol`, and send by it: `path` is without UDP, `udp` the one with it."""

    def __init__(self, engine: str, protocol: int, addresses: tuple[str, str]) -> None:
        def build(loop: asyncio.AbstractEventLoop, listener: EngineListener, tun: tuple[str, int],
                  sockets: dict[str, socket.socket]) -> Engine:
            device = Tun(*tun, offload=True)
            if engine == "native":
                return NativeEngine(loop, listener, [device], sockets, fault=pytest.fail)
            return ReferenceEngine(loop, listener, [device], sockets, clock=boot_time, rng=p.SeededRng())
        super().__init__(build, bytes(VNET_BYTES), addresses)
        self.raw_sockets = [open_raw(address, protocol, 0) for address in addresses]
        for side, address, sock in zip((self.a, self.b), addresses, self.raw_sockets, strict=True):
            engine_of(side).add_socket(address, sock)
        self.udp = self.path
        self.path = self.path.without_udp()

    def close(self) -> None:
        super().close()
        for sock in self.raw_sockets:
            sock.close()


def boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def engine_of(side: Gateway) -> ReferenceEngine | NativeEngine:
    assert isinstance(side.engine, ReferenceEngine | NativeEngine)
    return side.engine


@contextmanager
def witness(address: str, protocol: int) -> Iterator[socket.socket]:
    """A raw socket on an address: sees what arrives there beside whom it is for, and can send.

    What it sends of AH are whole IP packets, of any source.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    with sock:
        if protocol == AH:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        sock.bind((address, 0))
        yield sock


def peeked(sock: socket.socket) -> bool:
    """Whether there is something to read."""
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
