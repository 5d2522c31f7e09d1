"""Edge cases of signatures, key exchanges and AEADs through our own wrappers.

The cases of NIST's validation program that must fail, beside some that must not (tests/vectors/nist_*.txt), and cases
made by hand in the manner of Wycheproof, for what those lack: non-canonical encodings, values at and beyond the order,
points of low order and on the twist, truncated tags, malleability.
"""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ipsecd.aead import make_sealer
from ipsecd.errors import AuthenticationError, BadIcv, PeerError
from ipsecd.ike.consts import AuthMethod, KeId
from ipsecd.ike.crypto import kex
from ipsecd.ike.crypto.kex_ecp import EcpExchange
from ipsecd.ike.crypto.kex_x25519 import X25519Exchange
from ipsecd.ike.crypto.public_keys import check_key
from ipsecd.ike.crypto.signatures import OUR_HASHES, Signature, sign, verify
from ipsecd.secret import Secret
from ipsecd.suites import ENCRS, Encr
from tests.support import reference_crypto
from tests.support.pki import key
from tests.support.vectors import load

GCM, ECDSA, ECDH, RSA = (load(f"nist_{name}.txt") for name in ("gcm", "ecdsa", "ecdh", "rsa"))
ENCR = {encr.keyword: encr for encr in ENCRS}
OCTETS = b"InitiatorSignedOctets"
DIGITAL = AuthMethod.DIGITAL_SIGNATURE
CURVES = {"p256": (ec.SECP256R1(), AuthMethod.ECDSA_256, "300a06082a8648ce3d040302"),
          "p384": (ec.SECP384R1(), AuthMethod.ECDSA_384, "300a06082a8648ce3d040303"),
          "p521": (ec.SECP521R1(), AuthMethod.ECDSA_521, "300a06082a8648ce3d040304")}
GROUPS = {"ecp256": (KeId.ECP_256, ec.SECP256R1()), "ecp384": (KeId.ECP_384, ec.SECP384R1()),
          "ecp521": (KeId.ECP_521, ec.SECP521R1())}
ORDERS = {
    "p256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "p384": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    "p521": 2**521 - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
}
EDWARDS_ORDER = 2**252 + 27742317777372353535851937790883648493      # RFC 8032 5.1


def named(identifier: str, value: bytes) -> Signature:
    blob = bytes.fromhex(identifier)
    return Signature(DIGITAL, bytes([len(blob)]) + blob + value)


def refused(public: object, signature: Signature, octets: bytes = OCTETS) -> None:
    with pytest.raises(AuthenticationError):
        verify(check_key(public), signature, octets, legacy=False)


# Signatures


@pytest.mark.parametrize("case", ECDSA)
def test_ecdsa_cases_of_nist_hold_and_fail_as_it_says(case: str) -> None:
    curve, method, identifier = CURVES[case.split()[0]]
    fields = ECDSA[case]
    x, y, r, s = (int.from_bytes(fields[name], "big") for name in ("x", "y", "r", "s"))
    der, raw = named(identifier, encode_dss_signature(r, s)), Signature(method, fields["r"] + fields["s"])
    try:
        public = ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    except ValueError:                      # another Q, which is no point
        assert " bad " in case
        return
    for signature in (der, raw):
        if " ok " in case:
            verify(check_key(public), signature, fields["message"], legacy=False)
        else:
            refused(public, signature, fields["message"])


@pytest.mark.parametrize("case", RSA)
def test_rsa_cases_of_nist_are_refused(case: str) -> None:
    fields, hash_name = RSA[case], case.split()[1]
    public = rsa.RSAPublicNumbers(*(int.from_bytes(fields[name], "big") for name in ("e", "n"))).public_key()
    identifier = "300d06092a864886f70d01010" + {"sha256": "b", "sha384": "c", "sha512": "d"}[hash_name] + "0500"
    refused(public, named(identifier, fields["signature"]), fields["message"])


@pytest.mark.parametrize("kind", CURVES)
def test_ecdsa_values_outside_one_to_the_order_are_refused(kind: str) -> None:
    curve, method, identifier = CURVES[kind]
    own, order = key(kind), ORDERS[kind]
    r, s = decode_dss_signature(own.sign(OCTETS, ec.ECDSA(
        {"p256": hashes.SHA256(), "p384": hashes.SHA384(), "p521": hashes.SHA512()}[kind])))
    half = (curve.key_size + 7) // 8
    verify(own.public_key(), Signature(method, r.to_bytes(half, "big") + s.to_bytes(half, "big")), OCTETS, legacy=False)
    edges = (0, 1, order - 1, order, order + 1, r + order, 2 * order, (1 << 8 * half) - 1)
    for bad_r, bad_s in [(e, s) for e in edges] + [(r, e) for e in (*edges[:-3], s + order)] + [(e, e) for e in edges]:
        refused(own.public_key(), named(identifier, encode_dss_signature(bad_r, bad_s)))
        if max(bad_r, bad_s) < 1 << 8 * half:
            refused(own.public_key(), Signature(method, bad_r.to_bytes(half, "big") + bad_s.to_bytes(half, "big")))
    for negative in (b"\x30\x06\x02\x01\xff\x02\x01\xff", b"\x30\x06\x02\x01\x01\x02\x01\x80"):
        refused(own.public_key(), named(identifier, negative))


