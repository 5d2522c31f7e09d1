"""AH pairs and packets for tests, the packets made by scapy or by hand, independent of ipsecd's own code."""

from __future__ import annotations

import random
import struct
import warnings

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ipsecd.ike.consts import IntegId
from ipsecd.sa import Path, SaPair, SaSpec, TransportEnds
from ipsecd.secret import Secret
from ipsecd.suites import GMACS, INTEGS, AhSuite
from tests.support import esp_packets as p

with warnings.catch_warnings():                    # scapy names ciphers that cryptography deprecates
    warnings.simplefilter("ignore")
    from scapy.layers.inet import IP, IPOption_Router_Alert, IPOption_RR
    from scapy.layers.inet6 import HBHOptUnknown, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
    from scapy.layers.ipsec import AH, SecurityAssociation, zero_mutable_fields
    from scapy.packet import Packet

__all__ = ["IP", "HBHOptUnknown", "IPOption_RR", "IPOption_Router_Alert", "IPv6", "IPv6ExtHdrDestOpt",
           "IPv6ExtHdrHopByHop"]

SUITES = [AhSuite(integ, esn) for integ in (*INTEGS[:3], *GMACS) for esn in (False, True)]
PATH_V4 = Path(p.A_OUTSIDE, p.B_OUTSIDE).without_udp()
PATH_V6 = Path(p.A_OUTSIDE._replace(address="2001:db8:a::1"), p.B_OUTSIDE._replace(address="2001:db8:b::1")
               ).without_udp()
_SCAPY_NAMES = {IntegId.HMAC_SHA2_256_128: "SHA2-256-128", IntegId.HMAC_SHA2_384_192: "SHA2-384-192",
                IntegId.HMAC_SHA2_512_256: "SHA2-512-256"}


def hosts_of(path: Path) -> tuple[str, str]:
    return path.local.address, path.remote.address


def suite(keyword: str = "sha256", *, esn: bool = False) -> AhSuite:
    return AhSuite(next(i for i in (*INTEGS, *GMACS) if i.keyword == keyword), esn)


def spec(chosen: AhSuite, spi: int) -> SaSpec:
    return SaSpec(spi, Secret(b""), Secret(random.Random(spi).randbytes(chosen.integ.key_bytes)))


def pair(chosen: AhSuite | None = None, *, mirror: bool = False, path: Path = PATH_V4, spi_in: int = 0x1000,
         spi_out: int = 0x2000, window: int = 64, hosts: tuple[str, str] | None = None) -> SaPair:
    """One end's pair, in transport mode between two `hosts`; with `mirror` the same as the other end has it."""
    chosen = chosen or suite()
    local, remote = (p.selectors(side) for side in ((p.LOCAL, p.REMOTE) if hosts is None else zip(hosts)))
    inbound, outbound = spec(chosen, spi_in), spec(chosen, spi_out)
    if mirror:
        local, remote, inbound, outbound, path = remote, local, outbound, inbound, Path(path.remote, path.local)
        hosts = (hosts[1], hosts[0]) if hosts else None
    return SaPair(p.CHILD, 0, chosen, inbound, outbound, local, remote, path, window, False, p.Volume(),
                  transport=TransportEnds(*hosts) if hosts else None)


def outer(path: Path) -> Packet:
    """An outer header of the other end's."""
    kind = IPv6 if ":" in path.local.address else IP
    return kind(src=path.local.address, dst=path.remote.address)


def sealed(chosen: AhSuite, key: SaSpec, header: Packet, inner: bytes, sequence: int) -> bytes:
    """An AH packet as scapy makes it, or with GMAC, which scapy lacks, from scapy's headers and OpenSSL's GCM."""
    if chosen.integ in GMACS:
        return _sealed_gmac(chosen, key, header, inner, sequence)
    made = scapy_sa(chosen, key, header).encrypt(  # type: ignore[no-untyped-call]
        IP(inner) if inner[0] >> 4 == 4 else IPv6(inner), seq_num=sequence & 0xFFFFFFFF, esn_en=chosen.esn,
        esn=sequence >> 32)
    return bytes(made)


