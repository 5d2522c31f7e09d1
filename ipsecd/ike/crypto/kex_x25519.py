"""X25519, method 31 (RFC 8031, RFC 7748)."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from ipsecd.errors import PeerError
from ipsecd.ike.consts import KeId, NotifyType
from ipsecd.secret import Secret

PUBLIC_BYTES: Final[dict[int, int]] = {KeId.CURVE25519: 32}


class X25519Exchange:
    """Our half of an X25519 exchange."""

    __slots__ = ("_private", "method", "public")

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self.method: int = KeId.CURVE25519
        self.public = private.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> Secret:
        """Return the 32-byte output; raise PeerError for a wrong length or an all-zero result (RFC 8031 4)."""
        if len(peer_public) != PUBLIC_BYTES[self.method]:
            raise PeerError(NotifyType.INVALID_SYNTAX, f"X25519 public value of {len(peer_public)} bytes, not 32")
        try:
            return Secret(self._private.exchange(X25519PublicKey.from_public_bytes(peer_public)))
        except ValueError:
            raise PeerError(NotifyType.INVALID_SYNTAX, "X25519 public value of low order") from None


def generate(method: int) -> X25519Exchange:
    """Make a fresh key pair."""
    assert method == KeId.CURVE25519
    return X25519Exchange(X25519PrivateKey.generate())
