"""From the peer's notify, or our own refusal, to a Failure that a person can act on."""

from __future__ import annotations

from collections.abc import Iterable

from ipsecd.causes import Cause, Failure
from ipsecd.errors import (
    AhBehindNat,
    AuthenticationError,
    BadIcv,
    HybridDemanded,
    IpsecdError,
    LocalError,
    ModeMismatch,
    PeerError,
    WireError,
)
from ipsecd.ike.consts import NotifyType, enum_name
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.text import printable

MAX_SHOWN = 512                 # characters of what a peer offered; an event stays readable
_COMMON: dict[int, Cause] = {
    NotifyType.INVALID_SYNTAX: Cause.INVALID_SYNTAX,
    NotifyType.INVALID_MAJOR_VERSION: Cause.PEER_VERSION,
    NotifyType.INVALID_KE_PAYLOAD: Cause.KE_REFUSED,
    NotifyType.AUTHENTICATION_FAILED: Cause.PEER_REFUSED_AUTH,
    NotifyType.SINGLE_PAIR_REQUIRED: Cause.TS_UNACCEPTABLE,
    NotifyType.TS_UNACCEPTABLE: Cause.TS_UNACCEPTABLE,
    NotifyType.NO_ADDITIONAL_SAS: Cause.NO_ADDITIONAL_SAS,
    NotifyType.TEMPORARY_FAILURE: Cause.TEMPORARY_FAILURE,
    NotifyType.CHILD_SA_NOT_FOUND: Cause.CHILD_NOT_FOUND,
}


def error_notify(payloads: Iterable[object]) -> NotifyPayload | None:
    """Return the first error notify of a message."""
    return next((p for p in payloads if isinstance(p, NotifyPayload) and p.is_error), None)


def refused_ike(notify: NotifyPayload, *, ours: str = "") -> Failure:
    """The peer refused an IKE SA."""
    return _refused(notify, Cause.NO_PROPOSAL, ours)


def refused_child(notify: NotifyPayload, *, ours: str = "") -> Failure:
    """The peer refused a Child SA."""
    return _refused(notify, Cause.NO_CHILD_PROPOSAL, ours)


def of_error(error: Exception, *, child: bool = False) -> Failure:
    """Return what an exception of the declared families, or any other, means."""
    detail = printable(str(error))
    if isinstance(error, AuthenticationError):
        return Failure(Cause.AUTHENTICATION_FAILED, detail)
    if isinstance(error, HybridDemanded):
        return Failure(Cause.POST_QUANTUM, detail)
    if isinstance(error, ModeMismatch):
        return Failure(Cause.MODE_MISMATCH, detail, ours=error.ours, theirs=error.theirs)
    if isinstance(error, AhBehindNat):
        return Failure(Cause.AH_BEHIND_NAT, detail)
    if isinstance(error, PeerError):
        no_proposal = Cause.NO_CHILD_PROPOSAL if child else Cause.NO_PROPOSAL
        cause = no_proposal if error.notify == NotifyType.NO_PROPOSAL_CHOSEN else _COMMON.get(error.notify)
        return Failure(cause or Cause.PEER_ERROR, detail, ours=error.ours, theirs=printable(error.theirs, MAX_SHOWN))
    if isinstance(error, WireError | BadIcv):
        return Failure(Cause.INVALID_SYNTAX, detail)
    name = "" if isinstance(error, LocalError | IpsecdError) else f"{type(error).__name__}: "
    return Failure(Cause.LOCAL_ERROR, name + detail)


def _refused(notify: NotifyPayload, no_proposal: Cause, ours: str) -> Failure:
    name = enum_name(NotifyType, notify.type)
    cause = no_proposal if notify.type == NotifyType.NO_PROPOSAL_CHOSEN else _COMMON.get(notify.type)
    return Failure(cause or Cause.PEER_ERROR, f"peer answered {name}", ours=ours, notify=name)
