"""RFC 9370 key derivation and RFC 9242 IntAuth against formulas written out here; ML-KEM against known seeds."""

from __future__ import annotations

import hashlib
import hmac
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey

from ipsecd.errors import PeerError
from ipsecd.ike.consts import ExchangeType, KeId
from ipsecd.ike.crypto import kex_mlkem
from ipsecd.ike.crypto.int_auth import IntAuth, covered
from ipsecd.ike.crypto.kex_mlkem import MlKemExchange
from ipsecd.ike.crypto.keymat import child_keys, rekeyed_ike_keys
from ipsecd.ike.wire.header import IkeHeader
from ipsecd.secret import Secret
from ipsecd.suites import ENCRS, PRFS, EspSuite, IkeSuite

SUITE = IkeSuite(ENCRS[0], PRFS[1], None, 31)       # aes256gcm16-prfsha384
SK_D, NI, NR, SPI_I, SPI_R = b"d" * 48, b"i" * 32, b"r" * 32, b"initiate", b"responds"
K = [Secret(bytes([n]) * 32) for n in range(4)]


def prf(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha384).digest()


def prf_plus(key: bytes, seed: bytes, size: int) -> bytes:
    out = last = b""
    for n in range(1, 20):
        last = prf(key, last + seed + bytes([n]))
        out += last
    return out[:size]


def test_keys_after_an_intermediate_exchange_are_those_of_rfc_9370_2_2_2() -> None:
    # SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr); {SK_d | SK_ei ...} = prf+(SKEYSEED(n), Ni | Nr | SPIi | SPIr)
    keys = rekeyed_ike_keys(SUITE.prf, Secret(SK_D), SUITE, ni=NI, nr=NR, shared=K[1], spi_i=SPI_I, spi_r=SPI_R)
    stream = prf_plus(prf(SK_D, K[1].reveal() + NI + NR), NI + NR + SPI_I + SPI_R, 48 + 2 * 36 + 2 * 48)
    assert [k.reveal() for k in (keys.sk_d, keys.sk_ei, keys.sk_er, keys.sk_pi, keys.sk_pr)] == [
        stream[:48], stream[48:84], stream[84:120], stream[120:168], stream[168:216]]


def test_keys_after_follow_ups_are_those_of_rfc_9370_2_2_4() -> None:
    # SKEYSEED = prf(SK_d, SK(0) | Ni | Nr | SK(1) | ... SK(n)); KEYMAT = prf+(SK_d, SK(0) | Ni | Nr | SK(1) ...)
    seed = K[0].reveal() + NI + NR + K[1].reveal() + K[2].reveal()
    keys = rekeyed_ike_keys(SUITE.prf, Secret(SK_D), SUITE, ni=NI, nr=NR, shared=K[0], spi_i=SPI_I, spi_r=SPI_R,
                            additional=K[1:3])
    assert keys.sk_d.reveal() == prf_plus(prf(SK_D, seed), NI + NR + SPI_I + SPI_R, 48)
    child = child_keys(SUITE.prf, Secret(SK_D), EspSuite(ENCRS[0], None, esn=True), ni=NI, nr=NR, shared=K[0],
                       additional=K[1:3])
    assert child.encr_i.reveal() + child.encr_r.reveal() == prf_plus(SK_D, seed, 72)


def message(number: int, flags: int, plaintext: bytes, *, outer: int, length: int) -> tuple[IkeHeader, bytes]:
    """Return the header as it came, and A | P written out: next payload 46, and lengths without IV, padding and ICV."""
    octets = (SPI_I + SPI_R + bytes([46, 0x20, 43, flags]) + struct.pack(">II", number, 32 + len(plaintext))
              + bytes([34, 0]) + struct.pack(">H", 4 + len(plaintext)) + plaintext)
    return IkeHeader(SPI_I, SPI_R, outer, 0x20, ExchangeType.IKE_INTERMEDIATE, flags, number, length), octets


def test_int_auth_is_that_of_rfc_9242_3_3_2() -> None:
    # IntAuth_iN = prf(SK_piN, IntAuth_iN-1 | AN | PN), each under the keys of before its exchange
    running, macs = IntAuth(), {0x08: b"", 0x20: b""}
    assert running.value() == b""
    for number in (1, 2):
        for flags, plaintext in ((0x08, b"request" * number), (0x20, b"response" * number)):
            key = Secret(bytes([number, flags]) * 24)
            # As fragment 1 of several (SKF = 53) or whole (SK = 46): the same is covered.
            header, octets = message(number, flags, plaintext, outer=53 if number == 1 else 46, length=1252)
            running.add(SUITE.prf, key, covered(header, 34, plaintext), is_response=flags == 0x20)
            macs[flags] = prf(key.reveal(), macs[flags] + octets)
    assert running.value() == macs[0x08] + macs[0x20] + bytes([0, 0, 0, 3])


# SHA-256 of the encapsulation key of the seed 00 01 .. 3f, and what the ciphertext 00 01 .. ff 00 .. decapsulates to
# (FIPS 203 6.3, implicit rejection): computed with another implementation, crypto/mlkem of Go 1.26.
@pytest.mark.parametrize(("method", "kind", "sizes", "digest", "rejected"), [
    (KeId.ML_KEM_768, MLKEM768PrivateKey, (1184, 1088),
     "0b7934c83125c788995e2ba6bd761e33046b3e40571be53e023309a29f398cc9",
     "2dcec6eacd41f41e98bbf1e6c4b6d1cfa76d83079fa78decb49d77f6ff9b796d"),
    (KeId.ML_KEM_1024, MLKEM1024PrivateKey, (1568, 1568),
     "c7b8fa0aa471d5ae18922d6ccad5b31e1d84f92ae723abfd13747018740a8530",
     "fa0e8f717366945dc1177a1b3eef44bd329bc1d0987e4e4a12bc0373aa096a37")])
def test_ml_kem_key_of_a_known_seed_has_the_known_value(
        method: int, kind: type[MLKEM768PrivateKey | MLKEM1024PrivateKey], sizes: tuple[int, int], digest: str,
        rejected: str) -> None:
    own = MlKemExchange(method, kind.from_seed_bytes(bytes(range(64))))
    assert hashlib.sha256(own.public).hexdigest() == digest
    ciphertext, secret = kex_mlkem.encapsulate(method, own.public)
    assert (len(own.public), len(ciphertext)) == sizes
    assert own.shared(ciphertext) == secret
    assert len(secret) == 32
    assert own.shared(bytes(n % 256 for n in range(sizes[1]))).reveal().hex() == rejected
    # FIPS 203 6.3: another ciphertext gives another secret, and no error
    assert own.shared(bytes([ciphertext[0] ^ 1]) + ciphertext[1:]) != secret


@pytest.mark.parametrize("value", [b"", bytes(1183), bytes(1185), b"\xff" * 1184])
def test_encapsulation_key_that_fips_203_refuses_is_refused(value: bytes) -> None:
    with pytest.raises(PeerError):
        kex_mlkem.encapsulate(KeId.ML_KEM_768, value)


@pytest.mark.parametrize("size", [0, 1087, 1089, 1184])
def test_ciphertext_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(PeerError):
        kex_mlkem.generate(KeId.ML_KEM_768).shared(bytes(size))
