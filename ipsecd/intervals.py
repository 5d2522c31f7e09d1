"""Closed integer ranges, and boxes made of them: the arithmetic under routes and guard.

The kernel refuses overlapping elements in an interval set, so both kinds are cut until they are disjoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, summarize_address_range

Range = tuple[int, int]                             # first and last, both inside
Box = tuple[Range, ...]                             # one range a dimension

FAMILIES = (4, 6)
ADDRESS_BITS = {4: 32, 6: 128}


def merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Return the same numbers as the fewest disjoint ranges, rising."""
    merged: list[Range] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def without(ranges: Iterable[Range], holes: Iterable[Range]) -> tuple[Range, ...]:
    """Return the numbers of `ranges` that are in none of `holes`, as disjoint rising ranges."""
    kept: list[Range] = []
    cuts = merge(holes)
    for low, high in merge(ranges):
        start = low
        for first, last in cuts:
            if last < start or high < first:
                continue
            if start < first:
                kept.append((start, first - 1))
            start = last + 1
        if start <= high:
            kept.append((start, high))
    return tuple(kept)


def within(inner: Range, outer: Range) -> bool:
    """Return whether `inner` lies wholly in `outer`."""
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def disjoint(boxes: Iterable[Box]) -> list[Box]:
    """Return boxes without overlap that hold the same points.

    A sweep along the first or second dimension, whichever has more distinct ranges, so that thousands of separate
    prefixes on one side cost no comparison of all with all.
    """
    unique = set(boxes)
    axis = 0 if len({b[0] for b in unique}) > len({b[1] for b in unique}) else 1
    done: list[Box] = []
    active: list[Box] = []
    for box in sorted(unique, key=lambda b: (b[axis][0], -b[axis][1], b)):
        active = [a for a in active if a[axis][1] >= box[axis][0]]
        parts = [box]
        for other in active:
            parts = [piece for part in parts for piece in subtract(part, other)]
        done += parts
        active += parts
    return sorted(done)


def subtract(box: Box, other: Box) -> list[Box]:
    """Return disjoint boxes that hold the points of `box` that are not in `other`."""
    if any(mine[1] < theirs[0] or theirs[1] < mine[0] for mine, theirs in zip(box, other, strict=True)):
        return [box]
    parts: list[Box] = []
    for axis, (first, last) in enumerate(other):
        low, high = box[axis]
        for cut in ((low, first - 1), (last + 1, high)):
            if cut[0] <= cut[1]:
                parts.append(box[:axis] + (cut,) + box[axis + 1:])
        box = box[:axis] + ((max(low, first), min(high, last)),) + box[axis + 1:]
    return parts


def prefixes(version: int, ranges: Sequence[Range]) -> list[str]:
    """Return address ranges as the fewest CIDR prefixes, in order."""
    kind = IPv4Address if version == 4 else IPv6Address
    return [str(p) for low, high in ranges for p in summarize_address_range(kind(low), kind(high))]
