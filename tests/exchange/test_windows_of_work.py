"""Slow key exchanges: what happens to an IKE SA while a message is parked (RFC 7296 2.1, 2.25)."""

from __future__ import annotations

import pytest

from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.errors import LocalError
from ipsecd.events import LocalFault
from ipsecd.ike.consts import ExchangeType
from ipsecd.reports import ChildGone, ChildMoved, IkeFailed, IkeGone
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.sim import exchange, sent_by

INIT, CREATE = ExchangeType.IKE_SA_INIT, ExchangeType.CREATE_CHILD_SA


def test_repetition_of_a_parked_request_is_answered_by_silence() -> None:
    two = Two()
    two.b.work_s = 0.9
    two.initiate(two.a)
    two.net.run(3)
    two.check(children=1)
    assert two.b.endpoint.drops[DropReason.IKE_BUSY] >= 1
    assert len([d for d in two.net.sent if sent_by(two.b, exchange(INIT))(d)]) == 1


def test_repetition_of_a_parked_child_request_is_answered_once() -> None:
    two = Two()
    two.establish()
    two.b.work_s = 0.9
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(10)
    two.check(children=1)
    assert two.b.endpoint.drops[DropReason.IKE_BUSY] >= 1
    assert len(two.b.reports(ChildMoved)) == 1


@pytest.mark.parametrize("end", ["delete child", "delete ike"])
@pytest.mark.parametrize("slow", ["a", "b", "both"])
def test_child_that_goes_during_the_key_exchange_does_not_come_back(end: str, slow: str) -> None:
    two = Two()
    two.establish()
    for host in (two.a, two.b):
        if slow in (host.name, "both"):
            host.work_s = 0.2
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(0.05)
    if end == "delete child":
        two.b.endpoint.delete_child(two.pair(two.b), two.net.now, Cause.OPERATOR)
    else:
        two.b.endpoint.delete_ike(two.b.endpoint.views()[0].handle, two.net.now, Cause.OPERATOR)
    two.net.run(30)
    two.check(children=0, ike=0 if end == "delete ike" else 1)
    assert len(two.a.reports(ChildGone)) == len(two.b.reports(ChildGone)) == 1


def test_key_exchange_that_this_host_cannot_do_ends_one_attempt_with_a_local_fault() -> None:
    two = Two()
    two.a.endpoint.initiate("b", two.path(two.a), two.requests(two.a, "lan"), two.net.now)
    effects = two.a.endpoint.take_effects()
    work = next(e for e in effects if type(e).__name__ == "Work")
    two.a.endpoint.work_done(work.id, LocalError("no such curve here"), two.net.now)
    two.a.collect()
    assert [f.failure.cause for f in two.a.reports(IkeFailed)] == [Cause.LOCAL_ERROR]
    assert two.a.events(LocalFault)
    assert not two.a.endpoint.views()


def test_value_of_a_job_that_nobody_waits_for_is_ignored() -> None:
    two = Two()
    two.a.work_s = 5.0
    handle = two.initiate(two.a)
    two.net.run(1)
    two.a.endpoint.delete_ike(handle, two.net.now, Cause.OPERATOR)
    two.net.run(10)
    two.a.endpoint.work_done(99, None, two.net.now)
    assert not two.a.endpoint.views()
    assert not two.a.reports(IkeFailed) + two.a.reports(IkeGone)


def test_both_ends_with_slow_work_still_resolve_their_collision() -> None:
    two = Two(policy_a(), policy_b())
    two.establish()
    two.a.work_s, two.b.work_s = 0.3, 0.07
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.b.endpoint.rekey_child(two.pair(two.b), two.net.now)
    two.net.run(30)
    two.check(children=1)
    assert not two.a.dark + two.b.dark
