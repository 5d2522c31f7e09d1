"""AH packets (RFC 4302 2, 3.3.3): making and verifying one direction of an SA.

    IP header | next header 1 | length 1 | reserved 2 | SPI 4 | sequence 4 | ICV field | inner packet, or a part of one

The ICV covers all of it but what routers may change (see outer_header), with its own place zero, and behind it the high
half of an extended number, which is not sent.  The ICV field is filled up to words of 4 bytes, in IPv6 of 8 (2.6).
GMAC's begins with the IV, the counter as with AES-GCM (RFC 4543 3.1, 4); nothing is encrypted, all is associated data.
"""

from __future__ import annotations

from ipaddress import ip_address
from struct import Struct

from ipsecd.aead import make_mac
from ipsecd.drops import DropReason
from ipsecd.ipsec import ah_transport
from ipsecd.ipsec.ip import AH, DONT_FRAGMENT, IPV4, IPV6, traffic_class
from ipsecd.ipsec.mtu import AH_FIXED_BYTES, ah_bytes
from ipsecd.ipsec.outer_header import Outer, outer_header
from ipsecd.ipsec.transport import Part
from ipsecd.sa import Path, SaSpec
from ipsecd.suites import AhSuite

_LOW = 0xFFFFFFFF
_HOPS = 64                                         # RFC 1700, "IP TIME TO LIVE PARAMETER"

_HEADER = Struct(">BBHII").pack                    # next header, length, reserved, SPI, sequence
_HEADER_V4 = Struct(">BBHHHBBH4s4s").pack
_HEADER_V6 = Struct(">IHBB16s16s").pack
_READ = Struct(">BBxxII").unpack_from
_U32 = Struct(">I").pack


class Ah:
    """One direction's algorithm with its key."""

    __slots__ = ("_addresses", "_esn", "_icv_bytes", "_integ", "_mac", "_path", "_spi")

    def __init__(self, suite: AhSuite, spec: SaSpec) -> None:
        """Raises LocalError for a key that does not fit the suite."""
        self._integ = suite.integ
        self._icv_bytes = suite.integ.iv_bytes + suite.integ.icv_bytes
        self._esn = suite.esn
        self._spi = spec.spi
        self._path: Path | None = None
        self._addresses = (b"", b"")
        self._mac = make_mac(suite.integ, spec.integ_key)

    def protect(self, packet: bytes, part: Part | None, path: Path, sequence: int) -> bytes | DropReason:
        """Return a packet with AH around all of it, or in transport mode around a part."""
        return self.seal(packet, path, sequence) if part is None else self.seal_part(packet, part, path, sequence)

    def seal(self, packet: bytes, path: Path, sequence: int) -> bytes:
        """Return the whole outer IP packet, in tunnel mode; `sequence` is all 64 bits, used once for a key.

        The kernel puts in the checksum of an IPv4 header; that it leaves the Identification needs one that is not 0.
        """
        next_header, tos = IPV4 if packet[0] < 0x60 else IPV6, traffic_class(packet)
        source, destination = self._ends(path)
        version = 4 if len(source) == 4 else 6
        size = ah_bytes(self._integ, version)
        if version == 4:
            identification = sequence % 0xFFFF + 1
            outer = _HEADER_V4(0x45, tos, 20 + size + len(packet), identification, DONT_FRAGMENT, _HOPS, AH, 0, source,
                               destination)
            covered = outer[:1] + b"\0" + outer[2:6] + b"\0\0\0" + outer[9:]
        else:
            outer = _HEADER_V6(6 << 28 | tos << 20, size + len(packet), AH, _HOPS, source, destination)
            covered = b"\x60\0\0\0" + outer[4:7] + b"\0" + outer[8:]
        return self._made(outer, covered, next_header, packet, sequence)

    def seal_part(self, packet: bytes, part: Part, path: Path, sequence: int) -> bytes | DropReason:
        """Return the same in transport mode: of the packet's own headers, AH, and the part of it behind."""
        source, destination = self._ends(path)
        size = self.size(packet)
        head = ah_transport.head_of(packet, part, source, destination, ah_bytes=size, sequence=sequence)
        carried = packet[part.start:part.end]
        outer = outer_header(head + bytes(size) + carried) if head else DropReason.SEND_FAILED
        if isinstance(outer, DropReason):          # a path of the other family, or options whose lengths are wrong
            return DropReason.SEND_FAILED
        return self._made(head, outer.covered, part.next_header, carried, sequence)

    def _made(self, outer: bytes, covered: bytes, next_header: int, inner: bytes, sequence: int) -> bytes:
        size = self.size(outer)
        header = _HEADER(next_header, size // 4 - 2, 0, self._spi, sequence & _LOW)
        room = size - AH_FIXED_BYTES
        icv = self._mac.make(b"".join((covered, header, bytes(room), inner, self._high(sequence))), sequence)
        return b"".join((outer, header, icv, bytes(room - len(icv)), inner))

    def _ends(self, path: Path) -> tuple[bytes, bytes]:
        if path is not self._path:
            self._addresses = ip_address(path.local.address).packed, ip_address(path.remote.address).packed
            self._path = path
        return self._addresses

    def is_whole(self, packet: bytes, outer: Outer) -> bool:
        """Return whether AH has the length that the suite gives it: more padding than needed is forbidden (2.6)."""
        size = self.size(packet)
        return outer.at + size <= outer.end and packet[outer.at + 1] == size // 4 - 2

    def verify(self, packet: bytes, outer: Outer, sequence: int) -> bool:
        """Return whether the ICV of a packet that `is_whole` is right."""
        at, field = outer.at, outer.at + AH_FIXED_BYTES
        end = field + self._icv_bytes
        covered = b"".join((outer.covered, packet[at:field], bytes(self._icv_bytes), packet[end:outer.end],
                            self._high(sequence)))
        return self._mac.fits(covered, packet[field:end])

    def size(self, packet: bytes) -> int:
        """Return the length of AH in an outer packet like this one."""
        return ah_bytes(self._integ, packet[0] >> 4)

    def _high(self, sequence: int) -> bytes:
        return _U32(sequence >> 32) if self._esn else b""


def spi_and_sequence(packet: bytes, outer: Outer) -> tuple[int, int] | None:
    """Return SPI and the low half of the number, None where the packet ends ahead of them."""
    if outer.at + AH_FIXED_BYTES > outer.end:
        return None
    _, _, spi, low = _READ(packet, outer.at)
    return spi, low
