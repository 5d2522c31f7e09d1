"""Rekeying a Child SA (RFC 7296 1.3.3, 2.8): it has a creation and a delete, and meets itself coming the other way.

Initiator: the new pair is installed and used with the response, the old one deleted, receiving LINGER_S longer.
Responder: the new pair receives at once, and sends after the first packet on it, the Delete of the old, or SWITCH_S.

While ours is outstanding the peer may rekey the same pair (2.8.1).  Its new pair is then installed and waits: our own
response tells the fourth nonce, and `collisions` who gives way.  Until then a Delete of the peer may arrive for the old
pair (the peer won), for its own new pair (it lost), or for the pair that our late response is about (25).
"""

from __future__ import annotations

from functools import partial

from ipsecd.causes import Cause, Failure
from ipsecd.errors import PeerError
from ipsecd.events import ChildFailed
from ipsecd.ike.child_sa import SWITCH_S, ChildSa
from ipsecd.ike.collisions import Nonces, gives_way
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.failures import of_error
from ipsecd.ike.nat import no_ah
from ipsecd.ike.pfs_probe import explained, note_success, refused_by_us
from ipsecd.ike.session import Session, Timer, TimerKind
from ipsecd.ike.states import ChildState
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.child_create import (
    Answered,
    ChildCreate,
    Creation,
    Made,
    Refused,
    Retry,
    answer_creation,
)
from ipsecd.ike.tasks.child_exchange import present_policy
from ipsecd.ike.tasks.delete import ChildDelete
from ipsecd.ike.tasks.follow_up import lost
from ipsecd.ike.tasks.task import Answer, Payloads, Task
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.reports import ChildRequest
from ipsecd.secret import Secret
from ipsecd.suites import CHILD_PROTOCOLS

# Tuning
RETRY_MIN_S = 5.0               # after TEMPORARY_FAILURE: what the peer is busy with ends within a round trip or two
RETRY_MAX_S = 10.0              # apart, so that both ends do not meet again
REDUNDANT_S = 60.0              # a pair that lost and that its creator never deletes


