"""Joined packets against the segments they were made of, built one by one."""

from __future__ import annotations

import struct

import pytest

from ipsecd.ipsec.ip import traffic_class
from ipsecd.ipsec.offload import VNET_BYTES, frames, is_plain, ones_sum
from tests.support import esp_packets as p

ACK, PSH, FIN = 0x10, 0x08, 0x01
PLAIN = bytes(VNET_BYTES)
DATA = bytes(range(256)) * 240


def tcp(payload: bytes, sequence: int = 1000, *, flags: int = ACK, window: int = 512, port: int = 5001,
        version: int = 4, tos: int = 0, identification: int = 7) -> bytes:
    """A whole packet with right checksums; ten bytes of options."""
    segment = struct.pack(">HHIIBBHHH", 1234, port, sequence & 0xFFFFFFFF, 77, 8 << 4, flags, window, 0, 0)
    segment += b"\1\1\x08\x0a" + bytes(8) + payload
    if version == 6:
        empty = p.ipv6(following=6, payload=segment, tos=tos)
        pseudo = empty[8:40] + struct.pack(">II", len(segment), 6)
        return p.ipv6(following=6, payload=_with_checksum(segment, pseudo), tos=tos)
    empty = p.ipv4(protocol=6, payload=segment, tos=tos)
    pseudo = empty[12:20] + struct.pack(">HH", 6, len(segment))
    packet = bytearray(p.ipv4(protocol=6, payload=_with_checksum(segment, pseudo), tos=tos))
    packet[4:6] = (identification & 0xFFFF).to_bytes(2, "big")
    packet[10:12] = bytes(2)
    packet[10:12] = p.checksum(bytes(packet[:20])).to_bytes(2, "big")
    return bytes(packet)


def _with_checksum(segment: bytes, pseudo: bytes) -> bytes:
    return segment[:16] + p.checksum(pseudo + segment).to_bytes(2, "big") + segment[18:]


def cut(frame: bytes) -> list[bytes]:
    """What a card makes of a super-packet of `tcp`; checks its header and the sum left in the checksum field."""
    flags, kind, header, size, start, offset = struct.unpack_from("=BBHHHH", frame)
    packet = frame[VNET_BYTES:]
    version = packet[0] >> 4
    assert (flags, kind, header, start, offset) == ((1, 1, 52, 20, 16) if version == 4 else (1, 4, 72, 40, 16))
    if version == 4:
        assert p.checksum(packet[:20]) == 0
        assert int.from_bytes(packet[2:4], "big") == len(packet)
        pseudo = packet[12:20] + struct.pack(">HH", 6, len(packet) - 20)
    else:
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
        pseudo = packet[8:40] + struct.pack(">II", len(packet) - 40, 6)
    assert packet[start + 16:start + 18] == (~p.checksum(pseudo) & 0xFFFF).to_bytes(2, "big")
    sequence, = struct.unpack_from(">I", packet, start + 4)
    port, = struct.unpack_from(">H", packet, start + 2)
    data, found = packet[header:], []
    for n, at in enumerate(range(0, len(data), size)):
        last = at + size >= len(data)
        found.append(tcp(data[at:at + size], sequence + at, flags=packet[start + 13] if last else ACK, port=port,
                         version=version, tos=traffic_class(packet), identification=7 + n))
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("lengths", [[1386] * 2, [1386] * 44, [1386] * 3 + [100], [1386, 101], [8, 8, 7]])
def test_segments_in_order_are_joined_and_cut_again_to_the_same(version: int, lengths: list[int]) -> None:
    packets, at = [], 0
    for n, length in enumerate(lengths):
        packets.append(tcp(DATA[at:at + length], 5 + at, version=version, identification=7 + n, tos=3))
        at += length
    (joined,) = frames(packets)
    assert cut(joined) == packets


def datagram(data: bytes, *, version: int = 4, port: int = 53, sums: bool = True) -> bytes:
    """A whole packet with UDP and right checksums."""
    head = struct.pack(">HHHH", 1234, port, 8 + len(data), 0)
    if version == 6:
        pseudo = p.ipv6()[8:40] + struct.pack(">II", 8 + len(data), 17)
    else:
        pseudo = p.ipv4()[12:20] + struct.pack(">HH", 17, 8 + len(data))
    upper = head[:6] + (p.checksum(pseudo + head + data) if sums else 0).to_bytes(2, "big") + data
    return p.ipv6(payload=upper) if version == 6 else p.ipv4(payload=upper)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("lengths", [[36] * 2, [36] * 64, [1200, 1200, 77]])
