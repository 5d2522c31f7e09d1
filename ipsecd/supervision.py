"""The vocabulary of supervision: what a peer has, what it asks for, and how long it waits."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
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


class Pairs(dict[int, Pair]):
    """Pairs by inbound SPI, those of each child apart; `several` names the children that have more than one."""

    __slots__ = ("_of", "several")

    def __init__(self) -> None:
        super().__init__()
        self._of: dict[str, dict[int, Pair]] = {}
        self.several: dict[str, None] = {}

    def __setitem__(self, spi_in: int, pair: Pair) -> None:
        super().__setitem__(spi_in, pair)
        own = self._of.setdefault(pair.slot.child, {})
        own[spi_in] = pair
        if len(own) > 1:
            self.several[pair.slot.child] = None

    def of(self, child: str) -> Mapping[int, Pair]:
        """Return the pairs of one child."""
        return self._of.get(child, _NO_PAIRS)

    def take(self, spi_in: int) -> Pair | None:
        """Remove a pair and return it, if it is here."""
        pair = self.pop(spi_in, None)
        if pair is None:
            return None
        own = self._of[pair.slot.child]
        del own[spi_in]
        if len(own) < 2:
            self.several.pop(pair.slot.child, None)
        if not own:
            del self._of[pair.slot.child]
        return pair


_NO_PAIRS: Mapping[int, Pair] = {}


@dataclass(slots=True)
class Line:
    """An IKE SA that is up."""

    path: Path
    since: float
    initiator: bool
    retired: Cause | None = None    # why a successor is wanted
    mobile: bool = False    # MOBIKE: the IKE SA finds another path by itself
    lost: bool = False      # this host does not hold the path's local address
    pairs: Pairs = field(default_factory=Pairs)
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
    """The IKE SAs of a peer that are up, by handle; `changed` names children whose pairs or requests changed."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: dict[str | None, None] = {}

    def usable(self) -> dict[int, Line]:
        """Return those on which new pairs belong."""
        return {handle: line for handle, line in self.items() if line.usable}

    def host_changed(self, addresses: Container[str]) -> None:
        """Take the addresses of this host: which paths are lost."""
        for line in self.values():
            line.lost = not line.mobile and line.path.local.address not in addresses

    def make_stale(self, children: Iterable[str]) -> None:
        """Want successors for the pairs of these children."""
        for child in children:
            for pair in self.pairs(child):
                pair.stale = True

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
        return [p for line in self.values()
                for p in (line.pairs if child is None else line.pairs.of(child)).values()]

    def spis(self, child: str) -> list[int]:
        """Return the inbound SPIs of one child's pairs."""
        return [spi for line in self.values() for spi in line.pairs.of(child)]

    def unsettled(self, child: str) -> bool:
        """Return whether a child has pairs which need a successor."""
        return any(pair.stale or not line.usable for line in self.values() for pair in line.pairs.of(child).values())

    def duplicates(self) -> list[tuple[int, float]]:
        """Return the pairs that have a better one in their slot, and when to close each."""
        return [found for line in self.values() for found in duplicates(line)]

    def finished(self, unfinished: Container[str], *, addressed: bool) -> Iterator[tuple[int, Cause]]:
        """Yield the lines to close, and why: those whose successor has all that they have.

        Without an address (not `addressed`) we cannot make a successor: the peer comes back by itself.
        """
        usable = self.usable()
        for handle, line in list(self.items()):
            if line.usable:
                continue
            free = not any(p.slot.child in unfinished for p in line.pairs.values())
            if (line.retired and (free or not addressed)) or (line.lost and free and usable):
                yield handle, Cause.NO_ROUTE if line.lost else line.retired or Cause.REPLACED

    def pop_pair(self, spi_in: int) -> Pair | None:
        """Forget a pair; return it."""
        pair = next((pair for line in self.values() if (pair := line.pairs.take(spi_in)) is not None), None)
        if pair is not None:
            self.changed[pair.slot.child] = None
        return pair


class Holdings:
    """What the usable lines of a peer have and have asked for, by child."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = tuple(lines)

    def missing(self, requests: list[ChildRequest]) -> list[ChildRequest]:
        """Return which of one child's requests no pair serves and nobody asked for.

        Where a narrowed pair sits in the slot of another, that one gets a slot behind all: in its own it would take
        over the traffic of the narrowed pair.
        """
        found: list[ChildRequest] = []
        for request in requests:
            pairs = self._pairs(request.child.child)
            if any(p.slot == slot_of(request) and not p.serves(request) for p in pairs):
                request = replace(request, slot=request.slot + len(requests))
            asked = any(slot_of(request) in line.pending for line in self._lines)
            if not asked and not any(p.serves(request) for p in pairs):
                found.append(request)
        return found

    def complete(self, requests: list[ChildRequest]) -> bool:
        """Return whether pairs that stand serve all of one child's requests."""
        return all(any(p.serves(r) for p in self._pairs(r.child.child)) for r in requests)

    def _pairs(self, child: str) -> list[Pair]:
        return [pair for line in self._lines for pair in line.pairs.of(child).values() if not pair.stale]


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

    def ended(self, pair: Pair, now: float, *, expected: bool) -> None:
        """A pair ended: clear its slot where it was stable, pause where it was made and closed at once."""
        if now - pair.since >= STABLE_S:
            self._slots.pop(pair.slot, None)
        elif now - pair.since < SPIN_S and not expected:
            self.pause(pair.slot, now)               # do not spin

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
    for spi, pair in [item for child in line.pairs.several for item in line.pairs.of(child).items()]:
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

