"""Narrowing of traffic selectors (RFC 7296 2.9).

The responder answers with what both sides select.  The initiator takes an answer only if it lies within its offer.
Selectors are sets of packets; a list of them is their union.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from ipsecd.ike.wire.ts_payload import MAX_SELECTORS
from ipsecd.selectors import TrafficSelector

# Tuning
MAX_INTERSECTIONS = 512         # real lists are nearly disjoint and give about as many as they have entries


class SelectorPair(NamedTuple):
    """One selector a side: what a peer with `ts_style: per-pair` puts into one Child SA."""

    local: TrafficSelector
    remote: TrafficSelector


def narrow(offered: tuple[TrafficSelector, ...],
           configured: tuple[TrafficSelector, ...]) -> tuple[TrafficSelector, ...]:
    """Return what both lists select, in the order of the offer, empty where that is nothing (TS_UNACCEPTABLE).

    RFC 7296 2.9: the first selector of an offer may be the packet that asked for the SA; as its part comes first, it is
    inside the result whenever policy allows it.  A selector that another one covers is left out.  Beyond MAX_SELECTORS
    or MAX_INTERSECTIONS the rest is left out, which narrowing allows.
    """
    result: list[TrafficSelector] = []
    seen: dict[TrafficSelector, None] = {}
    for common in _intersections(offered, configured):
        if common in seen:
            continue
        seen[common] = None
        if len(seen) > MAX_INTERSECTIONS:
            break
        _add(result, common)
        if len(result) == MAX_SELECTORS:
            break
    return tuple(result)


def narrow_pair(offered_local: tuple[TrafficSelector, ...], offered_remote: tuple[TrafficSelector, ...], *,
                local: tuple[TrafficSelector, ...], remote: tuple[TrafficSelector, ...]) -> SelectorPair | None:
    """Return the one pair to answer with where a Child SA holds a single pair; None where nothing is common.

    It is the first pair of one family, in the order of the offer: so it holds the packet that asked for the SA,
    where policy allows that packet.
    """
    remotes = narrow(offered_remote, remote)
    for ours in narrow(offered_local, local):
        for theirs in remotes:
            if ours.version == theirs.version:
                return SelectorPair(ours, theirs)
    return None


def is_within(answered: tuple[TrafficSelector, ...], offered: tuple[TrafficSelector, ...]) -> bool:
    """Return whether an answer selects something, and nothing outside the offer (RFC 7296 2.9).

    Several selectors of the offer may together cover one of the answer: a peer may join neighbouring ranges.
    """
    return bool(answered) and all(_covered_by_union(one, offered) for one in answered)


def _intersections(offered: Iterable[TrafficSelector], configured: tuple[TrafficSelector, ...],
                   ) -> Iterable[TrafficSelector]:
    for theirs in offered:
        for ours in configured:
            common = theirs.intersect(ours)
            if common is not None:
                yield common


def _add(result: list[TrafficSelector], new: TrafficSelector) -> None:
    if any(kept.covers(new) for kept in result):
        return
    covered = [at for at, kept in enumerate(result) if new.covers(kept)]
    if not covered:
        result.append(new)
        return
    # The wider selector takes the place of the first it covers, so that the packet's part stays in front.
    result[covered[0]] = new
    for at in reversed(covered[1:]):
        del result[at]


def _covered_by_union(one: TrafficSelector, offered: tuple[TrafficSelector, ...]) -> bool:
    ranges = sorted((other.low, other.high) for other in offered
                    if other.version == one.version and _covers_upper_layer(other, one))
    reached = one.low
    for low, high in ranges:
        if low > reached:
            return False
        reached = max(reached, high + 1)
        if reached > one.high:
            return True
    return False


def _covers_upper_layer(wide: TrafficSelector, one: TrafficSelector) -> bool:
    return replace(wide, low=one.low, high=one.high).covers(one)
