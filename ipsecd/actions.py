"""What a supervisor wants done for its peer."""

from __future__ import annotations

from dataclasses import dataclass

from ipsecd.causes import Cause
from ipsecd.reports import ChildRequest
from ipsecd.sa import ChildKey, Path


@dataclass(frozen=True, slots=True)
class StartResolve:
    """Look up the peer's names."""


@dataclass(frozen=True, slots=True)
class Initiate:
    """Start an IKE SA over `path` with these children."""

    path: Path
    requests: tuple[ChildRequest, ...]
    came_from: str = ""         # the address of the gateway that sent us there (RFC 5685)


@dataclass(frozen=True, slots=True)
class CreateChild:
    """Make one more pair on an IKE SA that is up."""

    handle: int
    request: ChildRequest


@dataclass(frozen=True, slots=True)
class DeleteChild:
    """Close a pair."""

    spi_in: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class DeleteIke:
    """Close an IKE SA, or forget an attempt."""

    handle: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Abandon:
    """Drop what is held for a child."""

    child: ChildKey


@dataclass(frozen=True, slots=True)
class Wait:
    """The peer waits before its next attempt (for the event stream)."""

    seconds: float
    why: str


Action = StartResolve | Initiate | CreateChild | DeleteChild | DeleteIke | Abandon | Wait
