"""CREATE_CHILD_SA for one more Child SA (RFC 7296 1.3.1), and the exchange itself, which a rekey has too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ipsecd.causes import Cause, Failure
from ipsecd.errors import PeerError
from ipsecd.ike import negotiate, transport
from ipsecd.ike.child_sa import Agreed, ChildSa
from ipsecd.ike.collisions import Nonces
from ipsecd.ike.consts import ExchangeType, KeId, NotifyType
from ipsecd.ike.crypto import kex
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.failures import error_notify, of_error, refused_child
from ipsecd.ike.nat import no_ah
from ipsecd.ike.session import Session
from ipsecd.ike.states import ChildState
from ipsecd.ike.steps import Steps, work
from ipsecd.ike.tasks.child_exchange import (
    ChildOffer,
    accept_child,
    check_still,
    choose_child,
    make_child,
    offer_child,
    transport_ends,
)
from ipsecd.ike.tasks.delete import ChildDelete
from ipsecd.ike.tasks.follow_up import Conclude, FollowUpDue, FollowUps, follow_up
from ipsecd.ike.tasks.ike_init import NONCE_BYTES
from ipsecd.ike.tasks.pick import expect, first, need
from ipsecd.ike.tasks.task import Answer, Payloads, Task
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import KePayload, NoncePayload
from ipsecd.policy import ChildPolicy, Pfs
from ipsecd.reports import ChildRequest
from ipsecd.sa import SaPair
from ipsecd.secret import Secret
from ipsecd.suites import Transform

# Tuning
MAX_KE_RETRIES = 3              # as in IKE_SA_INIT: an honest peer needs one
MAX_EARLY_DELETES = 16          # SPIs that a peer may delete before we know them


@dataclass(frozen=True, slots=True)
class Made:
    """The peer agreed and the keys are there; `deleted` where it deleted the pair before we knew of it."""

    child: ChildSa
    narrowed: bool
    deleted: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """No pair came of it; `spi` is set where the peer holds one that we do not take, and must be told."""

    failure: Failure
    notify: int = 0
    spi: int = 0
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class Retry:
    """Ask again at once: the peer wants another group, or none; or, with nonces, the next key exchange is due."""

    nonces: Nonces | None = None


@dataclass(frozen=True, slots=True)
class _Begun:
    """What CREATE_CHILD_SA agreed, while additional key exchanges go on (RFC 9370 2.2.4)."""

    agreed: Agreed
    nonces: Nonces
    shared: Secret | None
    follow_ups: FollowUps


class Creation:
    """Our side of the exchange, through its retries; the nonces of the last request are the ones that count."""

    def __init__(self, request: ChildRequest, *, replaces: SaPair | None = None) -> None:
        self.request = request
        self._replaces = replaces               # whose mode its successor has
        self._offer: ChildOffer | None = None
        self._ni = b""
        self._kes: tuple[kex.KeyExchange, ...] = ()
        self._ke_retries = 0
        self._without_ke = False
        self._begun: _Begun | None = None
        self._early_deletes: list[tuple[int, int]] = []

    @property
    def begun(self) -> bool:
        """True while additional key exchanges go on."""
        return self._begun is not None

    @property
    def exchange(self) -> ExchangeType:
        """The exchange of the next request."""
        return ExchangeType.IKE_FOLLOWUP_KE if self.begun else ExchangeType.CREATE_CHILD_SA

    def build(self, session: Session, policy: ChildPolicy, before: tuple[Payload, ...] = ()) -> Steps[Payloads]:
        """Return [`before`], [N(USE_TRANSPORT_MODE)], SA, Ni, [KEi], TSi, TSr, or the next KE.

        Everything in it is fresh (RFC 7296 2.10, 2.12).
        """
        if self._begun is not None:
            payloads = yield from self._begun.follow_ups.build()
            return payloads
        method = self._method(session, policy)
        self._kes = ()
        if method != KeId.NONE:
            worked = yield from work(partial(kex.generate, method))
            self._kes = (worked.value,)
        self._ni = session.host.rng.random_bytes(NONCE_BYTES)
        ends = transport_ends(session, policy) if self._replaces is None else self._replaces.transport
        self._offer = offer_child(session, self.request, policy, ke=method, ends=ends)
        *notifies, sa, ts_i, ts_r = self._offer.payloads()
        kes = (KePayload(ke.method, ke.public) for ke in self._kes)
        return (*before, *notifies, sa, NoncePayload(self._ni), *kes, ts_i, ts_r)

    def take(self, session: Session, response: OpenedMessage, now: float) -> Steps[Made | Refused | Retry]:
        """Take the response."""
        offer = self._offer
        assert offer is not None
        notify = error_notify(response.payloads)
        awaited = KePayload if self._begun is not None else NoncePayload
        if notify is not None and first(response.payloads, awaited) is None:
            self._begun = None
            return self._refused(session, offer, notify)
        try:
            begun = self._begun
            if begun is None:
                begun, now = yield from self._agree(session, offer, response, now)
            else:
                now = yield from begun.follow_ups.take(response.payloads)
        except PeerError as error:
            self._begun = None
            return Refused(of_error(error, child=True), spi=offer.spi, protocol=offer.policy.protocol)
        self._begun = None if begun.follow_ups.done else begun
        return Retry(begun.nonces) if self._begun is not None else self._make(session, offer, begun, now)

    def deleted_early(self, protocol: int, spi_out: int) -> None:
        """Remember a Delete for a pair that we may not know yet, because its response is still on its way."""
        if len(self._early_deletes) < MAX_EARLY_DELETES:
            self._early_deletes.append((protocol, spi_out))

    def _method(self, session: Session, policy: ChildPolicy) -> int:
        if self._without_ke or policy.pfs is Pfs.OFF:
            return KeId.NONE
        return session.child_ke.get(policy.key.child) or negotiate.first_ke(policy.proposals)

    def _refused(self, session: Session, offer: ChildOffer, notify: NotifyPayload) -> Refused | Retry:
        if notify.type == NotifyType.INVALID_KE_PAYLOAD:
            method = negotiate.ke_to_retry(offer.policy.proposals, notify.data, used=offer.ke)
            self._ke_retries += 1
            if method is not None and self._ke_retries <= MAX_KE_RETRIES:
                session.child_ke[offer.policy.key.child] = method
                return Retry()
        if notify.type == NotifyType.NO_PROPOSAL_CHOSEN and offer.ke != KeId.NONE and offer.policy.pfs is Pfs.OFFER:
            self._without_ke = True
            return Retry()
        return Refused(refused_child(notify, ours=offer.shown(notify.type)), notify.type)

    def _agree(self, session: Session, offer: ChildOffer, response: OpenedMessage, now: float,
               ) -> Steps[tuple[_Begun, float]]:
        agreed = accept_child(session, offer, response.payloads)
        nonces = Nonces(self._ni, expect(response.payloads, NoncePayload).data)
        ke, shared = first(response.payloads, KePayload), None
        if agreed.suite.ke != KeId.NONE:
            if ke is None or ke.method != agreed.suite.ke:
                raise PeerError(NotifyType.INVALID_SYNTAX, "response without the KE payload of its suite")
            worked = yield from work(partial(self._kes[0].shared, ke.data))
            shared, now = worked
        return _Begun(agreed, nonces, shared, FollowUps(agreed.suite.additional, response.payloads)), now

    def _make(self, session: Session, offer: ChildOffer, begun: _Begun, now: float) -> Made:
        agreed = begun.agreed
        child = make_child(session, agreed, offer.policy, slot=offer.request.slot, nonces=begun.nonces,
                           shared=begun.shared, initiator=True, now=now, additional=begun.follow_ups.secrets)
        asked = set(offer.request.ts_local), set(offer.request.ts_remote)
        return Made(child, (set(agreed.ts_local), set(agreed.ts_remote)) != asked,
                    (child.protocol, agreed.spi_out) in self._early_deletes)


class ChildCreate(Task):
    """A new pair that the supervisor asked for."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self, session: Session, request: ChildRequest) -> None:
        super().__init__(session)
        self.request = request
        self.creation = Creation(request)

    def build(self, now: float) -> Steps[Payloads | None]:
        """Return the request; None where the peer made the same pair meanwhile, or the child was removed."""
        session = self.session
        policy = session.peer.child(self.request.child.child)
        if policy is None:
            session.refuse(self.request, Failure(Cause.RELOADED, f"{self.request.child} is no longer configured"))
            return None
        refusal = no_ah(session.nat, policy.protocol)
        if refusal is not None:
            session.refuse(self.request, refusal)
            return None
        ends = transport_ends(session, policy)
        unfit = ends and transport.unfit(self.request.ts_local, self.request.ts_remote, ends)
        if unfit:
            session.refuse(self.request, unfit)
            return None
        if any(c.live and c.policy == policy and c.pair.slot == self.request.slot for c in session.children.values()):
            return None
        self.exchange = self.creation.exchange
        payloads = yield from self.creation.build(session, policy)
        return payloads

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """Install the pair, ask again, or report the refusal."""
        session = self.session
        outcome = yield from self.creation.take(session, response, now)
        if not session.established:
            return                                     # closed during the key exchange: failed() has reported it
        match outcome:
            case Made(child=child) if outcome.deleted or session.peer.child(child.policy.key.child) is None:
                session.refuse(self.request, Failure(Cause.PEER_DELETED if outcome.deleted else Cause.RELOADED))
                if not outcome.deleted:
                    session.enqueue(ChildDelete.unmade(session, child.protocol, child.spi_in), first=True)
            case Made(child=child):
                session.install(child, child.since)
                session.use(child)
                session.child_up(child, narrowed=outcome.narrowed)
            case Retry():
                session.enqueue(self, first=True)
            case Refused():
                session.refuse(self.request, outcome.failure,
                               single_pair=outcome.notify == NotifyType.SINGLE_PAIR_REQUIRED)
                if outcome.spi:
                    session.enqueue(ChildDelete.unmade(session, outcome.protocol, outcome.spi), first=True)

    def failed(self, failure: Failure, now: float) -> None:
        """Report that the pair was not made."""
        self.session.refuse(self.request, failure)


