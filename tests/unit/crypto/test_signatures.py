from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecd.errors import AuthenticationError, LocalError
from ipsecd.ike.consts import AuthMethod, HashId
from ipsecd.ike.crypto.auth import signed_octets
from ipsecd.ike.crypto.public_keys import check_key, import_private_key, key_bytes, key_name, load_private_key
from ipsecd.ike.crypto.signatures import OUR_HASHES, Signature, hash_data, hash_list, sign, verify
from ipsecd.secret import Secret
from ipsecd.suites import PRFS
from tests.support.pki import KINDS, key

OCTETS = b"InitiatorSignedOctets"
DIGITAL = AuthMethod.DIGITAL_SIGNATURE
RSA, P256 = key("rsa2048"), key("p256")
PSS_SHA256 = bytes.fromhex("304106092a864886f70d01010a3034a00f300d06096086480165030402010500"
                           "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120")
PKCS1_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")       # RFC 8017 9.2, SHA-256
NO_NULL = bytes.fromhex("302f300b0609608648016503040201")                 # the same without parameters, as far as that
# Independent of the code under test: what each scheme of the registry looks like on the wire
BLOBS = {
    "PKCS#1 SHA-256": PKCS1_SHA256.hex(),
    "PKCS#1 SHA-384": "300d06092a864886f70d01010c0500",
    "PKCS#1 SHA-512": "300d06092a864886f70d01010d0500",
    "PSS SHA-256": PSS_SHA256.hex(),
    "PSS SHA-384": PSS_SHA256.hex().replace("040201", "040202")[:-2] + "30",
    "PSS SHA-512": PSS_SHA256.hex().replace("040201", "040203")[:-2] + "40",
}


def named(blob: bytes, value: bytes) -> Signature:
    return Signature(DIGITAL, bytes([len(blob)]) + blob + value)


def refused(key_: object, signature: Signature, *, octets: bytes = OCTETS, legacy: bool = False) -> str:
    with pytest.raises(AuthenticationError) as caught:
        verify(check_key(key_), signature, octets, legacy=legacy)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_au09_10_11_what_each_key_signs_verifies_and_nothing_else_does(kind: str) -> None:
    own = key(kind)
    signature = sign(own, OCTETS, peer_hashes=OUR_HASHES, legacy=False)
    assert signature.method == DIGITAL
    verify(own.public_key(), signature, OCTETS, legacy=False)
    refused(own.public_key(), signature, octets=OCTETS + b".")
    refused(key(kind, 1).public_key(), signature)
    refused(own.public_key(), signature._replace(data=signature.data[:-1]))
    refused(own.public_key(), signature._replace(data=signature.data + b"\0"))
    refused(own.public_key(), signature._replace(data=b""))
    other = key("p256" if not kind.startswith("p") else "ed25519")
    assert "named for" in refused(other.public_key(), signature)


@pytest.mark.parametrize(("kind", "best"), [
    ("rsa2048", BLOBS["PSS SHA-256"]), ("rsa3072", BLOBS["PSS SHA-384"]), ("p256", "300a06082a8648ce3d040302"),
    ("p384", "300a06082a8648ce3d040303"), ("p521", "300a06082a8648ce3d040304"), ("ed25519", "300506032b6570"),
    ("ed448", "300506032b6571")])
def test_signer_takes_the_hash_that_suits_its_key(kind: str, best: str) -> None:
    data = sign(key(kind), OCTETS, peer_hashes=OUR_HASHES, legacy=False).data
    assert data[1:1 + data[0]].hex() == best


def test_au12_signer_keeps_to_the_hashes_that_the_peer_announced() -> None:
    data = sign(key("p256"), OCTETS, peer_hashes=(HashId.SHA2_512, HashId.SHA1), legacy=False).data
    assert data[1:1 + data[0]].hex() == "300a06082a8648ce3d040304"
    for kind in ("rsa2048", "ed25519"):
        with pytest.raises(AuthenticationError, match="SHA1"):
            sign(key(kind), OCTETS, peer_hashes=(HashId.SHA1,), legacy=False)


@pytest.mark.parametrize("form", sorted(BLOBS))
def test_au09_rsa_forms_of_the_registry_verify(form: str) -> None:
    hash_ = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[form[-3:]]
    pad = padding.PSS(padding.MGF1(hash_), hash_.digest_size) if "PSS" in form else padding.PKCS1v15()
    verify(RSA.public_key(), named(bytes.fromhex(BLOBS[form]), RSA.sign(OCTETS, pad, hash_)), OCTETS, legacy=False)


