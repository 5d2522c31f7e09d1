"""Which SPD entries meet, and whether earlier ones leave anything of a later one (RFC 4301 4.4.1: ordered entries).

An entry is a set of boxes: local addresses x remote addresses x protocol x local ports x remote ports.  A later
entry is shadowed when the boxes before it, together, cover each of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ipsecd.policy import SpdEntry
from ipsecd.selectors import TrafficSelector

# Cutting boxes out of a box can leave ever more pieces; past this many the entry counts as not shadowed, which
# loses a message and nothing else.
MAX_PIECES = 256
_OPAQUE = 65536                     # "ports cannot be seen" as one more value after the last port

Interval = tuple[int, int]
Box = tuple[Interval, Interval, Interval, Interval, Interval]


class Placed(NamedTuple):
    """A box with its entry's index and family."""

    entry: int
    version: int
    box: Box


def boxes_of(entry: SpdEntry, index: int = 0) -> list[Placed]:
    """Return the boxes of an entry: each local selector with each remote one that it can meet."""
    found = (_box(local, remote) for local in entry.local for remote in entry.remote
             if local.version == remote.version)
    families = [local.version for local in entry.local for remote in entry.remote if local.version == remote.version]
    return [Placed(index, version, box) for version, box in zip(families, found, strict=True) if box is not None]


def overlapping(entries: Sequence[SpdEntry]) -> dict[int, list[int]]:
    """Return for each entry the earlier ones, in order, that select some of its packets."""
    placed = [p for i, entry in enumerate(entries) for p in boxes_of(entry, i)]
    found: dict[int, dict[int, None]] = {}
    for one, other in _candidates(placed):
        early, late = sorted((one.entry, other.entry))
        if early != late and all(a[0] <= b[1] and b[0] <= a[1] for a, b in zip(one.box, other.box, strict=True)):
            found.setdefault(late, {})[early] = None
    return {late: sorted(early) for late, early in found.items()}


def covered(entry: SpdEntry, earlier: Sequence[SpdEntry]) -> bool:
    """Return whether the earlier entries together take every packet of `entry`."""
    cutters = [p for e in earlier for p in boxes_of(e)]
    for target in boxes_of(entry):
        pieces = [target.box]
        for cutter in cutters:
            if cutter.version == target.version:
                pieces = [rest for piece in pieces for rest in _subtract(piece, cutter.box)]
            if len(pieces) > MAX_PIECES:
                return False
        if pieces:
            return False
    return True


def _box(local: TrafficSelector, remote: TrafficSelector) -> Box | None:
    protocols = {local.protocol, remote.protocol} - {0}
    if len(protocols) > 1:
        return None
    protocol = (protocols.pop(),) * 2 if protocols else (0, 255)
    return ((local.low, local.high), (remote.low, remote.high), (protocol[0], protocol[1]), _ports(local),
            _ports(remote))


def _ports(selector: TrafficSelector) -> Interval:
    if selector.opaque:
        return _OPAQUE, _OPAQUE
    return (0, _OPAQUE) if selector.any_port else (selector.port_low, selector.port_high)


def _candidates(placed: Sequence[Placed]) -> Iterator[tuple[Placed, Placed]]:
    """Yield the pairs that meet on the side with more distinct addresses.

    A sweep over that side keeps the work near the number of real overlaps: a head-end has thousands of entries that
    share one local prefix.
    """
    for version in (4, 6):
        family = [p for p in placed if p.version == version]
        axis = max((0, 1), key=lambda a: len({p.box[a] for p in family}))
        active: list[Placed] = []
        for item in sorted(family, key=lambda p: p.box[axis]):
            active = [other for other in active if other.box[axis][1] >= item.box[axis][0]]
            for other in active:
                yield other, item
            active.append(item)


def _subtract(piece: Box, cutter: Box) -> list[Box]:
    """Return what is left of `piece` without `cutter`, as disjoint boxes."""
    if any(p[0] > c[1] or c[0] > p[1] for p, c in zip(piece, cutter, strict=True)):
        return [piece]
    left: list[Box] = []
    rest = list(piece)
    for axis, (low, high) in enumerate(cutter):
        start, end = rest[axis]
        if start < low:
            left.append(_with(rest, axis, (start, low - 1)))
        if high < end:
            left.append(_with(rest, axis, (high + 1, end)))
        rest[axis] = max(start, low), min(end, high)
    return left


def _with(box: Sequence[Interval], axis: int, interval: Interval) -> Box:
    changed = [interval if i == axis else old for i, old in enumerate(box)]
    return changed[0], changed[1], changed[2], changed[3], changed[4]
