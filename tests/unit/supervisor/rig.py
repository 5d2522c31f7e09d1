"""A PeerSupervisor with the endpoint and the resolver played by hand, and short ways to write its policy."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TypeVar

from ipsecd.actions import Action, CreateChild, Initiate, StartResolve
from ipsecd.causes import Cause, Failure
from ipsecd.phases import Connecting, Slot
from ipsecd.policy import ChildPolicy, EsnPolicy, IkePolicy, Mode, PeerPolicy, Pfs, Start, TsStyle
from ipsecd.reports import ChildGone, ChildMoved, ChildRefused, ChildRequest, ChildUp, IkeFailed, IkeGone, IkeUp
from ipsecd.sa import ChildKey, Deadline, Endpoint, Path, SaPair, SaSpec, Volume
from ipsecd.secret import Secret
from ipsecd.selectors import from_prefix
from ipsecd.suites import ENCRS, EspSuite
from ipsecd.supervisor import PeerSupervisor

LOCAL = "192.0.2.1"
SUITE = EspSuite(next(e for e in ENCRS if e.aead), None, False)
A = TypeVar("A")


class MiddleRng:
    """Chance that always takes the middle."""

    def random_bytes(self, count: int) -> bytes:
        return bytes(count)

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2


def child(name: str = "office", start: str = "always", *, local: tuple[str, ...] = ("10.1.0.0/16",),
          remote: tuple[str, ...] = ("10.2.0.0/16",), style: str = "combined", peer: str = "hq") -> ChildPolicy:
    return ChildPolicy(key=ChildKey(peer, name), local=tuple(map(from_prefix, local)),
                       remote=tuple(map(from_prefix, remote)), mode=Mode.TUNNEL, start=Start(start),
                       ts_style=TsStyle(style), proposals=(), pfs=Pfs.OFFER, lifetime_s=3240.0, volume=Volume(),
                       replay_window=1024, esn=EsnPolicy.AUTO)


def peer(*children: ChildPolicy, addresses: tuple[str, ...] = ("192.0.2.2",), enabled: bool = True) -> PeerPolicy:
    ike = IkePolicy(proposals=(), lifetime_s=14400.0, dpd_s=10.0, dpd_timeout_s=30.0, fragment_bytes=1280,
                    childless="allow", unique="replace", init_timeout_s=15.0, request_timeout_s=165.0)
    return PeerPolicy("hq", enabled, addresses, None, None, Secret(b"x" * 32), ike, children or (child(),))


def path(remote: str = "192.0.2.2", local: str = LOCAL) -> Path:
    return Path(Endpoint(local, 500), Endpoint(remote, 500))


class Rig:
    """Moves time, answers actions, and remembers every action."""

    def __init__(self, policy: PeerPolicy, *, now: float = 1000.0) -> None:
        self.now = now
        self.s = PeerSupervisor(policy, MiddleRng(), now=now)
        self._handles = count(1)
        self._spis = count(0x1000)
        self.asked: list[tuple[int, ChildRequest]] = []
        self.handle = 0                              # of the last Initiate

    def go(self, *kinds: type[A]) -> list[A]:
        """Step, and return the actions, those of the given kinds where given."""
        self.s.step(self.now)
        actions = self.s.take_actions()
        for action in actions:
            if isinstance(action, Initiate):
                self.handle = next(self._handles)
                self.s.initiated(self.handle)
                self.asked += [(self.handle, r) for r in action.requests]
            elif isinstance(action, CreateChild):
                self.asked.append((action.handle, action.request))
        return [a for a in actions if not kinds or isinstance(a, kinds)]  # type: ignore[misc]

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass, stepping at each deadline on the way; return the actions."""
        end, found = self.now + seconds, []
        while (deadline := self.deadline()) is not None and deadline.at <= end:
            assert deadline.at > self.now, f"the deadline {deadline} has passed: the loop would spin"
            self.now = deadline.at
            found += self.go()
        self.now = end
        return found + self.go()

    def deadline(self) -> Deadline | None:
        return self.s.next_deadline()

    def resolve(self, *paths: Path) -> list[Action]:
        self.s.resolved(paths or (path(),), self.now)
        return self.go()

    def connect(self, *paths: Path) -> int:
        """From a StartResolve to an attempt in flight; return its handle."""
        assert self.go(StartResolve)
        self.resolve(*paths)
        assert isinstance(self.s.phase, Connecting)
        return self.handle

    def ike_up(self, handle: int | None = None, *, initiator: bool = True, at: Path | None = None) -> int:
        """Report an IKE SA; without a handle the peer made it.  Does not step: its children follow in the batch."""
        if handle is None:
            handle, initiator = 100 + next(self._handles), False
        self.s.ike_up(IkeUp(handle, "hq", initiator, at or path()), self.now)
        return handle

    def child_up(self, handle: int, name: str = "office", slot: int = 0, *, narrowed: bool = False,
                 local: tuple[str, ...] = ("10.1.0.0/16",), remote: tuple[str, ...] = ("10.2.0.0/16",),
                 spi: int | None = None, spi_out: int = 0) -> int:
        pair = self.pair(name, slot, local=local, remote=remote, spi=spi, spi_out=spi_out)
        self.s.child_up(ChildUp(handle, pair, narrowed), self.now)
        self.asked = [a for a in self.asked if (a[0], a[1].child.child, a[1].slot) != (handle, name, slot)]
        return pair.spi_in

    def pair(self, name: str, slot: int, *, local: tuple[str, ...], remote: tuple[str, ...],
             spi: int | None = None, spi_out: int = 0) -> SaPair:
        spi_in = next(self._spis) if spi is None else spi
        return SaPair(ChildKey("hq", name), slot, SUITE, SaSpec(spi_in, Secret(b""), Secret(b"")),
                      SaSpec(spi_out or spi_in + 0x10000, Secret(b""), Secret(b"")), tuple(map(from_prefix, local)),
                      tuple(map(from_prefix, remote)), path(), 1024, True, Volume())

    def up(self, *names: str) -> int:
        """Bring the peer up with these children; return the handle."""
        handle = self.connect()
        self.ike_up(handle)
        for name in names or ("office",):
            self.child_up(handle, name)
        self.go()
        return handle

    def refused(self, handle: int, name: str = "office", slot: int = 0, *, single_pair: bool = False,
                cause: Cause = Cause.TS_UNACCEPTABLE) -> list[Action]:
        request = next((r for h, r in self.asked if (h, r.child.child, r.slot) == (handle, name, slot)), None)
        assert request is not None, "refusal of what was not asked"
        self.s.child_refused(ChildRefused(handle, request, single_pair, Failure(cause)), self.now)
        return self.go()

    def failed(self, *, refused: bool = False, cause: Cause = Cause.PEER_SILENT) -> list[Action]:
        self.s.ike_failed(IkeFailed(self.handle, "hq", refused, Failure(cause)), self.now)
        return self.go()

    def gone(self, handle: int, cause: Cause = Cause.PEER_DEAD) -> list[Action]:
        """The IKE SA ends: its children are reported before it."""
        line = self.s.lines.get(handle)
        for spi in list(line.pairs) if line else []:
            self.child_gone(spi, cause)
        self.s.ike_gone(IkeGone(handle, "hq", Failure(cause)), self.now)
        return self.go()

    def child_gone(self, spi: int, cause: Cause = Cause.PEER_DELETED) -> None:
        for handle, line in self.s.lines.items():
            if spi in line.pairs:
                slot = line.pairs[spi].slot
                self.s.child_gone(ChildGone(handle, ChildKey("hq", slot.child), slot.number, spi, Failure(cause)),
                                  self.now)
                return

    def moved(self, handle: int, old: int, name: str = "office", slot: int = 0) -> int:
        pair = self.pair(name, slot, local=("10.1.0.0/16",), remote=("10.2.0.0/16",))
        self.s.child_moved(ChildMoved(handle, old, pair))
        return pair.spi_in

    def reload(self, policy: PeerPolicy, *, disruptive: bool = False) -> list[Action]:
        self.s.replace_policy(policy, disruptive=disruptive)
        return self.go()

    def standing(self) -> list[Slot]:
        return sorted(p.slot for p in self.s.lines.pairs())


def with_child(policy: PeerPolicy, changed: ChildPolicy) -> PeerPolicy:
    """Return the policy with one child replaced, or added."""
    others = tuple(c for c in policy.children if c.key != changed.key)
    return replace(policy, children=(*others, changed))


def creations(actions) -> list[tuple[int, str, int]]:
    """Return what is asked for: handle, child and slot."""
    return [(a.handle, a.request.child.child, a.request.slot) for a in actions if isinstance(a, CreateChild)]
