"""Who may come back by a ticket, and the tickets themselves: those we gave and those we hold (RFC 5723).

A ticket outlives its IKE SA only where that was lost, not where an end closed it; it dies with the entry that it was
given under.  Neither end takes one instead of a proof that it wants to have checked again each time: a certificate
under `revocation: strict`.  Nobody's name (NULL authentication) stands for nobody that could come back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ipsecd.causes import Cause, Failure
from ipsecd.errors import PeerError
from ipsecd.ike import negotiate
from ipsecd.ike.consts import ProtocolId, TransformType
from ipsecd.ike.crypto.ticket import MAX_TICKET_BYTES, TICKET_LIFE_S, Claims, TicketBox, nack
from ipsecd.ike.session import Session
from ipsecd.ike.wire.sa_payload import SaPayload, WireProposal, WireTransform
from ipsecd.policy import CertificateTrust, NullAuth, PeerPolicy, Policy, Revocation
from ipsecd.rng import Rng
from ipsecd.suites import IkeSuite, Transform

# Tuning
PROOF_LIFE_S = 24 * 3600.0      # after it, tickets or not, comes a full exchange with fresh key exchanges


class Ticket(NamedTuple):
    """A ticket that a peer gave us, and the suite that its IKE SA had."""

    opaque: bytes
    claims: Claims
    suite: IkeSuite


class _Held(NamedTuple):
    ticket: bytes
    claims: Claims
    entry: PeerPolicy
    handle: int
    shown: bool = False         # in the last attempt, and not answered


class Tickets:
    """All tickets of a gateway, in both roles."""

    def __init__(self, rng: Rng) -> None:
        self._box = TicketBox(rng)
        self._generations: dict[str, int] = {}      # of entries that a reload changed
        self._given: dict[int, bytes] = {}          # the newest of each line of IKE SAs that is up, by handle
        self._held: dict[str, _Held] = {}           # by peer entry

    # As responder of IKE_AUTH

    def give(self, session: Session, now: float) -> tuple[bytes, float] | None:
        """Return a ticket for this IKE SA and its life in seconds; None where the peer gets none."""
        claims = self._claims(session, now, TICKET_LIFE_S)
        if not may_resume(session.peer) or claims.expires_at <= now + 1:
            return None
        ticket = self._box.seal(claims, now)
        if len(ticket) > MAX_TICKET_BYTES:
            return None
        self._given[session.handle] = self._box.open(ticket, now).id
        return ticket, claims.expires_at - now

    def recognise(self, ticket: bytes, candidates: Iterable[PeerPolicy],
                  now: float) -> tuple[PeerPolicy, Claims, IkeSuite]:
        """Return what today's policy makes of a ticket; raise PeerError(TICKET_NACK) where it refuses it."""
        claims = self._box.open(ticket, now)
        entry = next((peer for peer in candidates if peer.name == claims.entry), None)
        if entry is None or not self.stands(claims) or not may_resume(entry):
            raise nack("its entry is gone, changed, or for another address")
        return entry, claims, _suite_of(entry, claims)

    def stands(self, claims: Claims) -> bool:
        """Return whether the entry of a ticket is what it was."""
        return self._generations.get(claims.entry, 0) == claims.generation

    def spend(self, claims: Claims) -> bool:
        """Note that the holder came back by it; return False where somebody did before."""
        return self._box.spend(claims.id)

    # As initiator

    def keep(self, session: Session, ticket: bytes, life_s: float, now: float) -> None:
        """Hold a ticket for when the IKE SA is lost."""
        if may_resume(session.peer) and 0 < len(ticket) <= MAX_TICKET_BYTES:
            claims = self._claims(session, now, min(life_s, TICKET_LIFE_S))
            self._held[session.peer.name] = _Held(ticket, claims, session.peer, session.handle)

    def take(self, peer: PeerPolicy, now: float) -> Ticket | None:
        """Return the ticket for an attempt to reach a peer; None without one that is still good.

        It is kept until the peer answers to it: mostly the path is still cut.  Every other attempt goes without, for a
        peer that no longer knows the exchange is as silent.
        """
        held = self._held.get(peer.name)
        if held is None or held.entry != peer or now >= held.claims.expires_at:
            self._held.pop(peer.name, None)
            return None
        self._held[peer.name] = held._replace(shown=not held.shown)
        if held.shown:
            return None
        try:
            return Ticket(held.ticket, held.claims, _suite_of(peer, held.claims))
        except PeerError:
            return None

    def answered(self, peer: PeerPolicy) -> None:
        """A peer took or refused the ticket that it was shown: it is good for nothing more."""
        self._held.pop(peer.name, None)

    # Both

    def ended(self, session: Session, failure: Failure) -> None:
        """An IKE SA is gone: what was closed on purpose is not taken up again (RFC 7296 1.4.1 ends it for both)."""
        given, held = self._given.pop(session.handle, None), self._held.get(session.peer.name)
        if failure.cause is Cause.PEER_DEAD:
            return
        if given is not None:
            self._box.spend(given)
        if held is not None and held.handle == session.handle:
            del self._held[session.peer.name]

    def replace_policy(self, old: Policy, new: Policy) -> None:
        """Void the tickets of entries that a reload changes."""
        for peer in old.peers:
            if new.peer(peer.name) != peer:
                self._generations[peer.name] = self._generations.get(peer.name, 0) + 1
                self._held.pop(peer.name, None)

    def _claims(self, session: Session, now: float, life_s: float) -> Claims:
        peer, crypto = session.peer, session.crypto
        assert session.remote_id is not None
        assert session.local_id is not None
        entry = peer.entry or peer.name
        ends = min(now + life_s, session.authenticated_at + (peer.ike.reauth_s or PROOF_LIFE_S))
        return Claims(entry, self._generations.get(entry, 0), session.remote_id, session.local_id,
                      _as_offer(crypto.suite), crypto.keys.sk_d, session.authenticated_at, ends)


def may_resume(peer: PeerPolicy) -> bool:
    """Return whether an IKE SA with this peer may be taken up again without the proofs of the entry."""
    ours, theirs = peer.auth.local, peer.auth.remote
    strict = isinstance(theirs, CertificateTrust) and theirs.revocation is Revocation.STRICT
    return peer.ike.resumption and not strict and not isinstance(ours, NullAuth) and not isinstance(theirs, NullAuth)


def _as_offer(suite: IkeSuite) -> SaPayload:
    integ = (suite.integ.transform,) if suite.integ else ()
    transforms = (suite.encr.transform, suite.prf.transform, *integ, Transform(TransformType.KE, suite.ke),
                  *suite.additional)
    return SaPayload((WireProposal(1, ProtocolId.IKE, b"", tuple(map(WireTransform.of, transforms))),))


def _suite_of(entry: PeerPolicy, claims: Claims) -> IkeSuite:
    """Return the suite of a ticket, where a proposal of the entry would still lead to it."""
    ke = next(t.id for t in claims.suite.proposals[0].transforms if t.type == TransformType.KE)
    try:
        return negotiate.choose_ike(entry.ike.proposals, claims.suite, ke_sent=ke).suite
    except PeerError as error:
        raise nack(error.detail) from None
