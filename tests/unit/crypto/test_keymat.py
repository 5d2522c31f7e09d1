from __future__ import annotations

import hashlib
import hmac

import pytest

from ipsecd.errors import AuthenticationError, LocalError
from ipsecd.ike.crypto.auth import psk_auth, verify_psk_auth
from ipsecd.ike.crypto.compare import same_bytes
from ipsecd.ike.crypto.keymat import IkeKeys, child_keys, ike_keys, ppk_ike_keys, prf, prf_plus, rekeyed_ike_keys
from ipsecd.ike.crypto.nat_hash import nat_detection_hash
from ipsecd.secret import Secret
from ipsecd.suites import ENCRS, GMACS, INTEGS, PRFS, AhSuite, EspSuite, IkeSuite, Prf
from tests.support import reference_crypto
from tests.support.vectors import load

ENCR = {encr.keyword: encr for encr in ENCRS}
PRF = {one.keyword: one for one in PRFS}
NI, NR = bytes(range(32)), bytes(range(100, 116))
SPI_I, SPI_R = b"initiate", b"responds"
SHARED = Secret(b"g^ir" * 8)
GCM = IkeSuite(ENCR["aes256gcm16"], PRF["prfsha384"], None, 31)
CBC = IkeSuite(ENCR["aes128"], PRF["prfsha256"], INTEGS[2], 19)


@pytest.mark.parametrize("case", load("rfc4231_hmac.txt").values())
def test_prf_agrees_with_rfc_4231(case: dict[str, bytes]) -> None:
    for name in ("sha256", "sha384", "sha512"):
        assert prf(PRF[f"prf{name}"], case["key"], case["data"]) == case[name]


@pytest.mark.parametrize("prf_", PRFS, ids=lambda one: one.keyword)
def test_prf_plus_agrees_with_the_rfc_written_out(prf_: Prf) -> None:
    for length in (0, 1, prf_.size, prf_.size + 1, 255 * prf_.size):
        expected = reference_crypto.prf_plus(prf_.hash_name, b"key", b"seed", length)
        assert prf_plus(prf_, b"key", b"seed", length) == expected
    with pytest.raises(LocalError):
        prf_plus(prf_, b"key", b"seed", 255 * prf_.size + 1)


def test_ike_keys_follow_the_order_of_rfc_7296() -> None:
    # RFC 7296 2.14: {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr}
    keys = ike_keys(CBC, ni=NI, nr=NR, shared=SHARED, spi_i=SPI_I, spi_r=SPI_R)
    skeyseed = reference_hmac(NI + NR, SHARED.reveal())
    stream = reference_crypto.prf_plus("sha256", skeyseed, NI + NR + SPI_I + SPI_R, 3 * 32 + 2 * 64 + 2 * 16)
    assert b"".join(revealed(keys)) == stream
    assert [len(key) for key in revealed(keys)] == [32, 64, 64, 16, 16, 32, 32]


@pytest.mark.parametrize("suite", [CBC, GCM], ids=str)
def test_ppk_is_mixed_into_the_keys_that_rfc_8784_names_and_no_others(suite: IkeSuite) -> None:
    # RFC 8784 3: SK_d = prf+(PPK, SK_d'), SK_pi = prf+(PPK, SK_pi'), SK_pr = prf+(PPK, SK_pr')
    before = ike_keys(suite, ni=NI, nr=NR, shared=SHARED, spi_i=SPI_I, spi_r=SPI_R)
    after = ppk_ike_keys(suite.prf, before, Secret(b"ppk" * 11))
    for name in ("sk_d", "sk_ai", "sk_ar", "sk_ei", "sk_er", "sk_pi", "sk_pr"):
        old, new = getattr(before, name).reveal(), getattr(after, name).reveal()
        mixed = reference_crypto.prf_plus(suite.prf.hash_name, b"ppk" * 11, old, len(old))
        assert new == (mixed if name in ("sk_d", "sk_pi", "sk_pr") else old)


def test_aead_ike_keys_end_with_salt_and_have_no_integrity_key() -> None:
    keys = ike_keys(GCM, ni=NI, nr=NR, shared=SHARED, spi_i=SPI_I, spi_r=SPI_R)
    assert [len(key) for key in revealed(keys)] == [48, 0, 0, 36, 36, 48, 48]


def test_rekeyed_ike_keys_take_the_old_prf_then_the_new() -> None:
    # RFC 7296 2.18
    keys = rekeyed_ike_keys(PRF["prfsha512"], Secret(b"old SK_d"), CBC, ni=NI, nr=NR, shared=SHARED, spi_i=SPI_I,
                            spi_r=SPI_R)
    skeyseed = prf(PRF["prfsha512"], b"old SK_d", SHARED.reveal() + NI + NR)
    stream = reference_crypto.prf_plus("sha256", skeyseed, NI + NR + SPI_I + SPI_R, 256)
    assert b"".join(revealed(keys)) == stream


