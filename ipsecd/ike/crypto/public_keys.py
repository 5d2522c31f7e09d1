"""Which keys sign and verify here, and which are refused before anything is computed with them.

The library loads an RSA key with an even modulus, with e = 3, or with an exponent of 2,000 bits, which makes one
verification forty times as slow.  So every key, of a peer, of an authority or our own, passes `check_key` first.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from ipsecd.errors import AuthenticationError, LocalError
from ipsecd.secret import Secret

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

MIN_RSA_BITS = 2048             # RFC 8247 3.2.1
MAX_RSA_BITS = 8192             # a verification stays under a millisecond
MIN_EXPONENT = 65537            # FIPS 186-5 5.4; small ones make forgeries of laxly checked signatures easy
MAX_EXPONENT_BITS = 33
CURVES = ("secp256r1", "secp384r1", "secp521r1")
# RFC 8032 5.1, 5.2: the field of each curve and y of its points of low order.  For such a key a signature of nothing
# verifies for some or all messages, and the library takes it.
ED25519_PRIME = 2**255 - 19
ED25519_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
ED25519_LOW = (0, 1, ED25519_PRIME - 1, ED25519_ORDER_8, ED25519_PRIME - ED25519_ORDER_8)
ED448_PRIME = 2**448 - 2**224 - 1
ED448_LOW = (0, 1, ED448_PRIME - 1)


def check_key(key: object) -> PublicKey:
    """Return `key` where its kind and size are accepted; raise AuthenticationError otherwise."""
    match key:
        case rsa.RSAPublicKey():
            _check_rsa(key)
            return key
        case ec.EllipticCurvePublicKey():
            if key.curve.name not in CURVES:
                raise AuthenticationError(f"a key on curve {key.curve.name}; P-256, P-384 and P-521 are accepted")
            return key
        case ed25519.Ed25519PublicKey():
            return _above_low_order(key, ED25519_PRIME, ED25519_LOW)
        case ed448.Ed448PublicKey():
            return _above_low_order(key, ED448_PRIME, ED448_LOW)
        case _:
            raise AuthenticationError(f"a key of a kind that does not sign here: {type(key).__name__}")


def key_name(key: PublicKey) -> str:
    """Return kind and size, for people."""
    match key:
        case rsa.RSAPublicKey():
            return f"RSA-{key.key_size}"
        case ec.EllipticCurvePublicKey():
            return f"ECDSA P-{key.curve.key_size}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case ed448.Ed448PublicKey():
            return "Ed448"


def key_bytes(key: PublicKey) -> bytes:
    """Return the SubjectPublicKeyInfo: the one form in which public keys are compared."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def import_private_key(data: bytes, passphrase: Secret | None) -> Secret:
    """Return a PEM or DER private key as PKCS#8, checked and without encryption; raise ValueError with the reason.

    The reason holds nothing of the key.
    """
    password = passphrase.reveal() if passphrase else None
    load = load_pem_private_key if b"-----BEGIN" in data else load_der_private_key
    try:
        loaded: object = load(data, password)
    except TypeError:
        raise ValueError("it is encrypted and no passphrase is given" if password is None
                         else "a passphrase is given, but it is not encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is no private key, or the passphrase is wrong") from None
    key = _own(loaded)
    if key is None:
        raise ValueError("a key of a kind that does not sign here")
    try:
        check_key(key.public_key())
    except AuthenticationError as error:
        raise ValueError(str(error)) from None
    return Secret(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def import_public_key(data: bytes) -> PublicKey:
    """Return the key of a SubjectPublicKeyInfo in PEM or DER; raise AuthenticationError with the reason."""
    load = load_pem_public_key if b"-----BEGIN" in data else load_der_public_key
    try:
        loaded: object = load(data)
    except (ValueError, UnsupportedAlgorithm):
        raise AuthenticationError("no readable public key") from None
    return check_key(loaded)


def load_private_key(pkcs8: Secret) -> PrivateKey:
    """Return the key that `import_private_key` took.  Its arithmetic was checked there, which takes milliseconds."""
    key = _own(load_der_private_key(pkcs8.reveal(), None, unsafe_skip_rsa_key_validation=True))
    if key is None:
        raise LocalError("the private key is of a kind that does not sign here")
    return key


def _own(key: object) -> PrivateKey | None:
    match key:
        case (rsa.RSAPrivateKey() | ec.EllipticCurvePrivateKey() | ed25519.Ed25519PrivateKey()
              | ed448.Ed448PrivateKey()):
            return key
        case _:
            return None


def _above_low_order(key: PublicKey, prime: int, low: tuple[int, ...]) -> PublicKey:
    # RFC 8032 5.1.2, 5.2.2: y in little endian, the sign of x in the top bit of the last octet.
    encoded = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    y = int.from_bytes(encoded, "little") & ~(1 << (8 * len(encoded) - 1))
    if y % prime in low:
        raise AuthenticationError("a key of low order, for which anybody can sign")
    return key


def _check_rsa(key: rsa.RSAPublicKey) -> None:
    numbers = key.public_numbers()
    bits = numbers.n.bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise AuthenticationError(f"an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted")
    if not numbers.n & 1:
        raise AuthenticationError("an RSA key with an even modulus")
    if not numbers.e & 1 or numbers.e < MIN_EXPONENT or numbers.e.bit_length() > MAX_EXPONENT_BITS:
        raise AuthenticationError(f"an RSA key with an exponent of {numbers.e.bit_length()} bits; odd ones from 65537 "
                                  "to 33 bits are accepted")
