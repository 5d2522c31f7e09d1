"""Sizes of padded packets and dummies, and what scapy makes of both (RFC 4303 2.6, 2.7)."""

from __future__ import annotations

import warnings

import pytest

from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.tfc import MIN_DUMMY_BYTES, dummy_bytes, padded_bytes
from ipsecd.sa import NO_TFC, ChildKey, Tfc
from tests.support import esp_packets as p

with warnings.catch_warnings():                    # scapy names ciphers that cryptography deprecates
    warnings.simplefilter("ignore")
    from scapy.layers.inet import IP
    from scapy.layers.ipsec import ESP, SecurityAssociation

RANDOM = Tfc(randomly=True)


@pytest.mark.parametrize(("tfc", "length", "largest", "padded"), [
    (NO_TFC, 40, 1400, 40), (Tfc(500), 40, 1400, 500), (Tfc(500), 500, 1400, 500), (Tfc(500), 501, 1400, 1000),
    (Tfc(500), 1399, 1400, 1400), (Tfc(500), 1500, 1400, 1500), (Tfc(9000), 40, 1400, 1400), (Tfc(500), 40, 0, 40),
    (RANDOM, 40, 0, 40), (RANDOM, 1400, 1400, 1400)])
def test_packets_are_padded_to_steps_within_the_path(tfc: Tfc, length: int, largest: int, padded: int) -> None:
    assert padded_bytes(tfc, length, largest, p.SeededRng()) == padded


def test_random_sizes_cover_all_that_the_path_carries() -> None:
    rng = p.SeededRng()
    assert {padded_bytes(RANDOM, 1300, 1309, rng) for _ in range(1000)} == set(range(1300, 1310))
    assert {dummy_bytes(RANDOM, 49, rng) for _ in range(1000)} == set(range(MIN_DUMMY_BYTES, 50))
    assert {dummy_bytes(Tfc(dummies_per_s=1), 49, rng) for _ in range(1000)} == set(range(MIN_DUMMY_BYTES, 50))


def test_dummies_are_as_large_as_the_first_step() -> None:
    assert dummy_bytes(Tfc(500), 1400, p.SeededRng()) == 500
    assert dummy_bytes(Tfc(9000), 1400, p.SeededRng()) == 1400
    assert dummy_bytes(Tfc(500), 0, p.SeededRng()) == MIN_DUMMY_BYTES


def test_scapy_finds_the_packet_ahead_of_the_padding_and_a_dummy_behind_next_header_59() -> None:
    plane, pair = Dataplane(p.SeededRng()), p.pair(tfc=Tfc(700), window=64)
    plane.replace_policy([], {ChildKey("hq", "office"): 1400})
    plane.install_sa(pair)
    installed, key = plane.sad.by_spi[pair.spi_in], pair.outbound.encr_key.reveal()
    scapy = SecurityAssociation(ESP, pair.outbound.spi, crypt_algo="AES-GCM", crypt_key=key,
                                tunnel_header=IP(src="192.0.2.1", dst="203.0.113.7"))

    def opened(sealed: object) -> IP:
        assert isinstance(sealed, bytes)
        return scapy.decrypt(IP(bytes(IP(src="192.0.2.1", dst="203.0.113.7", proto=50) / sealed)))

    sealed = plane.seal(installed, p.ipv4(), 1.0)
    inner = opened(sealed)
    assert bytes(inner)[:inner.len] == p.ipv4()
    assert len(bytes(inner)) == 700
    plain = installed.sealer.seal(b"", (b"",) * 16, 99)         # head and ICV alone
    dummy = plane.seal(installed, bytes(300), 2.0, dummy=True)
    assert isinstance(dummy, bytes)
    assert len(dummy) == len(plain) + 304
    twin = Dataplane(p.SeededRng())
    twin.install_sa(p.pair(mirror=True))
    assert twin.open(twin.sad.by_spi[pair.outbound.spi], dummy, 0, len(dummy), pair.path, 0, 2.0) == "esp_dummy"


def test_name_says_what_is_done() -> None:
    assert str(NO_TFC) == ""
    assert str(Tfc(500, dummies_per_s=3)) == "multiples of 500 bytes, 3 dummies a second"
    assert str(RANDOM) == "random sizes"
