"""Rows of easy packets, as nearly all are, in both directions.

`Dataplane` carries any packet; here rows of one flow take the same steps with all that stays the same looked up and
counted once.  What is not easy ends the row before it has changed anything, and goes the long way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from struct import Struct

from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.esp import TRAILERS
from ipsecd.ipsec.ip import IPV4, IPV6, flow_key
from ipsecd.ipsec.lifetime import LAST_SEQUENCE
from ipsecd.ipsec.mtu import LARGE_PACKET_BYTES
from ipsecd.ipsec.sad import Pair
from ipsecd.sa import Path

_VERSIONS = {IPV4: 4, IPV6: 6}
_LARGEST_PACKET = 65_575                           # RFC 8200 3: header and payload
_HEADER = Struct(">II").unpack_from                # SPI, sequence number


def seal_run(plane: Dataplane, packets: Sequence[bytes], at: int, device: str, now: float,
             sealed: list[bytes]) -> Pair | None:
    """Seal packets[at], and those behind it of the same pair and traffic class, into `sealed`.

    Returns the pair, None where the first has to go the long way.
    """
    first, flows, most = packets[at], plane.flows[device], len(packets) - at
    key = flow_key(first, len(first))
    pair = flows.get(key) if key is not None else None
    if pair is None or pair.transport is not None or pair.ah is not None or pair.tfc.pads:
        return None
    meter, sequence, carried = pair.outward, pair.sequence, 0
    largest = pair.inner_mtu or _LARGEST_PACKET
    if now >= pair.large_due:
        largest = min(largest, LARGE_PACKET_BYTES)     # the one that is worth a report goes the long way
    if (pair.refusal is not None or len(first) > largest or sequence + most >= pair.alarm_sequence
            or meter.packets + most >= meter.alarm_packets
            or meter.bytes + most * _LARGEST_PACKET >= meter.alarm_bytes):
        return None
    seal, trailers, head = pair.sealer.seal, TRAILERS[IPV4 if first[0] < 0x60 else IPV6], first[:2]
    for packet in islice(packets, at, None):
        length = len(packet)
        key = flow_key(packet, length)
        if key is None or flows.get(key) is not pair or length > largest or packet[:2] != head:
            break
        # Counted up before sealing: a number is never used twice, whatever happens to the packet (RFC 4106 3.1).
        pair.sequence = sequence = sequence + 1
        sealed.append(seal(packet, trailers, sequence))
        carried += length
    meter.packets += len(sealed)
    meter.bytes += carried
    meter.last = now
    return pair


def open_run(plane: Dataplane, pair: Pair, data: bytes, start: int, size: int, path: Path, now: float,
             packets: list[bytes]) -> int:
    """Open datagrams of `size` bytes from data[start:] on into `packets`; return where the first lies that was not.

    The caller has seen that the outer header has no ECN; `now` is in seconds.
    """
    meter, opener, window = pair.inward, pair.opener, pair.window
    end = len(data)
    most = (end - start) // size + 1               # no limit of any kind may lie within the run
    if (path is not pair.path or not pair.heard or pair.refusal is not None or pair.transport is not None
            or size < opener.minimum_bytes
            or meter.packets + most >= meter.alarm_packets or meter.bytes + end - start >= meter.alarm_bytes
            or (not pair.esn and window.top + most > LAST_SEQUENCE)):
        return start
    spi, flows, sequence, carried = pair.spi_in, pair.flows, window.top, 0
    open_next = opener.open
    at = start
    while at + opener.minimum_bytes <= end:
        stop = min(at + size, end)
        if _HEADER(data, at) != (spi, sequence + 1 & LAST_SEQUENCE):
            break
        plaintext = open_next(data, at, stop, sequence + 1)
        if plaintext is None:
            break
        pad, next_header = plaintext[-2:]
        length = len(plaintext) - 2 - pad
        if (plaintext[0] >> 4 != _VERSIONS.get(next_header)
                or flow_key(plaintext, length) not in flows or not plaintext.endswith(TRAILERS[next_header][pad])):
            break
        packets.append(plaintext[:length])
        sequence += 1
        carried += length
        at = stop
    if at > start:
        meter.packets += sequence - window.top
        meter.bytes += carried
        meter.last = now
        window.advance(sequence)
    return at
