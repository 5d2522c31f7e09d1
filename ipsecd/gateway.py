"""Gateway joins IKE, policy and the peer supervisors: the only object of the core that runtime/ talks to.

Every input ends in `_pump`: reports of the endpoint go to the peer's supervisor, its actions go back to the endpoint,
until both are quiet; what is left are effects for the edge.  A supervisor decides only when all reports of a batch
are in, so a child that comes up together with its IKE SA is not asked for twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import assert_never

from ipsecd.actions import Abandon, Action, CreateChild, DeleteChild, DeleteIke, Initiate, StartResolve, Wait
from ipsecd.causes import Cause
from ipsecd.config.diff import PeerChanged, diff
from ipsecd.effects import AbandonHeld, Effect, Emit, Resolve
from ipsecd.events import ChildFailed, Hint, IkeAttemptFailed, PeerWaiting
from ipsecd.ike.deadlines import Deadlines
from ipsecd.ike.endpoint import IkeEndpoint
from ipsecd.ike.pad import renewed
from ipsecd.ike.sa_table import WallClock, epoch
from ipsecd.policy import PeerPolicy, Policy
from ipsecd.reports import (
    ChildGone,
    ChildMoved,
    ChildRefused,
    ChildUp,
    IkeFailed,
    IkeGone,
    IkeUp,
    PathMoved,
    ReauthDue,
    Redirect,
    Report,
    Suspected,
)
from ipsecd.rng import Rng
from ipsecd.sa import ChildKey, Deadline, LinkSize, Path
from ipsecd.secret import Secret
from ipsecd.supervision import EXPECTED_ENDS
from ipsecd.supervisor import PeerSupervisor
from ipsecd.views import Failed, GatewayView, IkeView, PeerView

MAX_ROUNDS = 64         # of report and reaction in one input: more is a loop of ours, cut off until the next input


class Gateway:
    """The whole protocol side of the daemon, without I/O.  See docs/architecture.md for the order of calls."""

    def __init__(self, policy: Policy, rng: Rng, *, now: float, last_inbound: Callable[[int], float | None],
                 wall_clock: WallClock = epoch, crash_secret: Secret | None = None) -> None:
        self._rng = rng
        self.policy = policy
        self.endpoint = IkeEndpoint(policy, rng, now=now, last_inbound=last_inbound, wall_clock=wall_clock,
                                    crash_secret=crash_secret)
        self._peers = {p.name: PeerSupervisor(p, rng, now=now) for p in policy.peers}
        self._peer_of: dict[int, str] = {}           # handle -> peer
        self._refused: dict[str, Failed] = {}        # what we last refused a peer as responder
        self._effects: list[Effect] = []
        self._waiting: deque[Effect | Report] = deque()      # of the endpoint, not looked at yet
        self._deadlines: Deadlines[str] = Deadlines()
        self._dirty: dict[str, None] = {}            # a dict keeps the order of first touch

    # Inputs

    def start(self, now: float, addresses: frozenset[str] = frozenset()) -> None:
        """Bring up what should be up; `addresses` are those that this host holds."""
        self.endpoint.host_changed(addresses, now)
        self._dirty = dict.fromkeys(self._peers)
        self._pump(now)

    def ike_received(self, datagram: bytes, path: Path, now: float) -> None:
        """Take an IKE datagram, marker removed."""
        self.endpoint.receive(datagram, path, now)
        self._pump(now)

    def work_done(self, work_id: int, value: object, now: float) -> None:
        """Take the value of a Work effect, or the exception that its job raised."""
        self.endpoint.work_done(work_id, value, now)
        self._pump(now)

    def resolved(self, peer: str, paths: tuple[Path, ...], now: float, handle: int | None = None) -> None:
        """Take the answer to a Resolve effect, with its handle."""
        if handle is not None:
            self.endpoint.paths_found(handle, paths, now)
            self._pump(now)
            return
        supervisor = self._peers.get(peer)
        if supervisor is None:
            return
        if paths and not supervisor.redirects.gateway:
            self.endpoint.set_addresses(peer, tuple(p.remote.address for p in paths))
        supervisor.resolved(paths, now)
        self._poke(peer, now)

    def host_changed(self, local_addresses: frozenset[str], now: float) -> None:
        """Take the addresses this host holds after a change of addresses or routes."""
        self.endpoint.host_changed(local_addresses, now)
        for name, supervisor in self._peers.items():
            supervisor.host_changed(local_addresses)
            self._dirty[name] = None
        self._pump(now)

    def acquire(self, child: ChildKey, now: float) -> None:
        """Take the engine's report that packets wait for a child."""
        if child.peer in self._peers:
            self._peers[child.peer].acquire(child.child)
            self._poke(child.peer, now)

    def soft_lifetime(self, spi_in: int, now: float) -> None:
        """Take the engine's report of a soft limit by volume."""
        self.endpoint.rekey_child(spi_in, now)
        self._pump(now)

    def hard_lifetime(self, spi_in: int, now: float) -> None:
        """Take the engine's report that a pair may carry no more."""
        self.endpoint.delete_child(spi_in, now, Cause.EXPIRED)
        self._pump(now)

    def peer_address(self, spi_in: int, path: Path, now: float) -> None:
        """Take the engine's report of an authenticated packet from another address."""
        self.endpoint.path_observed(spi_in, path, now)
        self._pump(now)

    def first_inbound(self, spi_in: int, now: float) -> None:
        """Take the engine's report that the peer uses a new pair."""
        self.endpoint.first_inbound(spi_in, now)
        self._pump(now)

    def path_evidence(self, spi_in: int, link: LinkSize | None, now: float) -> None:
        """Take the size of the link that a pair sends by, or (None) that large packets leave on it."""
        self.endpoint.path_evidence(spi_in, link, now)
        self._pump(now)

    def unknown_spi(self, path: Path, spi: int, now: float) -> None:
        """Take the engine's report of ESP for an SPI that nobody installed."""
        self.endpoint.unknown_spi(path, spi, now)
        self._pump(now)

    # The operator

    def up(self, peer: str, child: str | None, now: float) -> None:
        """Bring a peer or child up at once."""
        for name in self._family(peer):
            self._peers[name].up(child)
            self._dirty[name] = None
        self._pump(now)

    def down(self, peer: str, child: str | None, now: float) -> None:
        """Take a peer or child down until `up`."""
        for name in self._family(peer):
            self._peers[name].down(child)
            self._dirty[name] = None
        self._pump(now)

    def rekey(self, peer: str, child: str | None, now: float) -> int:
        """Rekey the peer's IKE SAs, or one child's pairs; return how many were started."""
        started = 0
        for handle, line in [item for name in self._family(peer) for item in self._peers[name].lines.items()]:
            spis = [spi for spi, pair in line.pairs.items() if pair.slot.child == child]
            if child is None:
                self.endpoint.rekey_ike(handle, now)
            for spi in spis:
                self.endpoint.rekey_child(spi, now)
            started += len(spis) if child else 1
        self._pump(now)
        return started

    def replace_policy(self, policy: Policy, now: float) -> None:
        """Take a reloaded policy; the guard already covers both.  What did not change is not touched."""
        changed = {c.peer: c.disruptive for c in diff(self.policy, policy) if isinstance(c, PeerChanged)}
        old, self.policy = {p.name: p for p in self.policy.peers}, policy
        self.endpoint.replace_policy(policy, now)
        remotes = {name: renewed(s.policy, policy.peer(s.policy.entry)) for name, s in self._peers.items()
                   if s.policy.entry}
        for name in [name for name in self._peers if policy.peer(name) is None and remotes.get(name) is None]:
            self._peers[name].close(Cause.RELOADED)
            self._act(name, now)
            self._forget(name)
        for name, remote in remotes.items():
            if remote is not None and remote != self._peers[name].policy:
                self._peers[name].replace_policy(remote, disruptive=changed.get(remote.entry, False))
                self._dirty[name] = None
        for peer in policy.peers:
            if peer.name not in self._peers:
                self._peers[peer.name] = PeerSupervisor(peer, self._rng, now=now)
            elif peer != old.get(peer.name):
                self._peers[peer.name].replace_policy(peer, disruptive=changed.get(peer.name, False))
            self._dirty[peer.name] = None
        self._pump(now)

    def policy_of(self, peer: str) -> PeerPolicy | None:
        """Return the entry of a peer, or of one remote of an entry that serves many."""
        supervisor = self._peers.get(peer)
        return supervisor.policy if supervisor else None

    def shutdown(self, now: float) -> None:
        """Send DELETE for every IKE SA; nothing is started afterwards."""
        for name, supervisor in self._peers.items():
            supervisor.close(Cause.SHUTDOWN)
            self._act(name, now)
            self._deadlines.cancel(name)
        self._peers.clear()
        self._pump(now)

    # Time, effects, reading

    def handle_timeout(self, now: float, *, most: int | None = None) -> None:
        """Do what is due, of `most` IKE SAs and as many peers where given; then next_deadline() says what is left."""
        self.endpoint.handle_timeout(now, most=most)
        for name in self._deadlines.due(now, most):
            self._dirty[name] = None
        self._pump(now)

    def next_deadline(self) -> Deadline | None:
        """Return when handle_timeout must be called next, and why."""
        if self._waiting:                            # a fault cut the last input off
            return Deadline(0.0, "finish what was begun")
        found = [d for d in (self.endpoint.next_deadline(), self._deadlines.next()) if d is not None]
        return min(found, key=lambda d: d.at, default=None)

    def take_effects(self) -> list[Effect]:
        """Hand over the effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    @property
    def names(self) -> tuple[str, ...]:
        """The peers in the order configured, each remote of an entry that serves many behind it."""
        order = {name: at for at, name in enumerate(self._peers)}
        return tuple(sorted(self._peers, key=lambda name: order[self._peers[name].policy.entry or name]))

    def view(self, peers: Collection[str] | None = None) -> GatewayView:
        """Return a picture of every peer, IKE SA and pair; of these peers only, where they are given."""
        found: dict[str, list[IkeView]] = {}
        for view in self.endpoint.views(peers):
            found.setdefault(view.peer, []).append(view)
        shown = [(name, self._peers[name]) for name in (self.names if peers is None else peers) if name in self._peers]
        views = tuple(PeerView(name, s.policy.enabled, type(s.phase).__name__.lower(), s.next_deadline(),
                               self._last_failure(name), dict(s.child_failures), s.attempts, s.wants.down,
                               tuple(found.get(name, ())), s.policy.entry, s.redirects.gateway)
                      for name, s in shown)
        return GatewayView(views, self.endpoint.half_open, self.next_deadline())

    def _last_failure(self, name: str) -> Failed | None:
        found = [f for f in (self._peers[name].last_failure, self._refused.get(name)) if f is not None]
        return max(found, key=lambda f: f.at, default=None)

    # Reports to supervisors, actions to the endpoint

    def _poke(self, peer: str, now: float) -> None:
        self._dirty[peer] = None
        self._pump(now)

    def _pump(self, now: float) -> None:
        for _ in range(MAX_ROUNDS):
            self._waiting.extend(self.endpoint.take_effects())
            while self._waiting:
                item = self._waiting.popleft()       # one by one: a fault with one leaves the others for the next input
                if isinstance(item, Report):
                    self._report(item, now)
                else:
                    self._effects.append(item)
                    self._note(item, now)
            if not self._dirty:
                return
            for name in tuple(self._dirty):
                del self._dirty[name]                # one by one: a fault with one peer leaves the others their turn
                supervisor = self._peers.get(name)
                if supervisor is not None:
                    supervisor.step(now)
                    self._act(name, now)
                    self._arm(name, supervisor)

    def _arm(self, name: str, supervisor: PeerSupervisor) -> None:
        deadline = supervisor.next_deadline()
        if deadline is None:
            self._deadlines.cancel(name)
        else:
            self._deadlines.arm(name, deadline.at, deadline.why)

    def _note(self, effect: Effect, now: float) -> None:
        """Remember what we refused a peer as responder: no supervisor asked, and its operator will look at status."""
        match effect:
            case Emit(IkeAttemptFailed(peer=peer, role="responder", failure=failure)) | Emit(
                    ChildFailed(peer=peer, child="", failure=failure)):
                if peer in self._peers and failure.cause not in EXPECTED_ENDS:
                    self._refused[peer] = Failed(failure, now)
            case Emit(Hint(peer=peer, failure=failure)) if failure.cause in (Cause.REDIRECT_REFUSED,
                                                                             Cause.REDIRECT_LOOP):
                if peer in self._peers:             # also on an IKE SA that stays up
                    self._refused[peer] = Failed(failure, now)
            case Emit(ChildFailed(peer=peer, child=child, failure=failure)) if peer in self._peers:
                self._peers[peer].child_failures[child] = Failed(failure, now)     # of a rekey: the pair is still up
            case _:
                pass

    def _report(self, report: Report, now: float) -> None:
        name = self._peer_name(report)
        supervisor = self._supervisor(name, report, now)
        if supervisor is None:
            return
        self._dirty[name] = None
        match report:
            case IkeUp():
                supervisor.ike_up(report, now)
            case IkeFailed():
                supervisor.ike_failed(report, now)
            case IkeGone():
                supervisor.ike_gone(report, now)
                if supervisor.policy.entry and not supervisor.lines:
                    self._forget(name)
            case ChildUp():
                self._refused.pop(name, None)
                supervisor.child_up(report, now)
            case ChildMoved():
                supervisor.child_moved(report)
                supervisor.child_failures.pop(report.pair.child.child, None)
            case ChildGone():
                supervisor.child_gone(report, now)
            case ChildRefused():
                supervisor.child_refused(report, now)
            case PathMoved():
                supervisor.path_changed(report.handle, report.path)
            case Suspected():
                supervisor.suspicion(now)
            case ReauthDue():
                supervisor.lines.retire((report.handle,), Cause.REPLACED)    # make before break, as after a reload
            case Redirect():
                supervisor.redirected(report, now)
            case _:
                assert_never(report)

    def _peer_name(self, report: Report) -> str:
        match report:
            case IkeUp() | IkeFailed() | IkeGone() | Suspected() | ReauthDue() | Redirect():
                if isinstance(report, IkeUp):
                    self._peer_of[report.handle] = report.peer
                elif isinstance(report, IkeFailed | IkeGone):
                    self._peer_of.pop(report.handle, None)
                return report.peer
            case ChildUp() | ChildMoved() | ChildGone() | ChildRefused() | PathMoved():
                return self._peer_of.get(report.handle, "")
            case _:
                assert_never(report)

    def _supervisor(self, name: str, report: Report, now: float) -> PeerSupervisor | None:
        """Return who looks after a peer; each remote of an entry for many has one from its first IKE SA to its last."""
        found = self._peers.get(name)
        if found is not None or not isinstance(report, IkeUp):
            return found
        policy = self.endpoint.peer_of(report.handle)
        entry = self._peers.get(policy.entry) if policy else None
        if policy is None or entry is None:
            return None
        made = self._peers[name] = PeerSupervisor(policy, self._rng, now=now)
        for child in entry.wants.down:
            made.down(child)
        return made

    def _forget(self, name: str) -> None:
        del self._peers[name]
        self._deadlines.cancel(name)
        self._refused.pop(name, None)

    def _family(self, peer: str) -> list[str]:
        """Return a peer, and with an entry that serves many all its remotes."""
        return [name for name, s in self._peers.items() if peer in (name, s.policy.entry)]

    def _act(self, name: str, now: float) -> None:
        for action in self._peers[name].take_actions():
            self._do(name, action, now)

    def _do(self, name: str, action: Action, now: float) -> None:
        supervisor = self._peers[name]
        match action:
            case StartResolve():
                self._effects.append(Resolve(name, supervisor.redirects.names(supervisor.policy.addresses)))
            case Initiate(path=path, requests=requests, came_from=origin):
                supervisor.initiated(self.endpoint.initiate(name, path, requests, now, origin))
            case CreateChild(handle=handle, request=request):
                self.endpoint.create_child(handle, request, now)
            case DeleteChild(spi_in=spi_in, cause=cause):
                self.endpoint.delete_child(spi_in, now, cause)
            case DeleteIke(handle=handle, cause=cause):
                self.endpoint.delete_ike(handle, now, cause)
            case Abandon(child=child):
                if not supervisor.policy.entry:             # the child is the entry's, and other remotes' too
                    self._effects.append(AbandonHeld(child))
            case Wait(seconds=seconds, why=why):
                self._effects.append(Emit(PeerWaiting(name, round(seconds, 3), why)))
            case _:
                assert_never(action)
