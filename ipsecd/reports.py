"""What the IKE endpoint tells the gateway: facts about IKE SAs and Child SAs, by handle and configuration name.

A handle names a line of IKE SAs: it survives IKE rekeying.  Reports come out of take_effects() in order with effects.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipsecd.causes import Failure
from ipsecd.sa import ChildKey, Path, SaPair
from ipsecd.selectors import TrafficSelector


@dataclass(frozen=True, slots=True)
class ChildRequest:
    """A wish for one SA pair of a child: which slot, and the selectors to propose."""

    child: ChildKey
    slot: int
    ts_local: tuple[TrafficSelector, ...]
    ts_remote: tuple[TrafficSelector, ...]


@dataclass(frozen=True, slots=True)
class IkeUp:
    """An IKE SA is authenticated; `initiator` is our role."""

    handle: int
    peer: str
    initiator: bool
    path: Path
    mobile: bool = False        # MOBIKE: it moves by itself where this host's addresses change


@dataclass(frozen=True, slots=True)
class IkeFailed:
    """An attempt of ours ended without an IKE SA; `refused` where the peer answered, else it was silent."""

    handle: int
    peer: str
    refused: bool
    failure: Failure
    redirect: str = ""          # the gateway that the peer sent us to, and that its entry allows (RFC 5685)


@dataclass(frozen=True, slots=True)
class IkeGone:
    """An established IKE SA and its children are gone (each child was reported before)."""

    handle: int
    peer: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class ChildUp:
    """A new pair of a child is usable; `narrowed` where the peer cut the selectors that we asked for."""

    handle: int
    pair: SaPair
    narrowed: bool


@dataclass(frozen=True, slots=True)
class ChildMoved:
    """A pair was replaced by rekeying; the old one is removed after its grace."""

    handle: int
    old_spi_in: int
    pair: SaPair


@dataclass(frozen=True, slots=True)
class ChildGone:
    """A pair is gone and nothing replaced it."""

    handle: int
    child: ChildKey
    slot: int
    spi_in: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class ChildRefused:
    """A requested pair was not made; `single_pair` where the peer wants one selector pair a child SA."""

    handle: int
    request: ChildRequest
    single_pair: bool
    failure: Failure


@dataclass(frozen=True, slots=True)
class PathMoved:
    """The IKE SA and its pairs moved to another path, on authenticated evidence."""

    handle: int
    path: Path


@dataclass(frozen=True, slots=True)
class Suspected:
    """An unprotected INVALID_IKE_SPI or INVALID_SPI came from the peer of this line: it may have lost its state.

    Changes nothing (RFC 7296 2.21.4); the endpoint started a liveness check, the supervisor may try in parallel.
    """

    handle: int
    peer: str


@dataclass(frozen=True, slots=True)
class ReauthDue:
    """The proof of who the peer of this line is has become old (RFC 7296 2.8.3)."""

    handle: int
    peer: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """The peer of this line sends us to another gateway, which its entry allows (RFC 5685 5, 6)."""

    handle: int
    peer: str
    gateway: str


Report = (IkeUp | IkeFailed | IkeGone | ChildUp | ChildMoved | ChildGone | ChildRefused | PathMoved
          | Suspected | ReauthDue | Redirect)
