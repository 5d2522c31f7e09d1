"""One IKE SA with keys: opens messages, decides whether they are new, gives them to tasks and carries the answers.

It owns Message IDs, the windows, retransmission and fragments; tasks see payloads and their Session.  A message goes
1 role flag  2 window  3 admission by state  4 ICV  5 window taken, path and proof of life  6 rules  7 task.
What a task asks for ends in `_settle`, which every entry runs: the IKE SA closes if a task ended it, and the next
request goes out if none is outstanding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ipsecd.causes import Cause, Failure
from ipsecd.drops import DropReason
from ipsecd.errors import BadIcv, LocalError, PeerError, WireError
from ipsecd.events import LocalFault
from ipsecd.ike.channel import Channel
from ipsecd.ike.child_timers import on_child_timer
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.digest import request_digest
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.ending import report_end
from ipsecd.ike.failures import of_error
from ipsecd.ike.requester import HALF_OPEN_LIFE_S, Requester
from ipsecd.ike.session import Session, Timer, TimerKind
from ipsecd.ike.states import AuthSent, Dead, Deleting, Established, InitAnswered
from ipsecd.ike.steps import StepRunner
from ipsecd.ike.tasks.addresses import note_arrival, try_paths
from ipsecd.ike.tasks.delete import IkeDelete
from ipsecd.ike.tasks.dispatch import admitted, answer_for
from ipsecd.ike.tasks.ike_rekey import adopt_used, rekey_ike
from ipsecd.ike.tasks.liveness import Liveness, TellRefusal
from ipsecd.ike.tasks.path_probe import probe_path
from ipsecd.ike.tasks.refusal import SaRefused
from ipsecd.ike.tasks.task import Answer
from ipsecd.ike.window import OtherForm, RequestWindow, ResponderWindow, StoredAnswer
from ipsecd.ike.wire import rules
from ipsecd.ike.wire.header import IkeHeader
from ipsecd.ike.wire.message import Payload, SealedMessage
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.rate import Bucket
from ipsecd.reports import ReauthDue
from ipsecd.sa import Deadline, Path
from ipsecd.text import printable

# Tuning
REQUESTS_PER_S = 100.0          # of one authenticated peer; opening and answering one costs about 0.2 ms
REQUEST_BURST = 2048.0          # above MAX_CHILDREN: a peer may make or close all its children at once
MAX_BAD_AUTH = 8                # messages without a valid ICV before a half-open IKE SA opens no more
DELETE_LIFE_S = 5.0             # how long our Delete is repeated; the peer's liveness check finds out by itself
REFUSED_LIFE_S = 10.0           # how long a refused initiator may have its answer repeated
_AFTER_AUTH = (ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL, ExchangeType.IKE_FOLLOWUP_KE)


class IkeSa:
    """See the head of this file; the endpoint drains `session.outputs` and `runner` after every entry."""

    def __init__(self, session: Session, *, fragmentation: bool, auth: Answer | None = None) -> None:
        self.session = session
        self.runner = StepRunner()
        self.responses = ResponderWindow()
        self._channel = Channel(session, fragmentation=fragmentation)
        self._requester = Requester(session, self._channel, self.runner, self._task_failed)
        self._auth = auth
        self._rate = Bucket(per_s=REQUESTS_PER_S, burst=REQUEST_BURST, now=session.since)
        self._bad_icvs = 0
        self._ended = False         # its end was reported

    @property
    def requests(self) -> RequestWindow:
        """The Message IDs of our own requests."""
        return self._requester.window

    @property
    def fragmentation(self) -> bool:
        """Whether both ends take fragments; a successor keeps it (RFC 7383 2.3)."""
        return self._channel.fragmentation

    @property
    def dead(self) -> bool:
        """True once nothing is left of it."""
        return isinstance(self.session.state, Dead)

    # Entries

    def start(self, now: float) -> None:
        """Begin what is queued; a half-open IKE SA ends by itself."""
        if isinstance(self.session.state, AuthSent | InitAnswered):
            self._arm(TimerKind.HALF_OPEN, now + HALF_OPEN_LIFE_S)
        self.poke(now)

    def poke(self, now: float) -> None:
        """Take notice of what was changed in the session."""
        self._guarded(lambda: self._settle(now), now)

    def receive(self, message: SealedMessage, path: Path, now: float) -> DropReason | None:
        """Take a protected message for this IKE SA; return why it was dropped."""
        try:
            verdict = self._receive(message, path, now)
        except Exception as error:
            self._fault(error, now)
            verdict = DropReason.IKE_LOCAL_ERROR
        self.poke(now)
        return verdict

    def resume(self, token: int, value: object, now: float) -> None:
        """A job came to its end."""
        self._guarded(lambda: self.runner.resume(token, value, now), now)
        self.poke(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        while not self.dead and (timer := self.session.timers.pop_due(now)) is not None:
            self._guarded(partial(self._on_timer, timer, now), now)
        self.poke(now)

    def next_deadline(self) -> Deadline | None:
        """Return when to call handle_timeout."""
        return None if self.dead else self.session.timers.next()

    def forget(self, failure: Failure, now: float) -> None:
        """Drop an attempt that nobody waits for, without a word but to a peer that our IKE_AUTH made it for."""
        self._ended = True
        if self._requester.proving:
            self.session.released = failure             # once the answer shows that the peer has it
        else:
            self._die(failure, now)

    def close(self, failure: Failure, now: float, *, tell: bool = True) -> None:
        """End an established IKE SA: the Delete goes out, everything else goes at once."""
        told = tell and isinstance(self.session.state, Established)
        self._guarded(lambda: (self._begin_delete if told else self._die)(failure, now), now)
        self.poke(now)

    def _begin_delete(self, failure: Failure, now: float) -> None:
        self._give_up(failure, now, told=True)
        self.session.move(Deleting(now))
        self._arm(TimerKind.CLOSE, now + DELETE_LIFE_S)
        self.session.enqueue(IkeDelete(self.session))

    def answer_init(self, digest: bytes, response: bytes, said: tuple[Payload, ...], now: float) -> None:
        """As responder: IKE_SA_INIT was the peer's request 0, and this its answer, made of `said`."""
        self.responses.accept(0, digest)
        self.responses.answer(0, (response,), now)
        self._channel.trace("out", said, exchange=IkeHeader.parse(response).exchange, message_id=0, response=True,
                            path=self.session.path)
        self._channel.send((response,), self.session.path, now)

    def repeat_init(self, digest: bytes, path: Path, now: float) -> None:
        """Answer a repetition of IKE_SA_INIT with the same bytes."""
        known = self.responses.check(0, digest, now)
        if isinstance(known, StoredAnswer):
            self._channel.send(known.datagrams, path, now)

    def try_paths(self, paths: tuple[Path, ...], now: float) -> None:
        """Ask the peer over these paths too (MOBIKE); one just taken alone at first, lest a quicker one win."""
        before = self.session.path
        if try_paths(self.session, paths):
            self.ask_at_once(now, alone=self.session.path != before)

    # Inbound

    def _receive(self, message: SealedMessage, path: Path, now: float) -> DropReason | None:
        header, session = message.header, self.session
        if header.is_initiator == session.crypto.original_initiator:
            return DropReason.IKE_WRONG_ROLE_FLAG
        if header.is_response:
            verdict = self.requests.check(message_id=header.message_id, exchange=header.exchange)
            return verdict or self._open(message, path, now)
        known = self.responses.check(header.message_id, request_digest(message.datagram), now)
        if isinstance(known, StoredAnswer):
            return self._channel.repeat(known.datagrams, path, now)
        if isinstance(known, OtherForm | DropReason):
            return known if isinstance(known, DropReason) else self._channel.repeat_by_icv(message, known, path, now)
        refused = isinstance(session.state, Deleting) and session.remote_id is None
        if refused or not admitted(session, header.exchange):
            return DropReason.IKE_UNEXPECTED_EXCHANGE  # whoever was refused has no more to ask
        if isinstance(session.state, InitAnswered):
            if self.runner.busy or header.message_id != self.responses.expected:
                return DropReason.IKE_BUSY             # each exchange may change the keys of the next
            if self._bad_icvs >= MAX_BAD_AUTH:
                return DropReason.IKE_RATE_LIMIT       # it keeps its place: else junk would buy key exchanges
        return self._open(message, path, now)

    def _open(self, message: SealedMessage, path: Path, now: float) -> DropReason | None:
        try:
            opened = self._channel.open(message, now)
        except BadIcv:
            self._bad_icvs += 1
            return DropReason.IKE_BAD_ICV
        except WireError as error:
            self._take(message.header.is_response, message.header.message_id, request_digest(message.datagram), path,
                       now)
            self._malformed(message, PeerError(NotifyType.INVALID_SYNTAX, str(error)), path, now)
            return DropReason.IKE_MALFORMED
        if opened is None or isinstance(opened, DropReason):
            return opened
        if not opened.header.is_response and not self._rate.take(now):
            return DropReason.IKE_RATE_LIMIT           # not taken: the peer's repetition of it may come through
        self._take(opened.header.is_response, opened.header.message_id, opened.digest, path, now)
        self._channel.trace("in", opened.payloads, exchange=opened.header.exchange,
                            message_id=opened.header.message_id, response=opened.header.is_response, path=path)
        try:
            rules.check(opened.header.exchange, opened.header.is_response, opened.payloads)
        except PeerError as error:
            self._malformed(message, error, path, now)
            return DropReason.IKE_MALFORMED
        if opened.header.is_response:
            self._response(opened, now)
        else:
            self._request(opened, path, now)
        return None

    def _take(self, is_response: bool, message_id: int, digest: bytes, path: Path, now: float) -> None:
        """The message is authentic and new: from here on it may change things."""
        if is_response:
            self._requester.answered(now)
        else:
            self.responses.accept(message_id, digest)
            self._requester.proof_at = now
        note_arrival(self.session, path, is_response=is_response)

    def _malformed(self, message: SealedMessage, error: PeerError, path: Path, now: float) -> None:
        """RFC 7296 2.21.3: an error response to an authentic request, none to a response; the IKE SA ends."""
        header = message.header
        if not header.is_response:
            self._respond((NotifyPayload(error.notify, error.data),), header.exchange, header.message_id, path, now)
            critical = error.notify == NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
            if self.session.established and (critical or header.exchange not in _AFTER_AUTH):
                return                                 # RFC 7296 2.5: only this request is refused
        self._refuse(SaRefused(of_error(error)), now)

    def _request(self, opened: OpenedMessage, path: Path, now: float) -> None:
        header = opened.header

        def done(payloads: tuple[Payload, ...], then: float) -> None:
            self._respond(payloads, header.exchange, header.message_id, path, then)

        def failed(error: Exception, then: float) -> None:
            match error:
                case SaRefused():
                    if error.notify is not None:
                        done((NotifyPayload(error.notify),), then)
                    self._refuse(error, then)
                case PeerError():
                    done((NotifyPayload(error.notify, error.data),), then)
                case _:
                    self._fault(error, then)

        if isinstance(self.session.state, InitAnswered):
            assert self._auth is not None
            answer = self._auth
        else:
            adopt_used(self.session, opened, now)
            try:
                answer = answer_for(self.session, opened)
            except PeerError as error:
                failed(error, now)
                return
        self.runner.start(answer.process(opened, now), done=done, failed=failed, now=now)

    def _response(self, opened: OpenedMessage, now: float) -> None:
        task = self._requester.response_of()

        def done(_: None, then: float) -> None:
            self.session.active = None

        self.runner.start(task.process(opened, now), done=done, failed=self._task_failed, now=now)

    def _task_failed(self, error: Exception, now: float) -> None:
        self.session.active = None
        match error:
            case SaRefused():
                self._refuse(error, now)
            case PeerError() | WireError():
                self._refuse(SaRefused(of_error(error)), now)
            case _:
                self._fault(error, now)

    # Outbound

    def _respond(self, payloads: tuple[Payload, ...], exchange: int, message_id: int, path: Path, now: float) -> None:
        if self.session.ended is not None:             # the peer forgets it with our answer: traffic leaves it first
            self._give_up(self.session.ended, now)
        datagrams = self._channel.say(payloads, exchange=exchange, message_id=message_id, response=True, path=path,
                                      now=now)
        self.responses.answer(message_id, datagrams, now)

    # Time

    def _on_timer(self, timer: Timer, now: float) -> None:
        session = self.session
        match timer.kind:
            case TimerKind.RETRANSMIT:
                given_up = self._requester.on_timer(now)
                if given_up is not None:
                    self._die(given_up, now)
            case TimerKind.HALF_OPEN:
                self._die(Failure(Cause.PEER_SILENT, "no IKE_AUTH within the life of a half-open IKE SA"), now)
            case TimerKind.LIVENESS:
                self._check_liveness(now)
            case TimerKind.KEEPALIVE:
                self._arm(TimerKind.KEEPALIVE, self._channel.keepalive(now))
            case TimerKind.FRAGMENTS:
                self._channel.expire(now)
            case TimerKind.REKEY_IKE:
                rekey_ike(session)
            case TimerKind.REAUTH:
                session.output(ReauthDue(session.handle, session.peer.name))
            case TimerKind.EXPIRE_IKE:
                self.close(Failure(Cause.EXPIRED), now)
            case TimerKind.SUPERSEDED if not session.host.alone_with(session):    # else the other one went first
                self.close(Failure(Cause.REPLACED, "the peer made another IKE SA"), now)
            case TimerKind.CLOSE:
                self._die(Failure(Cause.REPLACED), now)
            case TimerKind.PROBE_PATH:
                probe_path(session, now)
            case _:
                on_child_timer(session, timer, now)

    def _check_liveness(self, now: float) -> None:
        dpd_s = self.session.peer.ike.dpd_s
        due = self._requester.proof() + dpd_s
        if due <= now:
            self.check_liveness()
            due = now + dpd_s
        self._arm(TimerKind.LIVENESS, due)

    def check_liveness(self) -> None:
        """Ask whether the peer lives, unless some request of ours is asking already."""
        if self.session.established and not self.session.tasks():
            self.session.enqueue(Liveness(self.session))

    def ask_at_once(self, now: float, *, alone: bool = False) -> None:
        """Ask whether the peer lives, by what is outstanding where there is such: it need not wait for its turn."""
        self.check_liveness()
        self._requester.repeat(now, alone=alone)

    # Ends

    def _settle(self, now: float) -> None:
        if not isinstance(self.session.state, InitAnswered):
            self._auth = None                          # it holds what AUTH was computed from
        if self.session.released is not None and self.session.proved:
            self._begin_delete(self.session.released, now)
        if not self.dead:
            self._requester.pump(now)
        if self.session.ended is not None and not self.dead:
            self._die(self.session.ended, now)
        elif self.requests.nearly_exhausted and self.session.established:
            rekey_ike(self.session)

    def _guarded(self, do: Callable[[], object], now: float) -> None:
        try:
            do()
        except Exception as error:
            self._fault(error, now)

    def _fault(self, error: Exception, now: float) -> None:
        """Our own bug or resource: this IKE SA ends, nothing else does."""
        self.session.emit(LocalFault(f"IKE SA {self.session.crypto} with {self.session.peer.name}",
                                     printable(f"{type(error).__name__}: {error}")))
        self._die(of_error(LocalError(f"{type(error).__name__}: {error}")), now)

    def _refuse(self, refused: SaRefused, now: float) -> None:
        """The IKE SA cannot go on; as initiator of one that never was, tell the peer why (RFC 7296 2.21.2)."""
        state = self.session.state
        if isinstance(state, Dead | Deleting):
            return
        self._give_up(refused.failure, now, refused=True)
        if isinstance(state, AuthSent) and refused.notify is not None:
            self.session.move(Deleting(now))
            self._arm(TimerKind.CLOSE, now + DELETE_LIFE_S)
            self.session.enqueue(TellRefusal(self.session, refused.notify))
        elif isinstance(state, InitAnswered):
            self.session.move(Deleting(now))       # stays a while for repetitions of the request
            self._arm(TimerKind.CLOSE, now + REFUSED_LIFE_S)
        else:
            self._die(refused.failure, now)

    def _die(self, failure: Failure, now: float) -> None:
        if self.dead:
            return
        self._give_up(failure, now)
        for child in tuple(self.session.children.values()):
            self.session.remove(child)
        self._requester.forget()
        self.runner.abandon()
        self.session.move(Dead(failure))

    def _give_up(self, failure: Failure, now: float, *, refused: bool = False, told: bool = False) -> None:
        """Report the end once, and take down what hangs on it."""
        if not self._ended:
            self._ended = True
            report_end(self.session, failure, now, refused=refused, told=told)

    def _arm(self, kind: TimerKind, at: float) -> None:
        self.session.timers.arm(Timer(kind), at, kind.value)
