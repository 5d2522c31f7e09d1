"""ML-KEM-768 and ML-KEM-1024, methods 36 and 37 (FIPS 203, draft-ietf-ipsecme-ikev2-mlkem).

A KEM is no exchange of two equal values: the initiator sends an encapsulation key, the responder a ciphertext made with
it.  A ciphertext of the right size always decapsulates; a wrong one to a secret that nobody else has (FIPS 203 6.3), so
that the next message does not open.  The library has no ML-KEM-512.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PrivateKey,
    MLKEM1024PublicKey,
)

from ipsecd.errors import PeerError
from ipsecd.ike.consts import KeId, NotifyType
from ipsecd.secret import Secret


class _Parameters(NamedTuple):
    """One parameter set; sizes in bytes (FIPS 203 8)."""

    private: type[MLKEM768PrivateKey | MLKEM1024PrivateKey]
    public: type[MLKEM768PublicKey | MLKEM1024PublicKey]
    key_bytes: int
    ciphertext_bytes: int


_SETS: Final[dict[int, _Parameters]] = {
    KeId.ML_KEM_768: _Parameters(MLKEM768PrivateKey, MLKEM768PublicKey, 1184, 1088),
    KeId.ML_KEM_1024: _Parameters(MLKEM1024PrivateKey, MLKEM1024PublicKey, 1568, 1568),
}
PUBLIC_BYTES: Final[dict[int, int]] = {method: found.key_bytes for method, found in _SETS.items()}


class MlKemExchange:
    """The initiator's half: `public` is the encapsulation key."""

    __slots__ = ("_private", "method", "public")

    def __init__(self, method: int, private: MLKEM768PrivateKey | MLKEM1024PrivateKey) -> None:
        self._private = private
        self.method = method
        self.public = private.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> Secret:
        """Return the 32 bytes that the responder's ciphertext holds; raise PeerError for a wrong length."""
        size = _SETS[self.method].ciphertext_bytes
        if len(peer_public) != size:
            raise PeerError(NotifyType.INVALID_SYNTAX, f"ML-KEM ciphertext of {len(peer_public)} bytes, not {size}")
        return Secret(self._private.decapsulate(peer_public))


def generate(method: int) -> MlKemExchange:
    """Make a fresh key pair."""
    return MlKemExchange(method, _SETS[method].private.generate())


def encapsulate(method: int, peer_public: bytes) -> tuple[bytes, Secret]:
    """Return the responder's ciphertext and the secret in it.

    Raises PeerError for a key that fails the checks of FIPS 203 7.2: its length, and coefficients below the modulus.
    """
    try:
        secret, ciphertext = _SETS[method].public.from_public_bytes(peer_public).encapsulate()
    except ValueError:
        raise PeerError(NotifyType.INVALID_SYNTAX,
                        f"ML-KEM encapsulation key of {len(peer_public)} bytes refused") from None
    return ciphertext, Secret(secret)


def _supported() -> bool:
    try:
        MLKEM768PrivateKey.generate()
    except UnsupportedAlgorithm:
        return False
    return True


SUPPORTED: Final = _supported()     # OpenSSL has ML-KEM from 3.5 on
