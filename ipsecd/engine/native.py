"""The native engine: the data plane in Rust threads (ipsecd/engine/native), and what makes the project's values of it.

The threads never run Python.  What they report waits in a bounded queue of theirs; its eventfd is a reader of the loop.
Children, devices and interfaces are numbers there: `_Numbers` has their names.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Hashable, Mapping, Sequence
from ipaddress import ip_address
from typing import Generic, TypeVar

from ipsecd.drops import DropReason
from ipsecd.engine.contract import EngineListener, EngineStats
from ipsecd.engine.native_plane import load
from ipsecd.engine.raw_io import protocol_of, socket_name
from ipsecd.engine.reference import Tun
from ipsecd.errors import LocalError
from ipsecd.ipsec.udp_encap import KEEPALIVE, NON_ESP_MARKER
from ipsecd.policy import SpdEntry
from ipsecd.runtime.tun import (
    OFFLOAD_CHECKSUM,
    OFFLOAD_TSO4,
    OFFLOAD_TSO6,
    OFFLOAD_USO4,
    OFFLOAD_USO6,
    set_offload,
)
from ipsecd.sa import ChildKey, Endpoint, Path, SaPair, SaSpec, SaStats, TransportEnds
from ipsecd.selectors import TrafficSelector
from ipsecd.suites import ChildSuite, EspSuite

MAX_REPORTS = 64                                   # taken in one turn of the loop
MAX_QUEUES = 4                                     # of a device: what they seal is sent by one thread at a time

_TSO = OFFLOAD_CHECKSUM | OFFLOAD_TSO4 | OFFLOAD_TSO6
K = TypeVar("K", bound=Hashable)


class _Numbers(Generic[K]):
    """Numbers for names, given out once and kept: there are as many as the configuration ever named."""

    def __init__(self) -> None:
        self._number: dict[K, int] = {}
        self._names: list[K] = []

    def __getitem__(self, name: K) -> int:
        number = self._number.setdefault(name, len(self._names))
        if number == len(self._names):
            self._names.append(name)
        return number

    def name(self, number: int) -> K:
        """Return what was given this number."""
        return self._names[number]


class NativeEngine:
    """The data plane in Rust (engine.contract.Engine)."""

    name = "native"
    queues = min(MAX_QUEUES, len(os.sched_getaffinity(0)))

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: EngineListener, tuns: Sequence[Tun],
                 sockets: Mapping[str, socket.socket], *, fault: Callable[[str], None]) -> None:
        """Begin to read.  The descriptors stay the caller's; `fault` is told of a panic that was caught in a thread.

        Raises ImportError where the module was not built.
        """
        self.plane = load()()
        self.children = _Numbers[ChildKey]()
        self.devices = _Numbers[str]()
        self._interfaces = _Numbers[str]()
        self._loop = loop
        self._listener = listener
        self._fault = fault
        self._tuns: dict[str, Tun] = {}
        self._sockets: dict[tuple[str, int], socket.socket] = {}       # by address and protocol
        for address, sock in sockets.items():
            self.add_socket(address, sock)
        for tun in tuns:
            self.add_tun(tun)
        loop.add_reader(self.plane.descriptor(), self._report)

    # Devices and sockets

    def add_tun(self, tun: Tun) -> None:
        """Read from and write to a TUN device; an earlier one of that name is let go."""
        joins_udp = tun.offload and set_offload(tun.fd, _TSO | OFFLOAD_USO4 | OFFLOAD_USO6)
        if tun.offload and not joins_udp:
            set_offload(tun.fd, _TSO)              # Linux before 6.2 cuts UDP itself
        self._tuns[tun.device] = tun
        interface = None if tun.interface is None else self._interfaces[tun.interface]
        self.plane.add_tun(self.devices[tun.device], [tun.fd, *tun.further], interface, tun.offload, joins_udp)

    def remove_tun(self, device: str) -> tuple[int, ...]:
        """Let go of a device; return its descriptors, which the caller then closes, none for an unknown one."""
        tun = self._tuns.pop(device, None)
        if tun is None:
            return ()
        self.plane.remove_tun(self.devices[device])
        return (tun.fd, *tun.further)

    def add_socket(self, address: str, sock: socket.socket) -> None:
        """Read from and send through a socket bound to this local address; an earlier one of its protocol is let go."""
        protocol = protocol_of(sock)
        port = sock.getsockname()[1] if protocol == socket.IPPROTO_UDP else 0
        self._sockets[address, protocol] = sock
        self.plane.add_socket(ip_address(address), port, protocol, sock.fileno())

    def remove_socket(self, address: str, protocol: int = socket.IPPROTO_UDP) -> socket.socket | None:
        """Let go of an address's socket of a protocol, which the caller then closes; None when there is none."""
        sock = self._sockets.pop((address, protocol), None)
        if sock is not None:
            self.plane.remove_socket(ip_address(address), protocol)
        return sock

    # Commands: see engine.contract.Engine

    def install_sa(self, pair: SaPair) -> None:
        """Accept inbound packets of the pair; raises LocalError for keys that do not fit its suite."""
        suite = pair.suite
        try:
            self.plane.install_sa({
                "child": self.children[pair.child], "slot": pair.slot, "device": self.devices[pair.device],
                "local": _selectors(pair.ts_local), "remote": _selectors(pair.ts_remote),
                "path": path_tuple(pair.path), "window": pair.replay_window, "follow": pair.follow,
                "volume": (pair.volume.soft_bytes, pair.volume.hard_bytes, pair.volume.soft_packets,
                           pair.volume.hard_packets),
                "tfc": (pair.tfc.pad_to, pair.tfc.randomly),
                "transport": ends_tuple(pair.transport), **key_arguments(suite, pair.inbound, pair.outbound)})
        except ValueError as error:
            raise LocalError(f"{suite}: {error}") from None

    def use_outbound(self, child: ChildKey, spi_in: int) -> None:
        """Send the slot's traffic on this pair, and release what was held for the child."""
        self.plane.use_outbound(self.children[child], spi_in)

    def update_path(self, spi_in: int, path: Path) -> None:
        """Send the pair's packets over another path."""
        self.plane.update_path(spi_in, path_tuple(path))

    def remove_sa(self, spi_in: int) -> tuple[SaStats, Mapping[DropReason, int]] | None:
        """Forget both directions of a pair; return its last counters and drops, None for an unknown SPI."""
        last = self.plane.remove_sa(spi_in)
        return (SaStats(*last[0]), _drops(last[1])) if last is not None else None

    def abandon_held(self, child: ChildKey) -> None:
        """Drop, with a count, what is held for a child."""
        self.plane.abandon_held(self.children[child])

    def replace_policy(self, entries: Sequence[SpdEntry], inner_mtus: Mapping[ChildKey, int]) -> None:
        """Replace the SPD as a whole."""
        self.plane.replace_policy(
            [(str(e.action), None if e.child is None else self.children[e.child],
              None if e.interface is None else self._interfaces[e.interface], _selectors(e.local),
              _selectors(e.remote)) for e in entries],
            {self.children[child]: mtu for child, mtu in inner_mtus.items()})

    def send_ike(self, path: Path, datagram: bytes) -> None:
        """Send an IKE datagram behind the non-ESP marker."""
        self.plane.send(path_tuple(path), NON_ESP_MARKER + datagram)

    def send_keepalive(self, path: Path) -> None:
        """Send a NAT keepalive (RFC 3948 2.3)."""
        self.plane.send(path_tuple(path), KEEPALIVE)

    def inject(self, child: ChildKey, packet: bytes) -> bool:
        """Send an inner packet as if it came from the TUN; False when no SA of the child takes it."""
        return self.plane.inject(self.children[child], packet)

    def send_dummy(self, spi_in: int, size: int) -> bool:
        """Send a packet around `size` bytes, which the peer discards; False where the pair is not there or ended."""
        return self.plane.send_dummy(spi_in, size)

    def stats(self) -> EngineStats:
        """Read all counters."""
        pairs, pair_drops = self.plane.pairs()
        overflows, unexpected_ecn = self.plane.overflows()
        return EngineStats(
            pairs={spi: SaStats(*stats) for spi, stats in pairs.items()},
            drops=_drops(self.plane.drops()),
            pair_drops={spi: _drops(drops) for spi, drops in pair_drops.items()},
            held_packets={self.children.name(number): count for number, count in self.plane.held_packets()},
            overflows={socket_name(str(address), protocol): count for address, protocol, count in overflows}
            | {"ecn_unexpected": unexpected_ecn},
        )

    def last_inbound(self, spi_in: int) -> float | None:
        """Return the time of the pair's last authenticated packet, None for never or an unknown SPI."""
        return self.plane.last_inbound(spi_in)

    def close(self) -> None:
        """Stop all threads; descriptors and the device stay."""
        self._loop.remove_reader(self.plane.descriptor())
        self.plane.close()

    # To the control side

    def _report(self) -> None:
        listener = self._listener
        for report in self.plane.take_reports(MAX_REPORTS):
            match report:
                case ("ike", path, datagram):
                    listener.ike_datagram(_path(path), datagram)
                case ("acquire", child, packet):
                    listener.acquire(self.children.name(child), packet)
                case ("soft", spi_in, why):
                    listener.soft_lifetime(spi_in, why)
                case ("hard", spi_in, why):
                    listener.hard_lifetime(spi_in, why)
                case ("peer_address", spi_in, path):
                    listener.peer_address(spi_in, _path(path))
                case ("first", spi_in):
                    listener.first_inbound(spi_in)
                case ("large", spi_in):
                    listener.large_outbound(spi_in)
                case ("unknown", path, spi):
                    listener.unknown_spi(_path(path), spi)
                case ("fault", why):
                    self._fault(why)
                case _:
                    raise LocalError(f"the native engine reports {report[0]}, which nobody knows")


