"""The size of a path, found by probing: a pure state machine in the spirit of RFC 8899 (DPLPMTUD).

    Base --passed--> Searching --found--> Complete --large packets flow--> (the size in use is proved again)
     |                 ^    ^               |    |
     | lost            |    +---raise timer-+    | lost: a black hole
     +-----------------+-------------------------+     (found, but below the base: Error, which looks again sooner)

"Lost" means MAX_PROBES in a row.  Only an answer to a padded datagram raises the size, and only loss lowers it: the
peer must have answered the same request in small pieces each time, so that an outage is not taken for a narrow path.
What the host says of its own link or route bounds the size.  An ICMP error is a hint: it begins a probe, or says which
size to try first, and changes nothing by itself (RFC 4301 8.2).

A path is taken for as wide as its first link until it is shown otherwise, which costs nothing where that is so; a
size that was found before is where a new IKE SA begins.
"""

from __future__ import annotations

import math
from enum import StrEnum

# Specification constants
MAX_PROBES = 3                  # RFC 8899 5.1.2: losses in a row that mean "too large"
RAISE_S = 600.0                 # RFC 8899 5.1.1: PMTU_RAISE_TIMER
BASE_BYTES = 1280               # RFC 8899 5.1.2, and the least MTU of IPv6 (RFC 8200 5)
LEAST_BYTES = {4: 576, 6: 1280}     # RFC 791 3.1: what every host takes; RFC 8200 5
# Tuning
STEP_BYTES = 8                  # a search ends when no more is open: less than a percent of any path
COMMON_BYTES = (1500, 1492, 1480, 1476, 1472, 1460, 1454, 1420, 1400)   # Ethernet, PPPoE and tunnels over it
FIRST_PATIENCE_S = 2.0          # for an answer, until the round trip is known
MIN_PATIENCE_S, MAX_PATIENCE_S = 0.5, 2.0
ROUND_TRIPS = 3.0               # of patience
CONFIRM_S = 1.5                 # a size that was proved so recently needs no other proof: below the engine's reports
UNCLEAR_S = 1.0                 # a probe that gave way to another request is tried again after this
ERROR_RETRY_S = 60.0            # a path below the base is looked at again sooner


class Phase(StrEnum):
    """RFC 8899 5.2."""

    BASE = "base"
    SEARCHING = "searching"
    COMPLETE = "complete"
    ERROR = "error"


class Origin(StrEnum):
    """Where the size in use came from."""

    ROUTE = "route"             # the host's own link or route; nothing contradicts it
    PROBED = "probed"           # the largest datagram that passed
    BASE = "base"               # nothing larger is known to pass


