"""Which SA pairs a peer should have: the configuration, what traffic and the operator asked for, and how to ask."""

from __future__ import annotations

from collections.abc import Container

from ipsecd.policy import PeerPolicy, Start, TsStyle
from ipsecd.reports import ChildRequest
from ipsecd.supervision import Lines, child_requests, needs_new_pairs


class Wants:
    """The wishes for one peer's children."""

    def __init__(self, policy: PeerPolicy) -> None:
        self.policy = policy
        self._acquired: dict[str, None] = {}     # on-demand children that traffic or `up` asked for
        self._down: dict[str, None] = {}         # children that the operator took down
        self._per_pair: dict[str, None] = {}     # children that fell back to one pair each

    @property
    def down(self) -> tuple[str, ...]:
        """Children that the operator took down."""
        return tuple(self._down)

    def acquire(self, child: str) -> None:
        """Traffic or the operator wants this child."""
        self._acquired[child] = None

    def release(self, child: str) -> None:
        """Nobody asks for this child any more: on demand, it waits for traffic."""
        self._acquired.pop(child, None)

    def release_all(self) -> None:
        """Nobody asks for anything any more."""
        self._acquired.clear()

    def take_down(self, child: str) -> None:
        """Keep the child down until `raise_up`."""
        self._down[child] = None
        self.release(child)

    def raise_up(self, child: str) -> None:
        """Want the child, whatever its `start` says."""
        self._down.pop(child, None)
        self.acquire(child)

    def named(self, child: str | None) -> list[str]:
        """Return the one child, or all of them."""
        return [c.key.child for c in self.policy.children if child in (None, c.key.child)]

    def fall_back(self, child: str) -> bool:
        """Ask for one selector pair a time from here on; return False where that is how we ask, or changes nothing."""
        policy = self.policy.child(child)
        if policy is None or self._style(child) is TsStyle.PER_PAIR:
            return False
        if len(child_requests(policy, TsStyle.PER_PAIR)) < 2:
            return False
        self._per_pair[child] = None
        return True

    def replace_policy(self, policy: PeerPolicy) -> tuple[list[str], list[str]]:
        """Take a reloaded policy; return the children that are gone, and those that need new pairs."""
        old, self.policy = self.policy, policy
        gone: list[str] = []
        changed: list[str] = []
        for before in old.children:
            name, after = before.key.child, policy.child(before.key.child)
            if after is None:
                gone.append(name)
                self.release(name)
            elif needs_new_pairs(before, after):
                changed.append(name)
        for name in (*gone, *changed):
            self._down.pop(name, None)
            self._per_pair.pop(name, None)
        return gone, changed

    def requests(self, lines: Lines) -> list[list[ChildRequest]]:
        """Return the requests of each wanted child: always, asked for, or up and to be kept over a change."""
        if not self.policy.enabled or self.policy.entry:
            return []           # which part of an entry's selectors one remote of many has, it alone knows
        kept, paired = lines.unsettled(), {pair.slot.child for pair in lines.pairs()}
        found = [child_requests(child, self._style(child.key.child)) for child in self.policy.children
                 if child.key.child not in self._down and self._wants(child.key.child, child.start, kept, paired)]
        return [requests for requests in found if requests]

    def _wants(self, child: str, start: Start, kept: Container[str], paired: Container[str]) -> bool:
        if start is Start.ALWAYS or child in self._acquired or child in kept:
            return True
        return start is Start.ON_DEMAND and child in paired

    def _style(self, child: str) -> TsStyle:
        policy = self.policy.child(child)
        fixed = policy is not None and policy.ts_style is TsStyle.PER_PAIR
        return TsStyle.PER_PAIR if fixed or child in self._per_pair else TsStyle.COMBINED
