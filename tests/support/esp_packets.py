"""Inner packets and SA pairs for data plane tests, short to write and independent of ipsecd's own header code."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address

from ipsecd.sa import NO_TFC, ChildKey, Endpoint, Path, SaPair, SaSpec, Tfc, TransportEnds, Volume
from ipsecd.secret import Secret
from ipsecd.selectors import TrafficSelector, from_prefix
from ipsecd.suites import ENCRS, INTEGS, EspSuite

CHILD = ChildKey("hq", "office")
LOCAL, REMOTE = ("10.1.0.0/16", "2001:db8:1::/48"), ("10.2.0.0/16", "2001:db8:2::/48")
A_OUTSIDE, B_OUTSIDE = Endpoint("192.0.2.1", 4500), Endpoint("203.0.113.7", 4500)

SUITES = [EspSuite(encr, None, esn) for encr in ENCRS if encr.aead for esn in (False, True)] + [
    EspSuite(encr, integ, esn) for encr in ENCRS if not encr.aead for integ in INTEGS[:3] for esn in (False, True)]


class SeededRng:
    """Repeatable values in place of unpredictable ones."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


def suite(keyword: str = "aes256gcm16", integ: str | None = None, *, esn: bool = False) -> EspSuite:
    return EspSuite(next(e for e in ENCRS if e.keyword == keyword),
                    next((i for i in INTEGS if i.keyword == integ), None), esn)


def spec(chosen: EspSuite, spi: int) -> SaSpec:
    keys = random.Random(spi)
    return SaSpec(spi, Secret(keys.randbytes(chosen.encr.key_bytes + chosen.encr.salt_bytes)),
                  Secret(keys.randbytes(chosen.integ.key_bytes if chosen.integ else 0)))


def selectors(texts: tuple[str, ...], protocol: int = 0, ports: tuple[int, int] = (0, 65535)
              ) -> tuple[TrafficSelector, ...]:
    return tuple(from_prefix(text, protocol, ports) for text in texts)


def pair(chosen: EspSuite | None = None, *, spi_in: int = 0x1000, spi_out: int = 0x2000, mirror: bool = False,
         local: tuple[TrafficSelector, ...] | None = None, remote: tuple[TrafficSelector, ...] | None = None,
         slot: int = 0, window: int = 64, follow: bool = True, volume: Volume | None = None, child: ChildKey = CHILD,
         path: Path | None = None, device: str = "ipsec0", transport: TransportEnds | None = None,
         tfc: Tfc = NO_TFC) -> SaPair:
    """One end's pair; with `mirror` the same pair as the other end has it."""
    chosen = chosen or suite()
    local, remote = local or selectors(LOCAL), remote or selectors(REMOTE)
    inbound, outbound = spec(chosen, spi_in), spec(chosen, spi_out)
    path = path or Path(A_OUTSIDE, B_OUTSIDE)
    if mirror:
        local, remote, inbound, outbound, path = remote, local, outbound, inbound, Path(path.remote, path.local)
        if transport is not None:
            transport = TransportEnds(transport.remote, transport.local, -transport.nat_sum % 65535)
    return SaPair(child, slot, chosen, inbound, outbound, local, remote, path, window, follow, volume or Volume(),
                  device, transport, tfc=tfc)


def ipv4(source: str = "10.1.0.1", destination: str = "10.2.0.1", protocol: int = 17, payload: bytes | None = None, *,
         tos: int = 0, fragment: int = 0x4000, options: bytes = b"", total: int | None = None,
         ihl: int | None = None) -> bytes:
    payload = udp() if payload is None else payload
    header_words = 5 + len(options) // 4
    fields = struct.pack(">BBHHHBBH4s4s", 0x40 | (header_words if ihl is None else ihl), tos,
                         header_words * 4 + len(payload) if total is None else total, 7, fragment, 64, protocol, 0,
                         ip_address(source).packed, ip_address(destination).packed) + options
    return fields[:10] + struct.pack(">H", checksum(fields)) + fields[12:] + payload


def ipv6(source: str = "2001:db8:1::1", destination: str = "2001:db8:2::1", following: int = 17,
         payload: bytes | None = None, *, tos: int = 0, length: int | None = None) -> bytes:
    payload = udp() if payload is None else payload
    return struct.pack(">IHBB16s16s", 6 << 28 | tos << 20, len(payload) if length is None else length, following, 64,
                       ip_address(source).packed, ip_address(destination).packed) + payload


def udp(source: int = 1234, destination: int = 5060, data: bytes = b"data") -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(data), 0) + data


def icmp(kind: int, code: int = 0, body: bytes = b"") -> bytes:
    return struct.pack(">BBHI", kind, code, 0, 0) + body


def checksum(data: bytes) -> int:
    """The Internet checksum, word by word (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
