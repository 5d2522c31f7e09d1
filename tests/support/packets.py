"""Packets by hand, for labs that ask the kernel for its verdict."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from ipsecd.selectors import HAS_PORTS, ICMP_PROTOCOLS

TCP, UDP, ICMP, ICMPV6, GRE = 6, 17, 1, 58, 47


@dataclass(frozen=True)
class Packet:
    """One packet; for ICMP `source_port` holds type * 256 + code.  The payload is `mark`, 8 bytes, to know it by."""

    source: str
    destination: str
    protocol: int
    source_port: int
    destination_port: int
    mark: bytes

    @property
    def version(self) -> int:
        return ip_address(self.source).version

    @property
    def ports(self) -> tuple[int | None, int | None]:
        """What a selector may see as source and destination port."""
        if self.protocol in HAS_PORTS:
            return self.source_port, self.destination_port
        if self.protocol in ICMP_PROTOCOLS:
            return self.source_port, self.source_port
        return None, None

    @property
    def is_error(self) -> bool:
        """Whether it is an ICMP error, which quotes another packet; of those only type 3 is ever made here."""
        return self.protocol in ICMP_PROTOCOLS and self.source_port >> 8 == 3

    def bytes(self) -> bytes:
        return ip_packet(self.source, self.destination, self.protocol, self._upper())

    def _upper(self) -> bytes:
        if self.protocol == TCP:
            return struct.pack("!HHIIBBHHH", self.source_port, self.destination_port, 1, 0, 5 << 4, 0x10, 512, 0,
                               0) + self.mark
        if self.protocol == UDP:
            return struct.pack("!HHHH", self.source_port, self.destination_port, 16, 0) + self.mark
        if self.protocol in ICMP_PROTOCOLS:
            return struct.pack("!HHI", self.source_port, 0, 0) + self.mark
        return struct.pack("!HH", 0, 0x6558) + self.mark


def ip_packet(source: str, destination: str, protocol: int, upper: bytes) -> bytes:
    a, b = ip_address(source), ip_address(destination)
    if isinstance(a, IPv6Address):
        return struct.pack("!IHBB", 6 << 28, len(upper), protocol, 64) + a.packed + b.packed + upper
    assert isinstance(b, IPv4Address)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(upper), 0, 0x4000, 64, protocol, 0) + a.packed + b.packed
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + head[12:] + upper


def frame(packet: bytes, *, source_mac: str, destination_mac: str) -> bytes:
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    return bytes.fromhex((destination_mac + source_mac).replace(":", "")) + struct.pack("!H", kind) + packet
