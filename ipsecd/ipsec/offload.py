"""Joins TCP segments and UDP datagrams for TUN devices with a virtio header (virtio 1.1, 5.1.6), as a card would.

The segments of a flow that arrived in one batch become one packet of up to 64 KiB, so that the kernel's stack is walked
once for many, and the receiver acknowledges once for many.  Joining asks for what the kernel's own receive offload asks
for: equal headers, consecutive sequence numbers, equal even sizes.  Whoever gets the joined packet sees its datagrams
apart again, with identifications that count up (RFC 6864 4.1: those of whole packets have no meaning).

A joined packet is handed over as "checksum to be completed", so the checksums of its segments must be right first: they
are verified together, by one sum over all of them (RFC 1071 2).  If that fails, the segments go one by one, and the
receiver finds the wrong one.

The other way is the kernel's: it cuts super-packets and completes checksums in C before the TUN hands them over, as
long as the device takes no offload (TUNSETOFFLOAD 0).  Cutting them here was tried and cost more than the reads saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from struct import Struct

from ipsecd.ipsec.ip import TCP, UDP

VNET_BYTES = 10
_VNET = Struct("=BBHHHH")                          # flags, type, header, size, checksum start and offset
_NEEDS_CSUM = 1
_TCPV4, _TCPV6, _UDP_L4 = 1, 4, 5
_PLAIN = bytes(VNET_BYTES)

MAX_JOINED_BYTES = 65_535                          # RFC 791 3.1: total length
MAX_SEGMENTS = 64                                  # UDP_MAX_SEGMENTS of the kernels that came first
_PSH, _ACK = 0x08, 0x10
_TCP_CHECKSUM, _UDP_CHECKSUM = 16, 6               # where it stands in the header

_H = Struct(">H").pack_into


def ones_sum(data: bytes) -> int:
    """Return the 16-bit one's complement sum of the data, odd lengths padded (RFC 1071), in [0, 65534]."""
    value = int.from_bytes(data, "big")
    return _folded(value << 8 if len(data) & 1 else value)


_LOW_5632, _LOW_2816, _LOW_1408 = ((1 << bits) - 1 for bits in (5632, 2816, 1408))


def _folded(value: int) -> int:
    """Reduce modulo 65535.  2^16 = 1 there, so halves can be added: cheaper than dividing a long integer."""
    value = (value >> 5632) + (value & _LOW_5632)
    value = (value >> 2816) + (value & _LOW_2816)
    value = (value >> 1408) + (value & _LOW_1408)
    return value % 65535


def is_plain(frame: bytes) -> bool:
    """Return whether a TUN read is one whole packet behind its header."""
    return len(frame) > VNET_BYTES and not frame[1] and not frame[0] & _NEEDS_CSUM


def frames(packets: Sequence[bytes], *, udp: bool = False) -> list[bytes]:
    """Return what to write, header and packet each; packets of one flow are joined where possible.

    UDP is joined for kernels that cut it again (`udp`: Linux 6.2).  The order within a flow stays.
    """
    out: list[bytes] = []
    flows: dict[tuple[bytes, int], list[bytes]] = {}
    for packet in packets:
        key = _flow_of(packet)
        if key is None or (key[1] == UDP and not udp):
            out.append(_PLAIN + packet)
        elif key in flows:
            flows[key].append(packet)
        else:
            flows[key] = [packet]
    for (_, protocol), flow in flows.items():
        at = 0
        while at < len(flow):
            at += _join(flow, at, protocol, out)
    return out


def _flow_of(packet: bytes) -> tuple[bytes, int] | None:
    """Return the flow of a whole packet with a TCP or UDP header right behind IP's, which has no options; else None."""
    size = len(packet)
    if size < 28:                                  # of IPv4 and UDP; IPv6 asks below for more
        return None
    if packet[0] == 0x45:
        protocol, upper, addresses = packet[9], 20, packet[12:24]
        if packet[6] & 0xBF or packet[7]:          # an IPv4 fragment has TCP's number but no TCP header
            return None
    elif packet[0] >> 4 == 6:
        protocol, upper, addresses = packet[6], 40, packet[8:44]
    else:
        return None
    if protocol == TCP:
        return (addresses, TCP) if size >= upper + 20 else None
    return (addresses, UDP) if protocol == UDP and size >= upper + 8 else None