def sealed_ahead(chosen: AhSuite, key: SaSpec, header: Packet, inner: bytes, sequence: int) -> bytes:
    """The same where destination options stay ahead of AH: scapy would put it ahead of them."""
    algorithm = scapy_sa(chosen, key, header).auth_algo
    ah = AH(spi=key.spi, seq=sequence, nh=4 if inner[0] >> 4 == 4 else 41, icv=bytes(chosen.integ.icv_bytes))
    ah.padding = bytes(-len(ah) % (4 if header.version == 4 else 8))
    ah.payloadlen = len(ah) // 4 - 2
    packet = header / ah / inner
    if header.version == 6:
        packet.plen = len(packet) - 40
    return bytes(algorithm.sign(packet, key.integ_key.reveal(), esn_en=chosen.esn, esn=sequence >> 32))


def opened(chosen: AhSuite, key: SaSpec, packet: bytes, sequence: int) -> bytes:
    """The inner packet; raises scapy's IPSecIntegrityError, or AssertionError with GMAC."""
    parsed = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    if chosen.integ in GMACS:
        assert _gmac_field(chosen, key, parsed, sequence) == parsed[AH].icv[:24]
        return bytes(parsed[AH].payload)
    inner = scapy_sa(chosen, key, outer(PATH_V4)).decrypt(  # type: ignore[no-untyped-call]
        parsed, esn_en=chosen.esn, esn=sequence >> 32)
    return bytes(inner)


def sealed_part(chosen: AhSuite, key: SaSpec, packet: bytes, sequence: int) -> bytes:
    """A packet in transport mode as scapy makes it: AH behind the last header that may stand ahead of it."""
    parsed = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    return bytes(scapy_sa(chosen, key).encrypt(  # type: ignore[no-untyped-call]
        parsed, seq_num=sequence & 0xFFFFFFFF, esn_en=chosen.esn, esn=sequence >> 32))


def opened_part(chosen: AhSuite, key: SaSpec, packet: bytes, sequence: int) -> bytes:
    """The packet in transport mode, as scapy takes AH out of it; raises its IPSecIntegrityError."""
    parsed = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    return bytes(scapy_sa(chosen, key).decrypt(  # type: ignore[no-untyped-call]
        parsed, esn_en=chosen.esn, esn=sequence >> 32))


def scapy_sa(chosen: AhSuite, key: SaSpec, header: Packet | None = None) -> SecurityAssociation:
    return SecurityAssociation(AH, spi=key.spi, auth_algo=_SCAPY_NAMES[IntegId(chosen.integ.id)],
                               auth_key=key.integ_key.reveal(), tunnel_header=header,
                               esn_en=chosen.esn)  # type: ignore[no-untyped-call]


def _sealed_gmac(chosen: AhSuite, key: SaSpec, header: Packet, inner: bytes, sequence: int) -> bytes:
    version = header.version
    room = 24 if version == 4 else 28              # RFC 4543 4: IV and tag; filled up to 8 bytes in IPv6
    ah = AH(spi=key.spi, seq=sequence & 0xFFFFFFFF, nh=4 if inner[0] >> 4 == 4 else 41, icv=bytes(room),
            payloadlen=(12 + room) // 4 - 2)
    packet = header.__class__(bytes(header / ah / inner))
    packet[AH].icv = struct.pack(">Q", sequence) + bytes(room - 8)
    packet[AH].icv = _gmac_field(chosen, key, packet, sequence) + bytes(room - 24)
    return bytes(packet)


def _gmac_field(chosen: AhSuite, key: SaSpec, packet: Packet, sequence: int) -> bytes:
    secret, iv = key.integ_key.reveal(), bytes(packet[AH].icv[:8])
    high = struct.pack(">I", sequence >> 32) if chosen.esn else b""
    covered = bytes(zero_mutable_fields(packet.copy(), sending=False)) + high  # type: ignore[no-untyped-call]
    return iv + AESGCM(secret[:-4]).encrypt(secret[-4:] + iv, b"", covered)
