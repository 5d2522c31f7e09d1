"""Addresses that leave, and a peer that seems to have lost its IKE SA: both are looked into beside what is up."""

from __future__ import annotations

from ipsecd.actions import DeleteIke, Initiate, StartResolve
from ipsecd.causes import Cause
from ipsecd.phases import Idle
from tests.unit.supervisor.rig import Rig, child, path, peer


def test_attempt_from_an_address_that_left_is_begun_anew() -> None:
    rig = Rig(peer())
    handle = rig.connect()
    rig.s.host_changed(frozenset({"198.51.100.1"}))
    assert rig.go() == [DeleteIke(handle, Cause.NO_ROUTE), StartResolve()]


def test_line_on_an_address_that_left_stays_until_its_successor_is_up() -> None:
    rig = Rig(peer())
    old = rig.up()
    rig.s.host_changed(frozenset({"198.51.100.1"}))
    new = rig.connect(path(local="198.51.100.1"))
    rig.ike_up(new, at=path(local="198.51.100.1"))
    assert rig.go(DeleteIke) == []
    rig.child_up(new)
    assert rig.go() == [DeleteIke(old, Cause.NO_ROUTE)]


def test_line_on_an_address_that_comes_back_is_kept() -> None:
    rig = Rig(peer())
    rig.up()
    rig.s.host_changed(frozenset())
    assert rig.go() == [StartResolve()]
    rig.s.host_changed(frozenset({"192.0.2.1"}))
    assert rig.go() == []
    assert isinstance(rig.s.phase, Idle)


def test_line_of_an_on_demand_child_on_a_lost_address_is_replaced_too() -> None:
    rig = Rig(peer(child(start="on-demand")))
    rig.go()
    rig.resolve()
    rig.s.acquire("office")
    rig.up()
    rig.s.host_changed(frozenset())
    assert rig.go() == [StartResolve()]


def test_line_that_followed_to_another_path_is_no_longer_lost() -> None:
    rig = Rig(peer())
    handle = rig.up()
    rig.s.host_changed(frozenset({"198.51.100.1"}))
    rig.s.path_changed(handle, path(local="198.51.100.1"))
    assert rig.go() == []


def test_suspicion_tries_in_parallel_once_in_five_seconds_and_tears_nothing_down() -> None:
    rig = Rig(peer())
    old = rig.up()
    rig.now += 100.0
    actions = []
    for _ in range(100):                 # a spoofer
        rig.s.suspicion(rig.now)
        for action in rig.go():
            actions.append(action)
            if isinstance(action, StartResolve):
                actions += rig.resolve()
                actions += rig.failed()
        rig.now += 0.1
    assert [type(a) for a in actions] == [StartResolve, Initiate] * 2
    assert old in rig.s.lines
    assert rig.s.attempts == 0


def test_suspicion_that_was_right_moves_traffic_and_then_closes_the_old_line() -> None:
    rig = Rig(peer())
    old = rig.up()
    rig.now += 100.0
    rig.s.suspicion(rig.now)
    new = rig.connect()
    rig.ike_up(new)
    assert rig.go() == []
    rig.child_up(new)
    assert [a for a in rig.go() if isinstance(a, DeleteIke)] == [DeleteIke(old, Cause.REPLACED)]


def test_suspicion_without_a_path_leaves_everything_as_it_is() -> None:
    rig = Rig(peer())
    rig.up()
    rig.now += 100.0
    rig.s.suspicion(rig.now)
    assert rig.go() == [StartResolve()]
    rig.s.resolved((), rig.now)
    assert rig.go() == []
    assert isinstance(rig.s.phase, Idle)
    assert rig.wait(60.0) == []


def test_suspicion_with_nothing_wanted_does_not_linger() -> None:
    rig = Rig(peer(child(start="listen")))
    rig.go()
    rig.resolve()
    handle = rig.ike_up()
    rig.child_up(handle)
    rig.s.suspicion(rig.now)
    assert rig.go() == []
    rig.now += 50.0
    rig.s.up("office")
    assert rig.go() == []                # it has what was asked for: no second line
