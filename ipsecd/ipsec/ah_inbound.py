"""The way of an AH packet from the network (RFC 4302 3.4, RFC 4301 5.2), as `Dataplane.open` has it for ESP.

1 outer headers  2 SA by SPI  3 length  4 replay check  5 verify  6 commit  7 count, path  8 next header,
in transport mode the packet made again  9 selectors  10 ECN
"""

from __future__ import annotations

from typing import NamedTuple

from ipsecd.drops import DropReason
from ipsecd.ipsec import ip
from ipsecd.ipsec.ah import spi_and_sequence
from ipsecd.ipsec.ah_transport import restored
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.early import Datagram
from ipsecd.ipsec.ip import flow_key, traffic_class
from ipsecd.ipsec.outer_header import Outer, outer_header
from ipsecd.ipsec.replay import full_sequence
from ipsecd.ipsec.sad import AhPair, Pair
from ipsecd.sa import Path

_REPLAY = {DropReason.ESP_REPLAYED: DropReason.AH_REPLAYED, DropReason.ESP_TOO_OLD: DropReason.AH_TOO_OLD}


class Opened(NamedTuple):
    """An inner packet for `pair.device`."""

    pair: Pair
    packet: bytes


def open_ah(plane: Dataplane, packet: bytes, path: Path, now: float) -> Opened | DropReason:
    """Return what is in a whole IP packet with AH, which came by `path`."""
    outer = outer_header(packet)
    if isinstance(outer, DropReason):
        return plane.drop(outer)
    found = spi_and_sequence(packet, outer)
    if found is None:
        return plane.drop(DropReason.AH_SHORT)
    spi, low = found
    pair = plane.sad.ah.get(spi)
    if pair is None or pair.ah is None:
        plane.early.keep(Datagram(spi, ip.AH, packet, path, 0, now))
        return plane.unknown_spi(path, spi, now, DropReason.AH_UNKNOWN_SPI)
    refused = _authenticate(plane, pair, pair.ah, packet, outer, low, path, now)
    if refused is not None:
        return plane.drop(refused, pair)
    inner = _inner(plane, pair, packet, outer, pair.ah.open.size(packet))
    return inner if isinstance(inner, DropReason) else Opened(pair, inner)


def _authenticate(plane: Dataplane, pair: Pair, ah: AhPair, packet: bytes, outer: Outer, low: int, path: Path,
                  now: float) -> DropReason | None:
    """Check, verify, commit and count; return why the packet is refused."""
    window, opener = pair.window, ah.open
    if not opener.is_whole(packet, outer):
        return DropReason.AH_MALFORMED
    if pair.refusal is DropReason.SA_EXPIRED:
        return DropReason.AH_EXPIRED
    sequence = full_sequence(low, top=window.top, size=pair.window_size) if pair.esn else low
    fresh = sequence > window.top
    refused = window.check(sequence)
    if refused is not None:
        return _REPLAY[refused]
    if not opener.verify(packet, outer, sequence):
        return DropReason.AH_BAD_ICV
    refused = window.commit(sequence)
    if refused is not None:
        return _REPLAY[refused]
    meter = pair.inward
    meter.packets += 1
    meter.bytes += outer.end - outer.at - opener.size(packet)
    meter.last = now
    if (path is not pair.path and fresh) or not pair.heard:
        plane.note_peer(pair, path if fresh else pair.path)
    if meter.packets >= meter.alarm_packets or meter.bytes >= meter.alarm_bytes:
        plane.ring(pair, meter)
    return None


def _inner(plane: Dataplane, pair: Pair, packet: bytes, outer: Outer, ah_bytes: int) -> bytes | DropReason:
    """Return the packet where policy lets it in (RFC 4301 5.2)."""
    if pair.transport is None:
        outer_ecn = traffic_class(packet) & 3
        inner = _tunnelled(packet[outer.at], packet[outer.at + ah_bytes:outer.end])
    else:
        outer_ecn = 0                              # it is the packet's own
        inner = restored(packet, outer, ah_bytes, pair.transport)
    if isinstance(inner, DropReason):
        return plane.drop(inner, pair)
    key, length = flow_key(inner, len(inner)), len(inner)
    if key is None or key not in pair.flows:
        admitted = plane.admit(pair, inner, key)
        if isinstance(admitted, DropReason):
            return plane.drop(admitted, pair)
        length = admitted
    return plane.join_ecn(pair, inner[:length], outer_ecn) if outer_ecn else inner[:length]


def _tunnelled(next_header: int, inner: bytes) -> bytes | DropReason:
    if next_header not in (ip.IPV4, ip.IPV6):
        return DropReason.AH_NEXT_HEADER
    if not inner or inner[0] >> 4 != (4 if next_header == ip.IPV4 else 6):
        return DropReason.INNER_MALFORMED
    return inner
