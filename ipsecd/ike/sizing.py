"""What an IKE SA makes of the size of its path: the state machine (pmtud.py) joined to timers, the edge and status.

The edge says how large a datagram the host's own link or route takes (`SaPair`'s path, measured whenever routes or
pairs change), and the engine that large packets leave.  What comes of it goes back as SetPathMtu.  A line of IKE SAs
keeps its `Sizing` over rekeying; another path begins with another one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeVar

from ipsecd.effects import SetPathMtu
from ipsecd.events import PathMtuChanged, Warned
from ipsecd.ike.nat import IKE_PORT
from ipsecd.ike.pmtud import Origin, PathMtu, Phase
from ipsecd.ike.session import Session, Timer, TimerKind
from ipsecd.sa import LinkSize, Path

_Key = TypeVar("_Key", bound=Hashable)

# Tuning
MAX_PROBED_BYTES = 16_000       # links above have no path behind them that would: 34 pieces, of 64 that a peer takes
MAX_UNANSWERED = 2              # IKE SAs in a row that ended with a probe as the request that nobody answered
MAX_REMEMBERED = 4096           # paths and peers; the oldest go first
FIRST_LOOKS_PER_S = 10.0        # IKE SAs that begin to look at their path: when many come up, handshakes go first


class PathSizes:
    """What outlives an IKE SA: sizes that were found, and peers that fall silent when they are probed."""

    def __init__(self) -> None:
        self._found: dict[Path, int] = {}
        self._unanswered: dict[str, int] = {}
        self._turn_at = 0.0

    def turn(self, now: float) -> float:
        """Return when the next IKE SA begins to look at its path, unless large packets want it sooner."""
        self._turn_at = max(self._turn_at + 1 / FIRST_LOOKS_PER_S, now)
        return self._turn_at

    def found(self, path: Path) -> int:
        """Return the size that was found for a path, 0 where it was the route's."""
        return self._found.get(path, 0)

    def remember(self, path: Path, size: int) -> None:
        """Keep what was found, 0 for the route's."""
        self._found.pop(path, None)
        if size:
            _put(self._found, path, size)

    def answered(self, peer: str) -> None:
        """The peer answers probes, whole or in pieces."""
        self._unanswered.pop(peer, None)

    def unanswered(self, peer: str) -> bool:
        """An IKE SA died over a probe; return whether that makes it one too many."""
        count = self._unanswered.pop(peer, 0) + 1
        _put(self._unanswered, peer, count)
        return count == MAX_UNANSWERED

    def takes_probes(self, peer: str) -> bool:
        """Return whether a peer may be probed (RFC 7296 3.10.1 has it ignore the notify; not all software reads)."""
        return self._unanswered.get(peer, 0) < MAX_UNANSWERED


@dataclass(slots=True)
class Sizing:
    """The path that is probed, and the size of which the edge was told: 0 where it is the route's."""

    path: Path
    machine: PathMtu
    told: int
    failing: bool = False


def probes(session: Session, *, fragmentation: bool) -> bool:
    """Return whether a path may be probed.

    What is lost must come through in pieces (RFC 7383); and on port 500, where an end does no NAT traversal, datagrams
    go without DF, because IKE_SA_INIT has to pass: there an answer would prove nothing.
    """
    ike = session.peer.ike
    return ike.probe_path and fragmentation and ike.fragment_bytes > 0 and session.path.local.port != IKE_PORT


def path_evidence(session: Session, link: LinkSize | None, *, fragmentation: bool, now: float) -> None:
    """Take the size of the link behind a path, or (None) that large packets leave on it."""
    sizing, path = session.sizing, session.traffic
    allowed = (probes(session, fragmentation=fragmentation) and session.established and session.in_charge
               and session.host.sizes.takes_probes(session.peer.name))
    if sizing is not None and (sizing.path != path or not allowed):
        session.sizing = sizing = None
        session.timers.cancel(Timer(TimerKind.PROBE_PATH))
    if not allowed:
        return
    if sizing is None and link is not None and link.link_bytes <= MAX_PROBED_BYTES:
        sizing = _begin(session, path, link.link_bytes, now)
    if sizing is None:
        return
    if link is None:
        sizing.machine.large_sent(now)
    else:
        sizing.machine.measured(link.link_bytes, link.hint_bytes, now)
    settle(session, now)


def settle(session: Session, now: float) -> None:
    """Tell what changed, and arm the next probe."""
    sizing, timer = session.sizing, Timer(TimerKind.PROBE_PATH)
    if sizing is None:
        return
    machine = sizing.machine
    size = 0 if machine.origin is Origin.ROUTE else machine.current
    if size != sizing.told:
        sizing.told = size
        session.host.sizes.remember(sizing.path, size)
        session.output(SetPathMtu(sizing.path, size))
        session.emit(PathMtuChanged(session.peer.name, str(sizing.path), machine.current, machine.origin.value))
    if (machine.phase is Phase.ERROR) != sizing.failing:
        sizing.failing = not sizing.failing
        if sizing.failing:
            session.emit(Warned("path_below_base", f"{session.peer.name}: no datagram of {machine.base_bytes} bytes "
                                f"passes {sizing.path}: {machine.current} are used"))
    if machine.next_at == math.inf:
        session.timers.cancel(timer)
    else:
        session.timers.arm(timer, max(machine.next_at, now), timer.kind.value)


def carry_over(old: Session, new: Session, now: float) -> None:
    """Let the successor of an IKE SA go on; a probe that is out there tells nothing any more."""
    new.sizing, old.sizing = old.sizing, None
    old.timers.cancel(Timer(TimerKind.PROBE_PATH))
    if new.sizing is not None:
        new.sizing.machine.unclear(now)
        settle(new, now)


def _begin(session: Session, path: Path, link_bytes: int, now: float) -> Sizing:
    encr, known = session.crypto.suite.encr, session.host.sizes.found(path)
    machine = PathMtu(version=6 if ":" in path.remote.address else 4, link_bytes=link_bytes, known_bytes=known,
                      grain_bytes=1 if encr.aead else encr.block_bytes, now=session.host.sizes.turn(now))
    sizing = session.sizing = Sizing(path, machine, known)
    session.output(SetPathMtu(path, known))
    return sizing


def _put(table: dict[_Key, int], key: _Key, value: int) -> None:
    if len(table) >= MAX_REMEMBERED:
        del table[next(iter(table))]
    table[key] = value
