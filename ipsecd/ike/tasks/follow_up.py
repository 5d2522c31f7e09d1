"""IKE_FOLLOWUP_KE: the additional key exchanges of CREATE_CHILD_SA (RFC 9370 2.2.4).

    HDR, SK {KEi(n), N(ADDITIONAL_KEY_EXCHANGE)(link)} -->
                            <-- HDR, SK {KEr(n), N(ADDITIONAL_KEY_EXCHANGE)(next link)}

The responder of CREATE_CHILD_SA gives a link by which the initiator comes back; the last response has none.  The new SA
exists with the last exchange and not before.  Of two rekeys that cross, the one with the lowest nonce of
CREATE_CHILD_SA stops there, as nothing is to be deleted; who has gone on refuses the other's with TEMPORARY_FAILURE.
The responder forgets what the initiator does not finish and answers STATE_NOT_FOUND.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ipsecd.errors import PeerError
from ipsecd.ike.collisions import Nonces, gives_way
from ipsecd.ike.consts import NotifyType
from ipsecd.ike.crypto import kex
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.session import Session
from ipsecd.ike.steps import Steps, work
from ipsecd.ike.tasks.pick import check_public, first, need
from ipsecd.ike.tasks.task import Answer, Payloads
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.ike.wire.payloads import KePayload
from ipsecd.secret import Secret
from ipsecd.suites import KE_NAMES, Transform

# Tuning
LINK_BYTES = 8                  # tells exchanges of one IKE SA apart; they are authenticated, so it need not be secret
FOLLOW_UP_LIFE_S = 200.0        # beyond the retransmissions of one request
MAX_FOLLOW_UPS = 8              # unfinished ones of one peer; with a window of 1 an honest peer has one or two
REKEYS_IKE = 0                  # in the place of the SPI of a pair

Conclude = Callable[[tuple[Secret, ...], float], Payloads]


class FollowUps:
    """Our side as initiator, from the response to CREATE_CHILD_SA on; raises PeerError for what does not fit."""

    def __init__(self, additional: tuple[Transform, ...], payloads: tuple[Payload, ...]) -> None:
        self.secrets: tuple[Secret, ...] = ()
        self._left = additional
        self._link = b""
        self._own: kex.KeyExchange | None = None
        if additional:
            self._expect_link(payloads)

    @property
    def done(self) -> bool:
        """True once all secrets are there."""
        return not self._left

    def build(self) -> Steps[Payloads]:
        """KEi(n), N(ADDITIONAL_KEY_EXCHANGE)."""
        worked = yield from work(partial(kex.generate, self._left[0].id))
        self._own = worked.value
        return (KePayload(worked.value.method, worked.value.public),
                NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, self._link))

    def take(self, payloads: tuple[Payload, ...]) -> Steps[float]:
        """Take KEr(n); return the time after the work."""
        method, ke = self._left[0].id, first(payloads, KePayload)
        if ke is None or ke.method != method:
            raise PeerError(NotifyType.INVALID_SYNTAX, f"response without a KE payload of {KE_NAMES[method]}")
        assert self._own is not None
        worked = yield from work(partial(self._own.shared, ke.data))
        self.secrets = (*self.secrets, worked.value)
        self._left = self._left[1:]
        if self._left:
            self._expect_link(payloads)
        return worked.now

    def _expect_link(self, payloads: tuple[Payload, ...]) -> None:
        link = find(payloads, NotifyType.ADDITIONAL_KEY_EXCHANGE)
        if link is None or not link.data:
            raise PeerError(NotifyType.INVALID_SYNTAX, "response without the link of the next key exchange")
        self._link = link.data


@dataclass(frozen=True, slots=True)
class FollowUpDue:
    """As responder: what the peer has begun; `conclude` makes the SA from the secrets and adds to the response.

    `rekeys` is the inbound SPI of the pair that it is to replace, or REKEYS_IKE; None for one more Child SA.
    """

    left: tuple[Transform, ...]
    conclude: Conclude
    since: float
    nonces: Nonces
    rekeys: int | None
    secrets: tuple[Secret, ...] = ()


def follow_up(session: Session, due: FollowUpDue, payloads: Payloads) -> Payloads:
    """Return the response to CREATE_CHILD_SA: conclude at once, or give the link to what is still to come."""
    if due.rekeys is not None:
        for link in _rekeys_of(session, due.rekeys):
            del session.follow_ups[link]               # a peer that begins anew has given that up
    return _go_on(session, due, payloads, due.since)


def lost(session: Session, rekeys: int, ours: Nonces, now: float) -> bool:
    """Return whether a rekey of ours gives way to one of the peer that waits for IKE_FOLLOWUP_KE; else forget that one.

    RFC 9370 2.2.4: the initiator that used the lowest nonce "MUST NOT initiate the IKE_FOLLOWUP_KE exchange".
    """
    for link in _rekeys_of(session, rekeys):
        due = session.follow_ups[link]
        if now - due.since <= FOLLOW_UP_LIFE_S and gives_way(ours, due.nonces):
            return True
        del session.follow_ups[link]
    return False


class FollowUpAnswer(Answer):
    """One more key exchange of the peer's CREATE_CHILD_SA."""

    def process(self, request: OpenedMessage, now: float) -> Steps[Payloads]:
        """KEr(n), [N(ADDITIONAL_KEY_EXCHANGE)]; whatever goes wrong ends the series (RFC 9370 2.2.4)."""
        session = self.session
        notify = find(request.payloads, NotifyType.ADDITIONAL_KEY_EXCHANGE)
        link = notify.data if notify else b""
        due = session.follow_ups.get(link)
        if due is None or now - due.since > FOLLOW_UP_LIFE_S:
            session.follow_ups.pop(link, None)
            raise PeerError(NotifyType.STATE_NOT_FOUND, "peer goes on with a key exchange that we do not know")
        try:
            ke = need(request.payloads, KePayload)
            check_public(ke, due.left[0].id)
            worked = yield from work(partial(kex.respond, ke.method, ke.data))
        finally:
            # It stays until here, for a rekey of ours that is decided during the work (see `lost`).
            kept = session.follow_ups.pop(link, None)
        if kept is None:
            raise PeerError(NotifyType.STATE_NOT_FOUND, "peer goes on with a rekey that lost its collision")
        if not session.established:
            raise PeerError(NotifyType.TEMPORARY_FAILURE, "the IKE SA was rekeyed or closed meanwhile")
        due = replace(due, left=due.left[1:], secrets=(*due.secrets, worked.value.shared), since=worked.now)
        return _go_on(session, due, (KePayload(ke.method, worked.value.public),), worked.now)


def _rekeys_of(session: Session, rekeys: int) -> tuple[bytes, ...]:
    return tuple(link for link, due in session.follow_ups.items() if due.rekeys == rekeys)


def _go_on(session: Session, due: FollowUpDue, payloads: Payloads, now: float) -> Payloads:
    if not due.left:
        return *payloads, *due.conclude(due.secrets, now)
    while len(session.follow_ups) >= MAX_FOLLOW_UPS:
        del session.follow_ups[next(iter(session.follow_ups))]
    link = session.host.rng.random_bytes(LINK_BYTES)
    session.follow_ups[link] = due
    return *payloads, NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, link)
