"""One IKE SA for each peer: what happens to the others when a new one is authenticated (RFC 7296 2.4, 2.25).

* Two that crossed (see collisions.py): the one with the lowest nonce gives way.  Its creator first makes on the
  survivor what only it has, then deletes it; the other end waits for that.
* INITIAL_CONTACT: the peer remembers nothing else, so the others go at once and without a Delete; `unique: never`
  does not believe that, because several hosts share the identity.
* `unique: replace`: the peer came again, perhaps from elsewhere; the older ones are deleted soon.
* `unique: keep`, `never`: all stay.
* `unique: reject`: the older one stays and the new one is refused (`SaTable.occupied`), but not with INITIAL_CONTACT.
"""

from __future__ import annotations

from ipsecd.causes import Cause, Failure
from ipsecd.ike.collisions import gives_way
from ipsecd.ike.ike_sa import IkeSa
from ipsecd.ike.sa_table import SaTable
from ipsecd.ike.session import Session, Timer, TimerKind
from ipsecd.ike.states import Established
from ipsecd.ike.tasks.child_create import ChildCreate
from ipsecd.ike.tasks.crossing import Yield
from ipsecd.policy import NOBODY
from ipsecd.reports import ChildRequest

# Tuning
MAX_KEPT = 256                  # IKE SAs of one identity under `unique: keep`; whoever has more loses the oldest
SUPERSEDED_S = 3.0              # longer than a round trip and the peer's own Delete
YIELD_S = 10.0                  # for the creator of the one that gives way to delete it


def settle(table: SaTable, new: IkeSa, *, initial_contact: bool, now: float) -> None:
    """Decide about the other IKE SAs of the peer that `new` was just authenticated with."""
    if new.session.remote_id == NOBODY:
        return                      # RFC 7619 2.4: it may be anybody else
    peer, remote = new.session.peer, new.session.remote_id      # an instance may be named in capitals and small letters
    others = [sa for sa in table.of_peer(peer.name)
              if sa is not new and sa.session.in_charge and (peer.entry or sa.session.remote_id == remote)]
    for at, other in enumerate(others):
        table.touched.append(other)
        if crossed(new.session, other.session):
            loser, survivor = (new, other) if _gives_way(new.session, other.session) else (other, new)
            _yield(loser.session, survivor.session, now)
        elif initial_contact and new.session.peer.ike.unique != "never":
            other.close(Failure(Cause.REPLACED, "the peer says that it knows no other IKE SA"), now, tell=False)
        elif new.session.peer.ike.unique == "replace" and other is not others[-1]:
            other.close(Failure(Cause.REPLACED, "the peer made another IKE SA"), now)
        elif new.session.peer.ike.unique == "replace":
            # The peer sends on the old pairs until our answer reaches it, and mostly deletes them itself.
            timer = Timer(TimerKind.SUPERSEDED)
            other.session.timers.arm(timer, now + SUPERSEDED_S, timer.kind.value)
        elif len(others) - at >= MAX_KEPT:
            other.close(Failure(Cause.REPLACED, f"the peer has {MAX_KEPT} younger IKE SAs"), now)


def crossed(a: Session, b: Session) -> bool:
    """Return whether one was made by us and one by the peer, neither end knowing of the other's."""
    if a.crypto.original_initiator == b.crypto.original_initiator or a.opened_at is None or b.opened_at is None:
        return False
    ours, theirs = (a, b) if a.crypto.original_initiator else (b, a)
    assert theirs.opened_at is not None
    assert ours.opened_at is not None
    return (isinstance(ours.state, Established) and theirs.opened_at < ours.state.since
            and isinstance(theirs.state, Established) and ours.opened_at < theirs.state.since)


def _gives_way(a: Session, b: Session) -> bool:
    assert a.nonces is not None
    assert b.nonces is not None
    return gives_way(a.nonces, b.nonces)


def _yield(loser: Session, survivor: Session, now: float) -> None:
    if not loser.crypto.original_initiator:
        loser.timers.arm(Timer(TimerKind.SUPERSEDED), now + YIELD_S, "the peer deletes the IKE SA that gave way")
        return
    there = {(c.policy.key, c.pair.slot) for c in survivor.children.values()}
    for child in loser.children.values():
        if child.live and (child.policy.key, child.pair.slot) not in there:
            pair = child.pair
            request = ChildRequest(pair.child, pair.slot, pair.ts_local, pair.ts_remote)
            survivor.enqueue(ChildCreate(survivor, request))
    survivor.enqueue(Yield(survivor, loser))