class ChildRekey(Task):
    """Our side: replaces one pair."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self, session: Session, child: ChildSa, *, probe: bool = False) -> None:
        super().__init__(session)
        self.child = child
        self.probe = probe                     # an early one, which is not repeated (see pfs_probe)
        self.rival: ChildSa | None = None      # what the peer's own rekey of the same pair made
        pair = child.pair
        self.creation = Creation(ChildRequest(pair.child, pair.slot, pair.ts_local, pair.ts_remote), replaces=pair)

    def build(self, now: float) -> Steps[Payloads | None]:
        """N(REKEY_SA) and a creation; None where the pair is no longer ours to rekey."""
        child = self.child
        if child.state is ChildState.UP:
            child.move(ChildState.REKEYING)
        # A series that goes on has won (RFC 9370 2.2.4): its creator deletes a rival that is there already.
        if child.state is not ChildState.REKEYING or (self._rival_stands and not self.creation.begun):
            self._without_ours(Failure(Cause.PEER_DELETED), 0, now)
            return None
        refusal = no_ah(self.session.nat, child.protocol)
        if refusal is not None:
            self._without_ours(refusal, 0, now)
            return None
        policy = present_policy(self.session, child)
        notify = NotifyPayload(NotifyType.REKEY_SA, b"", child.protocol, child.spi_in.to_bytes(4, "big"))
        self.exchange = self.creation.exchange
        payloads = yield from self.creation.build(self.session, policy, (notify,))
        return payloads

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """Let the new pair take over, give way, or keep the old one for another try."""
        outcome = yield from self.creation.take(self.session, response, now)
        if not self.session.established:
            return                                     # closed during the key exchange, and all pairs with it
        match outcome:
            case Made():
                self._made(outcome, now)
            case Retry(nonces=nonces) if nonces is not None and self._lost(nonces, now):
                self._stop(now)
            case Retry():
                self.session.enqueue(self, first=True)
            case Refused():
                self._without_ours(outcome.failure, outcome.notify, now)
                if outcome.spi:
                    self.session.enqueue(ChildDelete.unmade(self.session, outcome.protocol, outcome.spi), first=True)

    def failed(self, failure: Failure, now: float) -> None:
        """The pairs go with their IKE SA."""

    def _made(self, made: Made, now: float) -> None:
        session, old, new = self.session, self.child, made.child
        if made.deleted:
            # The peer deleted the successor before we knew it (2.25): what it replaced goes too, and nothing is left.
            if old.state is ChildState.REKEYING:
                session.enqueue(ChildDelete.of(session, old, Failure(Cause.PEER_DELETED)), first=True)
            self._drop_doomed(Failure(Cause.PEER_DELETED))
        elif self.rival is not None and (old.state is ChildState.LINGERING
                                         or gives_way(new.nonces, self.rival.nonces)):
            # LINGERING: the peer deleted the old pair, and so has decided for its own, whatever the nonces say.
            session.enqueue(ChildDelete.unmade(session, new.protocol, new.spi_in), first=True)
            yield_to_rival(session, old, self.rival, now)
        elif self.rival is None and self._lost(new.nonces, now):
            session.enqueue(ChildDelete.unmade(session, new.protocol, new.spi_in), first=True)
            self._stop(now)
        elif made.narrowed:
            session.enqueue(ChildDelete.unmade(session, new.protocol, new.spi_in), first=True)
            failure = Failure(Cause.TS_UNACCEPTABLE, "a narrower answer would drop traffic that flows")
            self._without_ours(failure, 0, now)
        else:
            self._take_over(old, new, now)

    def _take_over(self, old: ChildSa, new: ChildSa, now: float) -> None:
        session = self.session
        session.install(new, now)
        session.use(new)
        if self.rival is not None and self.rival.state is ChildState.ARRIVING:
            # Its creator deletes it; should that never come, we do.
            timer = Timer(TimerKind.EXPIRE_CHILD, self.rival.spi_in)
            session.timers.arm(timer, now + REDUNDANT_S, "redundant Child SA")
        if old.state is ChildState.GONE:
            session.child_up(new, narrowed=False)
            return
        session.child_moved(old, new)
        if self.probe:
            note_success(session, old, new)
        if old.state is ChildState.DOOMED:
            session.linger(old, now)               # deleted by the peer and answered already
        else:
            old.move(ChildState.REPLACED)
            session.enqueue(ChildDelete.replaced(session, old), first=True)

    def _without_ours(self, failure: Failure, notify: int, now: float) -> None:
        """Nothing came of our exchange."""
        session, old = self.session, self.child
        if self.rival is not None and self._rival_stands:
            yield_to_rival(session, old, self.rival, now)
        elif old.state is ChildState.REKEYING and notify == NotifyType.CHILD_SA_NOT_FOUND:
            session.remove(old, failure)           # the peer lost it: the supervisor makes it anew
        elif old.state is ChildState.REKEYING:
            session.emit(ChildFailed(session.peer.name, old.policy.key.child, explained(old, failure, notify)))
            self._put_off(now)
        self._drop_doomed(Failure(Cause.PEER_DELETED))

    @property
    def _rival_stands(self) -> bool:
        return self.rival is not None and self.rival.state is not ChildState.GONE

    def _lost(self, nonces: Nonces, now: float) -> bool:
        """Whether the peer's rekey of the same pair, made or with key exchanges to come, is the one that counts."""
        if self.rival is not None:
            return self.child.state is ChildState.LINGERING or gives_way(nonces, self.rival.nonces)
        return self.child.state is ChildState.REKEYING and lost(self.session, self.child.spi_in, nonces, now)

    def _stop(self, now: float) -> None:
        """The peer goes on with its rekey, or is done with it."""
        if self.rival is None:
            self._put_off(now)
        else:
            self._without_ours(Failure(Cause.REPLACED), 0, now)

    def _put_off(self, now: float) -> None:
        self.child.move(ChildState.UP)
        if not self.probe:
            retry_at = now + self.session.host.rng.uniform(RETRY_MIN_S, RETRY_MAX_S)
            timer = Timer(TimerKind.REKEY_CHILD, self.child.spi_in)
            self.session.timers.arm(timer, retry_at, "rekey a Child SA again")

    def _drop_doomed(self, failure: Failure) -> None:
        if self.child.state is ChildState.DOOMED:
            self.session.remove(self.child, failure)


