"""Limits on half-open IKE SAs as responder (RFC 7296 2.6).

Whoever floods with spoofed addresses must not use up memory or key exchanges, nor lock out the peers he spoofs:

* from COOKIE_THRESHOLD half-open SAs in all, or COOKIE_PER_SOURCE from one address, a request must bring a cookie; this
  stays on for CALM_DOWN_S, so that no initiator sees the rule change between its two forms of the request;
* only half-open SAs that proved their address by a cookie count against it;
* the last places are kept for the addresses of configured peers.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipsecd.drops import DropReason

# Tuning
COOKIE_PER_SOURCE = 3           # a host behind one address starts one or two at a time
CALM_DOWN_S = 10.0              # strongSwan's; longer than an initiator takes to bring its cookie
MAX_HALF_OPEN = 512             # about 12 KiB each
PEER_RESERVE = 128              # of these, only for addresses of configured peers
MAX_CALM_SOURCES = 1024         # addresses whose calm-down is remembered


@dataclass(frozen=True, slots=True)
class _Place:
    source: str
    proved: bool


class HalfOpens:
    """Counts half-open IKE SAs by our SPI."""

    def __init__(self) -> None:
        self._places: dict[bytes, _Place] = {}
        self._by_source: dict[_Place, int] = {}
        self._calm_at = 0.0
        self._calm_sources: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._places)

    def needs_cookie(self, source: str, *, threshold: int, now: float) -> bool:
        """Return whether a request from this address must bring a cookie."""
        if len(self._places) >= threshold:
            self._calm_at = now + CALM_DOWN_S
        if self._of(source) >= COOKIE_PER_SOURCE:
            self._remember(source, now)
        return now < self._calm_at or now < self._calm_sources.get(source, 0.0)

    def alarm(self, now: float) -> None:
        """Demand cookies from everybody: a request cost a key exchange and left no place taken that would count it."""
        self._calm_at = now + CALM_DOWN_S

    def refuse(self, source: str, *, proved: bool, peer: bool, source_limit: int) -> DropReason | None:
        """Return why there is no place for one more, None where there is; `peer` for a configured address."""
        if len(self._places) >= MAX_HALF_OPEN - (0 if peer else PEER_RESERVE):
            return DropReason.IKE_HALF_OPEN_LIMIT
        if proved and self._by_source.get(_Place(source, proved=True), 0) >= source_limit:
            return DropReason.IKE_HALF_OPEN_LIMIT
        return None

    def add(self, spi: bytes, source: str, *, proved: bool) -> None:
        """Count one more."""
        place = self._places[spi] = _Place(source, proved)
        self._by_source[place] = self._by_source.get(place, 0) + 1

    def remove(self, spi: bytes) -> None:
        """Count one less: it was authenticated, or ended."""
        place = self._places.pop(spi, None)
        if place is None:
            return
        self._by_source[place] -= 1
        if not self._by_source[place]:
            del self._by_source[place]

    def _of(self, source: str) -> int:
        return sum(self._by_source.get(_Place(source, proved), 0) for proved in (False, True))

    def _remember(self, source: str, now: float) -> None:
        if len(self._calm_sources) >= MAX_CALM_SOURCES:
            self._calm_sources = {s: at for s, at in self._calm_sources.items() if at > now}
        if len(self._calm_sources) < MAX_CALM_SOURCES or source in self._calm_sources:
            self._calm_sources[source] = now + CALM_DOWN_S
