"""A reload of dpd counts at once on what is up."""

from __future__ import annotations

import pytest

from ipsecd.ike.consts import ExchangeType
from tests.support.exchange import Two, ike_policy, policy_a


@pytest.mark.parametrize("before_s", [0, 3600], ids=["off", "an hour"])
def test_reloaded_dpd_counts_from_the_last_proof_of_life(before_s: float) -> None:
    two = Two(policy_a(ike=ike_policy(dpd_s=before_s)))
    two.establish()
    sent = len(two.net.sent)
    two.a.endpoint.replace_policy(policy_a(ike=ike_policy(dpd_s=5)), two.net.now)
    two.net.run(3)
    assert len(two.net.sent) == sent
    two.net.run(3)
    assert [d.header.exchange for d in two.net.sent[sent:]] == [ExchangeType.INFORMATIONAL] * 2


def test_dpd_that_a_reload_switched_off_asks_no_more() -> None:
    two = Two(policy_a(ike=ike_policy(dpd_s=5)))
    two.establish()
    sent = len(two.net.sent)
    two.a.endpoint.replace_policy(policy_a(ike=ike_policy(dpd_s=0)), two.net.now)
    two.net.run(60)
    assert len(two.net.sent) == sent