class PathMtu:
    """The size of one direction of one path: try `probe_bytes` when `next_at` has come, then say what became of it.

    Sizes are IP datagrams in bytes; `version` is that of the outer header, and `grain_bytes` how far apart the sizes
    are that a probe can have.  `current` is the size in use.  The first probe is due at `now`, or with large packets.
    """

    def __init__(self, *, version: int, link_bytes: int, known_bytes: int = 0, grain_bytes: int = 1,
                 now: float) -> None:
        self.phase = Phase.BASE
        self.current = min(link_bytes, known_bytes or link_bytes)
        self._least = LEAST_BYTES[version]
        self._grain = grain_bytes
        self._link = link_bytes
        self._hint = 0                      # what an ICMP error said and nobody tried yet
        self._round_trip: float | None = None
        self._proved_at = -math.inf
        self._raise_at = math.inf
        self._due_at = now
        self._low = self._high = self._target = 0
        self._looked = False                # whether anything was probed yet
        self._begin(self.current, now)

    @property
    def base_bytes(self) -> int:
        """The size that nearly every path carries, or the link's where that is less."""
        return min(BASE_BYTES, self._link)

    @property
    def origin(self) -> Origin:
        """Where `current` came from."""
        if self.current == self._link:
            return Origin.ROUTE
        if self.current < self.base_bytes:
            return Origin.PROBED if self.current == self._proved else Origin.BASE
        return Origin.PROBED if self.current > self.base_bytes else Origin.BASE

    @property
    def patience_s(self) -> float:
        """How long an answer may take before the request is repeated in small pieces."""
        if self._round_trip is None:
            return FIRST_PATIENCE_S
        return min(max(ROUND_TRIPS * self._round_trip, MIN_PATIENCE_S), MAX_PATIENCE_S)

    @property
    def next_at(self) -> float:
        """When to probe next; infinite where nothing is left to find out."""
        return min(self._due_at, self._raise_at) if self._settled else self._due_at

    def probe_bytes(self, now: float) -> int:
        """Return the size to try, `next_at` having come."""
        self._looked = True
        if self._settled and now >= self._raise_at:
            self._raise_at = math.inf
            self._begin(self._link, now)
        if self.phase is Phase.BASE:
            return self.base_bytes
        return self.current if self._settled else self._candidate()

    # What happened

    def measured(self, link_bytes: int, hint_bytes: int, now: float) -> None:
        """Take the size of the first link or route, and what an ICMP error said of the path (0: nothing)."""
        if link_bytes != self._link:
            followed = self.origin is Origin.ROUTE
            self._link = link_bytes
            self.current = link_bytes if followed else min(self.current, link_bytes)
            self._begin(self.current, now)
        bound = self.current if self._settled else self._high
        if self._least <= hint_bytes < bound and hint_bytes != self._hint:
            self._hint = hint_bytes
            self.large_sent(now)

    def large_sent(self, now: float) -> None:
        """Large packets flow: see that they still arrive, unless that was seen just now."""
        if not self._looked or (self._settled and now - self._proved_at >= CONFIRM_S):
            self._due_at = min(self._due_at, now)

    def answered(self, wanted: int, sent: int, round_trip_s: float, now: float) -> None:
        """A probe passed, of `sent` bytes where `wanted` were: its answer came before anything was repeated."""
        old = self._round_trip
        self._round_trip = round_trip_s if old is None else max(round_trip_s, 0.75 * old + 0.25 * round_trip_s)
        self._losses, self._proved_at, self._due_at = 0, now, math.inf
        if self._settled:
            self._proved = self.current
            return
        self.phase = Phase.SEARCHING
        self._low = self._proved = max(self._low, sent)
        self._tried = wanted                           # no probe has a size between
        self.current = max(self.current, self._low)
        self._search(now)

    def lost(self, sent: int, now: float) -> None:
        """A probe of this size was not answered, and the same request in small pieces was."""
        self._losses, self._due_at = self._losses + 1, now
        if self._losses < MAX_PROBES:
            return
        self._losses = 0
        if self._settled and sent > self.base_bytes:
            self._begin(0, now)                        # a black hole: is it above the base?
            self._high, self.current = sent, self.base_bytes
            return
        if self._settled or self.phase is Phase.BASE:
            self._low, self._proved = min(self._least, self._link), 0
            self._target = self.current            # below the base, found before: probably still right
            self.current = self.current if self.current < sent else self._low
        elif sent <= self.current:
            self.current = self._low                   # the search need not end first
        self.phase = Phase.SEARCHING
        self._high = min(self._high, sent)
        self._search(now)

    def unclear(self, now: float) -> None:
        """Nothing follows from a probe: another request was waiting, or the IKE SA was replaced meanwhile."""
        self._due_at = now + UNCLEAR_S

    # Moves

    @property
    def _settled(self) -> bool:
        return self.phase in (Phase.COMPLETE, Phase.ERROR)

    def _begin(self, target: int, now: float) -> None:
        """Start over from the base; `target` is the first size to try above it."""
        self.phase, self._losses, self._due_at, self._raise_at = Phase.BASE, 0, now, math.inf
        self._low = self.base_bytes         # the largest that passed, once the base did
        self._high = self._link + 1         # the smallest that did not
        self._proved = 0                    # the largest that was answered
        self._tried = 0                     # the largest that was wanted when it was
        self._target = target

    def _candidate(self) -> int:
        """Return the next size to try between what passed and what did not, 0 for none: guesses, then the middle."""
        low = max(self._low, self._tried)
        near = self._high - low <= STEP_BYTES
        hinted = (self._hint, self._hint + STEP_BYTES) if self._hint else ()
        guesses: tuple[int, ...] = (*hinted, self._target, self._link, *(COMMON_BYTES if near else COMMON_BYTES[:1]))
        for guess in guesses:
            if low < guess < self._high:
                return guess
        return 0 if near else (low + self._high) // 2

    def _search(self, now: float) -> None:
        """Go on between what passed and what did not, or settle."""
        whole = self._high > self._link and self._link - self._low < self._grain     # no larger probe fits the link
        if not whole and self._candidate():
            self._due_at = now
            return
        self.current = self._link if whole else self._low
        sound = self._proved == self._low >= self.base_bytes
        self.phase = Phase.COMPLETE if sound else Phase.ERROR
        self._hint, self._due_at = 0, math.inf
        self._raise_at = math.inf if whole and sound else now + (RAISE_S if sound else ERROR_RETRY_S)
