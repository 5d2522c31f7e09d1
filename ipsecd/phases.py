"""What is being done to reach a peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ipsecd.policy import ChildPolicy
from ipsecd.sa import Deadline, Path


class Slot(NamedTuple):
    """One pair that a child can have."""

    child: str
    number: int


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is being attempted."""


@dataclass(frozen=True, slots=True)
class Resolving:
    """Names and routes are looked up; an answer that does not come by the deadline is none."""

    deadline: Deadline


@dataclass(frozen=True, slots=True)
class Connecting:
    """An IKE SA of ours is being made for the pairs in `asked`; it takes over from the lines in `replaces`."""

    handle: int
    path: Path
    asked: dict[Slot, ChildPolicy]
    replaces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """The next attempt starts at the deadline."""

    deadline: Deadline


Phase = Idle | Resolving | Connecting | Waiting
