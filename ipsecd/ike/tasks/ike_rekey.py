"""Rekeying the IKE SA (RFC 7296 1.3.2, 2.8, 2.18, 2.25): the children move to the successor without a gap.

The PRF in use is offered and no other (see keymat.rekeyed_ike_keys).  While our own rekey is outstanding, the peer's is
answered too, and the IKE SA it makes waits without children until our response tells who gives way (2.8.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ipsecd.causes import Cause, Failure
from ipsecd.errors import PeerError
from ipsecd.events import Warned
from ipsecd.ike import negotiate
from ipsecd.ike.collisions import Nonces, gives_way
from ipsecd.ike.consts import ExchangeType, NotifyType, ProtocolId
from ipsecd.ike.crypto import kex
from ipsecd.ike.crypto.keymat import rekeyed_ike_keys
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.failures import error_notify, of_error, refused_ike
from ipsecd.ike.handover import hand_over
from ipsecd.ike.session import IkeCrypto, Session, Timer, TimerKind
from ipsecd.ike.steps import Steps, work
from ipsecd.ike.tasks.child_create import ChildCreate
from ipsecd.ike.tasks.child_rekey import RETRY_MAX_S, RETRY_MIN_S, ChildRekey
from ipsecd.ike.tasks.crash_detection import take_token, tell_token
from ipsecd.ike.tasks.delete import ChildDelete, IkeDelete
from ipsecd.ike.tasks.follow_up import REKEYS_IKE, FollowUpDue, FollowUps, follow_up, lost
from ipsecd.ike.tasks.ike_init import MAX_KE_RETRIES, NONCE_BYTES, check_nonce
from ipsecd.ike.tasks.pick import expect, first, need
from ipsecd.ike.tasks.task import Answer, Payloads, Task
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import DeletePayload, KePayload, NoncePayload
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.secret import Secret
from ipsecd.suites import IkeSuite

# Tuning
TEMPORARY_LIMIT_S = 180.0       # RFC 7296 2.25: a peer busy for minutes has another view of the IKE SA


@dataclass(frozen=True, slots=True)
class _Begun:
    """What CREATE_CHILD_SA agreed, while additional key exchanges go on (RFC 9370 2.2.4)."""

    chosen: negotiate.Chosen[IkeSuite]
    nonces: Nonces
    shared: Secret
    follow_ups: FollowUps


class IkeRekey(Task):
    """Our side: replaces the IKE SA."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.rival: Session | None = None      # the IKE SA that the peer's own rekey made
        self.answered = False                  # its response came, and may be worked on still
        self.ends_with: Failure | None = None  # the peer closed the IKE SA meanwhile: it ends once that is done
        self._spi = b""
        self._ni = b""
        self._method: int | None = None
        self._kes: tuple[kex.KeyExchange, ...] = ()
        self._offer: SaPayload | None = None
        self._ke_retries = 0
        self._begun: _Begun | None = None

    @property
    def begun(self) -> bool:
        """True once a request of it went out."""
        return bool(self._ni)

    @property
    def following_up(self) -> bool:
        """True while additional key exchanges go on."""
        return self._begun is not None

    def build(self, now: float) -> Steps[Payloads | None]:
        """SA with the new SPI, Ni, KEi."""
        session = self.session
        # A series that goes on has won (RFC 9370 2.2.4): its creator deletes a rival that is there already.
        if not session.established or not session.in_charge or (self.rival is not None and self._begun is None):
            self._without_ours(None, now)
            return None
        self.exchange = ExchangeType.IKE_FOLLOWUP_KE if self._begun else ExchangeType.CREATE_CHILD_SA
        if self._begun is not None:
            payloads = yield from self._begun.follow_ups.build()
            return payloads
        proposals = negotiate.keep_prf(session.peer.ike.proposals, session.crypto.suite.prf)
        if not proposals:
            # The configuration lost the PRF in use: let the hard lifetime bring a new IKE SA.
            session.emit(Warned("ike_rekey_impossible", f"{session.peer.name}: no proposal has the PRF in use"))
            return None
        method = self._method or negotiate.first_ke(proposals)
        worked = yield from work(partial(kex.generate, method))
        self._kes = (worked.value,)
        self._method = method
        self._spi = self._spi or session.host.offer_ike_spi(session)
        self._ni = session.host.rng.random_bytes(NONCE_BYTES)
        self._offer = negotiate.offer_ike(proposals, spi=self._spi)
        return (self._offer, NoncePayload(self._ni), *(KePayload(ke.method, ke.public) for ke in self._kes))

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """Hand everything to the new IKE SA, give way, or keep the old one for another try."""
        self.answered = True
        yield from self._take(response, now)
        self.session.ended = self.session.ended or self.ends_with

    def _take(self, response: OpenedMessage, now: float) -> Steps[None]:
        if first(response.payloads, NoncePayload if self._begun is None else KePayload) is None:
            self._begun = None
            self._refused(response, now)
            return
        try:
            begun = self._begun
            if begun is None:
                begun, now = yield from self._agree(response)
            else:
                now = yield from begun.follow_ups.take(response.payloads)
        except PeerError as error:
            self._begun = None
            self.session.emit(Warned("ike_rekey_failed", of_error(error).summary))
            self._without_ours(None, now)
            return
        self._begun = None if begun.follow_ups.done else begun
        if self._begun is None:
            self._made(begun, response, now)
        elif not self._stopped(begun.nonces, now):
            self.session.enqueue(self, first=True)

    def _stopped(self, nonces: Nonces, now: float) -> bool:
        """Give way, where the peer's rekey is the one that counts, before IKE_FOLLOWUP_KE (RFC 9370 2.2.4)."""
        session = self.session
        if self.rival is not None and gives_way(nonces, self.rival.nonces or nonces):
            adopt_rival(session, self.rival, now)
            return True
        if self.rival is None and lost(session, REKEYS_IKE, nonces, now):
            self._retry_later(now)
            return True
        return False

    def _made(self, begun: _Begun, response: OpenedMessage, now: float) -> None:
        session, old, suite = self.session, self.session.crypto, begun.chosen.suite
        keys = rekeyed_ike_keys(old.suite.prf, old.keys.sk_d, suite, ni=begun.nonces.ni, nr=begun.nonces.nr,
                                shared=begun.shared, spi_i=self._spi, spi_r=begun.chosen.spi,
                                additional=begun.follow_ups.secrets)
        crypto, nonces = IkeCrypto(self._spi, begun.chosen.spi, suite, keys, original_initiator=True), begun.nonces
        new = session.host.successor(session, crypto, nonces, now)
        take_token(new, response.payloads)
        if not session.established:
            # Either we closed it meanwhile, and the peer has moved everything to the new one; or the peer's request on
            # the rival said that ours gives way.
            new.enqueue(IkeDelete(new))
            return
        if self.rival is not None and gives_way(nonces, self.rival.nonces or nonces):
            new.enqueue(IkeDelete(new))
            adopt_rival(session, self.rival, now)
            return
        if self.rival is None and lost(session, REKEYS_IKE, nonces, now):
            new.enqueue(IkeDelete(new))            # the peer's has key exchanges to come
            self._retry_later(now)
            return
        hand_over(session, new, now)
        session.enqueue(IkeDelete(session), first=True)

    def failed(self, failure: Failure, now: float) -> None:
        """The IKE SA ended first, and with it what the peer's rekey made: the peer may have moved everything there."""
        if self.rival is not None and not self.rival.in_charge:
            self.session.host.release(self.rival, failure)

    def _agree(self, response: OpenedMessage) -> Steps[tuple[_Begun, float]]:
        assert self._offer is not None
        assert self._method is not None
        ke, nr = expect(response.payloads, KePayload), expect(response.payloads, NoncePayload).data
        chosen = negotiate.accept_ike(self._offer, expect(response.payloads, SaPayload), ke=self._method)
        if ke.method != self._method:
            raise PeerError(NotifyType.INVALID_SYNTAX, "KE payload of another group")
        check_nonce(nr, chosen.suite)
        worked = yield from work(partial(self._kes[0].shared, ke.data))
        follow_ups = FollowUps(chosen.suite.additional, response.payloads)
        return _Begun(chosen, Nonces(self._ni, nr), worked.value, follow_ups), worked.now

    def _refused(self, response: OpenedMessage, now: float) -> None:
        notify = error_notify(response.payloads)
        if notify is not None and notify.type == NotifyType.INVALID_KE_PAYLOAD:
            wanted = negotiate.ke_to_retry(self.session.peer.ike.proposals, notify.data, used=self._method or 0)
            self._ke_retries += 1
            if wanted is not None and self._ke_retries <= MAX_KE_RETRIES:
                self._method = wanted
                self.session.enqueue(self, first=True)
                return
        self._without_ours(notify, now)

    def _without_ours(self, notify: NotifyPayload | None, now: float) -> None:
        session = self.session
        if not session.established:
            return
        if self.rival is not None and self.rival.established:
            adopt_rival(session, self.rival, now)  # the peer's exchange is the one that counts
            return
        if notify is not None:
            session.emit(Warned("ike_rekey_refused", refused_ike(notify).summary))
        if session.refused_since is None:
            session.refused_since = now
        if now - session.refused_since >= TEMPORARY_LIMIT_S:
            session.ended = Failure(Cause.TEMPORARY_FAILURE, "the peer refuses to rekey the IKE SA for minutes")
            return
        self._retry_later(now)

    def _retry_later(self, now: float) -> None:
        retry_at = now + self.session.host.rng.uniform(RETRY_MIN_S, RETRY_MAX_S)
        self.session.timers.arm(Timer(TimerKind.REKEY_IKE), retry_at, "rekey the IKE SA again")


