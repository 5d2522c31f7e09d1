from __future__ import annotations

import hashlib
import hmac

import pytest

from ipsecd.aead import Sealer, aead_cipher, make_mac, make_sealer
from ipsecd.errors import BadIcv, LocalError
from ipsecd.secret import Secret
from ipsecd.suites import ENCRS, GMACS, INTEGS, Encr, Integ
from tests.support import reference_crypto
from tests.support.vectors import load

CIPHERS = load("ciphers.txt")
ENCR = {encr.keyword: encr for encr in ENCRS}
AEADS = [encr for encr in ENCRS if encr.aead]
SUITES: list[tuple[Encr, Integ | None]] = [(encr, None) for encr in AEADS]
SUITES += [(encr, integ) for encr in ENCRS if not encr.aead for integ in INTEGS]
REFERENCE = dict.fromkeys(("aes128gcm16", "aes192gcm16", "aes256gcm16"), reference_crypto.gcm_seal)
REFERENCE["chacha20poly1305"] = reference_crypto.chacha20poly1305_seal


@pytest.mark.parametrize("encr", AEADS, ids=lambda encr: encr.keyword)
def test_combined_mode_agrees_with_vector_and_reference(encr: Encr) -> None:
    vector = CIPHERS[encr.keyword]
    box = make_sealer(encr, None, encr_key=Secret(vector["key"] + vector["salt"]), integ_key=Secret(b""))
    sealed = box.seal(vector["iv"], vector["plaintext"], vector["aad"])
    nonce = vector["salt"] + vector["iv"]
    assert sealed == vector["sealed"]
    assert sealed == REFERENCE[encr.keyword](vector["key"], nonce, vector["plaintext"], vector["aad"])
    assert box.open(vector["iv"], sealed, vector["aad"]) == vector["plaintext"]


def test_cbc_agrees_with_vector_of_rfc_3602() -> None:
    vector = CIPHERS["aes128"]
    box = make_sealer(ENCR["aes128"], INTEGS[0], encr_key=Secret(vector["key"]), integ_key=Secret(bytes(32)))
    assert box.seal(vector["iv"], vector["plaintext"], b"")[:16] == vector["ciphertext"]


@pytest.mark.parametrize("integ", INTEGS, ids=lambda integ: integ.keyword)
def test_cbc_authenticates_data_iv_ciphertext_and_trailer(integ: Integ) -> None:
    key, iv = bytes(range(integ.key_bytes)), bytes(range(16))
    box = make_sealer(ENCR["aes256"], integ, encr_key=Secret(bytes(32)), integ_key=Secret(key))
    sealed = box.seal(iv, bytes(32), b"head", b"\0\0\0\7")
    ciphertext, icv = sealed[:32], sealed[32:]
    covered = b"head" + iv + ciphertext + b"\0\0\0\7"
    assert icv == hmac.new(key, covered, getattr(hashlib, integ.hash_name)).digest()[:integ.icv_bytes]


@pytest.mark.parametrize(("encr", "integ"), SUITES, ids=str)
def test_sealed_box_opens_only_unchanged(encr: Encr, integ: Integ | None) -> None:
    box, iv = sealer(encr, integ), bytes(range(encr.iv_bytes))
    plaintext = bytes(range(48))
    sealed = box.seal(iv, plaintext, b"aad")
    assert len(sealed) == len(plaintext) + box.icv_bytes
    assert box.open(iv, sealed, b"aad") == plaintext
    for at in (0, len(plaintext) - 1, len(plaintext), len(sealed) - 1):
        refused(box, iv, sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1:], b"aad")
    refused(box, iv, sealed, b"aae")
    refused(box, bytes([iv[0] ^ 1]) + iv[1:], sealed, b"aad")


@pytest.mark.parametrize(("encr", "integ"), SUITES, ids=str)
def test_any_length_opens_to_bad_icv(encr: Encr, integ: Integ | None) -> None:
    box = sealer(encr, integ)
    for length in range(80):
        refused(box, bytes(encr.iv_bytes), bytes(length), b"")
        refused(box, bytes(length), bytes(64), b"")


def test_esn_trailer_is_authenticated_with_cbc() -> None:
    box = sealer(ENCR["aes128"], INTEGS[0])
    sealed = box.seal(bytes(16), bytes(16), b"", b"\0\0\0\1")
    with pytest.raises(BadIcv):
        box.open(bytes(16), sealed, b"", b"\0\0\0\2")
    assert box.open(bytes(16), sealed, b"", b"\0\0\0\1") == bytes(16)


def test_keys_of_wrong_length_are_our_fault() -> None:
    with pytest.raises(LocalError, match="36"):
        aead_cipher(ENCR["aes256gcm16"], bytes(32))
    with pytest.raises(LocalError, match="no combined mode"):
        aead_cipher(ENCR["aes256"], bytes(32))
    with pytest.raises(LocalError, match="integrity key"):
        make_sealer(ENCR["aes128"], INTEGS[0], encr_key=Secret(bytes(16)), integ_key=Secret(bytes(31)))
    with pytest.raises(LocalError, match="needs an integrity"):
        make_sealer(ENCR["aes128"], None, encr_key=Secret(bytes(16)), integ_key=Secret(b""))
    with pytest.raises(LocalError, match="no cipher of ours"):
        make_sealer(Encr("null", 11, 0, 0, 0, 0, 0, 4), INTEGS[0], encr_key=Secret(b""), integ_key=Secret(bytes(32)))


def sealer(encr: Encr, integ: Integ | None) -> Sealer:
    return make_sealer(encr, integ, encr_key=Secret(bytes(range(encr.key_bytes + encr.salt_bytes))),
                       integ_key=Secret(bytes(integ.key_bytes if integ else 0)))


def refused(box: Sealer, iv: bytes, sealed: bytes, aad: bytes) -> None:
    with pytest.raises(BadIcv):
        box.open(iv, sealed, aad)


@pytest.mark.parametrize("integ", [*INTEGS, *GMACS], ids=lambda integ: integ.keyword)
def test_mac_fits_what_it_was_made_of_and_nothing_else(integ: Integ) -> None:
    mac = make_mac(integ, Secret(bytes(range(integ.key_bytes))))
    field = mac.make(b"covered", 7)
    assert len(field) == integ.iv_bytes + integ.icv_bytes
    assert mac.fits(b"covered", field)
    assert not mac.fits(b"covered!", field)
    assert not mac.fits(b"covered", field[:-1] + bytes([field[-1] ^ 1]))
    assert not make_mac(integ, Secret(bytes(integ.key_bytes))).fits(b"covered", field)


def test_gmac_is_gcm_over_associated_data_alone() -> None:
    # McGrew and Viega, "The Galois/Counter Mode of Operation", test case 1: no data, the tag is E(K, Y0)
    mac = make_mac(next(g for g in GMACS if g.keyword == "aes128gmac"), Secret(bytes(20)))
    assert mac.make(b"", 0) == bytes(8) + bytes.fromhex("58e2fccefa7e3061367f1d57a4e7455a")
