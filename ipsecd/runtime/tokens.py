"""Private keys in PKCS #11 tokens, named by RFC 7512 URIs; by the optional package python-pkcs11.

    pkcs11:token=gateway;object=own?module-path=/usr/lib/softhsm/libsofthsm2.so

A key is looked up, and signs once, when the configuration is loaded: what does not work then is an error of the file.
Each signature opens a session of its own, so that a token that was away serves again; all are made one by one, because
the login is the process's.  The PIN comes from `passphrase_file`, never from the URI.  A PIN that the token refuses is
not shown to it again before the next reload: tokens lock after a few.
"""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ipsecd.errors import AuthenticationError, TokenError
from ipsecd.ike.crypto.public_keys import PublicKey, import_public_key, key_bytes
from ipsecd.ike.crypto.signatures import OUR_HASHES, sign, verify
from ipsecd.policy import TokenKey
from ipsecd.runtime.patience import Patience
from ipsecd.secret import Secret
from ipsecd.text import printable

SCHEME = "pkcs11:"
_PATH, _QUERY = ("token", "serial", "object", "id", "type"), ("module-path",)
_PROBE = b"ipsecd looks whether a key signs"
_HASHES = {"sha1": "SHA_1", "sha256": "SHA256", "sha384": "SHA384", "sha512": "SHA512"}
# RFC 8410 4: what stands before a key of this many bytes in a SubjectPublicKeyInfo
_EDWARDS = {32: bytes.fromhex("302a300506032b6570032100"), 57: bytes.fromhex("3043300506032b6571033a00")}
_LIBRARY = Patience()           # one at a time: the login is the process's, and closing one session logs the others out


class TokenUri(NamedTuple):
    """What of RFC 7512 is used: which module, which token, which key."""

    module: str
    token: str | None
    serial: str | None
    label: str | None
    id: bytes | None


def parse_uri(text: str) -> TokenUri:
    """Read a URI; raise ValueError with a whole message."""
    path, _, query = text.removeprefix(SCHEME).partition("?")
    found = {**_attributes(path, ";", _PATH), **_attributes(query, "&", _QUERY)}
    module = unquote(found.get("module-path", ""))
    if not module.startswith("/"):
        raise ValueError("found a pkcs11: URI without module-path; expected ?module-path= with the absolute path of "
                         "the token's library")
    if found.get("type", "private") != "private" or not ("object" in found or "id" in found):
        raise ValueError("found a pkcs11: URI that names no private key; expected object= or id=")
    token, serial, label = (unquote(found[k]) if k in found else None for k in ("token", "serial", "object"))
    return TokenUri(module, token, serial, label, unquote_to_bytes(found["id"]) if "id" in found else None)


def token_key(text: str, pin: Secret | None, public: PublicKey | None) -> TokenKey:
    """Return the key of a URI; raise ValueError where it fails.

    Its public half is known from its certificate; for a bare key, which has none, the token holds it too.
    """
    uri = parse_uri(text)
    if not Path(uri.module).is_file():
        raise ValueError(f"found no library {printable(uri.module)}; expected the token's, in module-path")
    try:
        import pkcs11  # an optional package: only who has a token needs it
    except ImportError:
        raise ValueError("found a key in a token, and no package to reach it; expected python-pkcs11 beside ipsecd "
                         "(pip install 'ipsecd[pkcs11]')") from None
    if pin is not None and not pin.reveal().isascii():
        raise ValueError("found a PIN that is not ASCII; expected letters, digits and signs")
    token = _Token(pkcs11, uri, pin)
    if public is None:
        try:
            public = token.public()
        except AuthenticationError as error:
            raise ValueError(f"found a key in a token, and not its public half: {error}; expected one that is named "
                             "by the same object and id") from None
    try:
        key = TokenKey(text, key_bytes(public), token.kinds(), token.sign)
        signature = sign(key, _PROBE, peer_hashes=OUR_HASHES, legacy=False)
    except AuthenticationError as error:
        raise ValueError(f"found a key in a token that does not sign: {error}; expected the private key that "
                         "is ours") from None
    try:
        verify(public, signature, _PROBE, legacy=False)
    except AuthenticationError:
        raise ValueError("found a key in a token that does not belong to the certificate or public key; expected "
                         "its private key") from None
    return key


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, text.split(separator)):
        name, _, value = part.partition("=")
        if name in ("pin-value", "pin-source"):
            raise ValueError(f"found {name} in a pkcs11: URI; expected the PIN in passphrase_file")
        if name not in known or name in found or not value:
            raise ValueError(f"found {printable(part)} in a pkcs11: URI; expected {', '.join(known)}, once each")
        found[name] = value
    return found


