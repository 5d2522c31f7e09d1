"""Stateless cookies against floods of IKE_SA_INIT (RFC 7296 2.6).

Cookie = generation(1) | age(2) | HMAC-SHA256(secret of that generation, generation | age | SPIi | address | Ni)(32).
The generation names the secret and the age, in tenths of a second of that secret, the time it was made; so nothing is
remembered for a cookie, and the gateway's own clock does not show.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from ipaddress import ip_address

from ipsecd.ike.crypto.compare import same_bytes
from ipsecd.rng import Rng
from ipsecd.secret import Secret

COOKIE_BYTES = 1 + 2 + 32       # RFC 7296 2.6 allows 1 to 64
# Tuning
SECRET_LIFE_S = 120.0           # RFC 7296 2.6: "should change <secret> frequently"; strongSwan 120 s
COOKIE_LIFE_S = 10.0            # an initiator answers at once; strongSwan 10 s
_SECRET_BYTES = 32
_TICKS_PER_S = 10


@dataclass(frozen=True, slots=True)
class _Generation:
    number: int
    born: float
    secret: Secret


class CookieJar:
    """Makes and checks the cookies of one gateway; holds two secrets whatever arrives."""

    __slots__ = ("_current", "_previous", "_rng")

    def __init__(self, rng: Rng, now: float) -> None:
        self._rng = rng
        self._previous: _Generation | None = None
        self._current = _Generation(0, now, Secret(rng.random_bytes(_SECRET_BYTES)))

    def make(self, *, ni: bytes, source_address: str, spi_i: bytes, now: float) -> bytes:
        """Return the cookie to demand from this initiator."""
        self._rotate(now)
        tick = int((now - self._current.born) * _TICKS_PER_S)     # under 1,200, for the secret is young
        return _cookie(self._current, tick, ni=ni, source_address=source_address, spi_i=spi_i)

    def check(self, cookie: bytes, *, ni: bytes, source_address: str, spi_i: bytes, now: float) -> bool:
        """Return whether `cookie` is ours, for this Ni, address and SPIi, and at most COOKIE_LIFE_S old.

        RFC 7296 2.6: a cookie that fails is treated as absent, so this is a fact to decide by and not an error.
        """
        self._rotate(now)
        if len(cookie) != COOKIE_BYTES:
            return False
        generation = self._generation(cookie[0])
        if generation is None:
            return False
        tick = int.from_bytes(cookie[1:3], "big")
        if not same_bytes(cookie, _cookie(generation, tick, ni=ni, source_address=source_address, spi_i=spi_i)):
            return False
        return now - (generation.born + tick / _TICKS_PER_S) <= COOKIE_LIFE_S + 1 / _TICKS_PER_S

    def _generation(self, number: int) -> _Generation | None:
        if number == self._current.number:
            return self._current
        if self._previous is not None and number == self._previous.number:
            return self._previous
        return None

    def _rotate(self, now: float) -> None:
        if now - self._current.born < SECRET_LIFE_S:
            return
        self._previous = self._current
        self._current = _Generation((self._current.number + 1) & 0xFF, now,
                                    Secret(self._rng.random_bytes(_SECRET_BYTES)))


def _cookie(generation: _Generation, tick: int, *, ni: bytes, source_address: str, spi_i: bytes) -> bytes:
    head = bytes([generation.number]) + tick.to_bytes(2, "big")
    address = ip_address(source_address).packed
    # Ni, the only field of free length, comes last; the address says its own length.
    covered = b"".join((head, spi_i, bytes([len(address)]), address, ni))
    return head + hmac.digest(generation.secret.reveal(), covered, "sha256")
