"""Our own requests on one IKE SA: one outstanding at a time, repeated until answered or given up (RFC 7296 2.1-2.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from ipsecd.causes import Cause, Failure
from ipsecd.ike.channel import Channel
from ipsecd.ike.consts import ExchangeType, enum_name
from ipsecd.ike.crypto.sk_payload import overhead_bytes
from ipsecd.ike.mobility import doubt
from ipsecd.ike.retransmit import FIRST_INTERVAL_S, MAX_INIT_INTERVAL_S, MAX_INTERVAL_S, Retransmission
from ipsecd.ike.session import Session, Timer, TimerKind
from ipsecd.ike.states import AuthSent
from ipsecd.ike.steps import StepRunner
from ipsecd.ike.tasks.path_probe import PADDING_NOTIFY, PIECE_BYTES, PathProbe
from ipsecd.ike.tasks.task import Task
from ipsecd.ike.window import RequestWindow
from ipsecd.ike.wire.message import Payload

# Tuning
HALF_OPEN_LIFE_S = 30.0         # absolute, so that nobody keeps one open by talking; a responder gives us no longer


@dataclass(slots=True)
class _Outstanding:
    task: Task
    datagrams: tuple[bytes, ...]        # of a repetition
    schedule: Retransmission


class Requester:
    """Takes tasks from the session's queue; `proof_at` is when the peer last proved to live, by IKE."""

    def __init__(self, session: Session, channel: Channel, runner: StepRunner,
                 failed: Callable[[Exception, float], None]) -> None:
        self.window = RequestWindow()
        self.proof_at = session.since
        self._session = session
        self._channel = channel
        self._runner = runner
        self._failed = failed
        self._outstanding: _Outstanding | None = None

    @property
    def proving(self) -> bool:
        """True while IKE_AUTH is out, or its response worked on: the peer may have made the IKE SA."""
        active = self._session.active
        return active is not None and active.exchange == ExchangeType.IKE_AUTH and self.window.next_id > 1

    def pump(self, now: float) -> None:
        """Send the next request unless one is outstanding or being built."""
        session = self._session
        self._make_way(now)
        while session.active is None and session.queue and session.ended is None:
            task, established = session.queue.popleft(), session.established
            session.active = task

            def done(payloads: tuple[Payload, ...] | None, then: float, task: Task = task,
                     established: bool = established) -> None:
                closed = established and not session.established    # while it was built: only the Delete is to go out
                if payloads is None or closed:
                    session.active = None
                else:
                    self._ask(task, payloads, then)

            self._runner.start(task.build(now), done=done, failed=self._failed, now=now)

    def answered(self, now: float) -> None:
        """An authentic response came: nothing is outstanding, and `response_of` tells whose it was."""
        self.window.finish()
        self.proof_at = now
        self._session.timers.cancel(Timer(TimerKind.RETRANSMIT))

    def response_of(self) -> Task:
        """Return the task that asked for the response just taken, once."""
        assert self._outstanding is not None
        task, self._outstanding = self._outstanding.task, None
        return task

    def forget(self) -> None:
        """The IKE SA ended."""
        self._outstanding = None
        self._session.active = None

    def on_timer(self, now: float) -> Failure | None:
        """Send the outstanding request again; return why where it is given up."""
        outstanding = self._outstanding
        if outstanding is None:
            return None
        schedule = outstanding.schedule
        if schedule.expired(now) or now >= self._dead_at(schedule):
            cause = Cause.PEER_SILENT if isinstance(self._session.state, AuthSent) else Cause.PEER_DEAD
            what = enum_name(ExchangeType, outstanding.task.exchange)
            return Failure(cause, f"{what} was not answered after {schedule.tries} tries")
        if now >= schedule.next_at:
            schedule.repeat(now)
            self.repeat(now, timed_out=True)
            doubt(self._session, schedule.tries)
        self._arm(outstanding)
        return None

    def repeat(self, now: float, *, alone: bool = False, timed_out: bool = False) -> None:
        """Send the outstanding request again as it is, over every path that may work (RFC 4555 3.5, 3.10).

        `alone` takes the present path only; the others have their turn with the next repetition.
        """
        mobility, outstanding = self._session.mobility, self._outstanding
        if outstanding is not None:
            if isinstance(outstanding.task, PathProbe):
                outstanding.task.repeated(timed_out=timed_out)
            for path in (self._session.path, *(mobility.candidates if mobility and not alone else ())):
                self._channel.send(outstanding.datagrams, path, now)

    def proof(self) -> float:
        """Return when the peer last proved to live, by IKE or by traffic (RFC 7296 2.4)."""
        seen = (self._session.host.last_inbound(spi) for spi in self._session.children)
        return max((self.proof_at, *(at for at in seen if at is not None)))

    def _ask(self, task: Task, payloads: tuple[Payload, ...], now: float) -> None:
        session = self._session
        message_id = self.window.take(task.exchange)
        first_s = FIRST_INTERVAL_S
        if isinstance(task, PathProbe):
            first_s, datagrams = task.patience_s, self._say_probe(task, message_id, now)
        else:
            datagrams = self._channel.say(payloads, exchange=task.exchange, message_id=message_id, response=False,
                                          path=session.path, now=now)
        half_open = isinstance(session.state, AuthSent)
        limit_s = HALF_OPEN_LIFE_S if half_open else session.peer.ike.request_timeout_s
        schedule = Retransmission(session.host.rng, now=now, give_up_at=now + limit_s,
                                  max_interval_s=MAX_INIT_INTERVAL_S if half_open else MAX_INTERVAL_S, first_s=first_s)
        self._outstanding = _Outstanding(task, datagrams, schedule)
        self._arm(self._outstanding)

    def _say_probe(self, probe: PathProbe, message_id: int, now: float) -> tuple[bytes, ...]:
        """Send a probe as one datagram; return what a repetition is: that, and the same in pieces."""
        path, channel = self._session.path, self._channel
        padding = channel.padding(probe.wanted, path, PADDING_NOTIFY)
        whole = channel.say(padding, exchange=probe.exchange, message_id=message_id, response=False, path=path, now=now,
                            at_most=0)
        probe.sent, probe.sent_at = len(whole[0]) + overhead_bytes(ip_address(path.remote.address).version), now
        return whole + channel.seal(padding, exchange=probe.exchange, message_id=message_id, response=False, path=path,
                                    at_most=PIECE_BYTES)

    def _make_way(self, now: float) -> None:
        """Let a probe that is out keep nobody waiting: what is behind it has a request of ours to send."""
        outstanding = self._outstanding
        if outstanding is not None and self._session.queue and isinstance(outstanding.task, PathProbe) and (
                outstanding.task.whole):
            self.repeat(now)
            outstanding.schedule.repeat(now)
            self._arm(outstanding)

    def _arm(self, outstanding: _Outstanding) -> None:
        what = enum_name(ExchangeType, outstanding.task.exchange)
        at = min(outstanding.schedule.next_at, self._dead_at(outstanding.schedule))
        self._session.timers.arm(Timer(TimerKind.RETRANSMIT), at, f"retransmit {what} {self.window.outstanding}")

    def _dead_at(self, schedule: Retransmission) -> float:
        """Return when a silent peer counts as dead; traffic that it sends proves that it is not."""
        ike = self._session.peer.ike
        if not self._session.established or ike.dpd_s <= 0:
            return schedule.give_up_at
        return max(schedule.sent_at, self.proof()) + ike.dpd_timeout_s