def key_arguments(suite: ChildSuite, inbound: SaSpec, outbound: SaSpec) -> dict[str, object]:
    """Return what `NativePlane.install_sa` must know of algorithms, SPIs and keys."""
    encr = suite.encr if isinstance(suite, EspSuite) else None
    found: dict[str, object] = {
        "protocol": int(suite.protocol), "esn": suite.esn, "encr": int(encr.id) if encr else 0,
        "key_bytes": encr.key_bytes if encr else 0, "integ": int(suite.integ.id) if suite.integ else 0}
    for direction, spec in (("in", inbound), ("out", outbound)):
        found[f"spi_{direction}"] = spec.spi
        found[f"encr_key_{direction}"] = spec.encr_key.reveal()
        found[f"integ_key_{direction}"] = spec.integ_key.reveal()
    return found


def ends_tuple(ends: TransportEnds | None) -> tuple[object, object, int] | None:
    """Return the hosts of a pair in transport mode as the compiled module takes them."""
    return (ip_address(ends.local), ip_address(ends.remote), ends.nat_sum) if ends is not None else None


def _selectors(selectors: Sequence[TrafficSelector]) -> list[tuple[int, int, int, int, int, int]]:
    return [(ts.version, ts.low, ts.high, ts.protocol, ts.port_low, ts.port_high) for ts in selectors]


def path_tuple(path: Path) -> tuple[object, int, object, int]:
    """Return a path as the compiled module takes it."""
    local, remote = path
    return ip_address(local.address), local.port, ip_address(remote.address), remote.port


def _path(path: tuple[object, int, object, int]) -> Path:
    local, local_port, remote, remote_port = path
    return Path(Endpoint(str(local), local_port), Endpoint(str(remote), remote_port))


def _drops(drops: list[tuple[str, int]]) -> dict[DropReason, int]:
    return {DropReason(name): count for name, count in drops}
