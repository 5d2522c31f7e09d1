"""AH packets of every suite against scapy in both directions, over IPv4 and IPv6; and what the ICV covers."""

from __future__ import annotations

import pytest

from ipsecd.drops import DropReason
from ipsecd.errors import LocalError
from ipsecd.ipsec.ah import Ah, spi_and_sequence
from ipsecd.ipsec.outer_header import Outer, outer_header
from ipsecd.sa import Path, SaSpec
from ipsecd.secret import Secret
from ipsecd.suites import AhSuite
from tests.support import ah_packets as a
from tests.support import esp_packets as p

SPI = 0x01020304
PATHS = [pytest.param(a.PATH_V4, id="ipv4"), pytest.param(a.PATH_V6, id="ipv6")]
CASES = [(suite, sequence) for suite in a.SUITES for sequence in (1, 0xFFFFFFFF, 0x1_00000007)
         if suite.esn or sequence < 1 << 32]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("suite", "sequence"), CASES, ids=str)
def test_our_packet_verifies_in_scapy(suite: AhSuite, sequence: int, path: Path) -> None:
    spec = a.spec(suite, SPI)
    for inner in (p.ipv4(tos=0xB8), p.ipv6()):
        packet = Ah(suite, spec).seal(inner, path, sequence)
        assert a.opened(suite, spec, packet, sequence) == inner


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("suite", "sequence"), CASES, ids=str)
def test_packet_of_scapy_verifies_here(suite: AhSuite, sequence: int, path: Path) -> None:
    spec, ah = a.spec(suite, SPI), Ah(suite, a.spec(suite, SPI))
    packet = a.sealed(suite, spec, a.outer(path), p.ipv4(), sequence)
    outer = read(packet)
    assert spi_and_sequence(packet, outer) == (SPI, sequence & 0xFFFFFFFF)
    assert ah.is_whole(packet, outer)
    assert ah.verify(packet, outer, sequence)
    assert packet[outer.at + ah.size(packet):] == p.ipv4()
    if suite.esn:
        assert not ah.verify(packet, outer, sequence + (1 << 32))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("suite", a.SUITES, ids=str)
def test_change_of_any_byte_is_noticed_unless_routers_may_make_it(suite: AhSuite, path: Path) -> None:
    ah = Ah(suite, a.spec(suite, SPI))
    packet = ah.seal(p.ipv4(), path, 7)
    mutable = {1, 6, 7, 8, 10, 11} if path is a.PATH_V4 else {1, 2, 3, 7}
    if path is a.PATH_V6:
        mutable |= {0}                             # the high half of the traffic class; the version stays
    for at in range(len(packet)):
        changed = bytes([*packet[:at], packet[at] ^ 1, *packet[at + 1:]])
        outer = outer_header(changed)
        good = isinstance(outer, Outer) and ah.is_whole(changed, outer) and ah.verify(changed, outer, 7)
        assert good == (at in mutable and not (path is a.PATH_V4 and at in (6, 7))), at


@pytest.mark.parametrize(("keyword", "ipv4", "ipv6"), [
    ("sha1", 24, 24), ("sha256", 28, 32), ("sha384", 36, 40), ("sha512", 44, 48), ("aes128gmac", 36, 40)])
def test_header_is_filled_up_to_4_bytes_in_ipv4_and_8_in_ipv6(keyword: str, ipv4: int, ipv6: int) -> None:
    suite = a.suite(keyword)
    ah = Ah(suite, a.spec(suite, SPI))
    for path, header, size in ((a.PATH_V4, 20, ipv4), (a.PATH_V6, 40, ipv6)):
        packet = ah.seal(p.ipv4(), path, 1)
        assert packet[header + 1] == size // 4 - 2
        assert packet[header + size:] == p.ipv4()


def test_padding_beyond_the_least_is_refused() -> None:
    ah = Ah(a.suite(), a.spec(a.suite(), SPI))
    packet = bytearray(ah.seal(p.ipv4(), a.PATH_V4, 1))
    packet[21] += 1
    packet[48:48] = bytes(4)
    packet[2:4] = len(packet).to_bytes(2, "big")
    assert not ah.is_whole(bytes(packet), read(bytes(packet)))


def test_gmac_iv_is_the_counter_and_its_key_ends_with_the_salt() -> None:
    suite = a.suite("aes256gmac", esn=True)
    packet = Ah(suite, a.spec(suite, SPI)).seal(p.ipv4(), a.PATH_V4, 0x1_00000002)
    assert packet[32:40] == bytes.fromhex("0000000100000002")
    assert suite.integ.key_bytes == 36


def test_key_of_another_length_is_a_local_error() -> None:
    with pytest.raises(LocalError, match="31 bytes where the suite takes 32"):
        Ah(a.suite(), SaSpec(SPI, Secret(b""), Secret(bytes(31))))


def test_identification_is_never_zero_so_that_the_kernel_leaves_it() -> None:
    ah = Ah(a.suite(), a.spec(a.suite(), SPI))
    for sequence in (1, 0xFFFE, 0xFFFF, 0x10000, 0x1FFFE):
        assert ah.seal(p.ipv4(), a.PATH_V4, sequence)[4:6] != b"\0\0"


def test_seal_follows_the_path() -> None:
    ah = Ah(a.suite(), a.spec(a.suite(), SPI))
    for path in (a.PATH_V4, a.PATH_V6, Path(a.PATH_V4.remote, a.PATH_V4.local)):
        packet = ah.seal(p.ipv4(), path, 1)
        assert a.opened(a.suite(), a.spec(a.suite(), SPI), packet, 1) == p.ipv4()


def read(packet: bytes) -> Outer:
    outer = outer_header(packet)
    assert not isinstance(outer, DropReason)
    return outer