@pytest.mark.parametrize("shared", [None, SHARED])
def test_child_keys_give_initiator_first_and_encryption_before_integrity(shared: Secret | None) -> None:
    # RFC 7296 2.17
    suite = EspSuite(ENCR["aes256"], INTEGS[0], esn=True)
    keys = child_keys(PRF["prfsha256"], Secret(b"SK_d"), suite, ni=NI, nr=NR, shared=shared)
    seed = (shared.reveal() if shared else b"") + NI + NR
    parts = [keys.encr_i, keys.integ_i, keys.encr_r, keys.integ_r]
    assert [len(part) for part in parts] == [32, 32, 32, 32]
    assert b"".join(p.reveal() for p in parts) == reference_crypto.prf_plus("sha256", b"SK_d", seed, 128)


def test_aead_child_keys_hold_their_salt() -> None:
    suite = EspSuite(ENCR["chacha20poly1305"], None, esn=False)
    keys = child_keys(PRF["prfsha256"], Secret(b"SK_d"), suite, ni=NI, nr=NR, shared=None)
    assert [len(k) for k in (keys.encr_i, keys.integ_i, keys.encr_r, keys.integ_r)] == [36, 0, 36, 0]


@pytest.mark.parametrize(("keyword", "size"), [("sha256", 32), ("sha384", 48), ("sha512", 64), ("aes128gmac", 20),
                                               ("aes192gmac", 28), ("aes256gmac", 36)])
def test_ah_child_keys_are_integrity_keys_alone_and_gmac_has_its_salt(keyword: str, size: int) -> None:
    # RFC 7296 2.17, RFC 4868 2.1.1, RFC 4543 5.3
    suite = AhSuite(next(i for i in (*INTEGS, *GMACS) if i.keyword == keyword), esn=True)
    keys = child_keys(PRF["prfsha256"], Secret(b"SK_d"), suite, ni=NI, nr=NR, shared=None)
    assert [len(k) for k in (keys.encr_i, keys.integ_i, keys.encr_r, keys.integ_r)] == [0, size, 0, size]
    stream = keys.integ_i.reveal() + keys.integ_r.reveal()
    assert stream == reference_crypto.prf_plus("sha256", b"SK_d", NI + NR, 2 * size)


def test_psk_auth_is_the_formula_of_rfc_7296() -> None:
    # RFC 7296 2.15
    fields = {"message": b"message 1", "nonce": NR, "id_body": b"\x02\0\0\0a.example"}
    made = psk_auth(PRF["prfsha256"], Secret(b"psk"), sk_p=Secret(b"SK_pi"), **fields)
    octets = fields["message"] + NR + reference_hmac(b"SK_pi", fields["id_body"])
    assert made == reference_hmac(reference_hmac(b"psk", b"Key Pad for IKEv2"), octets)


@pytest.mark.parametrize("changed", ["message", "nonce", "id_body", "sk_p", "psk", "auth"])
def test_psk_auth_covers_every_part(changed: str) -> None:
    parts = {"message": b"m", "nonce": b"n", "id_body": b"i", "sk_p": b"p", "psk": b"k"}
    parts["auth"] = sign(parts)
    verify(parts)
    parts[changed] += b"!"
    with pytest.raises(AuthenticationError, match="pre-shared keys differ"):
        verify(parts)


def test_nat_detection_hash_covers_spis_address_and_port() -> None:
    # RFC 7296 2.23
    expected = hashlib.sha1(SPI_I + bytes(8) + bytes([192, 0, 2, 1]) + b"\x11\x94").digest()
    assert nat_detection_hash(SPI_I, bytes(8), "192.0.2.1", 4500) == expected
    assert len({nat_detection_hash(i, r, address, port) for i in (SPI_I, SPI_R) for r in (SPI_I, SPI_R)
                for address in ("192.0.2.1", "2001:db8::1") for port in (500, 4500)}) == 16


def test_same_bytes_is_equality() -> None:
    assert same_bytes(b"abc", b"abc")
    assert not same_bytes(b"abc", b"abd")
    assert not same_bytes(b"abc", b"ab")


def sign(parts: dict[str, bytes]) -> bytes:
    return psk_auth(PRF["prfsha384"], Secret(parts["psk"]), message=parts["message"], nonce=parts["nonce"],
                    sk_p=Secret(parts["sk_p"]), id_body=parts["id_body"])


def verify(parts: dict[str, bytes]) -> None:
    verify_psk_auth(parts["auth"], PRF["prfsha384"], Secret(parts["psk"]), message=parts["message"],
                    nonce=parts["nonce"], sk_p=Secret(parts["sk_p"]), id_body=parts["id_body"])


def reference_hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def revealed(keys: IkeKeys) -> list[bytes]:
    secrets = (keys.sk_d, keys.sk_ai, keys.sk_ar, keys.sk_ei, keys.sk_er, keys.sk_pi, keys.sk_pr)
    return [secret.reveal() for secret in secrets]
