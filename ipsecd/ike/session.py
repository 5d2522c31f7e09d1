"""What the tasks of one IKE SA share: its keys, its path, its children and what it says to its parent.

A session knows nothing of Message IDs, windows, retransmission or fragments: those are ike_sa's.  Tasks read and change
a session; whatever they cause becomes an output, drained by the endpoint.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ipsecd.causes import Cause, Failure
from ipsecd.effects import AbandonHeld, Effect, Emit, InstallSa, RemoveSa, UpdatePath, UseOutbound
from ipsecd.events import (
    ChildFailed,
    ChildSaDown,
    ChildSaRekeyed,
    ChildSaUp,
    Event,
    IkeSaUp,
    LocalFault,
    PathChanged,
    Warned,
)
from ipsecd.ike.child_sa import LINGER_S, SWITCH_S, ChildSa, Lifetime, lifetime
from ipsecd.ike.collisions import Nonces
from ipsecd.ike.crypto.int_auth import IntAuth
from ipsecd.ike.crypto.keymat import IkeKeys
from ipsecd.ike.deadlines import Deadlines
from ipsecd.ike.host import Host
from ipsecd.ike.nat import Nat, why_udp, without_udp
from ipsecd.ike.states import AuthSent, ChildState, Established, IkeState, check_ike_transition
from ipsecd.policy import Encapsulation, Identity, PeerPolicy
from ipsecd.reports import (
    ChildGone,
    ChildMoved,
    ChildRefused,
    ChildRequest,
    ChildUp,
    IkeUp,
    PathMoved,
    Report,
)
from ipsecd.sa import Path
from ipsecd.secret import Secret
from ipsecd.suites import IkeSuite, Transform

if TYPE_CHECKING:
    from ipsecd.ike.mobility import Mobility
    from ipsecd.ike.sizing import Sizing
    from ipsecd.ike.tasks.follow_up import FollowUpDue
    from ipsecd.ike.tasks.task import Task

# Tuning: what an authenticated peer can grow
MAX_CHILDREN = 1024             # of one IKE SA; the largest known peers have a few hundred
MAX_QUEUED = 4 * MAX_CHILDREN   # tasks of ours that wait for the window: each child made, tried, rekeyed and deleted
# Tuning: time
KEEPALIVE_S = 20.0              # RFC 3948 4: default; NATs forget UDP after 30 s at the earliest


@dataclass(frozen=True, slots=True)
class IkeCrypto:
    """Names and keys of one IKE SA; `original_initiator` is our role in it (RFC 7296 2.2)."""

    spi_i: bytes
    spi_r: bytes
    suite: IkeSuite
    keys: IkeKeys
    original_initiator: bool

    @property
    def own_spi(self) -> bytes:
        """The SPI that we chose; it finds the IKE SA of an incoming message."""
        return self.spi_i if self.original_initiator else self.spi_r

    def __str__(self) -> str:
        return f"{self.spi_i.hex()}:{self.spi_r.hex()}"


class TimerKind(Enum):
    """The deadlines of an IKE SA and its children; the value says why, for status."""

    RETRANSMIT = "retransmit"
    HALF_OPEN = "give up the half-open IKE SA"
    LIVENESS = "check whether the peer lives"
    KEEPALIVE = "NAT keepalive"
    REKEY_IKE = "rekey the IKE SA"
    REAUTH = "authenticate anew"
    EXPIRE_IKE = "hard lifetime of the IKE SA"
    CLOSE = "close what the peer did not"
    SUPERSEDED = "close the IKE SA that a newer one replaced"
    REKEY_CHILD = "rekey a Child SA"
    EXPIRE_CHILD = "hard lifetime of a Child SA"
    SWITCH_CHILD = "send on the new Child SA"
    REMOVE_CHILD = "remove a deleted Child SA"
    FRAGMENTS = "give up an incomplete set of fragments"
    PROBE_PATH = "probe the size of the path"
    PROBE_PFS = "try early whether a rekey with key exchange succeeds"


class Timer(NamedTuple):
    """A deadline's name; `spi` is the child's inbound SPI, 0 for the IKE SA's own."""

    kind: TimerKind
    spi: int = 0


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Signal: the session is established."""

    initial_contact: bool


Output = Effect | Report | Authenticated


class Session:
    """One IKE SA as its tasks see it."""

    def __init__(self, host: Host, peer: PeerPolicy, crypto: IkeCrypto, *, handle: int, path: Path, nat: Nat,
                 state: IkeState, now: float) -> None:
        self.host = host
        self.peer = peer
        self.crypto = crypto
        self.handle = handle
        self.path = path
        self.traffic = path                     # where the pairs send: with MOBIKE the IKE SA moves first
        self.arrival: Path | None = None        # what the message being handled came by
        self.mobility: Mobility | None = None   # both ends do MOBIKE
        self.peer_token: Secret | None = None   # which shows that the peer lost this IKE SA (RFC 6290)
        self.gateway = ""                       # where another one sent us: its address in place of the entry's
        self.sizing: Sizing | None = None       # how large a datagram the path takes, where that is probed
        self.nat = nat
        self.state: IkeState = state
        self.since = now
        self.opened_at: float | None = now      # when IKE_SA_INIT began here; None for a successor by rekeying
        self.released: Failure | None = None    # set from outside: close it with a Delete
        self.local_id: Identity | None = None
        self.remote_id: Identity | None = None
        self.authenticated_at = now             # rekeying does not renew it
        self.life: Lifetime | None = None
        self.proof: Lifetime | None = None      # of the proofs of identity, where they count for a time only
        self.reauth_by = math.inf               # when we authenticate anew because the peer wants it (RFC 4478)
        self.children: dict[int, ChildSa] = {}
        self.queue: deque[Task] = deque()
        self.active: Task | None = None
        self.timers: Deadlines[Timer] = Deadlines()
        self.child_ke: dict[str, int] = {}      # child -> group that the peer asked for (RFC 7296 1.3)
        self.childless_supported = False
        self.ended: Failure | None = None       # set by a task: the IKE SA closes once its response is out
        self.kes_due: tuple[Transform, ...] = ()    # as responder, before IKE_AUTH: additional key exchanges to come
        self.int_auth = IntAuth()
        self.follow_ups: dict[bytes, FollowUpDue] = {}      # as responder, by the link that the peer has to bring
        self.nonces: Nonces | None = None       # of IKE_SA_INIT or of the rekey that made it
        self.refused_since: float | None = None  # the peer refuses to rekey this IKE SA
        self.predecessor: Session | None = None  # what it may take over from, until a collision is decided
        self.in_charge = False                  # holds the children and speaks for its handle
        self.outputs: list[Output] = []

    @property
    def raw(self) -> bool:
        """True while ESP goes without UDP."""
        return without_udp(self.nat, self.peer.encapsulation, self.traffic)

    @property
    def way(self) -> Path:
        """Where the pairs send: over `traffic`, in UDP or without."""
        return self.traffic.without_udp() if self.raw else self.traffic

    @property
    def established(self) -> bool:
        """True while new exchanges may be started."""
        return isinstance(self.state, Established)

    @property
    def proved(self) -> bool:
        """True while the peer takes a Delete: it is authenticated, and no other end of the IKE SA is under way."""
        return self.remote_id is not None and isinstance(self.state, AuthSent | Established)

    def move(self, new: IkeState) -> None:
        """Enter a state; raise LocalError where the table does not allow it."""
        check_ike_transition(self.state, new)
        self.state = new

    def authenticated(self, remote: Identity, local: Identity, now: float, *, proved_at: float,
                      initial_contact: bool = False) -> None:
        """Both ends are proved, since `proved_at`: the IKE SA is up."""
        self.move(Established(now))
        self.remote_id, self.local_id, self.authenticated_at = remote, local, proved_at
        self.timers.cancel(Timer(TimerKind.HALF_OPEN))
        self.take_charge(now)
        crypto = self.crypto
        self.output(IkeUp(self.handle, self.peer.name, crypto.original_initiator, self.path,
                          mobile=self.mobility is not None))
        self.emit(IkeSaUp(self.peer.name, str(crypto), "initiator" if crypto.original_initiator else "responder",
                          str(remote), str(crypto.suite), str(self.path), str(self.nat)))
        self.tell_udp()
        self.output(Authenticated(initial_contact))

    def tell_udp(self) -> None:
        """Publish that ESP goes in UDP where policy wants it without."""
        if self.peer.encapsulation is Encapsulation.RAW and not self.raw:
            self.emit(Warned("esp_in_udp", f"{self.peer.name}: {why_udp(self.nat, self.traffic)}"))

    def take_charge(self, now: float) -> None:
        """Start the lifetime and the liveness checks of an established IKE SA."""
        self.in_charge = True
        self.since = now
        self.rearm(now)
        if self.nat.local:
            self.timers.arm(Timer(TimerKind.KEEPALIVE), now + KEEPALIVE_S, TimerKind.KEEPALIVE.value)

    def rearm(self, now: float) -> None:
        """Compute lifetime and liveness check from the policy and the age; what has passed comes due at once."""
        rng, ike = self.host.rng, self.peer.ike
        life = self.life = lifetime(rng, since=self.since, soft_s=ike.lifetime_s)
        proof = lifetime(rng, since=self.authenticated_at, soft_s=ike.reauth_s) if ike.reauth_s else None
        self.proof, expires_at = proof, min(life.expires_at, proof.expires_at if proof else math.inf)
        self.arm_reauth(now)
        for kind, at in ((TimerKind.REKEY_IKE, life.rekey_at), (TimerKind.EXPIRE_IKE, expires_at)):
            self.timers.arm(Timer(kind), max(at, now), kind.value)
        if ike.dpd_s > 0:
            # Due at once only to be put off to where the last proof of life says: the interval may be a new one.
            self.timers.arm(Timer(TimerKind.LIVENESS), now, TimerKind.LIVENESS.value)
        else:
            self.timers.cancel(Timer(TimerKind.LIVENESS))

    def arm_reauth(self, now: float) -> None:
        """Arm the time to authenticate anew, ours or the peer's, where we can call the peer."""
        timer = Timer(TimerKind.REAUTH)
        at = min(self.reauth_by, self.proof.rekey_at if self.proof else math.inf)
        if at < math.inf and self.peer.addresses:
            self.timers.arm(timer, max(at, now), timer.kind.value)
        else:
            self.timers.cancel(timer)

    def enqueue(self, task: Task, *, first: bool = False) -> None:
        """Queue a request of ours; where too many wait, tell the task and the operator.

        A rekey or Delete that was left out is made up for by the hard lifetime of what it was about.
        """
        if len(self.queue) >= MAX_QUEUED:
            task.failed(Failure(Cause.LOCAL_ERROR, "too many requests wait for the peer"), self.since)
            self.emit(LocalFault(f"IKE SA {self.crypto} with {self.peer.name}",
                                 f"{len(self.queue)} requests wait for the peer: left out {type(task).__name__}"))
            return
        (self.queue.appendleft if first else self.queue.append)(task)

    def tasks(self) -> tuple[Task, ...]:
        """Return the outstanding task and those that wait."""
        return (*((self.active,) if self.active else ()), *self.queue)

    def output(self, output: Output) -> None:
        """Say something to the parent."""
        self.outputs.append(output)

    def emit(self, event: Event) -> None:
        """Publish an event."""
        self.outputs.append(Emit(event))

    # Children, in the order of their lives

    def child_by_peer_spi(self, protocol: int, spi_out: int) -> ChildSa | None:
        """Return the child that a Delete or REKEY_SA of the peer names: by the peer's inbound SPI (RFC 7296 1.4.1)."""
        return next((c for c in self.children.values() if (c.protocol, c.spi_out) == (protocol, spi_out)
                     and c.state not in (ChildState.LINGERING, ChildState.GONE)), None)

    def install(self, child: ChildSa, now: float) -> None:
        """Take a pair into the engine; inbound works from here on."""
        self.children[child.spi_in] = child
        self.output(InstallSa(child.pair))
        self.arm_lifetime(child, now)
        if child.state is ChildState.ARRIVING:
            self.timers.arm(Timer(TimerKind.SWITCH_CHILD, child.spi_in), now + SWITCH_S, TimerKind.SWITCH_CHILD.value)

    def arm_lifetime(self, child: ChildSa, now: float) -> None:
        """Arm the timers of a child; a time that has passed comes due at once."""
        for kind, at in ((TimerKind.REKEY_CHILD, child.life.rekey_at), (TimerKind.EXPIRE_CHILD, child.life.expires_at)):
            self.timers.arm(Timer(kind, child.spi_in), max(at, now), f"{kind.value} {child.policy.key}")

    def use(self, child: ChildSa) -> None:
        """Send on this pair from here on."""
        if child.state is ChildState.ARRIVING:
            child.move(ChildState.UP)
            self.timers.cancel(Timer(TimerKind.SWITCH_CHILD, child.spi_in))
        self.output(UseOutbound(child.policy.key, child.spi_in))

    def child_up(self, child: ChildSa, *, narrowed: bool) -> None:
        """Report a pair that replaces none."""
        pair = child.pair
        self.output(ChildUp(self.handle, pair, narrowed))
        self.emit(ChildSaUp(self.peer.name, pair.child.child, f"{child.spi_in:08x}", f"{child.spi_out:08x}",
                            str(pair.suite), tuple(map(str, pair.ts_local)), tuple(map(str, pair.ts_remote))))

    def child_moved(self, old: ChildSa, new: ChildSa) -> None:
        """Report that `new` carries on for `old`, once."""
        old.successor = new.spi_in
        new.replaces = None
        self.output(ChildMoved(self.handle, old.spi_in, new.pair))
        self.emit(ChildSaRekeyed(self.peer.name, new.policy.key.child, f"{old.spi_in:08x}", f"{new.spi_in:08x}"))

    def arrive(self, new: ChildSa) -> None:
        """Send on the successor that the peer made."""
        old = self.children.get(new.replaces or 0)
        self.use(new)
        if old is not None and old.successor is None:
            self.child_moved(old, new)
        elif new.replaces is not None:
            new.replaces = None         # what it was to replace is gone, or replaced, and was reported so
            self.child_up(new, narrowed=False)

    def use_successor_of(self, old: ChildSa) -> ChildSa | None:
        """Send on the successor that the peer made of a pair, where it waits still for its first packet; return it."""
        replaced = old.state is ChildState.REPLACED
        new = next((c for c in self.children.values() if replaced and c.replaces == old.spi_in), None)
        if new is not None:
            self.arrive(new)
        return new

    def linger(self, child: ChildSa, now: float) -> None:
        """Keep receiving for packets on their way, then remove the pair."""
        child.move(ChildState.LINGERING)
        self._cancel(child)
        self.timers.arm(Timer(TimerKind.REMOVE_CHILD, child.spi_in), now + LINGER_S, TimerKind.REMOVE_CHILD.value)

    def supersede(self, child: ChildSa, failure: Failure, now: float) -> None:
        """Report a pair gone that receives a little longer, because a pair of another IKE SA serves its slot."""
        self.linger(child, now)
        self._lost(child, failure)

    def has_sender(self, child: ChildSa, *, elsewhere: bool = False) -> bool:
        """Return whether another pair sends for the slot of a child, on another IKE SA of the peer or also on this."""
        found = self.host.same_slot(self.peer.name, child.policy.key, child.pair.slot, but=child.spi_in)
        return any(not elsewhere or spi not in self.children for spi in found)

    def remove(self, child: ChildSa, failure: Failure | None = None, *, at_once: bool = False) -> None:
        """Take a pair out of the engine; report it gone with `failure` unless a successor carries on.

        Where another pair serves its slot, what the peer sent ahead of its Delete may come after that.  A successor
        that goes before it carried anything leaves the pair that it was to replace, to be rekeyed again.
        """
        if child.state is ChildState.GONE:
            return
        old = self.children.get(child.replaces or 0)
        linger_s = 0.0 if at_once or not self.has_sender(child) else LINGER_S
        child.move(ChildState.GONE)
        self._cancel(child)
        self.timers.cancel(Timer(TimerKind.REMOVE_CHILD, child.spi_in))
        del self.children[child.spi_in]
        self.output(RemoveSa(child.spi_in, linger_s))
        if failure is not None:
            self._lost(child, failure)
        if failure is not None and old is not None and old.state is ChildState.REPLACED and old.successor is None:
            old.move(ChildState.UP)
            self.arm_lifetime(old, old.life.rekey_at)

    def refuse(self, request: ChildRequest, failure: Failure, *, single_pair: bool = False) -> None:
        """Report a pair that was asked for and not made."""
        self.output(ChildRefused(self.handle, request, single_pair, failure))
        self.emit(ChildFailed(self.peer.name, request.child.child, failure))
        self.output(AbandonHeld(request.child))

    def child_refused_peer(self, failure: Failure) -> None:
        """Publish that the peer asked for a pair in vain."""
        self.emit(ChildFailed(self.peer.name, "", failure))

    def follow(self, path: Path) -> None:
        """Move the IKE SA and all its pairs to another path, on authenticated evidence (RFC 7296 2.23)."""
        if path == self.path:
            return
        if self.established:
            self.emit(PathChanged(self.peer.name, str(self.path), str(path)))
        self.path = path
        self.carry(path)

    def carry(self, path: Path) -> None:
        """Let all pairs send over another path."""
        if self.established:
            self.output(PathMoved(self.handle, path))
        self.traffic = path
        way = self.way
        for child in self.children.values():
            child.moved_to(way)
            self.output(UpdatePath(child.spi_in, child.pair.path))

    def _lost(self, child: ChildSa, failure: Failure) -> None:
        """Report a pair gone unless a successor carries on, or it is such a one that never did."""
        if child.successor is not None or child.replaces is not None:
            return
        key, slot = child.policy.key, child.pair.slot
        self.output(ChildGone(self.handle, key, slot, child.spi_in, failure))
        self.emit(ChildSaDown(self.peer.name, key.child, f"{child.spi_in:08x}", failure))

    def _cancel(self, child: ChildSa) -> None:
        for kind in (TimerKind.REKEY_CHILD, TimerKind.EXPIRE_CHILD, TimerKind.SWITCH_CHILD, TimerKind.PROBE_PFS):
            self.timers.cancel(Timer(kind, child.spi_in))
