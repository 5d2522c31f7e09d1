"""What becomes due for a Child SA: rekeying, the hard end, switching over, removal."""

from __future__ import annotations

from ipsecd.causes import Cause, Failure
from ipsecd.ike.child_sa import ChildSa
from ipsecd.ike.session import Session, Timer, TimerKind
from ipsecd.ike.states import ChildState
from ipsecd.ike.tasks.child_rekey import ChildRekey, is_redundant, is_rival, rekey_of
from ipsecd.ike.tasks.delete import ChildDelete

EXPIRED = Failure(Cause.EXPIRED)


def on_child_timer(session: Session, timer: Timer, now: float) -> None:
    """Do what is due for a child, if it is there still."""
    child = session.children.get(timer.spi)
    if child is None:
        return
    match timer.kind:
        case TimerKind.REKEY_CHILD:
            rekey_child(session, child)
        case TimerKind.PROBE_PFS:
            if session.host.may_probe(child.policy):
                rekey_child(session, child, probe=True)
        case TimerKind.EXPIRE_CHILD:
            _expire(session, child)
        case TimerKind.SWITCH_CHILD:
            switch(session, child)
        case TimerKind.REMOVE_CHILD:
            session.remove(child, at_once=True)
        case _:
            pass


def rekey_child(session: Session, child: ChildSa, *, probe: bool = False) -> None:
    """Queue a rekey, unless the pair is on its way out or being rekeyed (RFC 7296 2.8)."""
    if child.state is ChildState.UP and rekey_of(session, child) is None:
        session.enqueue(ChildRekey(session, child, probe=probe))


def switch(session: Session, child: ChildSa) -> None:
    """Send on the successor that the peer made, unless a collision is undecided."""
    child.heard = True
    if child.state is ChildState.ARRIVING and not is_rival(session, child) and not is_redundant(session, child):
        session.arrive(child)


def _expire(session: Session, child: ChildSa) -> None:
    """RFC 4301 4.4.2.1: the hard lifetime ends a pair without waiting for anybody."""
    if child.state is ChildState.REPLACED:
        # The peer, who replaced it, sends the Delete; ours would be a second one.
        session.use_successor_of(child)
        session.remove(child, EXPIRED, at_once=True)
        return
    tell = child.state in (ChildState.UP, ChildState.REKEYING, ChildState.ARRIVING)
    session.remove(child, EXPIRED, at_once=True)
    if tell:
        session.enqueue(ChildDelete.unmade(session, child.protocol, child.spi_in), first=True)
