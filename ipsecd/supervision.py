"""The vocabulary of supervision: what a peer has, what it asks for, and how long it waits."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from ipsecd.causes import Cause, Failure
from ipsecd.phases import Slot
from ipsecd.policy import ChildPolicy, TsStyle
from ipsecd.reports import ChildRequest
from ipsecd.rng import Rng
from ipsecd.sa import Path, SaPair
from ipsecd.selectors import TrafficSelector, overlap

# Tuning (docs/architecture.md, "Up, and kept up")
SILENT_WAIT_S = 1.5          # pause after a silent peer; with MAX_INIT_INTERVAL_S under the 5 s a restart may take
REFUSED_WAIT_S = 1.0         # first pause after a refusal, doubled up to the next
REFUSED_WAIT_MAX_S = 60.0
UNRESOLVED_WAIT_S = 5.0      # pause after a name or route failed
STABLE_S = 30.0              # what lived this long clears its back-off
SPIN_S = 5.0                 # what ended sooner was refused in other words, by a peer that would do so again at once
SUSPICION_S = 5.0            # at most one parallel attempt per peer in this time
RESOLVE_AGAIN_S = 300.0      # names are looked up again so that an incoming peer is recognised
RESOLVE_TIMEOUT_S = 30.0     # an answer that never comes must not stop the peer
RESPONDER_GRACE_S = 3.0      # a peer makes its children within this, or leaves it to us
DUPLICATE_GRACE_S = 5.0      # a second pair of a slot may be a peer's make-before-break
CROSSING_S = 2.0             # pairs this close in time were made by both ends at once

EXPECTED_ENDS = frozenset({Cause.REPLACED, Cause.OPERATOR, Cause.RELOADED, Cause.SHUTDOWN, Cause.REDIRECTED})


@dataclass(slots=True)
class Pair:
    """An SA pair that exists; `rank` orders crossing duplicates alike on both ends."""

    slot: Slot
    since: float
    rank: int
    ts_local: tuple[TrafficSelector, ...]
    ts_remote: tuple[TrafficSelector, ...]
    narrowed: bool = False  # the peer cut the combined selectors: it fills its slot for what it selects only
    stale: bool = False     # a reload wants a successor

    def serves(self, request: ChildRequest) -> bool:
        """Return whether asking for `request` would bring nothing that this pair does not carry."""
        if self.slot == slot_of(request) and not self.narrowed:
            return True
        return overlap(self.ts_local, request.ts_local) and overlap(self.ts_remote, request.ts_remote)


@dataclass(slots=True)
class Line:
    """An IKE SA that is up."""

    path: Path
    since: float
    initiator: bool
    retired: Cause | None = None    # why a successor is wanted
    mobile: bool = False    # MOBIKE: the IKE SA finds another path by itself
    lost: bool = False      # this host does not hold the path's local address
    pairs: dict[int, Pair] = field(default_factory=dict[int, Pair])  # by inbound SPI
    pending: dict[Slot, ChildPolicy] = field(default_factory=dict[Slot, ChildPolicy])  # asked for, entry as it was

    @property
    def usable(self) -> bool:
        """True while new pairs belong here."""
        return self.retired is None and not self.lost

    @property
    def ready_at(self) -> float:
        """When we may ask for pairs: the end that made the IKE SA makes its children first."""
        return self.since if self.initiator else self.since + RESPONDER_GRACE_S


class Lines(dict[int, Line]):
    """The IKE SAs of a peer that are up, by handle."""

    def usable(self) -> dict[int, Line]:
        """Return those on which new pairs belong."""
        return {handle: line for handle, line in self.items() if line.usable}

    def retire(self, handles: tuple[int, ...], cause: Cause) -> None:
        """Want successors for these lines, those of them that are still up."""
        for handle in handles:
            if handle in self:
                self[handle].retired = self[handle].retired or cause

    def newest(self) -> tuple[int, Line] | None:
        """Return the usable line that came last."""
        return max(self.usable().items(), key=lambda item: item[1].since, default=None)

    def pairs(self, child: str | None = None) -> list[Pair]:
        """Return the pairs of one child, or all."""
        return [p for line in self.values() for p in line.pairs.values() if child in (None, p.slot.child)]

    def spis(self, child: str) -> list[int]:
        """Return the inbound SPIs of one child's pairs."""
        return [spi for line in self.values() for spi, pair in line.pairs.items() if pair.slot.child == child]

    def unsettled(self) -> dict[str, None]:
        """Return the children that have pairs which need a successor."""
        return {pair.slot.child: None for line in self.values() for pair in line.pairs.values()
                if pair.stale or not line.usable}

    def duplicates(self) -> list[tuple[int, float]]:
        """Return the pairs that have a better one in their slot, and when to close each."""
        return [found for line in self.values() for found in duplicates(line)]

    def finished(self, unfinished: Container[str], *, addressed: bool) -> Iterator[tuple[int, Cause]]:
        """Yield the lines to close, and why: those whose successor has all that they have.

        Without an address (not `addressed`) we cannot make a successor: the peer comes back by itself.
        """
        usable = self.usable()
        for handle, line in list(self.items()):
            free = not any(p.slot.child in unfinished for p in line.pairs.values())
            if (line.retired and (free or not addressed)) or (line.lost and free and usable):
                yield handle, Cause.NO_ROUTE if line.lost else line.retired or Cause.REPLACED

    def pop_pair(self, spi_in: int) -> Pair | None:
        """Forget a pair; return it."""
        for line in self.values():
            if spi_in in line.pairs:
                return line.pairs.pop(spi_in)
        return None


