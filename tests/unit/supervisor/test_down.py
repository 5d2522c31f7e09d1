"""Up, down and shutdown: what the operator says holds against the peer and until he says otherwise."""

from __future__ import annotations

from ipsecd.actions import Abandon, DeleteChild, DeleteIke, StartResolve
from ipsecd.causes import Cause
from ipsecd.phases import Idle
from tests.unit.supervisor.rig import Rig, child, creations, peer


def test_down_of_one_child_closes_its_pair_and_keeps_the_others() -> None:
    rig = Rig(peer(child("office"), child("voice")))
    handle = rig.up("office", "voice")
    spi = next(s for s, p in rig.s.lines[handle].pairs.items() if p.slot.child == "voice")
    rig.s.down("voice")
    assert rig.go() == [DeleteChild(spi, Cause.OPERATOR), Abandon(child("voice").key)]
    assert rig.wait(200.0) == []
    assert rig.s.wants.down == ("voice",)


def test_down_of_a_child_in_the_making_closes_it_when_it_comes() -> None:
    rig = Rig(peer(child("office"), child("voice")))
    handle = rig.up()
    rig.s.down("voice")
    rig.go()
    spi = rig.child_up(handle, "voice")
    assert rig.go() == [DeleteChild(spi, Cause.OPERATOR)]


def test_down_holds_against_a_peer_that_makes_the_child_again() -> None:
    rig = Rig(peer())
    handle = rig.up()
    rig.s.down("office")
    rig.go()
    spi = rig.child_up(handle)
    assert rig.go() == [DeleteChild(spi, Cause.OPERATOR)]
    assert rig.standing() == []


def test_down_of_the_peer_closes_everything_until_up() -> None:
    rig = Rig(peer())
    handle = rig.up()
    rig.s.down(None)
    assert DeleteIke(handle, Cause.OPERATOR) in rig.go()
    rig.gone(handle, Cause.OPERATOR)
    rig.s.acquire("office")
    assert [type(a) for a in rig.go()] == [Abandon]
    assert isinstance(rig.s.phase, Idle)
    rig.s.up(None)
    assert rig.go() == [StartResolve()]


def test_up_twice_changes_nothing() -> None:
    rig = Rig(peer())
    rig.up()
    for _ in range(2):
        rig.s.up(None)
        assert rig.go() == []
    rig = Rig(peer(child("office"), child("guest", "listen")))
    handle = rig.up("office")
    rig.s.up("guest")
    assert creations(rig.go()) == [(handle, "guest", 0)]
    rig.s.up("guest")
    assert rig.go() == []


def test_shutdown_closes_everything_and_starts_nothing() -> None:
    rig = Rig(peer())
    handle = rig.up()
    rig.s.close(Cause.SHUTDOWN)
    assert DeleteIke(handle, Cause.SHUTDOWN) in rig.go()
    assert {type(a) for a in rig.wait(1000.0)} == {StartResolve}      # names only: nothing is wanted any more
