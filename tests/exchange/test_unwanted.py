"""What the peer made for us and nobody waits for any more: it is told at once."""

from __future__ import annotations

import pytest

from ipsecd.causes import Cause
from ipsecd.ike.consts import ExchangeType
from ipsecd.reports import ChildGone, IkeFailed, IkeUp
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.sim import exchange, sent_by

INFO = ExchangeType.INFORMATIONAL


@pytest.mark.parametrize("after_s", [0.025, 0.035])
@pytest.mark.parametrize("work_s", [0.0, 0.002])
def test_attempt_dropped_after_its_ike_auth_is_deleted_at_the_peer(after_s: float, work_s: float) -> None:
    two = Two()
    two.a.work_s = work_s
    handle = two.initiate(two.a)
    two.net.run(after_s)
    two.a.endpoint.delete_ike(handle, two.net.now, Cause.RELOADED)
    two.net.run(1)
    two.check(ike=0, children=0)
    assert two.b.reports(ChildGone)[0].failure.cause is Cause.PEER_DELETED
    assert not two.a.reports(IkeUp) + two.a.reports(IkeFailed), "nobody waits for a report"


def test_dropped_attempt_takes_no_successor_with_it() -> None:
    two = Two()
    handle = two.initiate(two.a)
    two.net.run(0.025)
    two.a.endpoint.delete_ike(handle, two.net.now, Cause.RELOADED)
    two.initiate(two.a)
    two.net.run(2)
    two.check(children=1)


def test_dropped_attempt_ends_where_the_peer_is_silent() -> None:
    two = Two()
    handle = two.initiate(two.a)
    two.net.run(0.025)
    two.net.drop(sent_by(two.b))
    two.a.endpoint.delete_ike(handle, two.net.now, Cause.RELOADED)
    two.net.run(31)
    assert not two.a.endpoint.views()


def test_delete_of_a_pair_that_we_do_not_take_goes_ahead_of_what_waits() -> None:
    # A reload took the child away while the request for it was out.
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"))
    handle = two.establish()
    begun = two.net.now
    two.a.endpoint.create_child(handle, two.requests(two.a, "voice")[0], begun)
    two.a.endpoint.rekey_child(two.pair(two.a), begun)
    two.a.endpoint.replace_policy(policy_a("lan"), begun)
    two.net.run_until(lambda: any(sent_by(two.a, exchange(INFO, response=False))(d) for d in two.net.sent))
    assert two.net.now - begun == pytest.approx(2 * two.net.latency_s), "the Delete waited for the rekey"
    two.net.run(10)
    two.check(children=1)
