"""What random walks (test_walks.py) found: pairs and IKE SAs that a collision left, used, taken back or not wanted."""

from __future__ import annotations

import pytest

from ipsecd.causes import Cause
from ipsecd.ike.child_sa import LINGER_S
from ipsecd.ike.consts import ExchangeType, ProtocolId
from ipsecd.ike.handover import CLOSE_S
from ipsecd.ike.session import Session, Timer, TimerKind
from ipsecd.ike.states import ChildState
from ipsecd.ike.wire.payloads import DeletePayload, NoncePayload
from ipsecd.reports import ChildGone, ChildMoved
from tests.support.exchange import policy_a
from tests.support.mallory import Mallory, Victim, child_payloads, rekey_notify

CHILD, INFO = ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL


def test_ike_sa_that_a_collision_left_may_be_gone_before_the_one_that_it_replaced() -> None:
    victim, mallory, session = up()
    victim.endpoint.rekey_ike(session.handle, victim.now)
    victim.drain()
    after = mallory.rekey_ike()
    assert after is not None
    assert after.request(INFO) == ()            # it is used: everything moves there
    after.request(INFO, DeletePayload(ProtocolId.IKE))
    victim.wait(CLOSE_S + 1)
    assert not victim.endpoint.views()
    victim.check()


def test_pair_that_lost_its_collision_takes_nothing_over_when_the_peer_sends_on_it() -> None:
    victim, mallory, session = up()
    (old,) = victim.installed
    victim.endpoint.rekey_child(old, victim.now)
    mallory.inbox += [s.datagram for s in victim.drain()]
    header, asked = mallory.take()
    lost = child_payloads(spi=0xC0000077, ni=bytes(32))             # the lowest nonce
    assert mallory.request(CHILD, rekey_notify(b"\xc0\0\0\1"), *lost)
    (redundant,) = victim.installed - {old}
    mallory.respond(header, *mallory.child_answer(asked))
    (new,) = victim.installed - {old, redundant}
    victim.endpoint.first_inbound(redundant, victim.now)
    victim.drain()
    assert [(r.old_spi_in, r.pair.spi_in) for r in victim.log if isinstance(r, ChildMoved)] == [(old, new)]
    assert session.children[redundant].state is ChildState.ARRIVING
    victim.check()


def test_successor_that_is_closed_before_it_carries_anything_leaves_its_pair_to_be_rekeyed() -> None:
    victim, mallory, session = up()
    (old,) = victim.installed
    assert mallory.request(CHILD, rekey_notify(b"\xc0\0\0\1"), *child_payloads(spi=0xC0000077))
    (new,) = victim.installed - {old}
    victim.endpoint.delete_child(new, victim.now, Cause.EXPIRED)
    mallory.inbox += [s.datagram for s in victim.drain()]
    mallory.respond(mallory.take()[0])
    assert victim.installed == {old}
    assert session.children[old].state is ChildState.UP
    assert session.timers.get(Timer(TimerKind.REKEY_CHILD, old))
    assert not [r for r in victim.log if isinstance(r, ChildGone)]
    victim.check()


@pytest.mark.parametrize("cause", [Cause.REPLACED, Cause.OPERATOR])
def test_pair_that_is_not_wanted_goes_also_where_its_rekey_was_under_way(cause: Cause) -> None:
    # REPLACED: the supervisor has a better one, and thinks no more of this.
    victim, mallory, _ = up()
    (old,) = victim.installed
    victim.endpoint.rekey_child(old, victim.now)
    victim.endpoint.delete_child(old, victim.now, cause)
    mallory.inbox += [s.datagram for s in victim.drain()]
    header, asked = mallory.take()
    mallory.respond(header, *mallory.child_answer(asked))
    for _ in range(2):
        header, asked = mallory.take()
        assert any(isinstance(p, DeletePayload) for p in asked)
        mallory.respond(header)
    victim.wait(LINGER_S)
    assert victim.installed == set()
    assert [r.failure.cause for r in victim.log if isinstance(r, ChildGone)] == [cause]
    victim.check()


def test_pair_that_is_not_wanted_goes_also_as_the_one_that_the_peer_made_of_it() -> None:
    victim, mallory, _ = up()
    (old,) = victim.installed
    victim.endpoint.rekey_child(old, victim.now)
    victim.endpoint.delete_child(old, victim.now, Cause.OPERATOR)
    mallory.inbox += [s.datagram for s in victim.drain()]
    header, asked = mallory.take()
    theirs = child_payloads(spi=0xC0000077, ni=b"\xff" * 32)
    assert mallory.request(CHILD, rekey_notify(b"\xc0\0\0\1"), *theirs)
    (rival,) = victim.installed - {old}
    *answer, _ = mallory.child_answer(asked)
    mallory.respond(header, *answer, NoncePayload(bytes(32)))       # the lowest: ours gives way
    named: list[bytes] = []
    for _ in range(2):
        header, asked = mallory.take()
        named += [spi for p in asked if isinstance(p, DeletePayload) for spi in p.spis]
        mallory.respond(header)
    assert rival.to_bytes(4, "big") in named
    mallory.request(INFO, DeletePayload(ProtocolId.ESP, (b"\xc0\0\0\1",)))
    victim.wait(LINGER_S)
    assert victim.installed == set()
    assert [r.spi_in for r in victim.log if isinstance(r, ChildGone)] == [rival]
    victim.check()


def up() -> tuple[Victim, Mallory, Session]:
    victim = Victim(policy_a())
    mallory = Mallory(victim)
    mallory.login()
    (sa,) = victim.endpoint._table.sas.values()
    return victim, mallory, sa.session