class _Token:
    """The key of a URI in its token; every method raises TokenError with the reason."""

    def __init__(self, library: Any, uri: TokenUri, pin: Secret | None) -> None:
        self._p: Any = library
        self._uri = uri
        self._pin = pin
        self._refused = False

    def kinds(self) -> frozenset[str]:
        """Return how the token signs."""
        m = self._p.Mechanism
        by_kind = {"rsa-pss": m.SHA256_RSA_PKCS_PSS, "rsa-pkcs1": m.SHA256_RSA_PKCS, "ecdsa": m.ECDSA,
                   "eddsa": m.EDDSA}
        try:
            offered = _LIBRARY.call(lambda: self._token().slot.get_mechanisms())
        except (self._p.PKCS11Error, OSError) as error:
            raise TokenError(self._reason(error)) from None
        return frozenset(kind for kind, mechanism in by_kind.items() if mechanism in offered)

    def public(self) -> PublicKey:
        """Return the public half, an object of its own with the same label and id; raise AuthenticationError too."""
        try:
            encoded = _LIBRARY.call(self._read_public)
        except (self._p.PKCS11Error, OSError) as error:
            raise TokenError(self._reason(error)) from None
        return import_public_key(encoded)

    def sign(self, kind: str, hash_: str, octets: bytes) -> bytes:
        """Return a signature as `cryptography` makes it."""
        if self._refused:
            raise TokenError("the token refused the PIN; it is not shown again before a reload")
        try:
            value = _LIBRARY.call(partial(self._sign, kind, hash_, octets))
        except (self._p.PKCS11Error, OSError) as error:
            self._refused = isinstance(error, self._p.PinIncorrect | self._p.PinLocked)
            raise TokenError(self._reason(error)) from None
        if kind != "ecdsa":
            return value
        half = len(value) // 2                      # PKCS #11 2.3.1: r and s, each as long as the order
        return encode_dss_signature(int.from_bytes(value[:half], "big"), int.from_bytes(value[half:], "big"))

    def _read_public(self) -> bytes:
        with self._open() as session:
            return self._encoded(self._key(session, self._p.ObjectClass.PUBLIC_KEY))

    def _sign(self, kind: str, hash_: str, octets: bytes) -> bytes:
        with self._open() as session:
            return self._sign_by(self._key(session, self._p.ObjectClass.PRIVATE_KEY), kind, hash_, octets)

    def _sign_by(self, key: Any, kind: str, hash_: str, octets: bytes) -> bytes:
        m, p = self._p.Mechanism, self._p
        match kind:
            case "rsa-pss":
                size = hashlib.new(hash_).digest_size
                parameters = m[_HASHES[hash_]], p.MGF[_HASHES[hash_]], size
                return bytes(key.sign(octets, mechanism=m[f"{_HASHES[hash_]}_RSA_PKCS_PSS"],
                                      mechanism_param=parameters))
            case "rsa-pkcs1":
                return bytes(key.sign(octets, mechanism=m[f"{_HASHES[hash_].replace('_', '')}_RSA_PKCS"]))
            case "ecdsa":
                return bytes(key.sign(hashlib.new(hash_, octets).digest(), mechanism=m.ECDSA))
            case _:
                return bytes(key.sign(octets, mechanism=m.EDDSA))

    def _encoded(self, key: Any) -> bytes:
        from pkcs11.util import ec, rsa  # of the optional package

        if key.key_type == self._p.KeyType.RSA:
            return bytes(rsa.encode_rsa_public_key(key))
        if key.key_type == self._p.KeyType.EC:
            return bytes(ec.encode_ec_public_key(key))
        point = bytes(key[self._p.Attribute.EC_POINT])
        for size, prefix in _EDWARDS.items():       # bare, or as an OCTET STRING: tokens differ
            if len(point) == size or (len(point) == size + 2 and point[:2] == bytes((4, size))):
                return prefix + point[-size:]
        raise TokenError(f"a public key of {len(point)} bytes and no kind that signs here")

    def _open(self) -> Any:
        return self._token().open(user_pin=self._pin.reveal().decode() if self._pin else None)

    def _token(self) -> Any:
        return self._p.lib(self._uri.module).get_token(token_label=self._uri.token, token_serial=(
            self._uri.serial.encode() if self._uri.serial else None))

    def _key(self, session: Any, kind: Any) -> Any:
        return session.get_key(object_class=kind, label=self._uri.label, id=self._uri.id)

    def _reason(self, error: Exception) -> str:
        """Return what a library says in a class name, as words: "no such token"."""
        words = re.sub(r"(?<!^)([A-Z])", r" \1", type(error).__name__).lower()
        return f"{words}: {printable(str(error))}" if str(error) else words