class ChildCreateAnswer(Answer):
    """The peer asks for a new pair: both directions are used at once, unless it is to replace one that carries on."""

    def process(self, request: OpenedMessage, now: float) -> Steps[Payloads]:
        """SA, Nr, [KEr], TSi, TSr."""
        session = self.session
        try:
            answered = yield from answer_creation(session, request, now)
        except PeerError as error:
            session.child_refused_peer(of_error(error, child=True))
            raise
        return answered.respond(session, partial(self._install, answered))

    def _install(self, answered: Answered, secrets: tuple[Secret, ...], now: float) -> Payloads:
        session = self.session
        try:
            child = answered.make(secrets, now)
        except PeerError as error:
            session.child_refused_peer(of_error(error, child=True))
            raise
        session.install(child, now)
        if child.state is ChildState.UP:
            session.use(child)
        session.child_up(child, narrowed=False)
        return ()


@dataclass(frozen=True, slots=True)
class Answered:
    """What a responder agreed: `make` returns the child, not yet installed, once additional secrets are there.

    It raises PeerError where the child is not to be had any more.
    """

    payloads: Payloads
    additional: tuple[Transform, ...]
    nonces: Nonces
    rekeys: int | None
    make: Callable[[tuple[Secret, ...], float], ChildSa]
    now: float

    def respond(self, session: Session, conclude: Conclude) -> Payloads:
        """Return the response; `conclude` is called at once, or with the last of IKE_FOLLOWUP_KE."""
        due = FollowUpDue(self.additional, conclude, self.now, self.nonces, self.rekeys)
        return follow_up(session, due, self.payloads)


