"""AUTH by signature (RFC 7427, RFC 8420; methods 1, 9, 10 and 11 toward peers without them: RFC 7296 3.8, RFC 4754).

The key decides the algorithm, never the message: what AUTH names must suit the key, the hashes that we announced and
the peer entry.  An AlgorithmIdentifier is looked up among the few encodings that may be used; none is parsed, so there
are no parameters that anybody could choose.

Data of method 14: length(1) AlgorithmIdentifier signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from ipsecd.errors import AuthenticationError
from ipsecd.ike.consts import AuthMethod, HashId, enum_name
from ipsecd.ike.crypto.public_keys import PrivateKey, PublicKey, import_public_key, key_name
from ipsecd.policy import TokenKey

# Every hash with which AUTH may be signed toward us, as SIGNATURE_HASH_ALGORITHMS lists it.  Without SHA-1: a collision
# over what is signed lets a man in the middle impersonate the initiator (SLOTH, 2016).
OUR_HASHES: Final[tuple[int, ...]] = (HashId.SHA2_256, HashId.SHA2_384, HashId.SHA2_512, HashId.IDENTITY)
MAX_HASHES = 32                 # in the list of a peer; the registry has seven

_SHA2: Final[dict[int, hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    HashId.SHA2_256: hashes.SHA256(), HashId.SHA2_384: hashes.SHA384(), HashId.SHA2_512: hashes.SHA512()}
_OID_SHA2: Final = {HashId.SHA2_256: "01", HashId.SHA2_384: "02", HashId.SHA2_512: "03"}


class Signature(NamedTuple):
    """Method and data of an AUTH payload."""

    method: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Scheme:
    """One way to sign; `key_kind` is the class of its public key, `blob` the AlgorithmIdentifier that we send."""

    name: str
    key_kind: type[PublicKey]
    hash_id: int
    blob: bytes
    pss: bool = False

    @property
    def token_kind(self) -> str:
        """How a token is asked for it."""
        if self.key_kind is rsa.RSAPublicKey:
            return "rsa-pss" if self.pss else "rsa-pkcs1"
        return "ecdsa" if self.key_kind is ec.EllipticCurvePublicKey else "eddsa"


def hash_list(data: bytes) -> tuple[int, ...]:
    """Return the hashes of a SIGNATURE_HASH_ALGORITHMS notify (RFC 7427 4); unknown ones are kept, an odd byte is not.

    The notify came in the clear; AUTH covers it, so a list that somebody shortened ends in a failure.
    """
    return tuple(int.from_bytes(data[i:i + 2], "big") for i in range(0, min(len(data) - 1, 2 * MAX_HASHES), 2))


def hash_data(ids: tuple[int, ...]) -> bytes:
    """Return the data of that notify."""
    return b"".join(i.to_bytes(2, "big") for i in ids)


def sign(key: PrivateKey | TokenKey, octets: bytes, *, peer_hashes: tuple[int, ...], legacy: bool) -> Signature:
    """Sign with the best algorithm that the peer verifies; `peer_hashes` is its list, empty where it sent none.

    Raises AuthenticationError where there is none, or a token fails.
    """
    public = import_public_key(key.public_key) if isinstance(key, TokenKey) else key.public_key()
    for scheme in _preferred(public, pss=not isinstance(key, TokenKey) or "rsa-pss" in key.kinds):
        if scheme.hash_id in peer_hashes:
            return Signature(AuthMethod.DIGITAL_SIGNATURE,
                             bytes([len(scheme.blob)]) + scheme.blob + _sign(key, scheme, octets))
    if isinstance(public, ec.EllipticCurvePublicKey):
        curve = _RAW_BY_CURVE[public.curve.name]
        r, s = decode_dss_signature(_sign(key, _preferred(public, pss=True)[0], octets))
        return Signature(curve.method, r.to_bytes(curve.size, "big") + s.to_bytes(curve.size, "big"))
    if isinstance(public, rsa.RSAPublicKey) and legacy:
        value = (key.sign("rsa-pkcs1", "sha1", octets) if isinstance(key, TokenKey) else
                 cast("rsa.RSAPrivateKey", key).sign(octets, padding.PKCS1v15(), hashes.SHA1()))
        return Signature(AuthMethod.RSA_SIGNATURE, value)
    theirs = ", ".join(enum_name(HashId, i) for i in peer_hashes) or "no list of hashes (RFC 7427)"
    raise AuthenticationError(f"the peer verifies no signature of our {key_name(public)} key; it announced {theirs}")


def verify(key: PublicKey, signature: Signature, octets: bytes, *, legacy: bool) -> None:
    """Return if the holder of `key` signed `octets` in a way that we announced; raise AuthenticationError if not.

    `legacy` allows method 1, which is SHA-1.
    """
    method, data = signature
    try:
        if method == AuthMethod.DIGITAL_SIGNATURE:
            _verify_named(key, data, octets)
        elif method in _RAW:
            _verify_raw(key, _RAW[method], data, octets)
        elif method == AuthMethod.RSA_SIGNATURE and legacy:
            _verify_rsa(key, data, octets, padding.PKCS1v15(), hashes.SHA1())
        else:
            raise AuthenticationError(f"signature of method {enum_name(AuthMethod, method)}, which is not allowed")
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        raise AuthenticationError(f"the signature was not made with the peer's {key_name(key)} key") from None


def _preferred(key: PublicKey, *, pss: bool) -> tuple[_Scheme, ...]:
    """Return how to sign under a key, best first: a hash as strong as the key, then the others (RFC 7427 5).

    RSA signs by PSS alone where it can (`pss`): RFC 8247 3.2.1 demands it, and leaves PKCS #1 v1.5 to old peers; and
    to tokens that know nothing else.
    """
    match key:
        case rsa.RSAPublicKey():
            schemes, best = _PSS if pss else _PKCS1, 0 if key.key_size < 3072 else 1 if key.key_size < 7680 else 2
        case ec.EllipticCurvePublicKey():
            schemes, best = _ECDSA, tuple(_RAW_BY_CURVE).index(key.curve.name)
        case ed25519.Ed25519PublicKey():
            return (_ED25519,)
        case ed448.Ed448PublicKey():
            return (_ED448,)
    return (schemes[best], *(scheme for scheme in schemes if scheme is not schemes[best]))


def _sign(key: PrivateKey | TokenKey, scheme: _Scheme, octets: bytes) -> bytes:
    match key:
        case TokenKey():
            hash_ = _SHA2.get(scheme.hash_id)
            return key.sign(scheme.token_kind, hash_.name if hash_ else "", octets)
        case rsa.RSAPrivateKey():
            return key.sign(octets, _pss(scheme), _SHA2[scheme.hash_id])
        case ec.EllipticCurvePrivateKey():
            return key.sign(octets, ec.ECDSA(_SHA2[scheme.hash_id]))
        case ed25519.Ed25519PrivateKey() | ed448.Ed448PrivateKey():
            return key.sign(octets)


def _verify_named(key: PublicKey, data: bytes, octets: bytes) -> None:
    end = 1 + data[0] if data else 0
    scheme = _BY_BLOB.get(data[1:end])
    if scheme is None:
        raise AuthenticationError(f"signature algorithm {data[1:end][:80].hex() or 'missing'} is none of ours")
    if not isinstance(key, scheme.key_kind):
        raise AuthenticationError(f"{scheme.name} named for a {key_name(key)} key")
    value = data[end:]
    match key:
        case rsa.RSAPublicKey():
            form = _pss(scheme) if scheme.pss else padding.PKCS1v15()
            _verify_rsa(key, value, octets, form, _SHA2[scheme.hash_id])
        case ec.EllipticCurvePublicKey():
            # One encoding of a signature: neither bytes behind it nor numbers with superfluous zeros.
            if encode_dss_signature(*decode_dss_signature(value)) != value:
                raise InvalidSignature
            key.verify(value, octets, ec.ECDSA(_SHA2[scheme.hash_id]))
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            key.verify(value, octets)


def _verify_raw(key: PublicKey, form: _Raw, data: bytes, octets: bytes) -> None:
    """RFC 4754 7: r and s, each as long as the order of the curve."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != form.curve:
        raise AuthenticationError(f"{enum_name(AuthMethod, form.method)} named for a {key_name(key)} key")
    if len(data) != 2 * form.size:
        raise InvalidSignature
    r, s = int.from_bytes(data[:form.size], "big"), int.from_bytes(data[form.size:], "big")
    key.verify(encode_dss_signature(r, s), octets, ec.ECDSA(form.hash))


