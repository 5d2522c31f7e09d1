"""Both data planes side by side, without sockets: one call asks both and fails where they answer differently."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, cast

from ipsecd.drops import DropReason
from ipsecd.engine.contract import tell
from ipsecd.engine.native import NativeEngine, path_tuple
from ipsecd.ipsec import early
from ipsecd.ipsec.ah_inbound import open_ah
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.early_inbound import open_early
from ipsecd.ipsec.esp import TRAILERS, make_open
from ipsecd.ipsec.ip import ESP, traffic_class
from ipsecd.ipsec.sad import Pair
from ipsecd.ipsec.udp_encap import MARKER_BYTES, runt_reason
from ipsecd.policy import SpdEntry
from ipsecd.sa import ChildKey, Endpoint, Path, SaPair
from ipsecd.suites import EspSuite
from tests.runtime.engine_rig import Recorder
from tests.support import esp_packets as p

Datagram = tuple[Path, int, bytes]


class _NoLoop:
    """Takes readers and never calls them."""

    def add_reader(self, *_: object) -> None:
        pass

    def remove_reader(self, *_: object) -> None:
        pass


class Twins:
    """A reference Dataplane and a native one with the same commands behind them."""

    def __init__(self, devices: dict[str, str | None]) -> None:
        self.told, self.recorder = Recorder(), Recorder()
        self.reference = Dataplane(p.SeededRng())
        self.native = NativeEngine(cast("asyncio.AbstractEventLoop", _NoLoop()), self.recorder, [], {}, fault=_fail)
        self.pairs: dict[int, SaPair] = {}
        self._now = time.clock_gettime(time.CLOCK_BOOTTIME)
        for device, interface in devices.items():
            self.reference.add_device(device, interface)
            number = None if interface is None else self.native._interfaces[interface]
            self.native.plane.add_device(self.native.devices[device], number)

    def close(self) -> None:
        self.native.close()

    # Commands

    def own_addresses(self, addresses: Sequence[str]) -> None:
        parsed = [ip_address(address) for address in addresses]
        self.reference.set_own_addresses(frozenset((a.version, int(a)) for a in parsed))
        self.native.plane.set_own_addresses(parsed)

    def policy(self, entries: Sequence[SpdEntry], inner_mtus: dict[ChildKey, int]) -> None:
        self.reference.replace_policy(entries, inner_mtus)
        self.native.replace_policy(entries, inner_mtus)

    def install(self, pair: SaPair) -> None:
        self.reference.install_sa(pair)
        for _ in open_early(self.reference, pair.spi_in, self._now):
            self.reference.drop(DropReason.TUN_WRITE_FAILED)       # the native engine has no device to write to
        self.native.install_sa(pair)
        self.pairs[pair.spi_in] = pair

    def use(self, child: ChildKey, spi_in: int) -> None:
        """Held packets must have been abandoned: the native engine sends them through sockets that it does not have."""
        assert self.reference.use_outbound(child, spi_in, self._now) == []
        self.native.use_outbound(child, spi_in)

    def abandon(self, child: ChildKey) -> None:
        self.reference.abandon_held(child)
        self.native.abandon_held(child)

    def move(self, spi_in: int, path: Path) -> None:
        self.reference.update_path(spi_in, path)
        self.native.update_path(spi_in, path)

    def remove(self, spi_in: int) -> None:
        a, b = self.reference.remove_sa(spi_in), self.native.remove_sa(spi_in)
        assert a == b, (a, b)

    # Packets

    def out(self, device: str, packet: bytes) -> list[Datagram]:
        """Carry a packet from a device through both."""
        return self.out_cut(device, packet, [packet], offload=False)

    def out_cut(self, device: str, frame: bytes, segments: Sequence[bytes], *, offload: bool) -> list[Datagram]:
        """Carry a frame through the native engine and what it stands for, packet by packet, through the reference."""
        now = self._tick()
        sent: list[Datagram] = []
        for packet in segments:
            verdict = self.reference.route(packet, device, now)
            if isinstance(verdict, Pair):
                sealed = self.reference.seal(verdict, packet, now)
                if isinstance(sealed, bytes):
                    sent.append((verdict.path, traffic_class(packet), sealed))
            elif isinstance(verdict, ChildKey):
                self.reference.hold(verdict, device, packet, now)
        number = self.native.devices[device]
        theirs = [(Path(*_endpoints(path)), tos, data)
                  for path, tos, data in self.native.plane.step_out(number, frame, offload, now)]
        assert [self._laid_open(d) for d in sent] == [self._laid_open(d) for d in theirs]
        self.compare()
        return sent

    def into(self, datagram: bytes, path: Path, tos: int = 0) -> list[tuple[str, bytes]]:
        """Carry a datagram from the network through both."""
        now = self._tick()
        ours = self._reference_in(datagram, path, tos, now)
        theirs = [(self.native.devices.name(device), packet) for device, packet in self.native.plane.step_in(
            datagram, len(datagram), tos, path_tuple(path), now)]
        assert ours == theirs, (ours, theirs)
        self.compare()
        return ours

    def into_ah(self, packet: bytes, path: Path) -> list[tuple[str, bytes]]:
        """Carry an IP packet with AH from the network through both."""
        now = self._tick()
        opened = open_ah(self.reference, packet, path, now)
        ours = [] if isinstance(opened, DropReason) else [(opened.pair.device, opened.packet)]
        theirs = [(self.native.devices.name(device), inner) for device, inner in self.native.plane.step_in_ah(
            packet, path_tuple(path), now)]
        assert ours == theirs, (ours, theirs)
        self.compare()
        return ours

    def compare(self) -> None:
        """Counters and reports are the same."""
        self._report()
        self.native._report()
        assert self.told.told == self.recorder.told
        stats, plane = self.native.stats(), self.reference
        assert plane.drops == stats.drops, (plane.drops, stats.drops)
        assert {spi: pair.stats() for spi, pair in plane.sad.by_spi.items()} == stats.pairs
        assert {spi: pair.drops for spi, pair in plane.sad.by_spi.items()} == stats.pair_drops
        assert plane.held.counts() == stats.held_packets
        assert stats.overflows["ecn_unexpected"] == plane.unexpected_ecn

    def _tick(self) -> float:
        self._now += 0.001
        return self._now

    def _reference_in(self, datagram: bytes, path: Path, tos: int, now: float) -> list[tuple[str, bytes]]:
        plane = self.reference
        if len(datagram) < MARKER_BYTES:
            plane.drop(runt_reason(datagram, raw=path.raw))
            return []
        spi = int.from_bytes(datagram[:4], "big")
        pair = plane.sad.esp.get(spi)
        if pair is not None:
            packet = plane.open(pair, datagram, 0, len(datagram), path, tos, now)
            return [(pair.device, packet)] if isinstance(packet, bytes) else []
        if spi == 0 and not path.raw:
            self.told.ike_datagram(path, datagram[MARKER_BYTES:])
        else:
            plane.early.keep(early.Datagram(spi, ESP, datagram, path, tos, now))
            plane.unknown_spi(path, spi, now)
        return []

    def _laid_open(self, datagram: Datagram) -> tuple[object, ...]:
        """A datagram without what chance put into it: AES-CBC has a random IV."""
        path, tos, data = datagram
        if data[0]:
            return datagram                        # the IP header of AH: the SPIs of tests are small
        pair = next(x for x in self.pairs.values() if x.outbound.spi == int.from_bytes(data[:4], "big"))
        assert isinstance(pair.suite, EspSuite)
        if pair.suite.encr.aead:
            return datagram
        sequence = self.reference.sad.by_spi[pair.spi_in].sequence
        low = int.from_bytes(data[4:8], "big")
        opener = make_open(pair.suite, pair.outbound, p.SeededRng())
        return path, tos, data[:8], opener.open(data, 0, len(data), sequence - (sequence - low & 0xFFFFFFFF))

    def _report(self) -> None:
        tell(self.reference.take_reports(), self.told)


def padded(packet: bytes, *, next_header: int, block: int, extra: int = 0) -> bytes:
    """A plaintext as RFC 4303 2.4 pads it, `extra` blocks more than needed."""
    row = TRAILERS.get(next_header) or tuple(t[:-1] + bytes([next_header]) for t in TRAILERS[4])
    return packet + row[-(len(packet) + 2) % block + extra * block]


def _endpoints(path: tuple[Any, ...]) -> tuple[Any, Any]:
    return Endpoint(str(path[0]), path[1]), Endpoint(str(path[2]), path[3])


def _fail(why: str) -> None:
    raise AssertionError(why)