def test_au09_pss_with_explicit_trailer_or_without_null_verifies() -> None:
    value = RSA.sign(OCTETS, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    trailer = bytes.fromhex("3046" + PSS_SHA256.hex()[4:26] + "3039" + PSS_SHA256.hex()[30:] + "a303020101")
    bare = bytes.fromhex("303d06092a864886f70d01010a3030a00d300b0609608648016503040201"
                         "a11a301806092a864886f70d010108300b0609608648016503040201a203020120")
    for blob in (trailer, bare):
        verify(RSA.public_key(), named(blob, value), OCTETS, legacy=False)


@pytest.mark.parametrize("salt", [0, 20, 31, 33, 64])
def test_au09_pss_with_another_salt_is_refused(salt: int) -> None:
    value = RSA.sign(OCTETS, padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
    refused(RSA.public_key(), named(PSS_SHA256, value))


def test_au09_pss_with_another_mgf_hash_is_refused() -> None:
    value = RSA.sign(OCTETS, padding.PSS(padding.MGF1(hashes.SHA384()), 32), hashes.SHA256())
    refused(RSA.public_key(), named(PSS_SHA256, value))


@pytest.mark.parametrize("blob", [PSS_SHA256, PKCS1_SHA256])
def test_no_changed_byte_of_an_algorithm_identifier_is_taken(blob: bytes) -> None:
    value = RSA.sign(OCTETS, padding.PSS(padding.MGF1(hashes.SHA256()), 32) if blob is PSS_SHA256
                     else padding.PKCS1v15(), hashes.SHA256())
    for index in range(len(blob)):
        for change in (0x01, 0x80, 0xFF):
            changed = blob[:index] + bytes([blob[index] ^ change]) + blob[index + 1:]
            refused(RSA.public_key(), named(changed, value))


@pytest.mark.parametrize("blob", [
    "300d06092a864886f70d0101050500",                               # PKCS#1 with SHA-1
    "300b06092a864886f70d01010a", "300d06092a864886f70d01010a3000",    # PSS with default parameters, which are SHA-1
    "300906072a8648ce3d0401", "", "ff"])
def test_au12_sha1_and_defaults_are_refused_in_method_14(blob: str) -> None:
    value = RSA.sign(OCTETS, padding.PKCS1v15(), hashes.SHA1())
    assert "none of ours" in refused(RSA.public_key(), named(bytes.fromhex(blob), value), legacy=True)


def test_method_14_with_a_length_beyond_its_data_is_refused() -> None:
    refused(RSA.public_key(), Signature(DIGITAL, b"\xff" + PKCS1_SHA256))
    refused(RSA.public_key(), Signature(DIGITAL, b"\x0f" + PKCS1_SHA256))


def test_au09_method_1_needs_legacy() -> None:
    signature = sign(RSA, OCTETS, peer_hashes=(), legacy=True)
    assert signature.method == AuthMethod.RSA_SIGNATURE
    verify(RSA.public_key(), signature, OCTETS, legacy=True)
    assert "not allowed" in refused(RSA.public_key(), signature)
    refused(P256.public_key(), signature, legacy=True)
    refused(RSA.public_key(), signature._replace(data=signature.data[:-1]), legacy=True)
    with pytest.raises(AuthenticationError, match="no list of hashes"):
        sign(RSA, OCTETS, peer_hashes=(), legacy=False)


@pytest.mark.parametrize(("kind", "method", "size"), [
    ("p256", AuthMethod.ECDSA_256, 64), ("p384", AuthMethod.ECDSA_384, 96), ("p521", AuthMethod.ECDSA_521, 132)])
def test_au10_raw_ecdsa_is_bound_to_curve_and_size(kind: str, method: int, size: int) -> None:
    own = key(kind)
    signature = sign(own, OCTETS, peer_hashes=(), legacy=False)
    assert (signature.method, len(signature.data)) == (method, size)
    verify(own.public_key(), signature, OCTETS, legacy=False)
    half, data = size // 2, signature.data
    for broken in (b"", data[:-1], data + b"\0", b"\0" + data, bytes(size), bytes(half) + data[half:],
                   data[:half] + bytes(half), b"\xff" * size, data[half:] + data[:half],
                   b"\0" + data[:half] + b"\0" + data[half:]):
        refused(own.public_key(), Signature(method, broken))
    for other in {AuthMethod.ECDSA_256, AuthMethod.ECDSA_384, AuthMethod.ECDSA_521} - {method}:
        assert "named for" in refused(own.public_key(), Signature(other, data))
    refused(key("ed25519").public_key(), signature)
    refused(RSA.public_key(), signature)


def test_au10_der_ecdsa_has_one_encoding() -> None:
    blob = bytes.fromhex("300a06082a8648ce3d040302")
    signature = sign(P256, OCTETS, peer_hashes=OUR_HASHES, legacy=False)
    value = signature.data[1 + len(blob):]
    r, s = decode_dss_signature(value)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

    def integer(number: int, pad: bytes = b"") -> bytes:
        body = pad + number.to_bytes(number.bit_length() // 8 + 1, "big")
        return b"\x02" + bytes([len(body)]) + body

    def sequence(*parts: bytes) -> bytes:
        body = b"".join(parts)
        return b"\x30" + bytes([len(body)]) + body

    assert sequence(integer(r), integer(s)) == value
    negative = b"\x02\x01\xff"
    for broken in (sequence(integer(r, b"\0"), integer(s)), sequence(integer(r), integer(s), b"\x05\x00"),
                   value + b"\0", sequence(integer(r)), sequence(negative, integer(s)),
                   sequence(integer(0), integer(s)), sequence(integer(r), integer(0)),
                   sequence(integer(r + order), integer(s)), encode_dss_signature(order, order),
                   b"\x30\x81" + value[1:], b""):
        refused(P256.public_key(), named(blob, broken))


@pytest.mark.parametrize(("kind", "blob", "size"), [
    ("ed25519", "300506032b6570", 64), ("ed448", "300506032b6571", 114)])
def test_au11_edwards_signatures_have_one_size(kind: str, blob: str, size: int) -> None:
    own = key(kind)
    value = own.sign(OCTETS)
    verify(own.public_key(), named(bytes.fromhex(blob), value), OCTETS, legacy=False)
    for broken in (value[:-1], value + b"\0", bytes(size), b""):
        refused(own.public_key(), named(bytes.fromhex(blob), broken))


def test_au11_ed25519_is_not_used_toward_a_peer_without_identity() -> None:
    with pytest.raises(AuthenticationError, match="Ed25519"):
        sign(key("ed25519"), OCTETS, peer_hashes=(HashId.SHA2_256, HashId.SHA2_512), legacy=True)


DIGEST = hashlib.sha256(OCTETS).digest()


@pytest.mark.parametrize("block", [
    DIGEST_INFO + DIGEST + b"garbage", DIGEST_INFO + DIGEST[:-1], DIGEST_INFO[:-1] + b"\x1f" + DIGEST[:-1],
    NO_NULL + b"\x04\x20" + DIGEST, DIGEST_INFO + DIGEST + b"\0", DIGEST, b""], ids=len)
def test_au13_forged_pkcs1_blocks_are_refused_without_another_error(block: bytes) -> None:
    refused(RSA.public_key(), named(PKCS1_SHA256, raw_rsa(b"\0\1" + b"\xff" * (253 - len(block)) + b"\0" + block)))


@pytest.mark.parametrize("fill", [8, 100])
def test_au13_short_padding_with_garbage_behind_is_refused(fill: int) -> None:
    block = b"\0\1" + b"\xff" * fill + b"\0" + DIGEST_INFO + DIGEST
    refused(RSA.public_key(), named(PKCS1_SHA256, raw_rsa(block + bytes(256 - len(block)))))


def test_au13_a_correct_block_made_by_hand_verifies() -> None:
    block = DIGEST_INFO + DIGEST
    verify(RSA.public_key(), named(PKCS1_SHA256, raw_rsa(b"\0\1" + b"\xff" * (253 - len(block)) + b"\0" + block)),
           OCTETS, legacy=False)


def test_rsa_values_beyond_the_modulus_are_refused() -> None:
    n = RSA.public_key().public_numbers().n
    for number in (0, 1, n - 1, n, (1 << 2048) - 1):
        refused(RSA.public_key(), named(PKCS1_SHA256, number.to_bytes(256, "big")))


def test_au14_every_byte_of_the_octets_counts() -> None:
    def octets(message: bytes, nonce: bytes, sk_p: bytes, id_body: bytes) -> bytes:
        return signed_octets(PRFS[0], message=message, nonce=nonce, sk_p=Secret(sk_p), id_body=id_body)

    parts = (b"message of IKE_SA_INIT", bytes(range(32)), bytes(32), b"\2\0\0\0gw.example.net")
    own = key("ed25519")
    signature = sign(own, octets(*parts), peer_hashes=OUR_HASHES, legacy=False)
    verify(own.public_key(), signature, octets(*parts), legacy=False)
    for index, part in enumerate(parts):
        for place in range(len(part)):
            changed = part[:place] + bytes([part[place] ^ 1]) + part[place + 1:]
            refused(own.public_key(), signature, octets=octets(*parts[:index], changed, *parts[index + 1:]))


@given(st.sampled_from([1, 9, 10, 11, 14]), st.binary(max_size=300), st.sampled_from(("rsa2048", "p256", "ed25519")))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_refused_by_the_declared_error(method: int, data: bytes, kind: str) -> None:
    refused(key(kind).public_key(), Signature(method, data), legacy=True)


@pytest.mark.parametrize("method", [0, 2, 3, 8, 12, 13, 255])
def test_au08_other_methods_are_refused(method: int) -> None:
    assert "not allowed" in refused(RSA.public_key(), Signature(method, b"x" * 256), legacy=True)


@pytest.mark.parametrize(("e", "n_change", "why"), [
    (3, 0, "exponent"), (65539 << 20 | 1, 0, "exponent"), (257, 0, "exponent"), (65537, 1, "even")])
def test_ce19_hostile_rsa_numbers_are_refused(e: int, n_change: int, why: str) -> None:
    n = RSA.public_key().public_numbers().n - n_change
    with pytest.raises(AuthenticationError, match=why):
        check_key(rsa.RSAPublicNumbers(e, n).public_key())


def test_ce19_key_sizes_and_curves_have_bounds() -> None:
    huge = rsa.RSAPublicNumbers(65537, (1 << 16383) | 1).public_key()
    for weak in (key("rsa1024").public_key(), huge, key("p192").public_key(),
                 x25519.X25519PrivateKey.generate().public_key(), None):
        with pytest.raises(AuthenticationError):
            check_key(weak)


def test_hash_list_round_trips_and_stays_bounded() -> None:
    assert hash_list(hash_data(OUR_HASHES)) == OUR_HASHES
    assert hash_data(OUR_HASHES).hex() == "0002000300040005"
    assert hash_list(b"") == hash_list(b"\0") == ()
    assert hash_list(b"\0\2\0") == (2,)
    assert len(hash_list(bytes(4000))) == 32


@pytest.mark.parametrize("kind", KINDS)
def test_private_keys_come_from_pem_and_der_with_and_without_passphrase(kind: str) -> None:
    own, word = key(kind), Secret(b"long passphrase")
    for encoding in (Encoding.PEM, Encoding.DER):
        data = own.private_bytes(encoding, PrivateFormat.PKCS8, BestAvailableEncryption(word.reveal()))
        loaded = load_private_key(import_private_key(data, word))
        assert key_bytes(loaded.public_key()) == key_bytes(own.public_key())
        with pytest.raises(ValueError, match="no passphrase"):
            import_private_key(data, None)
        with pytest.raises(ValueError, match="wrong"):
            import_private_key(data, Secret(b"other"))


@pytest.mark.parametrize("data", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"\x30\x00"])
def test_what_is_no_private_key_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no private key"):
        import_private_key(data, None)


@pytest.mark.parametrize("weak", [
    x25519.X25519PrivateKey.generate(), key("rsa1024"), key("p192")], ids=["x25519", "rsa1024", "p192"])
def test_private_key_that_no_peer_accepts_is_refused(weak: Any) -> None:
    data = weak.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="key"):
        import_private_key(data, None)


def test_private_key_of_another_kind_is_our_own_fault_later() -> None:
    other = x25519.X25519PrivateKey.generate().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(LocalError):
        load_private_key(Secret(other))


def test_passphrase_for_a_key_without_one_is_refused() -> None:
    data = key("p256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="not encrypted"):
        import_private_key(data, Secret(b"word"))


def test_keys_are_named_for_people() -> None:
    assert [key_name(key(kind).public_key()) for kind in KINDS] == [
        "RSA-2048", "RSA-3072", "ECDSA P-256", "ECDSA P-384", "ECDSA P-521", "Ed25519", "Ed448"]


def raw_rsa(block: bytes) -> bytes:
    """Return a block under the private key, without any padding of the library's."""
    numbers = RSA.private_numbers()
    return pow(int.from_bytes(block, "big"), numbers.d, numbers.public_numbers.n).to_bytes(256, "big")
