"""Who gives way when both ends do the same thing at once (RFC 7296 2.8.1, 2.8.2, 2.25): decided here and nowhere else.

Rekeying: of the four nonces of two crossing exchanges the lowest loses.  The SA made with it is redundant, and the
endpoint that created it deletes it; the endpoint that created the survivor deletes the SA that both replaced.

Initiating: of two crossing IKE SAs the one holding the lowest nonce of its IKE_SA_INIT gives way, by the same rule.
Two IKE SAs cross where each end sent its request before it knew of the other's, that is, where the peer's IKE_SA_INIT
came before our own IKE SA was established, and ours went out before the peer's was.  A peer that lost its state asks
when ours has long been established; whoever makes a successor before it breaks the old one knows that one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Nonces:
    """Both nonces of one exchange, without their payload headers."""

    ni: bytes
    nr: bytes

    @property
    def lowest(self) -> bytes:
        """The lower one, as octet strings: of two with a common beginning the shorter (RFC 7296 2.8.1)."""
        return min(self.ni, self.nr)


def gives_way(ours: Nonces, theirs: Nonces) -> bool:
    """Return whether the SA made with `ours` is the redundant one.  Both ends compute the same."""
    return ours.lowest < theirs.lowest
