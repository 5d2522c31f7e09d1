"""One sealed box for every cipher of `suites`: SK payloads and ESP packets are protected through it.

Combined modes (AES-GCM, ChaCha20-Poly1305) take nonce = salt | IV (RFC 4106 4, RFC 7634 2).  AES-CBC is encrypted,
then authenticated: the ICV covers associated data | IV | ciphertext | trailer (RFC 4303 3.3.2.2, RFC 7296 3.14).
Padding, IVs and what is associated data belong to the callers; the keys stay inside.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from ipsecd.errors import BadIcv, LocalError
from ipsecd.ike.consts import EncrId
from ipsecd.secret import Secret
from ipsecd.suites import Encr, Integ


class AeadCipher(Protocol):
    """The library's own object, for the hot path; `decrypt` raises cryptography's InvalidTag."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Return ciphertext and tag."""
        ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Return the plaintext, or raise InvalidTag."""
        ...


class KeyedAead(NamedTuple):
    """A keyed combined mode and the salt that opens each of its nonces."""

    cipher: AeadCipher
    salt: bytes


class Sealer(Protocol):
    """One direction's cipher with its keys."""

    @property
    def iv_bytes(self) -> int:
        """Length of the IV on the wire."""
        ...

    @property
    def icv_bytes(self) -> int:
        """Length of the ICV at the end of what `seal` returns."""
        ...

    def seal(self, iv: bytes, plaintext: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        """Return ciphertext | ICV.

        `plaintext` is padded to the cipher's block.  `trailer` is authenticated after the ciphertext and not sent:
        the high half of an extended sequence number with AES-CBC (RFC 4303 2.2.1); combined modes take none.
        """
        ...

    def open(self, iv: bytes, sealed: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        """Return the plaintext with its padding; raise BadIcv where the ICV or the length is wrong."""
        ...


def aead_cipher(encr: Encr, key: bytes) -> KeyedAead:
    """Key a combined mode; `key` is cipher key | salt as KEYMAT has it.  Raises LocalError for a wrong length."""
    _check_length("encryption", key, encr.key_bytes + encr.salt_bytes)
    cipher_key, salt = key[:encr.key_bytes], key[encr.key_bytes:]
    try:
        if encr.id == EncrId.AES_GCM_16:
            return KeyedAead(AESGCM(cipher_key), salt)
        if encr.id == EncrId.CHACHA20_POLY1305:
            return KeyedAead(ChaCha20Poly1305(cipher_key), salt)
    except UnsupportedAlgorithm as error:
        raise LocalError(f"{encr.keyword}: this build of OpenSSL does not offer it") from error
    raise LocalError(f"{encr.keyword} is no combined mode")


def make_sealer(encr: Encr, integ: Integ | None, *, encr_key: Secret, integ_key: Secret) -> Sealer:
    """Return the sealer for a suite; `encr_key` includes the salt.  Raises LocalError for keys of a wrong length."""
    if encr.aead:
        return _AeadSealer(encr, encr_key.reveal())
    if integ is None:
        raise LocalError(f"{encr.keyword} needs an integrity algorithm")
    return _CbcSealer(encr, integ, encr_key.reveal(), integ_key.reveal())


class _AeadSealer:
    """AES-GCM or ChaCha20-Poly1305 (RFC 5282, 4106, 7634)."""

    __slots__ = ("_cipher", "_salt", "icv_bytes", "iv_bytes")

    def __init__(self, encr: Encr, key: bytes) -> None:
        self._cipher, self._salt = aead_cipher(encr, key)
        self.iv_bytes = encr.iv_bytes
        self.icv_bytes = encr.icv_bytes

    def seal(self, iv: bytes, plaintext: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        assert not trailer, "a combined mode authenticates what it covers as associated data"
        return self._cipher.encrypt(self._salt + iv, plaintext, aad)

    def open(self, iv: bytes, sealed: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        assert not trailer, "a combined mode authenticates what it covers as associated data"
        if len(iv) != self.iv_bytes:
            raise BadIcv("IV of a wrong length")
        try:
            return self._cipher.decrypt(self._salt + iv, sealed, aad)
        except InvalidTag:
            raise BadIcv("ICV does not match") from None


class _CbcSealer:
    """AES-CBC with HMAC, encrypt then MAC (RFC 3602, 4868)."""

    __slots__ = ("_algorithm", "_block_bytes", "_hash_name", "_integ_key", "icv_bytes", "iv_bytes")

    def __init__(self, encr: Encr, integ: Integ, encr_key: bytes, integ_key: bytes) -> None:
        if encr.id != EncrId.AES_CBC:
            raise LocalError(f"{encr.keyword} is no cipher of ours")
        _check_length("encryption", encr_key, encr.key_bytes)
        _check_length("integrity", integ_key, integ.key_bytes)
        self._algorithm = algorithms.AES(encr_key)
        self._block_bytes = encr.block_bytes
        self._hash_name = integ.hash_name
        self._integ_key = integ_key
        self.iv_bytes = encr.iv_bytes
        self.icv_bytes = integ.icv_bytes

    def seal(self, iv: bytes, plaintext: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        encryptor = Cipher(self._algorithm, modes.CBC(iv)).encryptor()
        ciphertext = encryptor.update(plaintext) + encryptor.finalize()
        return ciphertext + self._icv(aad, iv, ciphertext, trailer)

    def open(self, iv: bytes, sealed: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        # Lengths first: a ciphertext that is no whole number of blocks gets the one answer of a bad ICV, so that
        # nothing about the plaintext can be learned from which failure it was.
        length = len(sealed) - self.icv_bytes
        if len(iv) != self.iv_bytes or length < self._block_bytes or length % self._block_bytes:
            raise BadIcv("IV or ciphertext of a wrong length")
        ciphertext, icv = sealed[:length], sealed[length:]
        if not hmac.compare_digest(icv, self._icv(aad, iv, ciphertext, trailer)):
            raise BadIcv("ICV does not match")
        decryptor = Cipher(self._algorithm, modes.CBC(iv)).decryptor()
        return decryptor.update(ciphertext) + decryptor.finalize()

    def _icv(self, aad: bytes, iv: bytes, ciphertext: bytes, trailer: bytes) -> bytes:
        covered = b"".join((aad, iv, ciphertext, trailer))
        return hmac.digest(self._integ_key, covered, self._hash_name)[:self.icv_bytes]


class Mac(NamedTuple):
    """An integrity algorithm with its key, as AH uses it alone: what it makes is the IV, where it has one, and the ICV.

    `make` takes what is covered and a number that is used once for a key, which GMAC's IV is (RFC 4543 3.1).
    """

    make: Callable[[bytes, int], bytes]
    fits: Callable[[bytes, bytes], bool]


def make_mac(integ: Integ, key: Secret) -> Mac:
    """Key an integrity algorithm; GMAC's key includes the salt.  Raises LocalError for a key of a wrong length."""
    _check_length("integrity", key.reveal(), integ.key_bytes)
    return _gmac(integ, key.reveal()) if integ.iv_bytes else _hmac(integ, key.reveal())


def _hmac(integ: Integ, key: bytes) -> Mac:
    def make(covered: bytes, _: int = 0) -> bytes:
        return hmac.digest(key, covered, integ.hash_name)[:integ.icv_bytes]

    def fits(covered: bytes, field: bytes) -> bool:
        return hmac.compare_digest(make(covered), field)

    return Mac(make, fits)


def _gmac(integ: Integ, key: bytes) -> Mac:
    salt = key[-integ.salt_bytes:]
    try:
        cipher = AESGCM(key[:-integ.salt_bytes])
    except UnsupportedAlgorithm as error:
        raise LocalError(f"{integ.keyword}: this build of OpenSSL does not offer it") from error

    def make(covered: bytes, number: int) -> bytes:
        iv = number.to_bytes(integ.iv_bytes, "big")
        return iv + cipher.encrypt(salt + iv, b"", covered)

    def fits(covered: bytes, field: bytes) -> bool:
        try:
            cipher.decrypt(salt + field[:integ.iv_bytes], field[integ.iv_bytes:], covered)
        except InvalidTag:
            return False
        return True

    return Mac(make, fits)


def _check_length(kind: str, key: bytes, expected: int) -> None:
    if len(key) != expected:
        raise LocalError(f"{kind} key of {len(key)} bytes where the suite takes {expected}")