def _verify_rsa(key: PublicKey, value: bytes, octets: bytes, form: padding.PSS | padding.PKCS1v15,
                hash_: hashes.HashAlgorithm) -> None:
    if not isinstance(key, rsa.RSAPublicKey):
        raise AuthenticationError(f"an RSA signature named for a {key_name(key)} key")
    if len(value) != (key.key_size + 7) // 8:       # RFC 8017 8.1.2, 8.2.2: exactly k octets
        raise InvalidSignature
    key.verify(value, octets, form, hash_)


def _pss(scheme: _Scheme) -> padding.PSS:
    hash_ = _SHA2[scheme.hash_id]
    return padding.PSS(mgf=padding.MGF1(hash_), salt_length=hash_.digest_size)


class _Raw(NamedTuple):
    """A method that is bound to one curve and hash; `size` is the bytes of r, and of s."""

    method: int
    curve: str
    hash: hashes.HashAlgorithm
    size: int


def _pss_blob(hash_id: int, *, hash_null: bool, mgf_null: bool, trailer: bool) -> bytes:
    """Encode RSASSA-PSS-params (RFC 4055 3.1) with the salt as long as the hash.

    NULL parameters of a hash may be left out (RFC 4055 2.1).  An explicit trailerField is not DER; FortiOS sends it.
    """
    def der(tag: int, content: bytes) -> bytes:
        return bytes([tag, len(content)]) + content

    def hash_identifier(*, null: bool) -> bytes:
        oid = der(0x06, bytes.fromhex(f"6086480165030402{_OID_SHA2[HashId(hash_id)]}"))
        return der(0x30, oid + (b"\x05\x00" if null else b""))

    mgf1 = der(0x30, der(0x06, bytes.fromhex("2a864886f70d010108")) + hash_identifier(null=mgf_null))
    params = (der(0xA0, hash_identifier(null=hash_null)) + der(0xA1, mgf1)
              + der(0xA2, der(0x02, bytes([_SHA2[hash_id].digest_size]))) + (der(0xA3, der(0x02, b"\x01")) if trailer
                                                                             else b""))
    return der(0x30, der(0x06, bytes.fromhex("2a864886f70d01010a")) + der(0x30, params))


