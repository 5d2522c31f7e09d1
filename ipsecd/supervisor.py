"""One supervisor for each peer: compares what the configuration wants with what exists and takes the next step.

Start, reload, acquire, a dead peer, a delete by the peer, changed addresses and names only change what is known;
`step` is the one place that decides, after all reports of a batch are in.  It never gives up:

    Idle --something is missing, no IKE SA--> Resolving --paths--> Connecting --IkeUp--> Idle
      ^                                          | none               | failed
      +-----------------------------wait over-- Waiting <------------+   (silent: the next path at once)

Make before break: a line or pair that a reload made stale stays until its successor is up.
"""

from __future__ import annotations

from dataclasses import replace

from ipsecd import reports
from ipsecd.actions import Abandon, Action, CreateChild, DeleteChild, DeleteIke, Initiate, StartResolve, Wait
from ipsecd.causes import Cause, Failure
from ipsecd.phases import Connecting, Idle, Phase, Resolving, Slot, Waiting
from ipsecd.policy import PeerPolicy
from ipsecd.redirects import Redirects
from ipsecd.rng import Rng
from ipsecd.sa import ChildKey, Deadline, Path
from ipsecd.supervision import (
    EXPECTED_ENDS,
    RESOLVE_AGAIN_S,
    RESOLVE_TIMEOUT_S,
    SILENT_WAIT_S,
    SPIN_S,
    STABLE_S,
    SUSPICION_S,
    UNRESOLVED_WAIT_S,
    Backoff,
    Holdings,
    Line,
    Lines,
    Pauses,
    jitter,
    needs_new_pairs,
    pair_of,
    slot_of,
    unreached,
)
from ipsecd.views import Failed
from ipsecd.wants import Gaps, Wants


