"""MODP groups 14-18, and 2 and 5 for `legacy: true` peers (RFC 3526, RFC 2409).

The only file that uses finite-field Diffie-Hellman of `cryptography`, which deprecates it and removes it in
version 53 (pyproject.toml stops below): when it goes, what changes is here.
"""

from __future__ import annotations

import warnings
from typing import Final

from cryptography.utils import CryptographyDeprecationWarning

from ipsecd.errors import PeerError
from ipsecd.ike.consts import NotifyType
from ipsecd.ike.crypto.modp_primes import GENERATOR, PRIMES
from ipsecd.secret import Secret

# The library warns when its names are read, not when they are used: reading them once, here, keeps a process that
# turns warnings into errors alive without touching the filters while other threads run.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)
    from cryptography.hazmat.primitives.asymmetric.dh import DHParameterNumbers, DHPrivateKey, DHPublicNumbers

PUBLIC_BYTES: Final[dict[int, int]] = {method: prime.bit_length() // 8 for method, prime in PRIMES.items()}


class ModpExchange:
    """Our half of a finite-field exchange."""

    __slots__ = ("_private", "method", "public")

    def __init__(self, method: int, private: DHPrivateKey) -> None:
        self._private = private
        self.method = method
        # RFC 7296 3.4: as long as the prime, zero bits prepended if necessary.
        self.public = private.public_key().public_numbers().y.to_bytes(PUBLIC_BYTES[method], "big")

    def shared(self, peer_public: bytes) -> Secret:
        """Return g^ir, as long as the prime (RFC 7296 2.14); raise PeerError unless 1 < y < p - 1 (RFC 6989 2.1)."""
        size, prime = PUBLIC_BYTES[self.method], PRIMES[self.method]
        if len(peer_public) != size:
            raise PeerError(NotifyType.INVALID_SYNTAX, f"MODP public value of {len(peer_public)} bytes, not {size}")
        y = int.from_bytes(peer_public, "big")
        if not 1 < y < prime - 1:
            raise PeerError(NotifyType.INVALID_SYNTAX, "MODP public value outside 1 < y < p - 1")
        try:
            peer = DHPublicNumbers(y, DHParameterNumbers(prime, GENERATOR)).public_key()
            return Secret(self._private.exchange(peer).rjust(size, b"\0"))
        except ValueError:
            raise PeerError(NotifyType.INVALID_SYNTAX, "MODP public value refused by the library") from None


def generate(method: int) -> ModpExchange:
    """Make a fresh key pair."""
    parameters = DHParameterNumbers(PRIMES[method], GENERATOR).parameters()
    return ModpExchange(method, parameters.generate_private_key())