@pytest.mark.parametrize("kind", CURVES)
def test_ecdsa_in_any_other_der_than_the_one_is_refused(kind: str) -> None:
    own, identifier = key(kind), CURVES[kind][2]
    value = sign(own, OCTETS, peer_hashes=OUR_HASHES, legacy=False).data[1 + len(bytes.fromhex(identifier)):]
    header = 3 if value[1] == 0x81 else 2
    body = value[header:]
    long_form = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    indefinite = b"\x30\x80" + body + b"\0\0"
    nothing_more = b"\x30" + bytes([len(body)]) if len(body) < 128 else b"\x30\x81" + bytes([len(body)])
    for other in (long_form, indefinite, value[:-1], value[1:], b"\x31" + value[1:], value + b"\0", b"\x05\0" + value,
                  nothing_more + body + b"\x02\x01\0", b"\x30\0", b"\x30\x06\x02\x01\x01\x02\x01\x01",
                  bytes(len(value))):
        refused(own.public_key(), named(identifier, other))


def test_edwards_signatures_are_canonical_or_refused() -> None:
    own = key("ed25519")
    value = own.sign(OCTETS)
    r, s = value[:32], int.from_bytes(value[32:], "little")
    verify(own.public_key(), named("300506032b6570", value), OCTETS, legacy=False)
    for other in (s + EDWARDS_ORDER, s + 2 * EDWARDS_ORDER, EDWARDS_ORDER, 0, 2**256 - 1):
        if other < 2**256:                  # RFC 8032 5.1.7: S must be below the order, or a signature has a twin
            refused(own.public_key(), named("300506032b6570", r + other.to_bytes(32, "little")))
    for point in (bytes(32), b"\1" + bytes(31), b"\xed" + b"\xff" * 30 + b"\x7f", b"\xff" * 32):
        refused(own.public_key(), named("300506032b6570", point + value[32:]))
        refused(own.public_key(), named("300506032b6570", point + bytes(32)))


LOW_ORDER = ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f",
             "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
             "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
             "ed" + "ff" * 30 + "7f", "ee" + "ff" * 30 + "7f"]       # the last two not reduced: 0 and 1 again


@pytest.mark.parametrize("encoded", LOW_ORDER)
@pytest.mark.parametrize("sign_bit", [0, 0x80])
def test_edwards_key_of_low_order_is_refused_as_anybody_can_sign_for_it(encoded: str, sign_bit: int) -> None:
    point = bytes.fromhex(encoded)
    point = point[:-1] + bytes([point[-1] | sign_bit])
    try:
        public = ed25519.Ed25519PublicKey.from_public_bytes(point)
    except ValueError:
        return
    with pytest.raises(AuthenticationError, match="low order"):
        check_key(public)


@pytest.mark.parametrize("y", [0, 1, 2**448 - 2**224 - 2])
def test_edwards_448_key_of_low_order_is_refused(y: int) -> None:
    with pytest.raises(AuthenticationError, match="low order"):
        check_key(ed448.Ed448PublicKey.from_public_bytes(y.to_bytes(57, "little")))


def test_edwards_448_signatures_have_no_twin() -> None:
    own = key("ed448")
    value = own.sign(OCTETS)
    order = 2**446 - 13818066809895115352007386748515426880336692474882178609894547503885
    s = int.from_bytes(value[57:], "little")
    assert isinstance(own.public_key(), ed448.Ed448PublicKey)
    for broken in (value[:57] + (s + order).to_bytes(57, "little"), value[:-1] + b"\x80",
                   value[:56] + b"\x7f" + value[57:]):
        refused(own.public_key(), named("300506032b6571", broken))


def test_rsa_signatures_have_no_twin() -> None:
    own = key("rsa2048")
    identifier, size = "300d06092a864886f70d01010b0500", 256
    value = own.sign(OCTETS, padding.PKCS1v15(), hashes.SHA256())
    verify(own.public_key(), named(identifier, value), OCTETS, legacy=False)
    number, modulus = int.from_bytes(value, "big"), own.public_key().public_numbers().n
    twins = [number + modulus, modulus - number, number * 2 % modulus, pow(number, 2, modulus)]
    for twin in twins:
        refused(own.public_key(), named(identifier, twin.to_bytes(size + 1, "big")))
        refused(own.public_key(), named(identifier, twin.to_bytes(size + 1, "big")[-size:]))
    for odd in (b"\0" + value, value + b"\0", value.lstrip(b"\0")[:-1], value[::-1], b""):
        refused(own.public_key(), named(identifier, odd))


# Key exchange


