"""The early PFS probe: whether a rekey with a key exchange would succeed is known soon, not after a lifetime.

The Child SA of IKE_AUTH has no key exchange of its own (RFC 7296 1.2), so two ends that disagree about it come up and
part at the first rekey, an hour later.  The end that made that pair therefore rekeys it once, early.  The old pair
stays until the new one stands, and where the peer refuses it stays for its lifetime: no packet is lost either way.  A
child is probed once for each of its configurations, whatever becomes of its IKE SAs.
"""

from __future__ import annotations

from dataclasses import replace

from ipsecd.causes import Cause, Failure
from ipsecd.events import ChildFailed, Notice
from ipsecd.ike.child_sa import ChildSa
from ipsecd.ike.consts import KeId, NotifyType, TransformType
from ipsecd.ike.negotiate import first_ke
from ipsecd.ike.session import Session, Timer, TimerKind
from ipsecd.policy import ChildPolicy, Pfs
from ipsecd.suites import KE_NAMES

# Tuning: late enough that what follows a start, or a thousand peers of a head-end at once, is over; apart for each.
PROBE_MIN_S = 90.0
PROBE_MAX_S = 180.0


def arm_probe(session: Session, child: ChildSa, now: float) -> None:
    """Arm the probe of a pair that IKE_AUTH made, unless its rekey comes first anyway."""
    if groups(child.policy):
        at = now + session.host.rng.uniform(PROBE_MIN_S, PROBE_MAX_S)
        if at < child.life.rekey_at:
            session.timers.arm(Timer(TimerKind.PROBE_PFS, child.spi_in), at,
                               f"{TimerKind.PROBE_PFS.value} {child.policy.key}")


def refused_by_us(session: Session, old: ChildSa, failure: Failure) -> None:
    """Say why we refuse a rekey of the peer; only disagreement is worth it, what is asked again is not."""
    if failure.cause in (Cause.TEMPORARY_FAILURE, Cause.KE_REFUSED):
        return
    if failure.cause is Cause.NO_CHILD_PROPOSAL and old.pair.suite.ke == KeId.NONE:
        failure = replace(failure, cause=Cause.PFS_MISMATCH)     # without key exchange we took the same from this peer
    session.emit(ChildFailed(session.peer.name, old.policy.key.child, failure))


def groups(policy: ChildPolicy) -> tuple[int, ...]:
    """Return the groups that a rekey offers, none where it makes no key exchange."""
    if policy.pfs is Pfs.OFF or first_ke(policy.proposals) == KeId.NONE:
        return ()
    found = (t.id for proposal in policy.proposals for t in proposal.of_type(TransformType.KE))
    return tuple(dict.fromkeys(found))


def explained(old: ChildSa, failure: Failure, notify: int) -> Failure:
    """Return why the peer refused to rekey a pair: what it took without key exchange, it can only refuse for that."""
    asked = groups(old.policy)
    refused = notify in (NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.INVALID_KE_PAYLOAD)
    if not refused or not asked or old.pair.suite.ke != KeId.NONE:
        return failure
    names = ", ".join(KE_NAMES.get(g, str(g)) for g in asked)
    return Failure(Cause.PFS_MISMATCH, f"the peer took {old.pair.suite} without key exchange in IKE_AUTH, and refuses "
                   f"it with KE {names}", ours=failure.ours, theirs=failure.detail, notify=failure.notify)


def note_success(session: Session, old: ChildSa, new: ChildSa) -> None:
    """Say it where a probe ended in a pair without key exchange: both ends allow that, the operator may not know."""
    if new.pair.suite.ke == KeId.NONE and groups(old.policy):
        session.emit(Notice("pfs_not_used", f"{old.policy.key}: the peer rekeys without key exchange; "
                                            f"pfs: {Pfs.REQUIRED} would refuse that"))