_RAW_BY_CURVE: Final = {
    "secp256r1": _Raw(AuthMethod.ECDSA_256, "secp256r1", hashes.SHA256(), 32),
    "secp384r1": _Raw(AuthMethod.ECDSA_384, "secp384r1", hashes.SHA384(), 48),
    "secp521r1": _Raw(AuthMethod.ECDSA_521, "secp521r1", hashes.SHA512(), 66)}
_RAW: Final = {form.method: form for form in _RAW_BY_CURVE.values()}

_PKCS1: Final = tuple(
    _Scheme(f"RSA PKCS#1 v1.5 with {HashId(i).name}", rsa.RSAPublicKey, i,
            bytes.fromhex(f"300d06092a864886f70d0101{last}0500")) for i, last in zip(_SHA2, ("0b", "0c", "0d"),
                                                                                   strict=True))
_PSS: Final = tuple(
    _Scheme(f"RSA-PSS with {HashId(i).name}", rsa.RSAPublicKey, i,
            _pss_blob(i, hash_null=True, mgf_null=True, trailer=False), pss=True) for i in _SHA2)
_ECDSA: Final = tuple(
    _Scheme(f"ECDSA with {HashId(i).name}", ec.EllipticCurvePublicKey, i,
            bytes.fromhex(f"300a06082a8648ce3d0403{last}")) for i, last in zip(_SHA2, ("02", "03", "04"), strict=True))
_ED25519: Final = _Scheme("Ed25519", ed25519.Ed25519PublicKey, HashId.IDENTITY, bytes.fromhex("300506032b6570"))
_ED448: Final = _Scheme("Ed448", ed448.Ed448PublicKey, HashId.IDENTITY, bytes.fromhex("300506032b6571"))
_BY_BLOB: Final[dict[bytes, _Scheme]] = {
    **{scheme.blob: scheme for scheme in (*_PKCS1, *_PSS, *_ECDSA, _ED25519, _ED448)},
    **{_pss_blob(scheme.hash_id, hash_null=hash_null, mgf_null=mgf_null, trailer=trailer): scheme
       for scheme in _PSS for hash_null in (True, False) for mgf_null in (True, False) for trailer in (True, False)}}
