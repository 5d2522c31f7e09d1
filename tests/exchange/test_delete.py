"""Closing children and IKE SAs from either end and from both (RFC 7296 1.4.1, 2.25)."""

from __future__ import annotations

import pytest

from ipsecd.causes import Cause
from ipsecd.ike.consts import ExchangeType
from ipsecd.reports import ChildGone, IkeGone
from tests.support.exchange import Two, ike_policy, policy_a, policy_b
from tests.support.sim import Host, exchange, sent_by

INFO = ExchangeType.INFORMATIONAL


def delete_child(two: Two, host: Host) -> None:
    host.endpoint.delete_child(two.pair(host), two.net.now, Cause.OPERATOR)


def delete_ike(two: Two, host: Host) -> None:
    host.endpoint.delete_ike(host.endpoint.views()[0].handle, two.net.now, Cause.OPERATOR)


def down_once(two: Two, *, ike: int) -> None:
    for host in (two.a, two.b):
        assert len(host.reports(ChildGone)) == 1
        assert len(host.reports(IkeGone)) == (0 if ike else 1)
    two.check(children=0, ike=ike)


@pytest.mark.parametrize("from_a", [True, False])
def test_child_delete_is_answered_and_reported_once_on_each_end(from_a: bool) -> None:
    # DL-01
    two = Two()
    two.establish()
    delete_child(two, two.a if from_a else two.b)
    two.net.run(1)
    down_once(two, ike=1)
    causes = [h.reports(ChildGone)[0].failure.cause for h in (two.a, two.b)]
    assert sorted(causes) == [Cause.OPERATOR, Cause.PEER_DELETED]


@pytest.mark.parametrize("late", [False, True])
def test_crossing_child_deletes_are_answered_empty(late: bool) -> None:
    # DL-02, DL-03
    two = Two()
    two.establish()
    if late:
        two.net.hold(sent_by(two.a, exchange(INFO, response=False)))
    delete_child(two, two.a)
    delete_child(two, two.b)
    two.net.run(0.3)
    two.net.release()
    two.net.run(2)
    down_once(two, ike=1)


@pytest.mark.parametrize("from_a", [True, False])
def test_ike_delete_takes_the_child_along(from_a: bool) -> None:
    # DL-06
    two = Two()
    two.establish()
    delete_ike(two, two.a if from_a else two.b)
    two.net.run(1)
    down_once(two, ike=0)


def test_crossing_ike_deletes_close_both_ends() -> None:
    # DL-07
    two = Two()
    two.establish()
    delete_ike(two, two.a)
    delete_ike(two, two.b)
    two.net.run(1)
    down_once(two, ike=0)


def test_ike_delete_wins_over_a_child_delete() -> None:
    # DL-05
    two = Two()
    two.establish()
    delete_child(two, two.a)
    delete_ike(two, two.b)
    two.net.run(10)
    down_once(two, ike=0)


def test_ike_delete_that_is_never_answered_is_given_up() -> None:
    two = Two()
    two.establish()
    two.net.drop(lambda d: True)
    delete_ike(two, two.a)
    two.net.run(10)
    assert not two.a.endpoint.views()
    assert len(two.a.reports(IkeGone)) == 1


def test_attempt_that_is_deleted_is_only_forgotten() -> None:
    two = Two()
    two.net.drop(lambda d: True)
    two.initiate(two.a)
    two.net.run(1)
    delete_ike(two, two.a)
    two.net.run(100)
    assert not two.a.endpoint.views()
    assert not two.a.reports(IkeGone)


def test_one_child_goes_and_the_others_stay() -> None:
    # DL-11
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"))
    two.establish("lan", "voice")
    delete_child(two, two.a)
    two.net.run(1)
    two.check(children=1)


def test_pair_that_the_peer_just_made_receives_until_the_delete_of_its_ike_sa_is_answered() -> None:
    # DL-06, RFC 7296 2.8: A sends on the pair that its rekey made once it has our response, whatever we do with it.
    two = Two(policy_a(ike=ike_policy(unique="never")), policy_b(ike=ike_policy(unique="never")))
    two.establish()
    first, old = two.b.endpoint.views()[0].handle, two.pair(two.b)
    two.initiate(two.a)
    two.net.run(1)
    before = set(two.b.pairs)
    two.a.endpoint.rekey_child(next(p.outbound.spi for p in two.b.pairs.values() if p.spi_in == old), two.net.now)
    two.net.run_until(lambda: len(two.b.pairs) == 3, limit_s=1)
    arriving, = set(two.b.pairs) - before
    two.b.endpoint.delete_ike(first, two.net.now, Cause.OPERATOR)
    two.net.run(0.015)                  # A has the response, and not yet the Delete
    assert {old, arriving} < set(two.b.pairs)
    two.net.run(1)
    two.check(children=1)
    assert [gone.spi_in for gone in two.b.reports(ChildGone)] == [old]