class ChildRekeyAnswer(Answer):
    """The peer replaces a pair."""

    def process(self, request: OpenedMessage, now: float) -> Steps[Payloads]:
        """SA, Nr, [KEr], TSi, TSr; raises PeerError with the notifies of RFC 7296 2.25."""
        session = self.session
        old = self._old(request)
        try:
            answered = yield from answer_creation(session, request, now, old=old)
            self._old(request)                         # something else may have happened to it meanwhile
        except PeerError as error:
            refused_by_us(session, old, of_error(error, child=True))
            raise
        return answered.respond(session, partial(self._install, old, answered))

    def _install(self, old: ChildSa, answered: Answered, secrets: tuple[Secret, ...], now: float) -> Payloads:
        session = self.session
        if old.state not in (ChildState.UP, ChildState.REKEYING):
            raise _busy(old)                       # something else happened to it during the key exchanges
        new = answered.make(secrets, now)
        new.replaces = old.spi_in
        session.install(new, new.since)
        session.timers.cancel(Timer(TimerKind.REKEY_CHILD, old.spi_in))
        task = rekey_of(session, old)
        if old.state is ChildState.REKEYING and task is not None:
            task.rival = new
            session.timers.cancel(Timer(TimerKind.SWITCH_CHILD, new.spi_in))
        else:
            old.move(ChildState.REPLACED)
        return ()

    def _old(self, request: OpenedMessage) -> ChildSa:
        notify = find(request.payloads, NotifyType.REKEY_SA)
        assert notify is not None                  # dispatch looked for it
        session = self.session
        if notify.protocol not in CHILD_PROTOCOLS or len(notify.spi) != 4:
            raise PeerError(NotifyType.INVALID_SYNTAX, "REKEY_SA without an ESP or AH SPI")
        old = session.child_by_peer_spi(notify.protocol, int.from_bytes(notify.spi, "big"))
        if old is None and isinstance(session.active, ChildCreate | ChildRekey):
            # It may be the pair that our own outstanding exchange makes: its response is on its way (2.25).
            raise PeerError(NotifyType.TEMPORARY_FAILURE, f"peer rekeys {notify.spi.hex()}, which we do not know yet")
        if old is None:
            raise PeerError(NotifyType.CHILD_SA_NOT_FOUND, f"peer rekeys unknown SPI {notify.spi.hex()}")
        if old.state is ChildState.ARRIVING and not is_rival(session, old):
            session.arrive(old)                   # a peer that rekeys it uses it
        task = rekey_of(session, old)
        rekeying = task is not None and (task.rival is not None or task.creation.begun)
        if old.state not in (ChildState.UP, ChildState.REKEYING) or rekeying:
            raise _busy(old)
        return old


def yield_to_rival(session: Session, old: ChildSa, rival: ChildSa, now: float) -> None:
    """The peer's new pair survives: it carries on for the old one, which the peer deletes.

    The peer installs it with our response, a key exchange later: as in any rekey of its own we send on the old pair
    until it is heard on the new one, deletes the old one, or SWITCH_S has passed.
    """
    if old.state is ChildState.REKEYING:
        old.move(ChildState.REPLACED)
        if rival.state is ChildState.ARRIVING and not rival.heard:
            timer = Timer(TimerKind.SWITCH_CHILD, rival.spi_in)
            session.timers.arm(timer, now + SWITCH_S, timer.kind.value)
            return
    if rival.state is ChildState.ARRIVING:
        session.arrive(rival)
    if old.state is ChildState.DOOMED:
        session.remove(old, Failure(Cause.PEER_DELETED))


def rekey_of(session: Session, child: ChildSa) -> ChildRekey | None:
    """Return our own rekey of a pair, outstanding or waiting."""
    return next((t for t in session.tasks() if isinstance(t, ChildRekey) and t.child is child), None)


def is_redundant(session: Session, child: ChildSa) -> bool:
    """Return whether a pair lost its collision: its creator deletes it, and may send on it until then."""
    old = session.children.get(child.replaces or 0)
    return old is not None and old.successor is not None


def is_rival(session: Session, child: ChildSa) -> bool:
    """Return whether a pair waits for the outcome of our own rekey."""
    return any(isinstance(t, ChildRekey) and t.rival is child for t in session.tasks())


def _busy(old: ChildSa) -> PeerError:
    return PeerError(NotifyType.TEMPORARY_FAILURE, f"Child SA {old.spi_in:08x} is {old.state.name.lower()}")
