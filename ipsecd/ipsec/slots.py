"""The pairs that one child sends on, in order of their slots, with an index in front: a child of a peer entry with a
pattern has one for each of its remotes, thousands perhaps.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from ipsecd.ipsec.spd import Flow, SelectorIndex
from ipsecd.selectors import TrafficSelector


class Slotted(Protocol):
    """What has a slot and selectors."""

    slot: int

    @property
    def ts_local(self) -> Sequence[TrafficSelector]:
        """Return the selectors of our side."""
        ...

    @property
    def ts_remote(self) -> Sequence[TrafficSelector]:
        """Return those of the peer's."""
        ...


P = TypeVar("P", bound=Slotted)


class Slots(Generic[P]):
    """See the module."""

    def __init__(self) -> None:
        self._by_slot: dict[int, P] = {}
        self._order: list[int] = []
        # Made by the first packet that asks after a change: many changes in a row cost one index.
        self._index: SelectorIndex[P] | None = None

    def __len__(self) -> int:
        return len(self._order)

    def set(self, pair: P) -> None:
        """Send the slot's traffic on this pair."""
        if pair.slot not in self._by_slot:
            insort(self._order, pair.slot)
        self._by_slot[pair.slot] = pair
        self._index = None

    def remove(self, pair: P) -> None:
        """Send on this pair no more."""
        if self._by_slot.get(pair.slot) is pair:
            del self._by_slot[pair.slot]
            self._order.remove(pair.slot)
            self._index = None

    def candidates(self, flow: Flow) -> tuple[P, ...]:
        """Return those whose selectors may hold the flow's addresses, in order."""
        if self._index is None:
            pairs = [self._by_slot[slot] for slot in self._order]
            self._index = SelectorIndex(pairs, [(pair.ts_local, pair.ts_remote) for pair in pairs])
        return self._index.candidates(flow)
