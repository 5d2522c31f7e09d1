"""ESP packets against published vectors and, for every suite, against scapy in both directions."""

from __future__ import annotations

import warnings

import pytest

from ipsecd.ipsec.esp import TRAILERS, AeadEsp, make_open, make_seal
from ipsecd.sa import SaSpec
from ipsecd.secret import Secret
from ipsecd.suites import EspSuite
from tests.support import esp_packets as p

with warnings.catch_warnings():                    # scapy names ciphers that cryptography deprecates
    warnings.simplefilter("ignore")
    from scapy.layers.inet import IP
    from scapy.layers.ipsec import ESP, SecurityAssociation

SPI = 0x01020304

# RFC 7634 appendix A
RFC7634_KEY = bytes(range(0x80, 0xA0)) + bytes.fromhex("a0a1a2a3")
RFC7634_PLAIN = bytes.fromhex(
    "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10000736270809 0a0b0c0d0e0f10111213"
    "1415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637 01020204")
RFC7634_PACKET = bytes.fromhex(
    "0102030400000005 1011121314151617"
    "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c02f7"
    "2aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0"
    "76aaa8266b7fb0f7b11b369907e1ad43")

# draft-mcgrew-gcm-test-01, test case 1 (with ESN: the high half, 0x87654321, is authenticated and not sent)
GCM_KEY = bytes.fromhex("4c80cdefbb5d10da906ac73c3613a634" "2e443b68")
GCM_PLAIN = bytes.fromhex(
    "45000048699a000080114db7c0a80102c0a801010a9bf15638d301000001000000000000045f736970045f756470037369700963"
    "796265726369747902646b000021000101020201")
GCM_PACKET = bytes.fromhex(
    "00004321 00000000 4956ed7e3b244cfe"
    "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff"
    "6247aeabb786b93bce61bc17d768fd97324590 18148f6cbe722fd04796562dfdb4")


CASES = [(suite, sequence) for suite in p.SUITES for sequence in (1, 0xFFFFFFFF, 0x1_00000007)
         if suite.esn or sequence < 1 << 32]


def test_packet_of_rfc_7634_appendix_a_opens() -> None:
    esp = AeadEsp(p.suite("chacha20poly1305"), SaSpec(SPI, Secret(RFC7634_KEY), Secret(b"")))
    assert esp.open(RFC7634_PACKET, 0, len(RFC7634_PACKET), 5) == RFC7634_PLAIN


def test_packet_of_mcgrew_gcm_case_1_opens_with_its_extended_number() -> None:
    esp = AeadEsp(p.suite("aes128gcm16", esn=True), SaSpec(0x4321, Secret(GCM_KEY), Secret(b"")))
    assert esp.open(GCM_PACKET, 0, len(GCM_PACKET), 0x87654321 << 32) == GCM_PLAIN
    assert esp.open(GCM_PACKET, 0, len(GCM_PACKET), 0) is None


@pytest.mark.parametrize(("suite", "sequence"), CASES, ids=str)
def test_our_packet_opens_in_scapy(suite: EspSuite, sequence: int) -> None:
    spec = p.spec(suite, SPI)
    sealed = make_seal(suite, spec, p.SeededRng()).seal(p.ipv4(), TRAILERS[4], sequence)
    outer = IP(src="192.0.2.1", dst="203.0.113.7", proto=50) / ESP(sealed)
    opened = scapy_sa(suite, spec, sequence).decrypt(  # type: ignore[no-untyped-call]
        IP(bytes(outer)), esn_en=suite.esn, esn=sequence >> 32)
    assert bytes(opened) == p.ipv4()


@pytest.mark.parametrize(("suite", "sequence"), CASES, ids=str)
def test_packet_of_scapy_opens_here(suite: EspSuite, sequence: int) -> None:
    spec = p.spec(suite, SPI)
    sealed = scapy_sa(suite, spec, sequence).encrypt(  # type: ignore[no-untyped-call]
        IP(p.ipv4()), seq_num=sequence & 0xFFFFFFFF, esn_en=suite.esn, esn=sequence >> 32)
    packet = bytes(sealed[ESP])
    plaintext = make_open(suite, spec, p.SeededRng()).open(packet, 0, len(packet), sequence)
    assert plaintext is not None
    assert plaintext.startswith(p.ipv4())
    assert plaintext.endswith(TRAILERS[4][plaintext[-2]])


def test_cbc_initialization_vector_is_drawn_for_each_packet() -> None:                  # RFC 3602 3
    suite = p.suite("aes256", "sha256")
    seal = make_seal(suite, p.spec(suite, SPI), p.SeededRng())
    first, second = (seal.seal(p.ipv4(), TRAILERS[4], 1) for _ in range(2))
    assert first[8:24] != second[8:24]
    assert first[24:] != second[24:]


def scapy_sa(suite: EspSuite, spec: SaSpec, sequence: int) -> SecurityAssociation:
    ciphers = {"gcm16": "AES-GCM", "poly1305": "CHACHA20-POLY1305"}
    name = next((found for end, found in ciphers.items() if suite.encr.keyword.endswith(end)), "AES-CBC")
    auth = {"sha256": "SHA2-256-128", "sha384": "SHA2-384-192", "sha512": "SHA2-512-256"}
    return SecurityAssociation(  # type: ignore[no-untyped-call]
        ESP, spi=spec.spi, crypt_algo=name, crypt_key=spec.encr_key.reveal(),
        auth_algo=auth[suite.integ.keyword] if suite.integ else None,
        auth_key=spec.integ_key.reveal() if suite.integ else None,
        tunnel_header=IP(src="192.0.2.1", dst="203.0.113.7"), esn_en=suite.esn, esn=sequence >> 32)