def _join(flow: list[bytes], at: int, protocol: int, out: list[bytes]) -> int:
    """Put out the packet at flow[at], joined with those behind it that belong to it; return how many it were."""
    first = flow[at]
    upper = 20 if first[0] == 0x45 else 40
    tcp = protocol == TCP
    end = upper + ((first[upper + 12] >> 4) * 4 if tcp else 8)
    size = len(first) - end
    # ACK alone, with data of an even size.
    if len(flow) == at + 1 or size <= 0 or size & 1 or (tcp and (first[upper + 13] != _ACK or end < upper + 20)):
        out.append(_PLAIN + first)
        return 1
    bits = 8 * size
    mask = _mask(upper, end, protocol)
    total_sum = int.from_bytes(first, "big")
    # The header expected next: TCP's sequence number in it counts on; where it wraps, nothing is joined.
    step, push = (size << 8 * (end - upper - 8), _PSH << 8 * (end - upper - 14)) if tcp else (0, 0)
    head = (total_sum >> bits & mask) + step
    room = MAX_JOINED_BYTES - len(first)
    taken = 1
    for packet in islice(flow, at + 1, at + MAX_SEGMENTS):
        length = len(packet) - end
        if not 0 < length <= size or length > room:
            break
        value = int.from_bytes(packet, "big")
        found = value >> 8 * length & mask
        if found != head and found != head | push:
            break
        total_sum += value << 8 if length & 1 else value
        room -= length
        taken += 1
        if length < size or found != head:         # a shorter one, or one with PSH, is the last
            break
        head += step
    run = flow[at:at + taken]
    if taken == 1 or not _sums_up(run, upper, protocol, total_sum):
        out.extend([_PLAIN + packet for packet in run])
    else:
        out.append(_joined(run, upper, end, protocol))
    return taken


def _joined(run: list[bytes], upper: int, end: int, protocol: int) -> bytes:
    """Return one packet of all, with the sum that whoever cuts or takes it completes."""
    first = run[0]
    header = bytearray(first[:end])
    length = end - upper + sum(map(len, run)) - len(run) * end
    if upper == 20:
        _H(header, 2, upper + length)
        _H(header, 10, 0)
        _H(header, 10, ~ones_sum(bytes(header[:20])) & 0xFFFF)
    else:
        _H(header, 4, length)
    checksum = _TCP_CHECKSUM if protocol == TCP else _UDP_CHECKSUM
    _H(header, upper + checksum, (_pseudo(first, upper, protocol) + length) % 65535)
    if protocol == TCP:
        header[upper + 13] = run[-1][upper + 13]
        kind = _TCPV4 if upper == 20 else _TCPV6
    else:
        _H(header, upper + 4, length)
        kind = _UDP_L4
    vnet = _VNET.pack(_NEEDS_CSUM, kind, end, len(first) - end, upper, checksum)
    return b"".join([vnet, header, *[packet[end:] for packet in run]])


def _pseudo(first: bytes, upper: int, protocol: int) -> int:
    return ones_sum(first[12:20] if upper == 20 else first[8:40]) + protocol


def _sums_up(run: list[bytes], upper: int, protocol: int, total_sum: int) -> bool:
    """Return whether the checksums of all segments, and of IPv4 headers, are right together."""
    sizes = sum(map(len, run)) - len(run) * upper
    expected = len(run) * _pseudo(run[0], upper, protocol) + sizes
    if upper == 40:                                # IPv6 has no header checksum to make its header sum up to nothing
        expected -= sum([ones_sum(packet[:40]) for packet in run])
    return (_folded(total_sum) + expected) % 65535 == 0


def _mask(upper: int, end: int, protocol: int) -> int:
    """Select the header bits that must be as expected: all but lengths, identification and checksums."""
    bits = bytearray(b"\xff" * end)
    if upper == 20:
        bits[2:6] = bytes(4)
        bits[10:12] = bytes(2)
    else:
        bits[4:6] = bytes(2)
    if protocol == TCP:
        bits[upper + 16:upper + 18] = bytes(2)
    else:
        bits[upper + 4:upper + 8] = bytes(4)
    return int.from_bytes(bits, "big")
