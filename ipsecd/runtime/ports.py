"""Sockets for each local address, opened and closed as addresses come and go: UDP/500 here, the others in the engine.

A reply leaves by the socket that received, so each socket is bound to one address.  Addresses of the tunnel device,
of loopback, link-local ones and those of excluded interfaces get none.  An address serves without the raw sockets too,
which need a capability of their own: what comes in UDP does not pass them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping
from typing import Protocol

from ipsecd.drops import DropReason
from ipsecd.engine.raw_io import RAW_PROTOCOLS, open_raw
from ipsecd.engine.udp_io import open_udp_4500
from ipsecd.events import Event, Warned
from ipsecd.policy import Policy
from ipsecd.protected import Host
from ipsecd.runtime.udp import IkePort, Receive, open_ike_port
from ipsecd.sa import Path


class SocketEngine(Protocol):
    """The part of an engine that takes sockets."""

    def add_socket(self, address: str, sock: socket.socket) -> None:
        """Serve UDP/4500, or an IP protocol, of one address."""

    def remove_socket(self, address: str, protocol: int) -> socket.socket | None:
        """Let go of a socket, which the caller closes."""


class Ports:
    """The daemon's own addresses and their sockets."""

    def __init__(self, engine: SocketEngine, receive: Receive, publish: Callable[[Event], None]) -> None:
        self._engine = engine
        self._receive = receive
        self._publish = publish
        self._ports: dict[str, IkePort] = {}
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, str] = {}       # address -> error already reported

    @property
    def addresses(self) -> frozenset[str]:
        """Addresses that we can send from now."""
        return frozenset(self._ports)

    @property
    def overflows(self) -> dict[str, int]:
        """What the kernel dropped of UDP/500 for want of room, by socket; the engine has the others."""
        return {f"udp500_{address}": port.overflow for address, port in self._ports.items()}

    @property
    def refused(self) -> Mapping[str, str]:
        """Addresses of ours whose ports we did not get, and why; nobody tells when that ends: `update` tries again."""
        return self._refused

    def update(self, policy: Policy, host: Host, tasks: asyncio.TaskGroup) -> bool:
        """Open what is new, close what is gone; return whether anything changed."""
        wanted = usable_addresses(policy, host)
        self._refused = {a: why for a, why in self._refused.items() if a in wanted}
        gone = [a for a in self._ports if a not in wanted]
        for address in gone:
            self._close(address)
        opened = [a for a in wanted if a not in self._ports and self._open(a, policy.domain.own_mark, tasks)]
        return bool(gone or opened)

    def send(self, path: Path, datagram: bytes) -> DropReason | None:
        """Send from UDP/500 of the path's local address."""
        port = self._ports.get(path.local.address)
        return DropReason.SEND_FAILED if port is None else port.send(path.remote, datagram)

    def close(self) -> None:
        """Close all sockets."""
        for address in list(self._ports):
            self._close(address)

    def _open(self, address: str, mark: int, tasks: asyncio.TaskGroup) -> bool:
        try:
            plain = open_ike_port(address, mark)
            try:
                natted = open_udp_4500(address, mark)
            except OSError:
                plain.close()
                raise
        except OSError as error:     # tentative IPv6 address, or another IKE daemon holds the port
            if self._refused.get(address) != str(error):
                self._refused[address] = str(error)
                self._publish(Warned("address_not_usable", f"{address}: {error}"))
            return False
        self._refused.pop(address, None)
        self._engine.add_socket(address, natted)
        self._open_raw(address, mark)
        port = self._ports[address] = IkePort(plain)
        self._readers[address] = tasks.create_task(port.run(self._receive), name=f"udp {address}")
        return True

    def _open_raw(self, address: str, mark: int) -> None:
        for protocol in RAW_PROTOCOLS:
            try:
                sock = open_raw(address, protocol, mark)
            except OSError as error:                 # no CAP_NET_RAW
                self._publish(Warned("raw_socket_refused", f"{address}: IP protocol {protocol}: {error}"))
            else:
                self._engine.add_socket(address, sock)

    def _close(self, address: str) -> None:
        for protocol in (socket.IPPROTO_UDP, *RAW_PROTOCOLS):
            sock = self._engine.remove_socket(address, protocol)
            if sock is not None:
                sock.close()
        self._ports.pop(address).close()
        self._readers.pop(address).cancel()


def usable_addresses(policy: Policy, host: Host) -> list[str]:
    """Return the addresses to serve, in the kernel's order, or in the operator's where `listen` names them."""
    held: list[str] = []
    for interface in host.interfaces:
        if interface.name == policy.domain.device or interface.name in policy.exclude:
            continue
        for text in interface.addresses:
            address = ipaddress.ip_interface(text).ip
            if not (address.is_loopback or address.is_link_local or address.is_multicast):
                held.append(str(address))
    return [a for a in policy.listen if a in held] if policy.listen else list(dict.fromkeys(held))
