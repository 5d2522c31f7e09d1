"""What happened, as typed values: log.py turns them into lines, control/ streams them, tests assert on them.

Every event is a frozen dataclass; its name in logs and JSON is the class name in snake case.  `peer` and `child`
name configuration entries, never text from the wire; peer-controlled text is already printable().
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import ClassVar, cast

from ipsecd.causes import Failure


class Level(StrEnum):
    """ERROR means a person must act; WARNING is caused by a peer or the network."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""

    level: ClassVar[Level] = Level.INFO

    @property
    def name(self) -> str:
        """The event's name: class name in snake case."""
        text = type(self).__name__
        return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(text))

    def as_dict(self) -> dict[str, object]:
        """Return the fields as plain JSON values; a Failure becomes its parts with summary and hint."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class IkeMessage(Event):
    """An IKE message was sent or accepted; `payloads` are names in order."""

    level: ClassVar[Level] = Level.DEBUG
    direction: str          # "in" or "out"
    peer: str
    exchange: str
    response: bool
    message_id: int
    payloads: tuple[str, ...]
    path: str


@dataclass(frozen=True, slots=True)
class IkeSaUp(Event):
    """An IKE SA is established and authenticated."""

    peer: str
    ike: str                # "spi_i:spi_r" in hex
    role: str               # "initiator" or "responder"
    remote_identity: str
    suite: str
    path: str
    nat: str                # "none", "local", "remote", "both"


@dataclass(frozen=True, slots=True)
class IkeSaRekeyed(Event):
    """An IKE SA was replaced, with all its children."""

    peer: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class IkeSaDown(Event):
    """An established IKE SA is gone."""

    peer: str
    ike: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class IkeAttemptFailed(Event):
    """An attempt to establish an IKE SA ended without one, in either role."""

    level: ClassVar[Level] = Level.WARNING
    peer: str
    role: str
    path: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class ChildSaUp(Event):
    """A Child SA carries traffic."""

    peer: str
    child: str
    spi_in: str
    spi_out: str
    suite: str
    ts_local: tuple[str, ...]
    ts_remote: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChildSaRekeyed(Event):
    """A Child SA was replaced without a gap."""

    peer: str
    child: str
    old_spi_in: str
    new_spi_in: str


@dataclass(frozen=True, slots=True)
class ChildSaDown(Event):
    """A Child SA is gone and nothing replaced it."""

    peer: str
    child: str
    spi_in: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class ChildFailed(Event):
    """A Child SA could not be made or rekeyed."""

    level: ClassVar[Level] = Level.WARNING
    peer: str
    child: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class PathChanged(Event):
    """The peer's or our own address moved, on authenticated evidence."""

    peer: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class PeerRedirected(Event):
    """The peer sent us to another gateway (RFC 5685), and we go; `path` is that of the gateway which said so."""

    peer: str
    path: str
    gateway: str
    exchange: str


@dataclass(frozen=True, slots=True)
class PathMtuChanged(Event):
    """Another size is used on the path to a peer, in bytes of the IP datagrams around ESP."""

    peer: str
    path: str
    size_bytes: int
    origin: str             # "route", "probed" or "base": see ike.pmtud.Origin


@dataclass(frozen=True, slots=True)
class PeerWaiting(Event):
    """The supervisor waits before the next attempt."""

    peer: str
    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Hint(Event):
    """Unauthenticated evidence about a peer that changes nothing but may explain: an error notify in the clear."""

    level: ClassVar[Level] = Level.WARNING
    peer: str
    path: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class ConfigProblem(Event):
    """An error in the configuration: with one, a start fails and a reload changes nothing."""

    level: ClassVar[Level] = Level.ERROR
    problem: str


@dataclass(frozen=True, slots=True)
class LocalFault(Event):
    """Our own bug or resource; one SA was closed over it."""

    level: ClassVar[Level] = Level.ERROR
    where: str
    error: str


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """A fact about the daemon itself, by a static `what` in snake case."""

    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something that an operator should know and that stops nothing."""

    level: ClassVar[Level] = Level.WARNING
    what: str
    detail: str


def _plain(value: object) -> object:
    if isinstance(value, Failure):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
        return {k: str(v) for k, v in parts.items()} | {"summary": value.summary, "hint": value.hint}
    if isinstance(value, tuple):
        return [_plain(v) for v in cast("tuple[object, ...]", value)]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
