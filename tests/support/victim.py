"""The Victim: a real endpoint, driven without a network; jobs run at once, and what it sends is handed back."""

from __future__ import annotations

import gc

from ipsecd.drops import DropReason
from ipsecd.effects import Emit, InstallSa, RemoveSa, SendIke, Work
from ipsecd.events import Event, LocalFault
from ipsecd.ike.endpoint import IkeEndpoint
from ipsecd.policy import Policy
from ipsecd.sa import Path
from tests.support.exchange import A
from tests.support.pki import WALL_NOW
from tests.support.seeded_rng import SeededRng

START = 1000.0


class Victim:
    """A real endpoint; `feed` gives it a datagram and returns what it sent because of it."""

    def __init__(self, policy: Policy, *, seed: object = 0, address: str = A, keep_log: bool = True) -> None:
        self.now = START
        self.address = address
        self.seen_at: dict[int, float] = {}
        self.endpoint = IkeEndpoint(policy, SeededRng((seed, "victim")), now=self.now, last_inbound=self.seen_at.get,
                                    wall_clock=lambda: WALL_NOW)
        self.log: list[object] = []
        self.faults: list[LocalFault] = []
        self.installed: set[int] = set()
        self.sent = 0                       # datagrams
        self.events_seen = 0
        self.jobs = 0
        self.hold_jobs = False              # keep them until `run_jobs`
        self._held: list[Work] = []
        self._keep_log = keep_log

    def feed(self, datagram: bytes, path: Path) -> list[SendIke]:
        """Deliver; nothing may be raised, and no fault of ours may come of it."""
        self.endpoint.receive(datagram, path, self.now)
        return self.drain()

    def drain(self) -> list[SendIke]:
        """Do the effects; jobs are done at once."""
        sent: list[SendIke] = []
        while effects := self.endpoint.take_effects():
            for effect in effects:
                self._do(effect, sent)
        return sent

    def run_jobs(self) -> list[SendIke]:
        """Do the jobs that were held, the latest first, and hold no more."""
        self.hold_jobs = False
        self._run_jobs()
        return self.drain()

    def _run_jobs(self) -> None:
        while self._held:
            work = self._held.pop()
            try:
                value: object = work.job()
            except Exception as error:
                value = error
            self.endpoint.work_done(work.id, value, self.now)

    def wait(self, seconds: float) -> list[SendIke]:
        """Let time pass from deadline to deadline."""
        end, sent = self.now + seconds, self.drain()
        while (deadline := self.endpoint.next_deadline()) is not None and deadline.at <= end:
            assert deadline.why
            self.now = max(self.now, deadline.at)
            self.endpoint.handle_timeout(self.now)
            sent += self.drain()
            after = self.endpoint.next_deadline()
            assert after is None or after.at > self.now, f"stuck at {after}"
        self.now = end
        return sent

    def events(self, kind: type[Event]) -> list[Event]:
        """Return the events of one class, in order."""
        return [e.event for e in self.log if isinstance(e, Emit) and isinstance(e.event, kind)]

    def established(self) -> list[str]:
        """Return the peers of the IKE SAs that are up."""
        return [v.peer for v in self.endpoint.views() if v.state == "Established"]

    def check(self) -> None:
        """No fault of ours, and tables in order."""
        assert not self.faults, self.faults
        check_tables(self.endpoint, self.installed, self.now)

    @property
    def dropped(self) -> dict[DropReason, int]:
        """Return the counters that moved."""
        return {reason: n for reason, n in self.endpoint.drops.items() if n}

    def _do(self, effect: object, sent: list[SendIke]) -> None:
        match effect:
            case SendIke():
                sent.append(effect)
                self.sent += 1
            case Work():
                self.jobs += 1
                self._held.append(effect)
                if not self.hold_jobs:
                    self._run_jobs()
            case InstallSa():
                assert effect.pair.spi_in not in self.installed
                self.installed.add(effect.pair.spi_in)
            case RemoveSa():
                self.installed.remove(effect.spi_in)
            case Emit(event=LocalFault() as fault):
                self.faults.append(fault)
            case Emit():
                self.events_seen += 1
            case _:
                pass
        if self._keep_log and not isinstance(effect, SendIke | Work):
            self.log.append(effect)


def check_tables(endpoint: IkeEndpoint, installed: set[int], now: float) -> None:
    """What holds whatever a peer did: tables that agree, a future for each deadline, nothing left of what ended."""
    table = endpoint._table
    children = {spi: sa for sa in table.sas.values() for spi in sa.session.children}
    assert set(table.by_child) == set(children) == installed
    for spi, sa in table.by_child.items():
        assert children[spi] is sa
    for sa in table.sas.values():
        assert not sa.dead
        assert len(sa.session.queue) <= 8, "requests of ours pile up"
        deadline = sa.next_deadline()
        assert deadline is not None, "an IKE SA that nothing ends"
        assert deadline.at > now
    assert set(endpoint._deadlines._armed) <= set(table.sas) | set(endpoint._attempts)
    assert set(endpoint._desk._requests) <= set(table.sas), "a request without its IKE SA"
    assert not endpoint._work


def reachable(root: object) -> list[object]:
    """Return the objects of ours that an object leads to, modules and classes left out."""
    found, seen, todo = [], set(), [root]
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type) or type(item).__name__ == "module":
            continue
        seen.add(id(item))
        found.append(item)
        if not isinstance(item, dict) or "__builtins__" not in item:
            todo += gc.get_referents(item)
    return found
