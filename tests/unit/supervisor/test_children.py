"""Pairs on an IKE SA: refusals, fall-back to one pair each, both ends at once, the operator.

Scenarios IN-57 to IN-60, TS-03, TS-10, CC-07, CC-11, CT-01, CT-02.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from ipsecd.actions import Abandon, CreateChild, DeleteChild, DeleteIke, StartResolve
from ipsecd.causes import Cause
from ipsecd.phases import Slot
from ipsecd.policy import TsStyle
from ipsecd.supervision import child_requests
from tests.support.calls import calls
from tests.unit.supervisor.rig import Rig, child, creations, peer

TWO = ("10.2.0.0/16", "10.3.0.0/16")


def test_refused_child_is_asked_again_from_one_second_to_sixty_without_end() -> None:
    rig = Rig(peer(child("office"), child("voice")))
    handle = rig.up()
    rig.refused(handle, "voice")
    times = []
    for _ in range(9):
        deadline = rig.deadline()
        assert deadline is not None
        times.append(deadline.at - rig.now)
        rig.now = deadline.at
        assert creations(rig.go()) == [(handle, "voice", 0)]
        rig.refused(handle, "voice")
    assert times == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert rig.s.child_failures["voice"].failure.cause is Cause.TS_UNACCEPTABLE


def test_refusal_on_the_peers_line_does_not_spin() -> None:
    # The grace of a responder is long over while the pause of the slot is not.
    rig = Rig(peer())
    rig.go()
    rig.resolve()
    rig.failed()
    handle = rig.ike_up()
    rig.go()
    rig.wait(3.0)
    for _ in range(5):
        rig.refused(handle)
        deadline = rig.deadline()
        assert deadline is not None
        assert deadline.at > rig.now
        rig.now = deadline.at
        assert creations(rig.go()) == [(handle, "office", 0)]


def test_refused_on_demand_child_gives_its_packets_up_and_waits_for_traffic() -> None:
    rig = Rig(peer(child("office"), child("lab", "on-demand")))
    handle = rig.up()
    rig.s.acquire("lab")
    rig.go()
    assert Abandon(child("lab").key) in rig.refused(handle, "lab")
    assert creations(rig.wait(120.0)) == []
    rig.s.acquire("lab")
    assert creations(rig.go()) == [(handle, "lab", 0)]


def test_busy_peer_keeps_the_packets_of_an_on_demand_child() -> None:
    rig = Rig(peer(child("office"), child("lab", "on-demand")))
    handle = rig.up()
    rig.s.acquire("lab")
    rig.go()
    assert rig.refused(handle, "lab", cause=Cause.TEMPORARY_FAILURE) == []
    assert creations(rig.wait(1.0)) == [(handle, "lab", 0)]


def test_child_whose_ike_sa_gave_way_is_asked_for_on_the_survivor_with_its_packets_kept() -> None:
    rig = Rig(peer(child("office"), child("lab", "on-demand")))
    loser = rig.up()
    rig.s.acquire("lab")
    rig.go()
    survivor = rig.ike_up()
    rig.child_up(survivor)
    rig.now += 3.0
    assert rig.refused(loser, "lab", cause=Cause.REPLACED) == [
        CreateChild(survivor, child_requests(child("lab"), TsStyle.COMBINED)[0]), DeleteIke(loser, Cause.REPLACED)]


def test_pair_that_the_peer_closes_at_once_does_not_spin() -> None:
    rig = Rig(peer(child("office"), child("voice")))
    handle = rig.up("office", "voice")
    times = []
    for _ in range(9):
        spi = next(s for s, p in rig.s.lines[handle].pairs.items() if p.slot.child == "voice")
        rig.now += 0.01
        times.append(rig.now)
        rig.child_gone(spi)
        rig.go()
        deadline = rig.deadline()
        assert deadline is not None
        rig.now = deadline.at
        assert creations(rig.go()) == [(handle, "voice", 0)]
        rig.child_up(handle, "voice")
        rig.go()
    assert [round(b - a) for a, b in pairwise(times)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_child_that_the_peer_deletes_after_a_while_comes_back_at_once() -> None:
    rig = Rig(peer())
    handle = rig.up()
    rig.now += 100.0
    rig.child_gone(next(iter(rig.s.lines[handle].pairs)))
    assert creations(rig.go()) == [(handle, "office", 0)]


def test_request_that_dies_with_its_ike_sa_is_made_again() -> None:
    rig = Rig(peer(child("office"), child("voice")))
    handle = rig.up()
    rig.now += 200.0
    assert rig.gone(handle) == [StartResolve()]
    rig.resolve()
    assert {r.child.child for h, r in rig.asked if h == rig.handle} == {"office", "voice"}


def test_responder_leaves_the_children_to_the_initiator_for_three_seconds() -> None:
    rig = Rig(peer(child("office"), child("voice")))
    rig.go()
    handle = rig.ike_up()
    assert rig.go() == []
    rig.now += 1.0
    rig.child_up(handle, "voice")
    assert rig.go() == []
    assert creations(rig.wait(1.9)) == []
    assert creations(rig.wait(0.2)) == [(handle, "office", 0)]


def test_child_that_the_peer_makes_again_is_accepted_and_cleaned_up_later() -> None:
    rig = Rig(peer())
    handle = rig.up()
    first = next(iter(rig.s.lines[handle].pairs))
    rig.now += 100.0
    rig.child_up(handle)
    assert rig.go() == []
    assert rig.wait(4.9) == []
    assert rig.wait(0.2) == [DeleteChild(first, Cause.REPLACED)]
    assert rig.standing() == [Slot("office", 0)]


@pytest.mark.parametrize("latency", [0.0, 0.3, 1.9999, 2.0001, 10.0])
def test_both_ends_close_the_same_one_of_two_crossing_pairs(latency: float) -> None:
    a, b = Rig(peer()), Rig(peer())
    line_a, line_b = a.connect(), 7
    a.ike_up(line_a)
    b.ike_up(line_b, initiator=False)
    b.s.lines[line_b].initiator = False
    # A makes (A: 0x10, B: 0x20) at 0 and B makes (A: 0x30, B: 0x05); each end sees its own first.
    for rig, line, first, second in ((a, line_a, (0x10, 0x20), (0x30, 0x05)), (b, line_b, (0x05, 0x30), (0x20, 0x10))):
        rig.child_up(line, spi=first[0], spi_out=first[1])
        rig.go()
        rig.now += latency
        rig.child_up(line, spi=second[0], spi_out=second[1])
        rig.go()
    closed = []
    for _ in range(400):
        for rig, other, to_other in ((a, b, {0x10: 0x20, 0x30: 0x05}), (b, a, {0x20: 0x10, 0x05: 0x30})):
            for action in rig.wait(0.05):
                assert isinstance(action, DeleteChild | StartResolve | CreateChild)
                if isinstance(action, DeleteChild):
                    closed.append(action.spi_in)
                    other.child_gone(to_other[action.spi_in])
    assert len(closed) == 1
    assert len(a.standing()) == len(b.standing()) == 1


def test_each_end_wants_two_children_and_makes_the_other_one_first() -> None:
    # IN-60: one IKE SA, both children.
    a, b = Rig(peer(child("one"), child("two"))), Rig(peer(child("one"), child("two")))
    line = a.connect()
    a.ike_up(line)
    b.go()
    b.ike_up(9, initiator=False)
    b.s.lines[9].initiator = False
    a.child_up(line, "one")
    b.child_up(9, "one")
    b.child_up(9, "two")
    a.child_up(line, "two")
    assert a.go() == []
    assert creations(b.wait(10.0)) == []
    assert a.standing() == b.standing() == [Slot("one", 0), Slot("two", 0)]


def test_child_of_the_other_ends_making_comes_back_after_a_delete_without_a_loop() -> None:
    # IN-59: IKE SA from us, child from the peer, then the peer deletes it.
    rig = Rig(peer())
    handle = rig.up()
    rig.now += 2.0
    rig.child_gone(next(iter(rig.s.lines[handle].pairs)))
    actions = rig.wait(60.0)
    assert creations(actions) == [(handle, "office", 0)]
    assert not [a for a in actions if isinstance(a, DeleteChild | DeleteIke)]


def test_peer_that_wants_single_pairs_gets_one_request_for_each() -> None:
    rig = Rig(peer(child(remote=TWO)))
    handle = rig.connect()
    rig.ike_up(handle)
    rig.go()
    assert creations(rig.refused(handle, single_pair=True)) == [(handle, "office", 0), (handle, "office", 1)]


def test_peer_that_wants_single_pairs_where_there_is_one_pair_is_backed_off() -> None:
    rig = Rig(peer())
    handle = rig.connect()
    rig.ike_up(handle)
    rig.go()
    assert creations(rig.refused(handle, single_pair=True)) == []
    assert creations(rig.wait(1.0)) == [(handle, "office", 0)]


def test_narrowed_answer_is_completed_by_the_other_pairs() -> None:
    rig = Rig(peer(child(remote=TWO)))
    handle = rig.connect()
    rig.ike_up(handle)
    rig.child_up(handle, narrowed=True, remote=TWO[:1])
    assert creations(rig.go()) == [(handle, "office", 1)]
    rig.child_up(handle, slot=1, remote=TWO[1:])
    assert rig.go() == []
    assert rig.standing() == [Slot("office", 0), Slot("office", 1)]


def test_narrowed_answer_that_is_not_the_first_pair_keeps_its_traffic() -> None:
    # The peer chose the second pair.  The first one in slot 0 would take the outbound side away from it.
    rig = Rig(peer(child(remote=TWO)))
    handle = rig.connect()
    rig.ike_up(handle)
    rig.child_up(handle, narrowed=True, remote=TWO[1:])
    assert creations(rig.go()) == [(handle, "office", 2)]
    rig.child_up(handle, slot=2, remote=TWO[:1])
    assert rig.go() == []
    assert rig.wait(100.0) == []


def test_narrowed_pair_that_ends_is_asked_for_in_its_own_slot() -> None:
    rig = Rig(peer(child(remote=TWO)))
    handle = rig.connect()
    rig.ike_up(handle)
    spi = rig.child_up(handle, narrowed=True, remote=TWO[1:])
    rig.go()
    rig.child_up(handle, slot=2, remote=TWO[:1])
    rig.now += 60.0
    rig.child_gone(spi)
    assert creations(rig.go()) == [(handle, "office", 1)]


def test_peer_with_a_narrower_prefix_is_not_asked_again() -> None:
    rig = Rig(peer())
    handle = rig.connect()
    rig.ike_up(handle)
    rig.child_up(handle, narrowed=True, remote=("10.2.7.0/24",))
    assert rig.go() == []
    assert rig.wait(200.0) == []


def test_peer_that_has_only_one_of_two_networks_is_asked_for_the_other_with_back_off() -> None:
    rig = Rig(peer(child(remote=TWO)))
    handle = rig.connect()
    rig.ike_up(handle)
    rig.child_up(handle, narrowed=True, remote=("10.2.7.0/24",))
    assert creations(rig.go()) == [(handle, "office", 1)]
    rig.refused(handle, slot=1)
    assert len(creations(rig.wait(0.9))) == 0
    assert len(creations(rig.wait(0.2))) == 1


def test_selectors_that_are_answered_otherwise_do_not_loop() -> None:
    # Transport mode through a NAT: the agreed selectors are not those that we know (RFC 7296 2.23.1).
    rig = Rig(peer(child(remote=TWO, style="per-pair")))
    handle = rig.connect()
    rig.ike_up(handle)
    for slot in (0, 1):
        rig.child_up(handle, slot=slot, narrowed=True, remote=("203.0.113.9",))
    assert rig.go() == []


def test_configured_per_pair_asks_for_pairs_of_one_family_each() -> None:
    rig = Rig(peer(child(local=("10.1.0.0/16", "2001:db8:1::/48"), remote=("10.2.0.0/16", "2001:db8:2::/48"),
                         style="per-pair")))
    rig.connect()
    assert [(r.slot, r.ts_local[0].version, r.ts_remote[0].version) for _, r in rig.asked] == [(0, 4, 4), (1, 6, 6)]


def test_rekeyed_pair_keeps_its_place() -> None:
    rig = Rig(peer())
    handle = rig.up()
    rig.now += 3000.0
    new = rig.moved(handle, next(iter(rig.s.lines[handle].pairs)))
    assert list(rig.s.lines[handle].pairs) == [new]
    assert rig.go(CreateChild, DeleteChild) == []


def test_what_happens_to_a_child_costs_the_same_whatever_others_the_peer_has() -> None:
    few, many = (events_of_one_child(count) for count in (10, 1000))
    assert many <= few * 1.1


def events_of_one_child(count: int) -> int:
    """Return the calls that a child costs which goes and comes again, beside others that stay."""
    names = [f"c{number}" for number in range(count)]
    rig = Rig(peer(*(child(name) for name in names)))
    handle = rig.up(*names)
    rig.now += 40.0

    def again() -> None:
        rig.child_gone(next(iter(rig.s.lines[handle].pairs)))
        assert len(rig.go(CreateChild)) == 1
        rig.deadline()
        rig.child_up(handle, names[0])
        rig.go()
        rig.deadline()

    return calls(again)
