"""The reference engine: ipsec.dataplane over TUN devices and sockets, from the readers of the event loop.

Each reader takes a bounded batch, carries every packet of it to its end, flushes, hands over the reports, and returns:
the loop turns to IKE, timers and the other direction before the next batch.  Nothing awaits, logs or builds an object
for a packet.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from struct import Struct
from typing import NamedTuple

from ipsecd.drops import DropReason
from ipsecd.engine.ah_io import AhPort
from ipsecd.engine.contract import EngineListener, EngineStats, tell
from ipsecd.engine.raw_io import RawPort, carrier, protocol_of, socket_name
from ipsecd.engine.udp_io import BoundPort, Received, RunSender, UdpPort, drop_reason
from ipsecd.ipsec.ah_inbound import open_ah
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.early import Datagram
from ipsecd.ipsec.early_inbound import open_early
from ipsecd.ipsec.ip import AH, ESP, traffic_class
from ipsecd.ipsec.offload import VNET_BYTES, frames, is_plain
from ipsecd.ipsec.runs import open_run, seal_run
from ipsecd.ipsec.sad import Pair
from ipsecd.ipsec.tfc import MAX_DUMMY_BYTES
from ipsecd.ipsec.udp_encap import KEEPALIVE, MARKER_BYTES, NON_ESP_MARKER, runt_reason
from ipsecd.policy import SpdEntry
from ipsecd.rng import Rng
from ipsecd.runtime.tun import OFFLOAD_CHECKSUM, OFFLOAD_USO4, OFFLOAD_USO6, queue_overflow, set_offload
from ipsecd.sa import ChildKey, Path, SaPair, SaStats

# Tuning: some 0.5 to 1 ms of work, so that a batch of each reader fits well into the loop lag allowed; and twice the
# longest run of small datagrams, three times that of full ones, so that few runs are sent half empty.
MAX_BATCH_PACKETS = 128
_READ_BYTES = 65_536 + VNET_BYTES

_U32 = Struct(">I").unpack_from

_PORTS: dict[int, Callable[[str, socket.socket], BoundPort]] = {socket.IPPROTO_UDP: UdpPort, AH: AhPort}

# What the hook sees: direction ("in" or "out"), packet, and the inbound SPI of its pair or why it ended.
Observer = Callable[[str, bytes, int | DropReason], None]


class Tun(NamedTuple):
    """A TUN device: its name, its non-blocking descriptor, the ingress interface it serves (None: all others); and
    descriptors of its `further` queues, for an engine that has `queues` of them.

    `offload` says that it was opened with a virtio header of ten bytes: we hand over joined packets.  The engine turns
    the device's own offloads (TUNSETOFFLOAD) off, so that what it hands over is whole, with finished checksums.
    """

    device: str
    fd: int
    interface: str | None = None
    offload: bool = False
    further: tuple[int, ...] = ()


class ReferenceEngine:
    """The data plane in Python (engine.contract.Engine)."""

    name = "reference"
    queues = 1

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: EngineListener, tuns: Sequence[Tun],
                 sockets: Mapping[str, socket.socket], *, clock: Callable[[], float], rng: Rng,
                 observe: Observer | None = None) -> None:
        """Begin to read.  The descriptors stay the caller's, who closes them after `close`."""
        self.observe = observe
        self._loop = loop
        self._listener = listener
        self._clock = clock
        self._plane = Dataplane(rng)
        self._tuns: dict[str, Tun] = {}
        self._joins_udp: set[str] = set()          # devices whose kernel cuts joined UDP again
        self._delivered: defaultdict[str, list[bytes]] = defaultdict(list)    # packets of this batch, by device
        self._ports: dict[tuple[str, int], BoundPort] = {}     # by address and protocol
        self._sender = RunSender(self._port_of, self._count_drops)
        self._ah_sender = RunSender(lambda path: self._ports.get((path.local.address, AH)), self._count_drops)
        for address, sock in sockets.items():
            self.add_socket(address, sock)
        for tun in tuns:
            self.add_tun(tun)

    # Devices come and go with interface selectors, sockets with our addresses

    def add_tun(self, tun: Tun) -> None:
        """Read from and write to a TUN device; an earlier one of that name is let go."""
        self.remove_tun(tun.device)
        if tun.offload:
            if set_offload(tun.fd, OFFLOAD_CHECKSUM | OFFLOAD_USO4 | OFFLOAD_USO6):    # Linux 6.2 and later
                self._joins_udp.add(tun.device)
            set_offload(tun.fd, 0)                 # a persistent device keeps what the last one to open it asked for
        self._tuns[tun.device] = tun
        self._plane.add_device(tun.device, tun.interface)
        self._loop.add_reader(tun.fd, self._tun_readable, tun)

    def remove_tun(self, device: str) -> tuple[int, ...]:
        """Let go of a device; return its descriptors, which the caller then closes, none for an unknown one."""
        self._joins_udp.discard(device)
        tun = self._tuns.pop(device, None)
        if tun is None:
            return ()
        self._loop.remove_reader(tun.fd)
        self._plane.remove_device(device)
        self._delivered.pop(device, None)
        return (tun.fd,)

    def add_socket(self, address: str, sock: socket.socket) -> None:
        """Read from and send through a socket bound to this local address; an earlier one of its protocol is let go."""
        self.remove_socket(address, protocol_of(sock))
        port = _PORTS.get(protocol_of(sock), RawPort)(address, sock)
        self._ports[address, port.protocol] = port
        self._plane.set_own_addresses(self._own_addresses())
        self._loop.add_reader(sock.fileno(), self._readable, port)

    def remove_socket(self, address: str, protocol: int = socket.IPPROTO_UDP) -> socket.socket | None:
        """Let go of an address's socket of a protocol, which the caller then closes; None when there is none."""
        port = self._ports.pop((address, protocol), None)
        if port is None:
            return None
        self._loop.remove_reader(port.sock.fileno())
        self._plane.set_own_addresses(self._own_addresses())
        return port.sock

    def _own_addresses(self) -> frozenset[tuple[int, int]]:
        addresses = [ip_address(address) for address, _ in self._ports]
        return frozenset((address.version, int(address)) for address in addresses)

    # Commands: see engine.contract.Engine

    def install_sa(self, pair: SaPair) -> None:
        """Accept inbound packets of the pair; raises LocalError for keys that do not fit its suite."""
        self._plane.install_sa(pair)
        for device, packet in open_early(self._plane, pair.spi_in, self._clock()):
            self._delivered[device].append(packet)
        self._write()
        self._report()

    def use_outbound(self, child: ChildKey, spi_in: int) -> None:
        """Send the slot's traffic on this pair, and release what was held for the child."""
        now = self._clock()
        for device, packet in self._plane.use_outbound(child, spi_in, now):
            self._outbound(packet, device, now)
        self._flush()
        self._report()

    def update_path(self, spi_in: int, path: Path) -> None:
        """Send the pair's packets over another path."""
        self._plane.update_path(spi_in, path)

    def remove_sa(self, spi_in: int) -> tuple[SaStats, Mapping[DropReason, int]] | None:
        """Forget both directions of a pair; return its last counters and drops, None for an unknown SPI."""
        return self._plane.remove_sa(spi_in)

    def abandon_held(self, child: ChildKey) -> None:
        """Drop, with a count, what is held for a child."""
        self._plane.abandon_held(child)

    def replace_policy(self, entries: Sequence[SpdEntry], inner_mtus: Mapping[ChildKey, int]) -> None:
        """Replace the SPD as a whole."""
        self._plane.replace_policy(entries, inner_mtus)

    def send_ike(self, path: Path, datagram: bytes) -> None:
        """Send an IKE datagram behind the non-ESP marker."""
        self._send_one(path, NON_ESP_MARKER + datagram)

    def send_keepalive(self, path: Path) -> None:
        """Send a NAT keepalive (RFC 3948 2.3)."""
        self._send_one(path, KEEPALIVE)

    def inject(self, child: ChildKey, packet: bytes) -> bool:
        """Send an inner packet as if it came from the TUN; False when no SA of the child takes it."""
        pair = self._plane.choose(child, packet)
        if pair is None:
            return False
        self._protect(pair, packet, self._clock())
        self._flush()
        self._report()
        return True

    def send_dummy(self, spi_in: int, size: int) -> bool:
        """Send a packet around `size` bytes, which the peer discards; False where the pair is not there or ended."""
        pair = self._plane.sad.by_spi.get(spi_in)
        if pair is None or pair.ah is not None:    # AH has no such thing
            return False
        if size > MAX_DUMMY_BYTES:
            self._plane.drop(DropReason.TOO_BIG, pair)
            return False
        sealed = self._plane.seal(pair, bytes(size), self._clock(), dummy=True)
        if not isinstance(sealed, bytes):
            return False
        self._sender.add(pair.path, 0, (sealed,))
        self._flush()
        self._report()
        return True

    def stats(self) -> EngineStats:
        """Read all counters."""
        pairs = self._plane.sad.by_spi
        overflows = {socket_name(*key): port.overflow for key, port in self._ports.items()}
        overflows |= {f"tun_{device}": queue_overflow(device) for device in self._tuns}
        return EngineStats(
            pairs={spi: pair.stats() for spi, pair in pairs.items()},
            drops=dict(self._plane.drops),
            pair_drops={spi: dict(pair.drops) for spi, pair in pairs.items()},
            held_packets=self._plane.held.counts(),
            overflows=overflows | {"ecn_unexpected": self._plane.unexpected_ecn},
        )

    def last_inbound(self, spi_in: int) -> float | None:
        """Return the time of the pair's last authenticated packet, None for never or an unknown SPI."""
        pair = self._plane.sad.by_spi.get(spi_in)
        return pair.inward.last if pair is not None else None

    def close(self) -> None:
        """Stop reading; descriptors and the device stay."""
        for tun in self._tuns.values():
            self._loop.remove_reader(tun.fd)
        for port in self._ports.values():
            self._loop.remove_reader(port.sock.fileno())

    # From the TUN

    def _tun_readable(self, tun: Tun) -> None:
        now = self._clock()
        device, fd, offload = tun.device, tun.fd, tun.offload
        packets: list[bytes] = []
        for _ in range(MAX_BATCH_PACKETS):
            try:
                frame = os.read(fd, _READ_BYTES)
            except OSError:                        # nothing more to read, or the device is down
                break
            if not offload:
                packets.append(frame)
            elif is_plain(frame):
                packets.append(frame[VNET_BYTES:])
            else:                                  # somebody else switched the device's offloads on
                self._plane.drop(DropReason.TUN_MALFORMED)
        at = 0
        while at < len(packets):
            sealed: list[bytes] = []
            pair = seal_run(self._plane, packets, at, device, now, sealed) if self.observe is None else None
            if pair is None:
                self._outbound(packets[at], device, now)
                at += 1
            else:
                self._sender.add(pair.path, traffic_class(packets[at]), sealed)
                at += len(sealed)
        self._flush()
        self._report()

    def _outbound(self, packet: bytes, device: str, now: float) -> None:
        pair = self._plane.route(packet, device, now)
        if type(pair) is Pair:
            self._protect(pair, packet, now)
        elif isinstance(pair, ChildKey):
            self._plane.hold(pair, device, packet, now)
        elif self.observe is not None and isinstance(pair, DropReason):
            self.observe("out", packet, pair)

    def _protect(self, pair: Pair, packet: bytes, now: float) -> None:
        sealed = self._plane.seal(pair, packet, now)
        if type(sealed) is bytes:
            (self._sender if pair.ah is None else self._ah_sender).add(pair.path, traffic_class(packet), (sealed,))
        if self.observe is not None:
            self.observe("out", packet, pair.spi_in if isinstance(sealed, bytes) else sealed)

    def _flush(self) -> None:
        self._sender.flush()
        self._ah_sender.flush()

    def _port_of(self, path: Path) -> BoundPort | None:
        return self._ports.get((path.local.address, carrier(path)))

    def _send_one(self, path: Path, datagram: bytes) -> None:
        port = self._port_of(path)
        if port is None:
            self._plane.drop(DropReason.SEND_FAILED)
            return
        try:
            port.send([datagram], path.remote, 0)
        except OSError as error:
            self._plane.drop(drop_reason(error))

    # From the network

    def _readable(self, port: BoundPort) -> None:
        now = self._clock()
        packets = 0
        while packets < MAX_BATCH_PACKETS:
            try:
                received = port.receive()
            except OSError:                        # an ICMP error that the kernel kept for us says nothing we trust
                break
            if received is None:
                break
            packets += self._ah_packet(received, now) if port.protocol == AH else self._datagrams(received, now)
        self._write()
        self._report()

    def _datagrams(self, received: Received, now: float) -> int:
        """Take the datagrams of one read apart; return how many there were, or a full batch after an IKE message.

        ESP right behind an IKE message may be for the SA that this message makes: it waits in the socket until the
        control side, which comes next in the loop, has taken the message.
        """
        data, size, tos, path = received
        raw = path.raw
        plane, by_spi = self._plane, self._plane.sad.esp
        if not data:
            plane.drop(runt_reason(data, raw=raw))
            return 1
        observe, delivered = self.observe, self._delivered
        start, length = 0, len(data)
        datagrams = -(-length // size)
        while start < length:
            end = min(start + size, length)
            if end - start < MARKER_BYTES:
                plane.drop(runt_reason(data[start:end], raw=raw))
                start = end
                continue
            spi = _U32(data, start)[0]
            pair = by_spi.get(spi)
            if pair is not None:
                if observe is None and not tos & 3:
                    at = open_run(plane, pair, data, start, size, path, now, delivered[pair.device])
                    if at > start:
                        start = at
                        continue
                packet = plane.open(pair, data, start, end, path, tos, now)
                if type(packet) is bytes:
                    delivered[pair.device].append(packet)
                if observe is not None:
                    observe("in", *((b"", packet) if isinstance(packet, DropReason) else (packet, spi)))
            elif spi == 0 and not raw:             # RFC 3948 2.2: the marker is of UDP
                self._listener.ike_datagram(path, data[start + MARKER_BYTES:end])
                datagrams = MAX_BATCH_PACKETS
            else:
                plane.early.keep(Datagram(spi, ESP, data[start:end], path, tos, now))
                plane.unknown_spi(path, spi, now)
            start = end
        return datagrams

    def _ah_packet(self, received: Received, now: float) -> int:
        opened = open_ah(self._plane, received.data, received.path, now)
        if not isinstance(opened, DropReason):
            self._delivered[opened.pair.device].append(opened.packet)
        if self.observe is not None:
            self.observe("in", *((b"", opened) if isinstance(opened, DropReason)
                                 else (opened.packet, opened.pair.spi_in)))
        return 1

    def _write(self) -> None:
        """Hand the packets of a batch to their devices."""
        for device, packets in self._delivered.items():
            if not packets:
                continue
            tun = self._tuns.get(device)
            if tun is None:                        # its SA outlived the device
                self._plane.drop(DropReason.TUN_WRITE_FAILED, count=len(packets))
            else:
                for frame in frames(packets, udp=device in self._joins_udp) if tun.offload else packets:
                    try:
                        os.write(tun.fd, frame)
                    except OSError:                # the device is down
                        self._plane.drop(DropReason.TUN_WRITE_FAILED)
            packets.clear()

    # To the control side

    def _count_drops(self, reason: DropReason, count: int) -> None:
        self._plane.drop(reason, count=count)

    def _report(self) -> None:
        tell(self._plane.take_reports(), self._listener)