class PeerSupervisor:
    """Keeps one peer's tunnels as its policy wants them: call inputs, then step(now), then take_actions()."""

    def __init__(self, policy: PeerPolicy, rng: Rng, *, now: float) -> None:
        self.phase: Phase = Idle()
        self.lines = Lines()
        self.last_failure: Failed | None = None
        self.child_failures: dict[str, Failed] = {}
        self.attempts = 0                            # that failed since the peer was last up
        self._rng = rng
        self._actions: list[Action] = []
        self.wants = Wants(policy)
        self._gaps = Gaps(self.wants, self.lines)
        self._stale = False                          # there may be pairs that need a successor
        self._paths: tuple[Path, ...] = ()           # still to try, in order
        self._backoff, self._pauses = Backoff(rng), Pauses(rng)
        self.redirects = Redirects()
        self._suspicious, self._last_suspicion = False, now - SUSPICION_S    # try in parallel to the line that is up
        self._resolve_at = now

    @property
    def policy(self) -> PeerPolicy:
        """The peer's entry in force."""
        return self.wants.policy

    # Reports, in the order of a tunnel's life

    def resolved(self, paths: tuple[Path, ...], now: float) -> None:
        """Take the answer to StartResolve: paths in the order to try."""
        self._resolve_at = now + RESOLVE_AGAIN_S
        if not isinstance(self.phase, Resolving):
            return
        self.phase, self._paths = Idle(), paths
        self._suspicious = self._suspicious and bool(paths)      # without a path, what is up stays as it is
        if not paths and self._needs_line():
            self._attempt_failed(unreached(self.redirects.names(self.policy.addresses)), now)
            self._wait(jitter(self._rng, UNRESOLVED_WAIT_S), "no address or route for the peer", now)

    def initiated(self, handle: int) -> None:
        """Take the handle of the last Initiate."""
        if isinstance(self.phase, Connecting):
            self.phase = replace(self.phase, handle=handle)

    def ike_up(self, report: reports.IkeUp, now: float) -> None:
        """An IKE SA with this peer is up, made by either end."""
        if not self.policy.enabled:
            self._actions.append(DeleteIke(report.handle, Cause.RELOADED))
            return
        line = self.lines[report.handle] = Line(report.path, now, report.initiator, mobile=report.mobile)
        self.attempts = 0
        if not isinstance(self.phase, Connecting):
            self.phase = Idle()                      # the peer reached us first
        elif self.phase.handle == report.handle:
            line.pending = dict(self.phase.asked)
            self.lines.retire(self.phase.replaces, Cause.REPLACED)
            self.phase = Idle()
        self._suspicious, self._paths = False, ()
        self.redirects.arrived()

    def ike_failed(self, report: reports.IkeFailed, now: float) -> None:
        """An attempt of ours ended: next path, or wait and begin again."""
        if not isinstance(self.phase, Connecting) or self.phase.handle != report.handle:
            return
        came_from, self.phase = self.phase.path.remote.address, Idle()
        if self.lines.usable():
            return                                   # a suspicion of ours, or the peer's own attempt won
        failure = self.redirects.follow(report.redirect, came_from, now) if report.redirect else report.failure
        if failure is None:
            self._paths = ()
            return
        self._attempt_failed(failure, now)
        if report.refused:
            self._wait(self._backoff.grow(), failure.summary, now)
        elif not self._paths:
            self._wait(jitter(self._rng, SILENT_WAIT_S), failure.summary, now)

    def ike_gone(self, report: reports.IkeGone, now: float) -> None:
        """An established IKE SA ended."""
        line = self.lines.pop(report.handle, None)
        if line is None:
            return
        if not self.lines:
            self.redirects.ended()
        expected = report.failure.cause in EXPECTED_ENDS
        if not expected:
            self.last_failure = Failed(report.failure, now)
        if now - line.since >= STABLE_S:
            self._backoff.clear()
        elif now - line.since < SPIN_S and not expected and isinstance(self.phase, Idle) and not self.lines.usable():
            self._wait(self._backoff.grow(), report.failure.summary, now)   # accepted and closed at once: do not spin

    def redirected(self, report: reports.Redirect, now: float) -> None:
        """The peer sends us to another gateway: make before break; or stay, where it sends us around."""
        line = self.lines.get(report.handle)
        if line is None:
            return
        loop = self.redirects.follow(report.gateway, line.path.remote.address, now)
        if loop is None:
            self._drop_attempt(Cause.REDIRECTED)
            line.retired = line.retired or Cause.REDIRECTED
        else:
            self.last_failure = Failed(loop, now)
            line.pending = line.pending if line.pairs else {}    # none came along with IKE_AUTH: ask for them
            self.wants.changed[None] = None

    def child_up(self, report: reports.ChildUp, now: float) -> None:
        """A pair is up, made by either end."""
        line = self.lines.get(report.handle)
        if line is None:
            return
        slot = Slot(report.pair.child.child, report.pair.slot)
        asked, policy = line.pending.pop(slot, None), self.policy.child(slot.child)
        self.lines.changed[slot.child] = None
        if policy is None or slot.child in self.wants.down:
            self._actions.append(DeleteChild(report.pair.spi_in, Cause.OPERATOR if policy else Cause.RELOADED))
            return
        self.child_failures.pop(slot.child, None)
        self.last_failure = None
        narrowed = report.narrowed and self.wants.fall_back(slot.child)   # one pair at a time: ask for the others too
        stale = asked is not None and needs_new_pairs(asked, policy)
        self._stale |= stale
        line.pairs[report.pair.spi_in] = pair_of(report.pair, slot, now, narrowed=narrowed, stale=stale)

    def child_moved(self, report: reports.ChildMoved) -> None:
        """A pair was rekeyed: it keeps its place."""
        line, old = self.lines.get(report.handle), self.lines.pop_pair(report.old_spi_in)
        if line is not None and old is not None:
            line.pairs[report.pair.spi_in] = pair_of(report.pair, old.slot, old.since, narrowed=old.narrowed,
                                                     stale=old.stale)

    def child_gone(self, report: reports.ChildGone, now: float) -> None:
        """A pair ended; an on-demand child then waits for traffic again."""
        pair = self.lines.pop_pair(report.spi_in)
        if pair is not None:
            self._pauses.ended(pair, now, expected=report.failure.cause in EXPECTED_ENDS)
        if not self.lines.pairs(report.child.child):
            self.wants.release(report.child.child)

    def child_refused(self, report: reports.ChildRefused, now: float) -> None:
        """A pair that we asked for was not made."""
        slot = slot_of(report.request)
        self.lines.changed[slot.child] = None
        if report.handle in self.lines:
            self.lines[report.handle].pending.pop(slot, None)
        if report.failure.cause is Cause.REPLACED:
            self.lines.retire((report.handle,), Cause.REPLACED)    # it gave way to another, which is asked next
            return
        self.child_failures[slot.child] = Failed(report.failure, now)
        if report.single_pair and self.wants.fall_back(slot.child):
            return
        self._pauses.pause(slot, now)
        if report.failure.cause is not Cause.TEMPORARY_FAILURE:      # that one ends within a second
            self._actions.append(Abandon(report.request.child))
            self.wants.release(slot.child)

    # Pokes

    def acquire(self, child: str) -> None:
        """Traffic waits for this child."""
        able = self.policy.enabled and (self.policy.addresses or self.lines.usable())
        if able and child not in self.wants.down and self.policy.child(child) is not None:
            self.wants.acquire(child)
        else:
            self._actions.append(Abandon(ChildKey(self.policy.name, child)))

    def host_changed(self, addresses: frozenset[str]) -> None:
        """Local addresses or routes changed: leave paths whose local address is gone, retry at once."""
        self.lines.host_changed(addresses)
        if not isinstance(self.phase, Connecting) or self.phase.path.local.address not in addresses:
            self._drop_attempt(Cause.NO_ROUTE)

    def suspicion(self, now: float) -> None:
        """Unauthenticated evidence says the peer lost its state: at most one parallel attempt, nothing torn down."""
        if now - self._last_suspicion >= SUSPICION_S and isinstance(self.phase, Idle | Resolving):
            self._last_suspicion, self._suspicious = now, True

    def path_changed(self, handle: int, path: Path) -> None:
        """The IKE SA moved to another path."""
        if handle in self.lines:
            self.lines[handle].path, self.lines[handle].lost = path, False

    def up(self, child: str | None) -> None:
        """The operator wants the peer or one child up: skips any back-off."""
        for name in self.wants.named(child):
            self.wants.raise_up(name)
        self._pauses.clear()
        if isinstance(self.phase, Waiting):
            self.phase = Idle()

    def down(self, child: str | None) -> None:
        """The operator wants the peer or one child down, until `up` or a reload that changes it."""
        for name in self.wants.named(child):
            self.wants.take_down(name)
            self._close_child(name, Cause.OPERATOR)
        if child is None:
            self._close_all(Cause.OPERATOR)
        elif not self.desired():
            self._drop_attempt(Cause.OPERATOR)

    def replace_policy(self, policy: PeerPolicy, *, disruptive: bool) -> None:
        """A reload changed this peer; `disruptive` replaces its IKE SAs, make before break."""
        gone, changed = self.wants.replace_policy(policy)
        self.redirects.home()
        for name in gone:
            self.child_failures.pop(name, None)
            self._close_child(name, Cause.RELOADED)
        self.lines.make_stale(changed)
        self._stale |= bool(changed)
        self._pauses.clear()
        if disruptive:
            self.lines.retire(tuple(self.lines), Cause.RELOADED)
            self._backoff.clear()
        if disruptive or not self.desired():
            self._drop_attempt(Cause.RELOADED)
        if not policy.enabled:
            self._close_all(Cause.RELOADED)

    def close(self, cause: Cause) -> None:
        """The peer entry is gone, or the daemon stops."""
        for name in self.wants.named(None):
            self.wants.take_down(name)
        self._close_all(cause)

    # The decision

    def step(self, now: float) -> None:
        """Compare wants with has, and act."""
        if not self.policy.enabled:
            return
        if isinstance(self.phase, Waiting) and self.phase.deadline.at <= now:
            self.phase = Idle()
        if isinstance(self.phase, Resolving) and self.phase.deadline.at <= now:
            self.resolved((), now)
        self._create_missing(now)
        self._break_stale()
        for spi in [spi for spi, at in self.lines.duplicates() if at <= now]:
            self._delete_pair(spi, Cause.REPLACED)
        if isinstance(self.phase, Idle) and self.policy.addresses:
            self._reach(now)

    def next_deadline(self) -> Deadline | None:
        """Return the next time at which step has something to do, after a step."""
        if not self.policy.enabled:
            return None
        found = [Deadline(at, "close a duplicate pair") for _, at in self.lines.duplicates()]
        newest = self.lines.newest()
        if newest is not None:
            found += [Deadline(max(newest[1].ready_at, self._pauses.until(slot_of(r))),
                               f"ask for child {r.child.child}") for r in self._gaps.missing()]
        if isinstance(self.phase, Waiting | Resolving):
            found.append(self.phase.deadline)
        elif self.policy.addresses and isinstance(self.phase, Idle):
            found.append(Deadline(self._resolve_at, "look the peer's names up again"))
        return min(found, key=lambda d: d.at, default=None)

    def take_actions(self) -> list[Action]:
        """Hand over the actions since the last call."""
        actions, self._actions = self._actions, []
        return actions

    def desired(self) -> list[reports.ChildRequest]:
        """Return every pair that should exist now."""
        return [request for requests in self.wants.requests(self.lines) for request in requests]

    def _create_missing(self, now: float) -> None:
        """Ask the newest usable line for what no usable line has, less slots in back-off."""
        newest = self.lines.newest()
        if newest is None or newest[1].ready_at > now:
            return
        handle, line = newest
        for request in self._gaps.missing():
            policy = self.policy.child(request.child.child)
            if policy is not None and self._pauses.until(slot_of(request)) <= now:
                line.pending[slot_of(request)] = policy
                self.lines.changed[request.child.child] = None
                self._actions.append(CreateChild(handle, request))

    def _break_stale(self) -> None:
        """Close the lines and pairs that have successors."""
        if not self._stale and all(line.usable for line in self.lines.values()):
            return
        has = Holdings(self.lines.usable().values())
        unfinished = {r[0].child.child for r in self.wants.requests(self.lines) if not has.complete(r)}
        for handle, cause in self.lines.finished(unfinished, addressed=bool(self.policy.addresses)):
            del self.lines[handle]
            self._actions.append(DeleteIke(handle, cause))
        for spi, pair in [item for line in self.lines.values() for item in line.pairs.items()]:
            if pair.stale and pair.slot.child not in unfinished:
                self._delete_pair(spi, Cause.RELOADED)
        self._stale = any(pair.stale for pair in self.lines.pairs())

    def _reach(self, now: float) -> None:
        """Make an IKE SA if one is needed; else look names up from time to time, to recognise who comes in."""
        if not self._needs_line():
            self._suspicious, self._paths = False, ()
            if self._resolve_at > now:
                return
        if self._paths:
            self._connect()
            return
        self.phase = Resolving(Deadline(now + RESOLVE_TIMEOUT_S, "name resolution is overdue"))
        self._resolve_at = now + RESOLVE_AGAIN_S
        self._actions.append(StartResolve())

    def _connect(self) -> None:
        self._suspicious, path, self._paths = False, self._paths[0], self._paths[1:]
        requests = tuple(self.desired())
        asked = {slot_of(r): p for r in requests if (p := self.policy.child(r.child.child)) is not None}
        self.phase = Connecting(-1, path, asked, tuple(self.lines))
        self._actions.append(Initiate(path, requests, self.redirects.came_from))

    def _attempt_failed(self, failure: Failure, now: float) -> None:
        self.attempts += 1
        self.last_failure = Failed(failure, now)
        if not self._paths:
            self.redirects.home()
            self._abandon_all()                      # on-demand children wait for traffic again

    def _wait(self, seconds: float, why: str, now: float) -> None:
        if not self.policy.addresses:
            return                   # the peer comes to us
        self.phase = Waiting(Deadline(now + seconds, f"next attempt: {why}"))
        if self._needs_line():
            self._actions.append(Wait(seconds, why))

    def _needs_line(self) -> bool:
        return bool(self.policy.addresses and (self._suspicious or not self.lines.usable()) and self.desired())

    def _close_child(self, name: str, cause: Cause) -> None:
        for spi in self.lines.spis(name):
            self._delete_pair(spi, cause)
        self._actions.append(Abandon(ChildKey(self.policy.name, name)))

    def _delete_pair(self, spi: int, cause: Cause) -> None:
        self.lines.pop_pair(spi)
        self._actions.append(DeleteChild(spi, cause))

    def _drop_attempt(self, cause: Cause) -> None:
        """Forget what is being tried: the next step begins anew, with a new lookup."""
        if isinstance(self.phase, Connecting):
            self._actions.append(DeleteIke(self.phase.handle, cause))
        self.phase, self._paths, self._suspicious = Idle(), (), False

    def _close_all(self, cause: Cause) -> None:
        self._actions += [DeleteIke(handle, cause) for handle in self.lines]
        self.lines.clear()
        self._drop_attempt(cause)
        self._abandon_all()

    def _abandon_all(self) -> None:
        self._actions += [Abandon(c.key) for c in self.policy.children]
        self.wants.release_all()
