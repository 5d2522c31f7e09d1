"""Putting a fragmented message together again (RFC 7383 2.6).

Only authentic fragments arrive here (their type says so), so a forged one neither displaces nor blocks a good one.
One set is held for each direction of an IKE SA.  The caller has asked the window first, so a fragment of another
message than the one held is a newer message, and what was held is given up.
"""

from __future__ import annotations

from ipsecd.drops import DropReason
from ipsecd.ike.crypto.sk_payload import OpenedFragment, OpenedMessage, join
from ipsecd.ike.wire.message import MAX_FRAGMENTS, MAX_MESSAGE_BYTES

# Tuning
SET_LIFE_S = 30.0               # a sender repeats the whole message within 15 s


class Reassembly:
    """The fragments of one message on their way in."""

    __slots__ = ("_bytes", "_expires", "_pieces")

    def __init__(self) -> None:
        self._pieces: dict[int, OpenedFragment] = {}
        self._bytes = 0
        self._expires = 0.0

    @property
    def expires_at(self) -> float | None:
        """When what is held is given up, None while nothing is."""
        return self._expires if self._pieces else None

    def add(self, fragment: OpenedFragment, now: float) -> OpenedMessage | DropReason | None:
        """Take a fragment: the whole message with the last one, None while more are missing, or why it is dropped.

        Raises WireError where the whole is authentic and does not parse; the set is gone then.
        """
        if self._pieces and now >= self._expires:
            self.clear()
        held = next(iter(self._pieces.values()), None)
        if held is not None:
            if not _belongs(fragment, held):
                return DropReason.IKE_FRAGMENT
            if _starts_over(fragment, held):
                self.clear()
        # RFC 7383 2.6: a fragment that is there already is dropped; the first authentic copy stays.
        if fragment.number in self._pieces or not _well_numbered(fragment):
            return DropReason.IKE_FRAGMENT
        if not self._pieces:
            self._expires = now + SET_LIFE_S
        return self._store(fragment)

    def clear(self) -> None:
        """Forget what is held: the message came whole, or its SA ends."""
        self._pieces.clear()
        self._bytes = 0

    def _store(self, fragment: OpenedFragment) -> OpenedMessage | DropReason | None:
        self._bytes += len(fragment.plaintext)
        if self._bytes > MAX_MESSAGE_BYTES:
            self.clear()
            return DropReason.IKE_FRAGMENT
        self._pieces[fragment.number] = fragment
        if len(self._pieces) < fragment.total:
            return None
        pieces = [self._pieces[number] for number in range(1, fragment.total + 1)]
        self.clear()
        return join(pieces)


def _belongs(new: OpenedFragment, held: OpenedFragment) -> bool:
    """Return whether a fragment may follow: of the same message and not of fewer pieces, or of a later message."""
    if new.header.message_id != held.header.message_id:
        return new.header.message_id > held.header.message_id
    if (new.header.exchange, new.header.flags) != (held.header.exchange, held.header.flags):
        return False
    # RFC 7383 2.6: "MUST be discarded" when its Total Fragments is smaller than that of one received before.
    return new.total >= held.total


def _starts_over(new: OpenedFragment, held: OpenedFragment) -> bool:
    """RFC 7383 2.6: a larger total means that the sender fell back to smaller datagrams; nothing held fits those."""
    return new.header.message_id != held.header.message_id or new.total > held.total


def _well_numbered(fragment: OpenedFragment) -> bool:
    # The codec refuses the same; reassembly does not lean on it, for an index out of range would be ours.
    return (1 <= fragment.number <= fragment.total <= MAX_FRAGMENTS
            and (fragment.number == 1) == bool(fragment.first_inner))