def test_datagrams_of_a_flow_are_joined_where_the_kernel_cuts_them_again(version: int, lengths: list[int]) -> None:
    packets = [datagram(DATA[n:n + length], version=version) for n, length in enumerate(lengths)]
    assert frames(packets) == [PLAIN + packet for packet in packets]
    (joined,) = frames(packets, udp=True)
    flags, kind, header, size, start, offset = struct.unpack_from("=BBHHHH", joined)
    upper = 20 if version == 4 else 40
    assert (flags, kind, header, size, start, offset) == (1, 5, upper + 8, lengths[0], upper, 6)
    whole = joined[VNET_BYTES:]
    assert whole[header:] == b"".join(packet[header:] for packet in packets)
    length = len(whole) - upper
    assert int.from_bytes(whole[upper + 4:upper + 6], "big") == length
    pseudo = (whole[12:20] + struct.pack(">HH", 17, length) if version == 4
              else whole[8:40] + struct.pack(">II", length, 17))
    assert whole[upper + 6:upper + 8] == (~p.checksum(pseudo) & 0xFFFF).to_bytes(2, "big")


def test_datagrams_are_joined_within_what_every_kernel_cuts() -> None:
    packets = [datagram(DATA[n:n + 36]) for n in range(130)]
    assert len(frames(packets, udp=True)) == 3


@pytest.mark.parametrize("other", [datagram(bytes(38)), datagram(bytes(36), port=54), datagram(b"x" * 36, sums=False),
                                   datagram(bytes(36))[:-1] + b"\1", p.ipv4(tos=1, payload=datagram(bytes(36))[20:])])
def test_datagrams_that_differ_or_are_broken_go_alone(other: bytes) -> None:
    first = datagram(b"y" * 36)
    assert sorted(frames([first, other], udp=True)) == sorted([PLAIN + first, PLAIN + other])


def test_only_whole_packets_are_plain() -> None:
    assert is_plain(PLAIN + p.ipv4())
    for frame in (b"", PLAIN, b"\1" + PLAIN[1:] + p.ipv4(), b"\0\1" + PLAIN[2:] + p.ipv4()):
        assert not is_plain(frame)


def test_push_ends_a_run_and_is_kept() -> None:
    packets = [tcp(DATA[:100], 0), tcp(DATA[:100], 100, flags=ACK | PSH, identification=8), tcp(DATA[:100], 200)]
    first, second = frames(packets)
    assert cut(first) == packets[:2]
    assert second == PLAIN + packets[2]


@pytest.mark.parametrize("follower", [
    tcp(DATA[:100], 101), tcp(DATA[:100], 100, window=9), tcp(DATA[:100], 100, tos=1), tcp(DATA[:102], 100),
    tcp(b"", 100), tcp(DATA[:100], 100, flags=ACK | FIN), tcp(DATA[:100], 100, flags=0x02)])
def test_what_differs_is_not_joined_and_keeps_its_order(follower: bytes) -> None:
    first = tcp(DATA[:100], 0)
    assert frames([first, follower]) == [PLAIN + first, PLAIN + follower]


def test_flows_that_alternate_are_joined_each() -> None:
    packets = [tcp(DATA[:100], at, port=port, identification=7 + at // 100)
               for at in (0, 100, 200) for port in (5001, 5002)]
    joined = frames([*packets, p.ipv4()])
    assert joined[0] == PLAIN + p.ipv4()
    assert [cut(frame) for frame in joined[1:]] == [packets[0::2], packets[1::2]]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("at", [20, 60, 120, -1])
def test_segment_with_a_wrong_checksum_is_never_covered_by_a_new_one(version: int, at: int) -> None:
    good, bad = tcp(DATA[:100], 0, version=version), bytearray(tcp(DATA[:100], 100, version=version))
    bad[at] ^= 0x40
    assert frames([good, bytes(bad)]) == [PLAIN + good, PLAIN + bytes(bad)]


def test_odd_sizes_fragments_and_other_protocols_are_left_alone() -> None:
    packets = [tcp(DATA[:101], 0), tcp(DATA[:101], 101), p.ipv4(), p.ipv4(protocol=6, fragment=0x2000,
               payload=bytes(40)), p.ipv4(options=bytes(4)), p.ipv6(following=6, payload=bytes(10))]
    assert sorted(frames(packets)) == sorted(PLAIN + packet for packet in packets)


def test_joined_packet_stays_within_the_largest_total_length() -> None:
    packets = [tcp(DATA[:1400], 1400 * n) for n in range(60)]
    sizes = [len(frame) - VNET_BYTES for frame in frames(packets)]
    assert len(sizes) == 2
    assert max(sizes) <= 65_535


@pytest.mark.parametrize("data", [b"", b"\x12", bytes(3000), b"\xff" * 3001, DATA, DATA[:1387]])
def test_sum_is_that_of_rfc_1071(data: bytes) -> None:
    assert ones_sum(data) % 65535 == (~p.checksum(data) & 0xFFFF) % 65535
