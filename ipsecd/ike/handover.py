"""Moving everything from one IKE SA to its successor (RFC 7296 2.8, 2.18)."""

from __future__ import annotations

from ipsecd.events import IkeSaRekeyed
from ipsecd.ike.session import Session, Timer, TimerKind
from ipsecd.ike.sizing import carry_over
from ipsecd.ike.states import Rekeyed
from ipsecd.ike.tasks.addresses import continue_moves
from ipsecd.ike.tasks.crash_detection import renew_token

# Tuning
CLOSE_S = 60.0                  # a peer that never deletes what was rekeyed: above its retransmissions of a Delete


def hand_over(old: Session, new: Session, now: float) -> None:
    """Move children with their timers, and what waits, to `new`; `old` waits for a Delete."""
    new.take_charge(now)
    new.predecessor = None
    continue_moves(new, old)
    carry_over(old, new, now)
    if new.crypto.original_initiator:
        renew_token(new)
    new.timers.cancel(Timer(TimerKind.CLOSE))
    for spi, child in old.children.items():
        new.children[spi] = child
        for kind in (TimerKind.REKEY_CHILD, TimerKind.EXPIRE_CHILD, TimerKind.SWITCH_CHILD, TimerKind.REMOVE_CHILD,
                     TimerKind.PROBE_PFS):
            deadline = old.timers.get(Timer(kind, spi))
            if deadline is not None:
                new.timers.arm(Timer(kind, spi), deadline.at, deadline.why)
                old.timers.cancel(Timer(kind, spi))
    superseded = old.timers.get(Timer(TimerKind.SUPERSEDED))
    if superseded is not None:      # the line has to go, whatever it is called by now
        new.timers.arm(Timer(TimerKind.SUPERSEDED), superseded.at, superseded.why)
        old.timers.cancel(Timer(TimerKind.SUPERSEDED))
    old.children = {}
    for task in old.queue:
        task.session = new
        new.queue.append(task)
    old.queue.clear()
    old.in_charge = False
    old.move(Rekeyed(now))
    for kind in (TimerKind.REKEY_IKE, TimerKind.REAUTH, TimerKind.EXPIRE_IKE, TimerKind.LIVENESS, TimerKind.KEEPALIVE):
        old.timers.cancel(Timer(kind))
    old.timers.arm(Timer(TimerKind.CLOSE), now + CLOSE_S, TimerKind.CLOSE.value)
    new.host.adopt(new)
    new.emit(IkeSaRekeyed(new.peer.name, str(old.crypto), str(new.crypto)))
