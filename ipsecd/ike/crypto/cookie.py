"""Stateless cookies against floods of IKE_SA_INIT (RFC 7296 2.6).

Cookie = generation(1) | step(1) | HMAC-SHA256(secret of that generation, generation | step | SPIi | address | Ni)(32).
The generation names the secret, and the step the time it was made, in COOKIE_STEP_S of that secret's age; so nothing is
remembered for a cookie, and the gateway's own clock does not show.  Copies of one request get the same cookie but where
a step begins between them: an initiator that brings first the one and then another does not know which of the two
requests is answered, and AUTH covers it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from ipaddress import ip_address

from ipsecd.ike.crypto.compare import same_bytes
from ipsecd.rng import Rng
from ipsecd.secret import Secret

COOKIE_BYTES = 1 + 1 + 32       # RFC 7296 2.6 allows 1 to 64
# Tuning
SECRET_LIFE_S = 120.0           # RFC 7296 2.6: "should change <secret> frequently"; strongSwan 120 s
COOKIE_STEP_S = 10.0            # longer than an initiator repeats a request before it hears of us
COOKIE_LIFE_S = 10.0            # after its step: an initiator answers at once; strongSwan 10 s
_SECRET_BYTES = 32


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
        step = int((now - self._current.born) / COOKIE_STEP_S)    # under 12, for the secret is young
        return _cookie(self._current, step, ni=ni, source_address=source_address, spi_i=spi_i)

    def check(self, cookie: bytes, *, ni: bytes, source_address: str, spi_i: bytes, now: float) -> bool:
        """Return whether `cookie` is ours, for this Ni, address and SPIi, of a step at most COOKIE_LIFE_S ago.

        RFC 7296 2.6: a cookie that fails is treated as absent, so this is a fact to decide by and not an error.
        """
        self._rotate(now)
        if len(cookie) != COOKIE_BYTES:
            return False
        generation = self._generation(cookie[0])
        if generation is None:
            return False
        step = cookie[1]
        if not same_bytes(cookie, _cookie(generation, step, ni=ni, source_address=source_address, spi_i=spi_i)):
            return False
        return now - (generation.born + step * COOKIE_STEP_S) <= COOKIE_STEP_S + COOKIE_LIFE_S

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


def _cookie(generation: _Generation, step: int, *, ni: bytes, source_address: str, spi_i: bytes) -> bytes:
    head = bytes([generation.number, step])
    address = ip_address(source_address).packed
    # Ni, the only field of free length, comes last; the address says its own length.
    covered = b"".join((head, spi_i, bytes([len(address)]), address, ni))
    return head + hmac.digest(generation.secret.reveal(), covered, "sha256")
