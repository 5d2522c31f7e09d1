"""Anything in any order: what must hold whatever the endpoint, the resolver, the host and the operator do."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipsecd.actions import Abandon, Action, CreateChild, DeleteChild, DeleteIke, Initiate, StartResolve
from ipsecd.causes import Cause, Failure
from ipsecd.phases import Connecting, Resolving, Waiting
from ipsecd.policy import PeerPolicy
from ipsecd.reports import ChildRefused, ChildRequest, IkeFailed, IkeGone
from ipsecd.supervision import Holdings, slot_of
from tests.unit.supervisor.rig import LOCAL, Rig, child, path, peer

TWO = ("10.2.0.0/16", "10.3.0.0/16")
CAUSES = [Cause.PEER_DEAD, Cause.PEER_DELETED, Cause.REPLACED, Cause.EXPIRED]
POLICIES: list[PeerPolicy] = [
    peer(child("a"), child("b", "on-demand")),
    peer(child("a", remote=TWO), child("b")),
    peer(child("a", "on-demand", remote=TWO, style="per-pair"), child("c", "listen")),
    peer(child("a", remote=("10.9.0.0/16",)), child("b", "listen"), addresses=("192.0.2.2", "hq.example.net")),
    peer(child("b"), addresses=()),
    peer(child("a"), enabled=False),
]
NAMES = st.sampled_from(["a", "b", "c", "gone"])


class World(RuleBasedStateMachine):
    """The supervisor against an endpoint that answers truthfully, late, and as unkindly as it may."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(POLICIES[0])
        self.attempts: dict[int, tuple[ChildRequest, ...]] = {}      # in flight
        self.lines: dict[int, dict[int, str]] = {}                   # handle -> spi -> child, as the endpoint has it
        self.open: dict[int, list[ChildRequest]] = {}                # unanswered, in order
        self.overtaken: list[tuple[int, ChildRequest]] = []          # of these, whose pair the peer made meanwhile
        self.resolving = 0
        self.spis = count(1)
        self.step()

    def step(self) -> None:
        actions = self.rig.go()
        assert len(actions) < 60
        for action in actions:
            self.do(action)
        assert self.rig.go() == [], "a second step finds something to do"

    def do(self, action: Action) -> None:
        match action:
            case StartResolve():
                assert self.rig.s.policy.addresses
                self.resolving += 1
            case Initiate(requests=requests):
                self.attempts[self.rig.handle] = requests
            case CreateChild(handle=handle, request=request):
                assert handle in self.lines, "asks on a line that is gone"
                # The peer's own pair is taken for the answer, and may end before ours comes: the endpoint sends the
                # second request only where the first made none (ChildCreate.build).
                assert request not in self.open[handle] or (handle, request) in self.overtaken, "asks twice"
                self.open[handle].append(request)
            case DeleteChild(spi_in=spi):
                assert any(spi in pairs for pairs in self.lines.values()), "closes a pair that is gone"
                for pairs in self.lines.values():
                    pairs.pop(spi, None)
            case DeleteIke(handle=handle):
                assert handle in self.lines or handle in self.attempts, "closes what is gone"
                self.attempts.pop(handle, None)
                self.lines.pop(handle, None)
                self.open.pop(handle, None)
            case Abandon(child=key):
                assert key.peer == "hq"

    # What the endpoint reports

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), made=st.booleans())
    def attempt_succeeds(self, data: st.DataObject, made: bool) -> None:
        handle = data.draw(st.sampled_from(sorted(self.attempts)))
        requests = self.attempts.pop(handle)
        self.lines[handle], self.open[handle] = {}, list(requests)
        self.rig.ike_up(handle)
        if made and requests:
            self.answer(handle, made=True, narrowed=False)
        self.step()

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), refused=st.booleans())
    def attempt_fails(self, data: st.DataObject, refused: bool) -> None:
        handle = data.draw(st.sampled_from(sorted(self.attempts)))
        del self.attempts[handle]
        self.rig.s.ike_failed(IkeFailed(handle, "hq", refused, Failure(Cause.PEER_SILENT)), self.rig.now)
        self.step()

    @precondition(lambda self: len(self.lines) < 4)
    @rule(names=st.lists(NAMES, max_size=3))
    def peer_comes(self, names: list[str]) -> None:
        handle = self.rig.ike_up()
        self.lines[handle], self.open[handle] = {}, []
        for name in names:
            self.install(handle, name, 0)
        self.step()

    @precondition(lambda self: self.lines)
    @rule(data=st.data(), name=NAMES, slot=st.integers(0, 2))
    def peer_makes_a_child(self, data: st.DataObject, name: str, slot: int) -> None:
        handle = data.draw(st.sampled_from(sorted(self.lines)))
        self.overtaken += [(handle, request) for request in self.open[handle] if slot_of(request) == (name, slot)]
        self.install(handle, name, slot)
        self.step()

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data(), made=st.booleans(), narrowed=st.booleans())
    def child_is_answered(self, data: st.DataObject, made: bool, narrowed: bool) -> None:
        self.answer(data.draw(st.sampled_from(sorted(h for h, o in self.open.items() if o))), made, narrowed)
        self.step()

    @precondition(lambda self: any(self.lines.values()))
    @rule(data=st.data(), cause=st.sampled_from(CAUSES))
    def child_ends(self, data: st.DataObject, cause: Cause) -> None:
        spi = data.draw(st.sampled_from(sorted(s for pairs in self.lines.values() for s in pairs)))
        for pairs in self.lines.values():
            pairs.pop(spi, None)
        self.rig.child_gone(spi, cause)
        self.step()

    @precondition(lambda self: self.lines)
    @rule(data=st.data(), cause=st.sampled_from(CAUSES))
    def line_ends(self, data: st.DataObject, cause: Cause) -> None:
        handle = data.draw(st.sampled_from(sorted(self.lines)))
        for request in self.open.pop(handle):
            self.rig.s.child_refused(ChildRefused(handle, request, False, Failure(cause)), self.rig.now)
        for spi in self.lines.pop(handle):
            self.rig.child_gone(spi, cause)
        self.rig.s.ike_gone(IkeGone(handle, "hq", Failure(cause)), self.rig.now)
        self.step()

    # What others do

    @precondition(lambda self: self.resolving)
    @rule(n=st.integers(0, 2))
    def names_resolve(self, n: int) -> None:
        self.resolving -= 1
        self.rig.s.resolved(tuple(path(f"192.0.2.{i + 2}") for i in range(n)), self.rig.now)
        self.step()

    @rule(name=NAMES)
    def traffic(self, name: str) -> None:
        self.rig.s.acquire(name)
        self.step()

    @rule()
    def suspicion(self) -> None:
        self.rig.s.suspicion(self.rig.now)
        self.step()

    @rule(held=st.booleans())
    def host_changes(self, held: bool) -> None:
        self.rig.s.host_changed(frozenset({LOCAL} if held else set()))
        self.step()

    @rule(name=st.none() | NAMES)
    def operator_up(self, name: str | None) -> None:
        self.rig.s.up(name)
        self.step()

    @rule(name=st.none() | NAMES)
    def operator_down(self, name: str | None) -> None:
        self.rig.s.down(name)
        self.step()

    @rule(policy=st.sampled_from(POLICIES), disruptive=st.booleans())
    def reload(self, policy: PeerPolicy, disruptive: bool) -> None:
        disruptive = disruptive or policy.addresses != self.rig.s.policy.addresses
        self.rig.s.replace_policy(policy, disruptive=disruptive)
        self.step()

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 5.0, 40.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        end, turns = self.rig.now + seconds, 0
        while (deadline := self.rig.deadline()) is not None and deadline.at <= end:
            assert deadline.at > self.rig.now, f"{deadline} has passed: the loop would spin"
            turns += 1
            assert turns < 200
            self.rig.now = deadline.at
            self.step()
        self.rig.now = end
        self.step()

    # What holds

    @invariant()
    def one_attempt_at_most(self) -> None:
        assert len(self.attempts) <= 1
        phase = self.rig.s.phase
        assert bool(self.attempts) == isinstance(phase, Connecting)
        if isinstance(phase, Connecting):
            assert phase.handle in self.attempts

    @invariant()
    def picture_is_the_endpoints(self) -> None:
        assert {h: dict.fromkeys(line.pairs) for h, line in self.rig.s.lines.items()} == {
            h: dict.fromkeys(pairs) for h, pairs in self.lines.items()}

    @invariant()
    def what_is_wanted_is_there_or_on_its_way(self) -> None:
        s, missing = self.rig.s, self.rig.s._gaps.missing()
        if not s.policy.enabled or not missing:
            return
        if s.lines.usable():
            assert self.rig.deadline() is not None            # a pause or the grace of a responder
        elif s.policy.addresses:
            assert isinstance(s.phase, Connecting | Resolving | Waiting)
            assert isinstance(s.phase, Connecting) or self.rig.deadline() is not None

    @invariant()
    def what_is_missing_is_the_same_looked_at_whole(self) -> None:
        s = self.rig.s
        has = Holdings(s.lines.usable().values())
        assert s._gaps.missing() == [r for asked in s.wants.requests(s.lines) for r in has.missing(asked)]

    @invariant()
    def deadline_is_ahead(self) -> None:
        deadline = self.rig.deadline()
        assert deadline is None or deadline.at > self.rig.now

    def answer(self, handle: int, made: bool, narrowed: bool) -> None:
        request = self.open[handle].pop(0)
        name, two = request.child.child, len(request.ts_remote) > 1
        if made:
            self.install(handle, name, request.slot, narrowed=narrowed and two,
                         remote=TWO[1:] if narrowed and two else tuple(str(t) for t in request.ts_remote))
        else:
            self.rig.s.child_refused(ChildRefused(handle, request, narrowed, Failure(Cause.TS_UNACCEPTABLE)),
                                     self.rig.now)

    def install(self, handle: int, name: str, slot: int, *, narrowed: bool = False,
                remote: tuple[str, ...] = ("10.2.0.0/16",)) -> None:
        spi = 0x10000 + next(self.spis)
        self.lines[handle][spi] = name
        self.rig.child_up(handle, name, slot, narrowed=narrowed, remote=remote, spi=spi)


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=120, stateful_step_count=40, deadline=None,
                              suppress_health_check=list(HealthCheck))


def test_peer_that_is_left_alone_with_a_willing_network_comes_up_from_anywhere() -> None:
    for policy in POLICIES[:4]:
        rig = Rig(replace(policy, enabled=True))
        for _ in range(3):
            for action in rig.go():
                if isinstance(action, StartResolve):
                    rig.resolve()
            if rig.handle and rig.handle not in rig.s.lines and isinstance(rig.s.phase, Connecting):
                rig.ike_up(rig.handle)
                for _, request in list(rig.asked):
                    rig.child_up(rig.handle, request.child.child, request.slot,
                                 remote=tuple(str(t) for t in request.ts_remote))
        assert rig.s._gaps.missing() == []
