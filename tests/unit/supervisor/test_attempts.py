"""Reaching the peer: paths, back-off, names, addresses of this host.  Scenarios NW-01 to NW-05, IN-57, LV-04."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ipsecd.actions import Abandon, CreateChild, DeleteIke, Initiate, StartResolve, Wait
from ipsecd.causes import Cause
from ipsecd.phases import Connecting, Idle, Resolving, Waiting
from ipsecd.supervision import SILENT_WAIT_S, SPIN_S
from tests.unit.supervisor.rig import Rig, child, path, peer


def test_start_resolves_then_initiates_with_every_wanted_child() -> None:
    rig = Rig(peer(child("voice"), child("office"), child("lab", "on-demand"), child("guest", "listen")))
    assert rig.go() == [StartResolve()]
    [initiate] = rig.resolve()
    assert isinstance(initiate, Initiate)
    assert [r.child.child for r in initiate.requests] == ["voice", "office"]


def test_children_that_ride_with_the_ike_sa_are_not_asked_for_twice() -> None:
    rig = Rig(peer(child("voice"), child("office")))
    handle = rig.connect()
    rig.ike_up(handle)
    rig.child_up(handle, "voice")
    assert rig.go(CreateChild) == []      # the endpoint is about to create the second by itself
    rig.child_up(handle, "office")
    assert rig.go() == []


def test_silent_path_is_followed_by_the_next_path_at_once() -> None:
    rig = Rig(peer())
    rig.connect(path("192.0.2.2"), path("192.0.2.3"))
    [initiate] = rig.failed()
    assert isinstance(initiate, Initiate)
    assert initiate.path == path("192.0.2.3")


def test_silent_peer_is_tried_again_after_a_short_pause_for_ever() -> None:
    rig = Rig(peer())
    for _ in range(50):
        rig.connect()
        actions = rig.failed()
        assert [a.seconds for a in actions if isinstance(a, Wait)] == [SILENT_WAIT_S]
        assert rig.deadline() is not None
        assert rig.go(StartResolve) == []
        rig.now += SILENT_WAIT_S
    assert rig.s.attempts == 50


def test_refusing_peer_is_tried_after_one_second_growing_to_sixty() -> None:
    rig = Rig(peer())
    waits = []
    for _ in range(9):
        rig.connect()
        [wait] = [a for a in rig.failed(refused=True, cause=Cause.NO_PROPOSAL) if isinstance(a, Wait)]
        waits.append(wait.seconds)
        rig.now += wait.seconds
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_refusing_first_address_does_not_hide_the_second() -> None:
    rig = Rig(peer())
    rig.connect(path("192.0.2.2"), path("192.0.2.3"))
    rig.failed(refused=True, cause=Cause.NO_PROPOSAL)
    assert isinstance(rig.s.phase, Waiting)
    rig.now += 1.0
    [initiate] = rig.go()
    assert isinstance(initiate, Initiate)
    assert initiate.path == path("192.0.2.3")


def test_back_off_begins_anew_after_a_stable_tunnel() -> None:
    rig = Rig(peer())
    for _ in range(6):
        rig.connect()
        rig.failed(refused=True)
        rig.now += 60.0
    handle = rig.up()
    rig.now += 31.0
    assert rig.gone(handle) == [StartResolve()]
    rig.resolve()
    assert [a.seconds for a in rig.failed(refused=True) if isinstance(a, Wait)] == [1.0]


def test_peer_that_accepts_and_closes_at_once_does_not_spin() -> None:
    rig = Rig(peer())
    times = []
    for _ in range(12):
        handle = rig.up()
        times.append(rig.now)
        rig.now += 0.01
        rig.gone(handle, Cause.PEER_DELETED)
        assert isinstance(rig.s.phase, Waiting)
        rig.now = rig.s.phase.deadline.at
    gaps = [round(b - a) for a, b in pairwise(times)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]


def test_peer_that_restarts_again_and_again_is_called_at_once_each_time() -> None:
    rig = Rig(peer())
    handle = rig.up()
    for _ in range(10):
        rig.now += SPIN_S
        assert StartResolve() in rig.gone(handle, Cause.PEER_DELETED)
        rig.resolve()
        handle = rig.ike_up(rig.handle)
        rig.child_up(handle)
        rig.go()


def test_peer_that_closes_an_old_tunnel_is_called_at_once() -> None:
    rig = Rig(peer())
    handle = rig.up()
    rig.now += 3600.0
    assert rig.gone(handle, Cause.PEER_DELETED) == [StartResolve()]


def test_on_demand_traffic_to_a_refusing_peer_is_held_to_the_back_off() -> None:
    rig = Rig(peer(child(start="on-demand")))
    rig.go()
    rig.resolve()
    initiated = 0
    for _ in range(600):                 # a packet each 0.1 s
        rig.s.acquire("office")
        for action in rig.go():
            if isinstance(action, StartResolve):
                initiated += len([a for a in rig.resolve() if isinstance(a, Initiate)])
                rig.failed(refused=True)
        rig.now += 0.1
    assert 4 <= initiated <= 6           # 1 + 2 + 4 + 8 + 16 + 32 s


def test_on_demand_child_tries_the_second_address_before_it_gives_the_packets_up() -> None:
    rig = Rig(peer(child(start="on-demand")))
    rig.go()
    rig.resolve()
    rig.s.acquire("office")
    rig.go()
    rig.resolve(path("192.0.2.2"), path("192.0.2.3"))
    assert [type(a) for a in rig.failed()] == [Initiate]
    assert Abandon(child().key) in rig.failed()


def test_on_demand_child_waits_for_traffic_after_a_dead_peer() -> None:
    rig = Rig(peer(child(start="on-demand")))
    rig.go()
    rig.resolve()
    rig.s.acquire("office")
    handle = rig.up()
    rig.now += 100.0
    assert rig.gone(handle) == []
    rig.s.acquire("office")
    assert rig.go() == [StartResolve()]


def test_several_acquires_make_one_attempt() -> None:
    rig = Rig(peer(child(start="on-demand")))
    rig.go()
    rig.resolve()
    actions = []
    for _ in range(5):
        rig.s.acquire("office")
        actions += rig.go()
    assert actions == [StartResolve()]


def test_acquires_of_two_children_on_one_ike_sa_are_asked_in_order() -> None:
    rig = Rig(peer(child("office"), child("a", "on-demand"), child("b", "on-demand")))
    handle = rig.up("office")
    rig.s.acquire("b")
    rig.s.acquire("a")
    assert [(a.handle, a.request.child.child) for a in rig.go(CreateChild)] == [(handle, "a"), (handle, "b")]
    rig.s.acquire("a")
    assert rig.go() == []


@pytest.mark.parametrize("policy", [peer(child(start="on-demand"), addresses=()),
                                    peer(child(start="on-demand"), enabled=False), peer(child("other"))])
def test_acquire_that_nothing_can_satisfy_gives_the_packets_up(policy) -> None:
    rig = Rig(policy)
    rig.s.acquire("office")
    assert Abandon(child().key) in rig.go()


def test_acquire_reaches_a_peer_without_address_over_the_line_that_it_made() -> None:
    rig = Rig(peer(child(start="on-demand"), addresses=()))
    handle = rig.ike_up()
    rig.go()
    rig.now += 10.0
    rig.s.acquire("office")
    assert [a.handle for a in rig.go(CreateChild)] == [handle]


def test_acquire_while_waiting_is_served_when_the_wait_is_over() -> None:
    rig = Rig(peer(child(start="on-demand")))
    rig.go()
    rig.resolve()
    rig.s.acquire("office")
    rig.connect()
    rig.failed()
    rig.s.acquire("office")
    assert rig.go() == []
    assert rig.wait(5.0) == [StartResolve()]


def test_unresolvable_name_is_tried_for_ever_and_named() -> None:
    rig = Rig(peer(addresses=("hq.example.net",)))
    for _ in range(20):
        assert rig.go() == [StartResolve()]
        rig.s.resolved((), rig.now)
        rig.go()
        assert rig.s.last_failure is not None
        assert rig.s.last_failure.failure.cause is Cause.NAME_UNRESOLVED
        rig.now += 5.0


def test_address_without_route_is_not_called_an_unresolved_name() -> None:
    rig = Rig(peer(addresses=("192.0.2.2", "2001:db8::2")))
    rig.go()
    rig.s.resolved((), rig.now)
    assert rig.s.last_failure is not None
    assert rig.s.last_failure.failure.cause is Cause.NO_ROUTE


def test_resolver_that_never_answers_does_not_stop_the_peer() -> None:
    rig = Rig(peer())
    rig.go()
    assert [type(a) for a in rig.wait(36.0)] == [Abandon, Wait, StartResolve]


def test_answer_that_comes_after_the_wait_began_changes_nothing() -> None:
    rig = Rig(peer())
    rig.go()
    rig.wait(31.0)
    assert isinstance(rig.s.phase, Waiting)
    assert rig.resolve() == []


def test_name_that_changes_while_the_tunnel_works_changes_nothing() -> None:
    rig = Rig(peer())
    rig.up()
    assert rig.wait(300.0) == [StartResolve()]
    assert rig.resolve(path("192.0.2.9")) == []
    assert rig.wait(299.0) == []


def test_operator_up_skips_the_wait() -> None:
    rig = Rig(peer())
    rig.connect()
    rig.failed(refused=True)
    rig.s.up(None)
    assert rig.go() == [StartResolve()]


def test_host_change_retries_at_once() -> None:
    rig = Rig(peer())
    rig.connect()
    rig.failed()
    rig.s.host_changed(frozenset({"192.0.2.1"}))
    assert rig.go() == [StartResolve()]


def test_peer_that_calls_first_ends_our_wait() -> None:
    rig = Rig(peer())
    rig.connect()
    rig.failed(refused=True)
    handle = rig.ike_up()
    rig.child_up(handle)
    assert rig.go() == []
    assert isinstance(rig.s.phase, Idle)
    assert rig.wait(100.0) == []


def test_our_attempt_that_fails_beside_the_peers_line_is_no_failure() -> None:
    rig = Rig(peer())
    rig.connect()
    handle = rig.ike_up()
    rig.child_up(handle)
    rig.go()
    assert rig.failed(refused=True) == []
    assert rig.s.attempts == 0
    assert isinstance(rig.s.phase, Idle)


def test_disabled_peer_does_nothing_and_closes_what_comes_in() -> None:
    rig = Rig(peer(enabled=False))
    assert rig.go() == []
    assert rig.deadline() is None
    handle = rig.ike_up()
    assert rig.go() == [DeleteIke(handle, Cause.RELOADED)]
    assert rig.s.lines == {}


def test_peers_own_line_that_came_during_our_attempt_is_not_retired_by_us() -> None:
    rig = Rig(peer())
    ours = rig.connect()
    theirs = rig.ike_up()
    rig.child_up(theirs)
    rig.go()
    rig.ike_up(ours)
    rig.child_up(ours)
    assert rig.go(DeleteIke) == []       # the endpoint settles crossing IKE SAs by their nonces


def test_down_while_connecting_forgets_the_attempt() -> None:
    rig = Rig(peer())
    handle = rig.connect()
    rig.s.down("office")
    assert DeleteIke(handle, Cause.OPERATOR) in rig.go()
    assert not isinstance(rig.s.phase, Connecting | Resolving)


def test_parallel_attempt_leaves_the_back_off_of_the_running_line_alone() -> None:
    rig = Rig(peer())
    handle = rig.connect()
    rig.ike_up(handle)
    rig.go()
    rig.refused(handle)
    rig.s.suspicion(rig.now)
    assert [type(a) for a in rig.go()] == [StartResolve]
    assert [type(a) for a in rig.resolve()] == [Initiate]
    assert rig.go() == []
