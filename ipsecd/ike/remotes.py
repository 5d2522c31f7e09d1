"""The remotes of entries that serve many: how many there are, and which slots of the entry's children each has.

The engine knows an entry's children, not its remotes: a packet goes to the first pair of its child whose selectors hold
it.  So each remote has slots of its own, and no two remotes hold selectors that meet (`SaTable.claimant`): the first
one keeps them for as long as it is there.
"""

from __future__ import annotations

from itertools import count

from ipsecd.causes import Cause, Failure
from ipsecd.policy import PeerPolicy

# Tuning
MAX_REMOTES = 10_000            # of one entry: a key that many share makes as many identities as it likes
SLOTS = 1 << 17                 # of one remote: above twice the pairs of 255 selectors on each side


class Remotes:
    """Numbered from the first pair or IKE SA on, until the last IKE SA is gone; a number is never used twice."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, int]] = {}       # entry -> instance -> number
        self._next = count()

    def refuse(self, peer: PeerPolicy) -> Failure | None:
        """Take note of a proved peer; return why its entry takes no more."""
        known = self._numbers.setdefault(peer.entry, {}) if peer.entry else {}
        if len(known) >= MAX_REMOTES and peer.name not in known:
            return Failure(Cause.OCCUPIED, f"{peer.entry} serves {MAX_REMOTES} remotes",
                           ours=f"{MAX_REMOTES} remotes", theirs=peer.name)
        self.first_slot(peer)
        return None

    def first_slot(self, peer: PeerPolicy) -> int:
        """Return where the slots of a peer begin: 0 for an entry of one remote."""
        if not peer.entry:
            return 0
        known = self._numbers.setdefault(peer.entry, {})
        if peer.name not in known:
            known[peer.name] = next(self._next)
        return known[peer.name] * SLOTS

    def others(self, peer: PeerPolicy) -> list[str]:
        """Return the other remotes of the same entry."""
        return [name for name in self._numbers.get(peer.entry, {}) if name != peer.name]

    def forget(self, peer: PeerPolicy) -> None:
        """A peer has no IKE SA left."""
        self._numbers.get(peer.entry, {}).pop(peer.name, None)
