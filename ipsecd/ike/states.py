"""The lives of an IKE SA and of a Child SA as tables; nothing changes state but through check_transition.

IKE SA:   (IKE_SA_INIT) -> AuthSent      -> Established -> Rekeyed  -> Dead
                        -> InitAnswered  ->             -> Deleting ->
          An IKE SA exists once it has keys.  Before that there is an attempt (attempt.py) or a half-open responder
          (half_open.py), neither of which can hold a child.

Child SA: Arriving -> Up -> Rekeying -> Replaced -> Deleting -> Lingering -> Gone
          Arriving   made by the peer's rekey: receives, and sends after first_inbound, the Delete of the old, or 2 s
          Up         carries traffic both ways
          Rekeying   our own CREATE_CHILD_SA for it is queued or outstanding
          Doomed     the peer deleted it while our rekey of it is outstanding: that response decides what is left
          Replaced   a successor carries the traffic; waits for the Delete of whoever made that successor, or for that
                     of a successor that has not begun to, and is Up again
          Deleting   our Delete is queued or outstanding
          Lingering  deleted; receives for a few seconds what was on its way
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ipsecd.causes import Failure
from ipsecd.errors import LocalError


@dataclass(frozen=True, slots=True)
class AuthSent:
    """Initiator: keys are known, nobody is authenticated."""

    since: float


@dataclass(frozen=True, slots=True)
class InitAnswered:
    """Responder: keys are known, IKE_AUTH is awaited."""

    since: float


@dataclass(frozen=True, slots=True)
class Established:
    """Both ends are authenticated."""

    since: float


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """Another IKE SA took the children; only a Delete is expected (RFC 7296 2.8)."""

    since: float


@dataclass(frozen=True, slots=True)
class Deleting:
    """Our Delete, or the refusal of a half-open IKE SA, is on its way; children are gone already."""

    since: float


@dataclass(frozen=True, slots=True)
class Dead:
    """Nothing is left but the reason."""

    failure: Failure


IkeState = AuthSent | InitAnswered | Established | Rekeyed | Deleting | Dead

IKE_TRANSITIONS: dict[type[IkeState], tuple[type[IkeState], ...]] = {
    AuthSent: (Established, Deleting, Dead),
    InitAnswered: (Established, Deleting, Dead),
    Established: (Rekeyed, Deleting, Dead),
    Rekeyed: (Deleting, Dead),
    Deleting: (Dead,),
    Dead: (),
}


class ChildState(Enum):
    """See the head of this file."""

    ARRIVING = auto()
    UP = auto()
    REKEYING = auto()
    DOOMED = auto()
    REPLACED = auto()
    DELETING = auto()
    LINGERING = auto()
    GONE = auto()


CHILD_TRANSITIONS: dict[ChildState, tuple[ChildState, ...]] = {
    ChildState.ARRIVING: (ChildState.UP, ChildState.DELETING, ChildState.LINGERING, ChildState.GONE),
    ChildState.UP: (ChildState.REKEYING, ChildState.REPLACED, ChildState.DELETING, ChildState.LINGERING,
                    ChildState.GONE),
    ChildState.REKEYING: (ChildState.UP, ChildState.DOOMED, ChildState.REPLACED, ChildState.DELETING,
                          ChildState.LINGERING, ChildState.GONE),
    ChildState.DOOMED: (ChildState.LINGERING, ChildState.GONE),
    ChildState.REPLACED: (ChildState.UP, ChildState.DELETING, ChildState.LINGERING, ChildState.GONE),
    ChildState.DELETING: (ChildState.LINGERING, ChildState.GONE),
    ChildState.LINGERING: (ChildState.GONE,),
    ChildState.GONE: (),
}


def check_ike_transition(old: IkeState, new: IkeState) -> None:
    """Raise LocalError unless the table has this step."""
    if type(new) not in IKE_TRANSITIONS[type(old)]:
        raise LocalError(f"IKE SA: {type(old).__name__} does not lead to {type(new).__name__}")


def check_child_transition(old: ChildState, new: ChildState) -> None:
    """Raise LocalError unless the table has this step."""
    if new not in CHILD_TRANSITIONS[old]:
        raise LocalError(f"Child SA: {old.name} does not lead to {new.name}")
