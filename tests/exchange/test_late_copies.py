"""Copies of an IKE_SA_INIT request that come late begin nothing (RFC 7296 2.1)."""

from __future__ import annotations

from ipsecd.ike.consts import ExchangeType
from ipsecd.ike.requester import HALF_OPEN_LIFE_S
from tests.support.exchange import Two
from tests.support.sim import exchange, sent_by


def test_request_answered_at_its_second_try_is_remembered_as_long_as_any_other() -> None:
    two = Two()
    began = two.net.now
    two.b.impair("work", "drop")
    two.establish()
    inits = [d for d in two.net.sent if sent_by(two.a, exchange(ExchangeType.IKE_SA_INIT))(d)]
    assert len(inits) == 2                      # the first found no worker
    two.net.run(began + HALF_OPEN_LIFE_S + 0.2 - two.net.now)       # where the first alone would be forgotten
    sent = len(two.net.sent)
    two.net.inject(inits[0])
    two.net.run(0.05)
    assert not [d for d in two.net.sent[sent:] if sent_by(two.b)(d)]
    assert two.b.endpoint.half_open == 0
