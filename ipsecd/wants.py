"""Which SA pairs a peer should have: the configuration, what traffic and the operator asked for, and how to ask."""

from __future__ import annotations

from ipsecd.policy import ChildPolicy, PeerPolicy, Start, TsStyle
from ipsecd.reports import ChildRequest
from ipsecd.supervision import Holdings, Lines, child_requests, needs_new_pairs


class Wants:
    """The wishes for one peer's children."""

    def __init__(self, policy: PeerPolicy) -> None:
        self.policy = policy
        self._acquired: dict[str, None] = {}     # on-demand children that traffic or `up` asked for
        self._down: dict[str, None] = {}         # children that the operator took down
        self._per_pair: dict[str, None] = {}     # children that fell back to one pair each
        self.changed: dict[str | None, None] = {None: None}     # children to look at again; None: all of them

    @property
    def down(self) -> tuple[str, ...]:
        """Children that the operator took down."""
        return tuple(self._down)

    def acquire(self, child: str) -> None:
        """Traffic or the operator wants this child."""
        self.changed[child] = None
        self._acquired[child] = None

    def release(self, child: str) -> None:
        """Nobody asks for this child any more: on demand, it waits for traffic."""
        self.changed[child] = None
        self._acquired.pop(child, None)

    def release_all(self) -> None:
        """Nobody asks for anything any more."""
        self.changed[None] = None
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
        if policy is None or self._style(policy) is TsStyle.PER_PAIR:
            return False
        if len(child_requests(policy, TsStyle.PER_PAIR)) < 2:
            return False
        self._per_pair[child] = self.changed[child] = None
        return True

    def replace_policy(self, policy: PeerPolicy) -> tuple[list[str], list[str]]:
        """Take a reloaded policy; return the children that are gone, and those that need new pairs."""
        old, self.policy = self.policy, policy
        self.changed[None] = None
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
        found = [self._of(child, lines) for child in self.policy.children]
        return [requests for requests in found if requests]

    def requests_of(self, name: str, lines: Lines) -> list[ChildRequest]:
        """Return the requests of one child, none where it is not wanted."""
        child = self.policy.child(name)
        return self._of(child, lines) if child is not None else []

    def _of(self, child: ChildPolicy, lines: Lines) -> list[ChildRequest]:
        if not self.policy.enabled or self.policy.entry:
            return []           # which part of an entry's selectors one remote of many has, it alone knows
        name = child.key.child
        wanted = name not in self._down and (
            child.start is Start.ALWAYS or name in self._acquired or lines.unsettled(name)
            or (child.start is Start.ON_DEMAND and bool(lines.spis(name))))
        return child_requests(child, self._style(child)) if wanted else []

    def _style(self, child: ChildPolicy) -> TsStyle:
        fixed = child.ts_style is TsStyle.PER_PAIR
        return TsStyle.PER_PAIR if fixed or child.key.child in self._per_pair else TsStyle.COMBINED


class Gaps:
    """The pairs that should exist and that no usable line has nor was asked for.

    A peer may have thousands of children: what happens to one of them has that one looked at again, and what happens
    to a line all of them.
    """

    def __init__(self, wants: Wants, lines: Lines) -> None:
        self._wants, self._lines = wants, lines
        self._open: dict[str, list[ChildRequest]] = {}
        self._places: dict[str, int] = {}               # of the children in the configuration
        self._seen: tuple[tuple[int, bool], ...] = ()   # the lines when it was looked last, and which of them served

    def missing(self) -> list[ChildRequest]:
        """Return what is missing, in the order of the configuration."""
        usable, seen = self._lines.usable(), tuple((handle, line.usable) for handle, line in self._lines.items())
        if None in self._wants.changed or self._seen != seen:
            self._seen, self._open = seen, {}
            self._places = {child.key.child: place for place, child in enumerate(self._wants.policy.children)}
            names = [*self._places]
        else:
            names = [name for name in {**self._wants.changed, **self._lines.changed} if name in self._places]
        self._wants.changed.clear()
        self._lines.changed.clear()
        has = Holdings(usable.values())
        for name in names:
            self._open.pop(name, None)
            if found := has.missing(self._wants.requests_of(name, self._lines)):
                self._open[name] = found
        return [r for name in sorted(self._open, key=self._places.__getitem__) for r in self._open[name]]