class Holdings:
    """What the usable lines of a peer have and have asked for, by child."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._pairs: dict[str, list[Pair]] = {}
        self._pending: dict[Slot, ChildPolicy] = {}
        for line in lines:
            self._pending |= line.pending
            for pair in line.pairs.values():
                if not pair.stale:
                    self._pairs.setdefault(pair.slot.child, []).append(pair)

    def missing(self, requests: list[ChildRequest]) -> list[ChildRequest]:
        """Return which of one child's requests no pair serves and nobody asked for.

        Where a narrowed pair sits in the slot of another, that one gets a slot behind all: in its own it would take
        over the traffic of the narrowed pair.
        """
        found: list[ChildRequest] = []
        for request in requests:
            pairs = self._pairs.get(request.child.child, ())
            if any(p.slot == slot_of(request) and not p.serves(request) for p in pairs):
                request = replace(request, slot=request.slot + len(requests))
            if slot_of(request) not in self._pending and not any(p.serves(request) for p in pairs):
                found.append(request)
        return found

    def complete(self, requests: list[ChildRequest]) -> bool:
        """Return whether pairs that stand serve all of one child's requests."""
        return all(any(p.serves(r) for p in self._pairs.get(r.child.child, ())) for r in requests)


class Backoff:
    """Pauses of one peer or slot: each longer than the last, jittered, until cleared."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._wait_s = 0.0

    def grow(self) -> float:
        """Return the next pause in seconds: 1, doubled up to 60."""
        self._wait_s = min(max(self._wait_s * 2, REFUSED_WAIT_S), REFUSED_WAIT_MAX_S)
        return jitter(self._rng, self._wait_s)

    def clear(self) -> None:
        """Begin again with the shortest."""
        self._wait_s = 0.0


class Pauses:
    """Back-off of the slots that the peer refused or closed."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._slots: dict[Slot, tuple[float, Backoff]] = {}

    def pause(self, slot: Slot, now: float) -> None:
        """Ask for the slot later than the last time."""
        _, backoff = self._slots.get(slot, (now, Backoff(self._rng)))
        self._slots[slot] = now + backoff.grow(), backoff

    def until(self, slot: Slot) -> float:
        """Return when the slot may be asked for."""
        return self._slots[slot][0] if slot in self._slots else 0.0

    def forget(self, slot: Slot) -> None:
        """Clear one slot: its pair was stable."""
        self._slots.pop(slot, None)

    def clear(self) -> None:
        """Clear all: something changed that may help."""
        self._slots.clear()


def jitter(rng: Rng, seconds: float) -> float:
    """Spread a pause, so that peers which lost us together do not return together."""
    return seconds * rng.uniform(0.9, 1.1)


def unreached(addresses: tuple[str, ...]) -> Failure:
    """Say why a lookup gave no path: only a name can be without an address."""
    for address in addresses:
        try:
            ip_address(address)
        except ValueError:
            return Failure(Cause.NAME_UNRESOLVED, ", ".join(addresses))
    return Failure(Cause.NO_ROUTE, ", ".join(addresses))


def child_requests(child: ChildPolicy, style: TsStyle) -> list[ChildRequest]:
    """Return the pairs of a child: one with all selectors, or one for each selector pair of one family."""
    if style is TsStyle.COMBINED:
        return [ChildRequest(child.key, 0, child.local, child.remote)]
    pairs = [(a, b) for a in child.local for b in child.remote if a.version == b.version]
    return [ChildRequest(child.key, i, (a,), (b,)) for i, (a, b) in enumerate(pairs)]


def needs_new_pairs(before: ChildPolicy, after: ChildPolicy) -> bool:
    """What a pair was made from, as the plan says (config/diff.py); the rest counts from the next rekey on."""
    made_from = ("local", "remote", "mode", "ts_style", "proposals", "esn", "interface", "tfc")
    return any(getattr(before, name) != getattr(after, name) for name in made_from)


def slot_of(request: ChildRequest) -> Slot:
    """Return the place that a request fills."""
    return Slot(request.child.child, request.slot)


def pair_of(pair: SaPair, slot: Slot, since: float, *, narrowed: bool, stale: bool) -> Pair:
    """Return what supervision keeps of a pair; both ends agree on the rank, for they see the same two SPIs."""
    return Pair(slot, since, min(pair.inbound.spi, pair.outbound.spi), pair.ts_local, pair.ts_remote, narrowed, stale)


def duplicates(line: Line) -> list[tuple[int, float]]:
    """Return pairs that share a slot with a better one, and when to close each.

    Better is the newer, and of two made at once the one of higher rank.  The end that made the IKE SA closes first:
    were both to act at once, latency could let them judge differently and close both pairs.
    """
    best: dict[Slot, tuple[int, Pair]] = {}
    worse: list[tuple[int, float]] = []
    grace_s = DUPLICATE_GRACE_S if line.initiator else 2 * DUPLICATE_GRACE_S
    for spi, pair in line.pairs.items():
        if pair.stale:
            continue
        other = best.setdefault(pair.slot, (spi, pair))
        if other[1] is pair:
            continue
        crossing = abs(pair.since - other[1].since) < CROSSING_S
        wins = pair.rank > other[1].rank if crossing else pair.since > other[1].since
        worse.append((other[0] if wins else spi, max(pair.since, other[1].since) + grace_s))
        best[pair.slot] = (spi, pair) if wins else other
    return worse