class IkeRekeyAnswer(Answer):
    """The peer replaces the IKE SA."""

    def process(self, request: OpenedMessage, now: float) -> Steps[Payloads]:
        """SA, Nr, KEr; raises PeerError, TEMPORARY_FAILURE while a child of ours is being changed (2.25)."""
        session = self.session
        self._check_idle()
        ke, ni = need(request.payloads, KePayload), need(request.payloads, NoncePayload).data
        proposals = negotiate.keep_prf(session.peer.ike.proposals, session.crypto.suite.prf)
        chosen = negotiate.choose_ike(proposals, need(request.payloads, SaPayload), ke_sent=ke.method)
        wanted = negotiate.wanted_ke(chosen.suite, ke.method)
        if wanted is not None:
            raise PeerError(NotifyType.INVALID_KE_PAYLOAD, "peer sent a value for another group",
                            wanted.to_bytes(2, "big"))
        check_nonce(ni, chosen.suite)
        worked = yield from work(partial(kex.respond, ke.method, ke.data))
        self._check_idle()                         # ours may have gone on meanwhile
        nonces, spi = Nonces(ni, session.host.rng.random_bytes(NONCE_BYTES)), session.host.new_ike_spi()
        payloads = chosen.answer(spi), NoncePayload(nonces.nr), KePayload(ke.method, worked.value.public)
        conclude = partial(self._conclude, chosen, nonces, spi, worked.value.shared)
        due = FollowUpDue(chosen.suite.additional, conclude, worked.now, nonces, REKEYS_IKE)
        return follow_up(session, due, payloads)

    def _conclude(self, chosen: negotiate.Chosen[IkeSuite], nonces: Nonces, spi: bytes, shared: Secret,
                  additional: tuple[Secret, ...], now: float) -> Payloads:
        self._check_idle()
        session, old = self.session, self.session.crypto
        keys = rekeyed_ike_keys(old.suite.prf, old.keys.sk_d, chosen.suite, ni=nonces.ni, nr=nonces.nr, shared=shared,
                                spi_i=chosen.spi, spi_r=spi, additional=additional)
        crypto = IkeCrypto(chosen.spi, spi, chosen.suite, keys, original_initiator=False)
        new = session.host.successor(session, crypto, nonces, now)
        ours = _own_rekey(session)
        if ours is not None:
            ours.rival = new
        else:
            hand_over(session, new, now)
        return tell_token(new)

    def _check_idle(self) -> None:
        session = self.session
        ours = _own_rekey(session)
        if not session.established or isinstance(session.active, ChildCreate | ChildRekey | ChildDelete):
            raise PeerError(NotifyType.TEMPORARY_FAILURE, "an exchange of ours is open, or the IKE SA is closing")
        if ours is not None and (ours.rival is not None or ours.following_up):
            raise PeerError(NotifyType.TEMPORARY_FAILURE, "a rekey of the IKE SA was decided, and goes on")
        if session.host.crowded(session):
            raise PeerError(NotifyType.TEMPORARY_FAILURE, "the peer deletes no IKE SA that it replaced")


def rekey_ike(session: Session) -> None:
    """Queue a rekey of the IKE SA, unless one is queued or it is on its way out."""
    if session.established and session.in_charge and not any(isinstance(t, IkeRekey) for t in session.tasks()):
        session.enqueue(IkeRekey(session))


def adopt_used(session: Session, request: OpenedMessage, now: float) -> None:
    """Hand over to an IKE SA whose collision is undecided here: the peer asks something on it, so it has decided."""
    old = session.predecessor
    if old is None or session.in_charge or not (session.established and old.established):
        return
    if not any(isinstance(p, DeletePayload) and p.protocol == ProtocolId.IKE for p in request.payloads):
        hand_over(old, session, now)


def adopt_rival(session: Session, rival: Session, now: float) -> None:
    """The IKE SA that the peer made survives: everything moves there, and the peer deletes this one."""
    if session.established and rival.established:
        hand_over(session, rival, now)


def _own_rekey(session: Session) -> IkeRekey | None:
    return session.active if isinstance(session.active, IkeRekey) else next(
        (t for t in session.queue if isinstance(t, IkeRekey) and t.begun), None)
