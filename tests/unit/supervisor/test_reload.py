"""Reload: make before break.  Scenarios RL-02 to RL-06, RL-09, RL-11 as far as one supervisor sees them."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from ipsecd.actions import Abandon, CreateChild, DeleteChild, DeleteIke, Initiate, StartResolve
from ipsecd.causes import Cause
from ipsecd.config.diff import ChildChanged, diff
from ipsecd.ike.consts import ProtocolId
from ipsecd.phases import Idle
from ipsecd.policy import ChildPolicy, EsnPolicy, Mode, Pfs, Start, TsStyle
from ipsecd.sa import Tfc, Volume
from ipsecd.selectors import from_prefix
from ipsecd.suites import parse_proposal
from ipsecd.supervision import needs_new_pairs
from tests.support.policies import policy as spd
from tests.unit.supervisor.rig import Rig, child, peer, with_child

WIDER = (from_prefix("10.0.0.0/8"),)
CHANGES = {"local": WIDER, "remote": WIDER, "mode": Mode.TRANSPORT, "start": Start.LISTEN,
           "ts_style": TsStyle.PER_PAIR, "proposals": (parse_proposal("aes128gcm16", protocol=ProtocolId.ESP),),
           "pfs": Pfs.REQUIRED, "lifetime_s": 60.0, "volume": Volume(1, 2, 3, 4), "replay_window": 64,
           "esn": EsnPolicy.NO, "interface": "lan1", "tfc": Tfc(500)}


@pytest.mark.parametrize("name", [f.name for f in fields(ChildPolicy) if f.name != "key"])
def test_supervisor_makes_anew_what_the_plan_says(name: str) -> None:
    before, after = child(), replace(child(), **{name: CHANGES[name]})
    found = diff(replace(spd(), peers=(peer(before),)), replace(spd(), peers=(peer(after),)))
    [change] = [c for c in found if isinstance(c, ChildChanged)]
    assert needs_new_pairs(before, after) == change.disruptive


def test_reload_that_changes_timers_only_touches_nothing() -> None:
    rig = Rig(peer())
    rig.up()
    assert rig.reload(peer(replace(child(), lifetime_s=60.0))) == []


def test_added_child_comes_up_on_the_ike_sa_there_is() -> None:
    rig = Rig(peer())
    handle = rig.up()
    [create] = rig.reload(peer(child(), child("voice")))
    assert isinstance(create, CreateChild)
    assert (create.handle, create.request.child.child) == (handle, "voice")


def test_removed_child_closes_alone() -> None:
    rig = Rig(peer(child(), child("voice")))
    handle = rig.up("office", "voice")
    spi = next(s for s, p in rig.s.lines[handle].pairs.items() if p.slot.child == "voice")
    assert rig.reload(peer(child())) == [DeleteChild(spi, Cause.RELOADED), Abandon(child("voice").key)]


def test_changed_child_is_made_before_the_old_one_is_broken() -> None:
    rig = Rig(peer())
    handle = rig.up()
    old = next(iter(rig.s.lines[handle].pairs))
    [create] = rig.reload(peer(child(remote=("10.3.0.0/16",))))
    assert isinstance(create, CreateChild)
    rig.child_up(handle, remote=("10.3.0.0/16",))
    assert rig.go() == [DeleteChild(old, Cause.RELOADED)]


def test_changed_child_stays_while_the_peer_refuses_its_successor() -> None:
    rig = Rig(peer())
    handle = rig.up()
    rig.reload(peer(child(remote=("10.3.0.0/16",))))
    for _ in range(20):
        assert not [a for a in rig.refused(handle) if isinstance(a, DeleteChild | DeleteIke)]
        deadline = rig.deadline()
        assert deadline is not None
        rig.now = deadline.at
        rig.go()
    assert len(rig.standing()) == 1


def test_pairs_of_a_changed_child_are_closed_only_when_all_successors_stand() -> None:
    two = ("10.2.0.0/16", "10.3.0.0/16")
    rig = Rig(peer(child(remote=two)))
    handle = rig.up()
    old = next(iter(rig.s.lines[handle].pairs))
    rig.reload(peer(child(remote=two, style="per-pair")))
    rig.child_up(handle, slot=0, remote=two[:1])
    assert rig.go() == []
    rig.child_up(handle, slot=1, remote=two[1:])
    assert rig.go() == [DeleteChild(old, Cause.RELOADED)]


def test_changed_child_of_a_listening_peer_is_made_anew_on_its_line() -> None:
    rig = Rig(peer(child(start="listen"), addresses=()))
    handle = rig.ike_up()
    rig.child_up(handle)
    rig.go()
    rig.now += 10.0
    assert [type(a) for a in rig.reload(peer(child(start="listen", remote=("10.3.0.0/16",)), addresses=()))] == [
        CreateChild]


def test_answer_to_a_request_from_before_the_reload_is_replaced() -> None:
    rig = Rig(peer(child(), child("voice")))
    handle = rig.connect()
    rig.ike_up(handle)
    rig.child_up(handle)
    rig.go()                                              # voice is on its way with the old selectors
    changed = child("voice", remote=("10.3.0.0/16",))
    assert rig.reload(peer(child(), changed)) == []       # nothing crosses it
    old = rig.child_up(handle, "voice")
    assert [type(a) for a in rig.go()] == [CreateChild]
    rig.child_up(handle, "voice", remote=("10.3.0.0/16",))
    assert rig.go() == [DeleteChild(old, Cause.RELOADED)]


def test_answer_for_a_child_that_was_removed_meanwhile_is_closed() -> None:
    rig = Rig(peer(child(), child("voice")))
    handle = rig.up()
    rig.reload(peer(child()))
    spi = rig.child_up(handle, "voice")
    assert rig.go() == [DeleteChild(spi, Cause.RELOADED)]


def test_changed_peer_gets_a_new_ike_sa_before_the_old_one_is_closed() -> None:
    rig = Rig(peer(child(), child("voice")))
    old = rig.up("office", "voice")
    assert rig.reload(peer(child(), child("voice")), disruptive=True) == [StartResolve()]
    [initiate] = rig.resolve()
    assert isinstance(initiate, Initiate)
    rig.ike_up(rig.handle)
    rig.child_up(rig.handle, "office")
    assert rig.go() == []
    rig.child_up(rig.handle, "voice")
    assert rig.go() == [DeleteIke(old, Cause.RELOADED)]


def test_wrong_psk_after_a_reload_leaves_the_running_line_alone_and_goes_on() -> None:
    rig = Rig(peer())
    old = rig.up()
    rig.reload(peer(), disruptive=True)
    for _ in range(10):
        rig.resolve()
        assert not [a for a in rig.failed(refused=True, cause=Cause.PEER_REFUSED_AUTH) if isinstance(a, DeleteIke)]
        deadline = rig.deadline()
        assert deadline is not None
        rig.now = deadline.at
        assert rig.go() == [StartResolve()]
    assert old in rig.s.lines
    assert rig.s.attempts == 10


@pytest.mark.parametrize("start", ["on-demand", "listen"])
def test_changed_peer_keeps_up_what_was_up_whatever_its_start(start: str) -> None:
    rig = Rig(peer(child(start=start)))
    rig.go()
    rig.resolve()
    old = rig.ike_up()
    rig.child_up(old)
    rig.go()
    assert rig.reload(peer(child(start=start)), disruptive=True) == [StartResolve()]
    rig.resolve()
    assert rig.failed(refused=True)                       # a failure does not make it forget
    assert rig.wait(1.0) == [StartResolve()]
    rig.resolve()
    rig.ike_up(rig.handle)
    rig.child_up(rig.handle)
    assert rig.go() == [DeleteIke(old, Cause.RELOADED)]


def test_changed_peer_with_nothing_to_keep_closes_its_line() -> None:
    rig = Rig(peer(child(start="listen")))
    rig.go()
    rig.resolve()
    old = rig.ike_up()
    rig.go()
    assert rig.reload(peer(child(start="listen")), disruptive=True) == [DeleteIke(old, Cause.RELOADED)]


def test_changed_peer_without_address_is_closed_because_only_it_can_come_back() -> None:
    rig = Rig(peer(addresses=()))
    old = rig.ike_up()
    rig.child_up(old)
    rig.go()
    assert rig.reload(peer(addresses=()), disruptive=True) == [DeleteIke(old, Cause.RELOADED)]


def test_changed_peer_is_tried_at_once_whatever_it_waited_for() -> None:
    rig = Rig(peer())
    for _ in range(7):
        rig.connect()
        rig.failed(refused=True)
        rig.now += 60.0
    rig.connect()
    rig.failed(refused=True)
    assert rig.reload(peer(), disruptive=True) == [StartResolve()]


def test_changed_address_while_connecting_begins_anew() -> None:
    rig = Rig(peer())
    handle = rig.connect()
    assert rig.reload(peer(addresses=("192.0.2.77",)), disruptive=True) == [
        DeleteIke(handle, Cause.RELOADED), StartResolve()]


def test_changed_address_while_resolving_asks_again() -> None:
    rig = Rig(peer())
    rig.go()
    assert rig.reload(peer(addresses=("192.0.2.77",)), disruptive=True) == [StartResolve()]


def test_disabled_peer_is_closed_and_enabled_again_comes_up() -> None:
    rig = Rig(peer())
    handle = rig.up()
    assert rig.reload(peer(enabled=False)) == [DeleteIke(handle, Cause.RELOADED), Abandon(child().key)]
    assert rig.deadline() is None
    assert rig.reload(peer()) == [StartResolve()]


def test_child_taken_down_stays_down_over_a_reload_that_does_not_change_it() -> None:
    rig = Rig(peer(child(), child("voice")))
    rig.up("office", "voice")
    rig.s.down("voice")
    rig.go()
    assert rig.reload(peer(replace(child(), lifetime_s=99.0), child("voice"))) == []
    assert rig.s.wants.down == ("voice",)
    assert [type(a) for a in rig.reload(with_child(peer(child()), child("voice", remote=("10.9.0.0/16",))))] == [
        CreateChild]


def test_two_reloads_in_a_row_end_with_the_last() -> None:
    rig = Rig(peer())
    handle = rig.up()
    first = next(iter(rig.s.lines[handle].pairs))
    rig.reload(peer(child(remote=("10.3.0.0/16",))))
    assert rig.reload(peer(child(remote=("10.4.0.0/16",)))) == []
    second = rig.child_up(handle, remote=("10.3.0.0/16",))
    [create] = rig.go()
    assert isinstance(create, CreateChild)
    assert create.request.ts_remote == (from_prefix("10.4.0.0/16"),)
    rig.child_up(handle, remote=("10.4.0.0/16",))
    assert rig.go() == [DeleteChild(first, Cause.RELOADED), DeleteChild(second, Cause.RELOADED)]


def test_reload_of_a_peer_with_nothing_wanted_leaves_no_attempt() -> None:
    rig = Rig(peer())
    handle = rig.connect()
    assert rig.reload(peer(child(start="listen"))) == [DeleteIke(handle, Cause.RELOADED)]
    assert isinstance(rig.s.phase, Idle)


def test_every_field_of_a_child_is_covered_by_the_changes_above() -> None:
    assert {f.name for f in fields(ChildPolicy)} == {*CHANGES, "key"}
