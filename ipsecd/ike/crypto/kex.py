"""Key exchange by its number on the wire (RFC 7296 3.4): one family a file, one table here.

`generate` and `shared` are called from worker threads: they share no state, and each object belongs to one exchange.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from cryptography.exceptions import UnsupportedAlgorithm

from ipsecd.errors import LocalError
from ipsecd.ike.crypto import kex_ecp, kex_mlkem, kex_modp, kex_x25519
from ipsecd.secret import Secret


class KeyExchange(Protocol):
    """Our half of one exchange: the private value stays inside and dies with the object."""

    @property
    def method(self) -> int:
        """The KE method, a KeId."""
        ...

    @property
    def public(self) -> bytes:
        """Our public value or encapsulation key, as the KE payload carries it."""
        ...

    def shared(self, peer_public: bytes) -> Secret:
        """Return the shared secret as SKEYSEED takes it; raise PeerError(INVALID_SYNTAX) for any bad value."""
        ...


class _Family(NamedTuple):
    sizes: dict[int, int]                          # method -> bytes of an initiator's public value
    generate: Callable[[int], KeyExchange]


_FAMILIES = (
    _Family(kex_x25519.PUBLIC_BYTES, kex_x25519.generate),
    _Family(kex_ecp.PUBLIC_BYTES, kex_ecp.generate),
    _Family(kex_modp.PUBLIC_BYTES, kex_modp.generate),
    _Family(kex_mlkem.PUBLIC_BYTES, kex_mlkem.generate),
)
METHODS: tuple[int, ...] = tuple(method for family in _FAMILIES for method in family.sizes)


def public_bytes(method: int) -> int:
    """Return the length of an initiator's public value of `method`; raise LocalError where we do not speak it."""
    return _family(method).sizes[method]


def generate(method: int) -> KeyExchange:
    """Make a fresh private value and its public one; raise LocalError where method or library cannot."""
    try:
        return _family(method).generate(method)
    except UnsupportedAlgorithm as error:
        raise LocalError(f"key exchange {method}: this build of OpenSSL does not offer it") from error


class Answer(NamedTuple):
    """What a responder makes of the peer's public value: its own, and the secret of both."""

    public: bytes
    shared: Secret


def respond(method: int, peer_public: bytes) -> Answer:
    """Make our half and finish the exchange at once, as a responder does; raises as `generate` and `shared` do."""
    if method in kex_mlkem.PUBLIC_BYTES:
        return Answer(*kex_mlkem.encapsulate(method, peer_public))
    own = generate(method)
    return Answer(own.public, own.shared(peer_public))


def available(method: int) -> bool:
    """Return whether this machine's library computes `method`; OpenSSL before 3.5 has no ML-KEM."""
    return method in METHODS and (kex_mlkem.SUPPORTED or method not in kex_mlkem.PUBLIC_BYTES)


def _family(method: int) -> _Family:
    for family in _FAMILIES:
        if method in family.sizes:
            return family
    raise LocalError(f"key exchange {method} is none of ours")
