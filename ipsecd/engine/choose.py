"""Chooses the engine: `native` and `python` by name, `auto` the native one where it is built and proves itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ipsecd.engine.contract import Engine, EngineListener
from ipsecd.engine.native import NativeEngine
from ipsecd.engine.native_plane import load
from ipsecd.engine.native_selftest import self_test
from ipsecd.engine.reference import ReferenceEngine, Tun
from ipsecd.errors import LocalError
from ipsecd.rng import Rng


class GatewayEngine(Engine, Protocol):
    """An engine whose devices and sockets come and go; of each device it reads up to `queues`."""

    queues: int

    def add_tun(self, tun: Tun) -> None:
        """Read from and write to a TUN device."""

    def remove_tun(self, device: str) -> tuple[int, ...]:
        """Let go of a device; return its descriptors, which the caller then closes."""
        ...

    def add_socket(self, address: str, sock: socket.socket) -> None:
        """Read from and send through a socket bound to this local address."""

    def remove_socket(self, address: str, protocol: int = socket.IPPROTO_UDP) -> socket.socket | None:
        """Let go of an address's socket of a protocol, which the caller then closes."""


class Choice(NamedTuple):
    """The engine, and why it is not the native one (empty where it is, or where nobody asked for that)."""

    engine: GatewayEngine
    why: str


def choose(word: str, loop: asyncio.AbstractEventLoop, listener: EngineListener, tuns: Sequence[Tun], *,
           clock: Callable[[], float], rng: Rng, fault: Callable[[str], None]) -> Choice:
    """Return the engine that `gateway.engine` names.

    `clock` and `rng` serve the Python engine; `fault` is told of faults of the native one that were caught.  Raises
    LocalError where `native` is demanded and cannot be had.
    """
    why = "" if word in ("python", "reference") else native_missing()
    if word in ("python", "reference") or (why and word == "auto"):
        return Choice(ReferenceEngine(loop, listener, tuns, {}, clock=clock, rng=rng), why)
    if why:
        raise LocalError(f"gateway.engine: native: {why}")
    return Choice(NativeEngine(loop, listener, tuns, {}, fault=fault), "")


def native_missing() -> str:
    """Return why the native engine cannot serve here, or nothing."""
    try:
        new_plane = load()
    except ImportError as error:
        return f"the native engine is not built ({error})"
    return self_test(new_plane)