def answer_creation(session: Session, request: OpenedMessage, now: float, *, old: ChildSa | None = None,
                    ) -> Steps[Answered]:
    """Return the responder's side of the exchange; with `old`, of its rekey.  Raises PeerError."""
    ke = first(request.payloads, KePayload)
    ke_sent = ke.method if ke else KeId.NONE
    choice = choose_child(session, request.payloads, with_ke=True, ke_sent=ke_sent, old=old)
    shared: Secret | None = None
    ke_r: tuple[KePayload, ...] = ()
    if choice.agreed.suite.ke != KeId.NONE:
        assert ke is not None                       # choose_child asked for the group of the KE payload
        worked = yield from work(partial(kex.respond, ke.method, ke.data))
        shared, now = worked.value.shared, worked.now
        if not session.established:
            raise PeerError(NotifyType.TEMPORARY_FAILURE, "the IKE SA was rekeyed or closed meanwhile")
        ke_r = (KePayload(ke.method, worked.value.public),)
    nonces = Nonces(need(request.payloads, NoncePayload).data, session.host.rng.random_bytes(NONCE_BYTES))

    def make(additional: tuple[Secret, ...], then: float) -> ChildSa:
        check_still(session, choice, rekeyed=old is not None)
        child = make_child(session, choice.agreed, choice.policy, slot=choice.slot, nonces=nonces, shared=shared,
                           initiator=False, now=then, additional=additional,
                           state=ChildState.UP if old is None else ChildState.ARRIVING)
        if session.has_sender(child):
            # As in a rekey (RFC 7296 2.8): the peer, who learns of the new pair last, is waited for.
            child.state = ChildState.ARRIVING
        return child

    *notifies, sa, ts_i, ts_r = choice.payloads()
    return Answered((*notifies, sa, NoncePayload(nonces.nr), *ke_r, ts_i, ts_r), choice.agreed.suite.additional, nonces,
                    old.spi_in if old is not None else None, make, now)


def is_single_pair(notify: NotifyPayload | None) -> bool:
    """Return whether a refusal asks for one selector pair a Child SA (RFC 7296 2.9)."""
    return notify is not None and notify.type == NotifyType.SINGLE_PAIR_REQUIRED