@pytest.mark.parametrize("case", ECDH)
def test_ecdh_cases_of_nist_hold_and_fail_as_it_says(case: str) -> None:
    method, curve = GROUPS[case.split()[0]]
    fields = ECDH[case]
    own = EcpExchange(method, ec.derive_private_key(int.from_bytes(fields["private"], "big"), curve))
    if " bad " in case:
        with pytest.raises(PeerError):
            own.shared(fields["public"])
    else:
        assert (own.shared(fields["public"]).reveal() == fields["shared"]) is (" ok " in case)


@pytest.mark.parametrize("name", GROUPS)
def test_point_at_infinity_on_the_twist_or_beyond_the_field_is_refused(name: str) -> None:
    method, curve = GROUPS[name]
    own, prime, half = kex.generate(method), reference_crypto.ECP_PRIMES[method], (curve.key_size + 7) // 8
    x, y = own.public[:half], own.public[half:]
    def field(number: int) -> bytes:
        return number.to_bytes(half, "big")
    y_number = int.from_bytes(y, "big")
    beyond = [field(int.from_bytes(x, "big") + prime) + y] if int.from_bytes(x, "big") + prime < 1 << 8 * half else []
    for value in (bytes(2 * half), field(0) + field(1), x + field(0), x + field((y_number + 1) % prime), y + x,
                  field(prime) + y, x + field(prime), field(prime - 1) + field(prime - 1), b"\xff" * (2 * half),
                  b"\0", b"\2" + x, b"\3" + x, b"\4" + own.public, b"\6" + own.public, *beyond):
        with pytest.raises(PeerError):
            own.shared(value)
    negated = x + field(prime - y_number)           # the other point of this x is a point: the same secret comes of it
    assert own.shared(negated) == own.shared(own.public)


def test_x25519_takes_non_canonical_values_as_rfc_7748_says() -> None:
    # RFC 7748 5: the top bit is masked, and a value of p or more is reduced; both ends must come to the same secret.
    own = X25519Exchange(X25519PrivateKey.from_private_bytes(bytes(range(32))))
    prime = 2**255 - 19
    for u in (2, 9, 18):
        plain = own.shared(u.to_bytes(32, "little")).reveal()
        assert plain == reference_crypto.x25519(bytes(range(32)), u.to_bytes(32, "little"))
        assert own.shared((u + prime).to_bytes(32, "little")).reveal() == plain
        assert own.shared((u | 1 << 255).to_bytes(32, "little")).reveal() == plain


@pytest.mark.parametrize("u", [
    0, 1, 325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823, 2**255 - 20, 2**255 - 19,
    2**255 - 18])
@pytest.mark.parametrize("masked", [0, 1 << 255])
def test_x25519_value_of_low_order_is_refused_in_every_encoding(u: int, masked: int) -> None:
    with pytest.raises(PeerError):
        kex.generate(KeId.CURVE25519).shared((u | masked).to_bytes(32, "little"))


# AEADs


@pytest.mark.parametrize("case", GCM)
def test_gcm_cases_of_nist_hold_and_fail_as_it_says(case: str) -> None:
    fields = GCM[case]
    salt, iv = fields["iv"][:4], fields["iv"][4:]
    box = make_sealer(ENCR[case.split()[0]], None, encr_key=Secret(fields["key"] + salt), integ_key=Secret(b""))
    if " ok " in case:
        assert box.open(iv, fields["sealed"], fields["aad"]) == fields["plaintext"]
        assert box.seal(iv, fields["plaintext"], fields["aad"]) == fields["sealed"]
    else:
        with pytest.raises(BadIcv):
            box.open(iv, fields["sealed"], fields["aad"])


@pytest.mark.parametrize("encr", [e for e in ENCRS if e.aead], ids=lambda e: e.keyword)
@pytest.mark.parametrize("plaintext", [b"", b"\0", bytes(15), bytes(16), bytes(17), bytes(1400)], ids=len)
def test_no_tag_but_the_whole_one_opens_anything(encr: Encr, plaintext: bytes) -> None:
    key_ = Secret(bytes(range(encr.key_bytes + encr.salt_bytes)))
    box, iv = make_sealer(encr, None, encr_key=key_, integ_key=Secret(b"")), bytes(range(encr.iv_bytes))
    for aad in (b"", b"\0", b"a" * 12):
        sealed = box.seal(iv, plaintext, aad)
        assert box.open(iv, sealed, aad) == plaintext
        body, tag = sealed[:len(plaintext)], sealed[len(plaintext):]
        wrong = [body, body + tag[:4], body + tag[:8], body + tag[:12], body + tag[:15],
                 body + tag + b"\0", body + bytes(16), body + b"\xff" * 16, body + tag[::-1], tag + body, tag[1:], tag,
                 b""]
        wrong += [body + bytes([tag[at] ^ bit if at == i else tag[i] for i in range(16)]) for at in range(16)
                  for bit in (1, 0x80)]
        for other in wrong:
            if other != sealed:
                with pytest.raises(BadIcv):
                    box.open(iv, other, aad)
        with pytest.raises(BadIcv):
            box.open(iv, sealed, aad + b"\0")
