"""Reporting the end of an IKE SA, whatever it had come to."""

from __future__ import annotations

from ipsecd.causes import Failure
from ipsecd.events import IkeAttemptFailed, IkeSaDown
from ipsecd.ike.session import Session, Timer, TimerKind
from ipsecd.ike.states import AuthSent, ChildState, InitAnswered
from ipsecd.reports import IkeFailed, IkeGone

_LIVING = (TimerKind.HALF_OPEN, TimerKind.REKEY_IKE, TimerKind.REAUTH, TimerKind.EXPIRE_IKE, TimerKind.SUPERSEDED,
           TimerKind.LIVENESS, TimerKind.KEEPALIVE, TimerKind.PROBE_PATH)
_PEER_MAY_SEND = (ChildState.ARRIVING, ChildState.UP, ChildState.REKEYING, ChildState.REPLACED, ChildState.DELETING)


def report_end(session: Session, failure: Failure, now: float, *, refused: bool, told: bool) -> None:
    """Take down what hangs on an IKE SA, and say that it is over; called once, in the state that it ends from.

    Where the peer is told by a Delete, a pair whose slot another IKE SA serves receives until the answer: the peer may
    send on it until then, also on one that we had not begun to send on, and the Delete waits for the request ahead of
    it (RFC 7296 1.4.1, 2.3).
    """
    for task in session.tasks():
        task.failed(failure, now)
    session.queue.clear()
    for child in tuple(session.children.values()):
        if told and child.state in _PEER_MAY_SEND and session.has_sender(child, elsewhere=True):
            session.supersede(child, failure, now)
        else:
            session.remove(child, failure)
    for kind in _LIVING:
        session.timers.cancel(Timer(kind))
    if isinstance(session.state, AuthSent):
        session.output(IkeFailed(session.handle, session.peer.name, refused, failure))
    if isinstance(session.state, AuthSent | InitAnswered):
        role = "initiator" if session.crypto.original_initiator else "responder"
        session.emit(IkeAttemptFailed(session.peer.name, role, str(session.path), failure))
    elif session.in_charge:
        session.in_charge = False
        session.host.tickets.ended(session, failure)
        session.output(IkeGone(session.handle, session.peer.name, failure))
        session.emit(IkeSaDown(session.peer.name, str(session.crypto), failure))
