"""Both ends do this and that over a bad network with slow work: at rest they agree, and every report came once."""

from __future__ import annotations

import random

import pytest

from ipsecd.events import LocalFault
from ipsecd.reports import ChildGone, ChildMoved, ChildUp
from tests.exchange.test_message_layer import act
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.sim import Host

STEPS = 12
WALKS = 40
WISHES = ("rekey child", "rekey ike", "rekey child", "rekey ike", "delete child", "liveness", "create")


@pytest.mark.parametrize("seed", range(WALKS))
def test_ends_agree_after_a_random_walk(seed: int) -> None:
    chance = random.Random(seed)
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"), seed=seed)
    two.establish()
    two.net.loss, two.net.duplicate = chance.choice((0, 0.1, 0.3)), chance.choice((0, 0.3))
    two.net.reorder_s = chance.choice((0, 0.05, 0.5))
    two.a.work_s, two.b.work_s = chance.choice((0, 0.02, 0.3)), chance.choice((0, 0.02, 0.3))
    for _ in range(STEPS):
        host, wish = chance.choice((two.a, two.b)), chance.choice(WISHES)
        if not host.established() or (wish == "create" and host is two.b):
            continue
        if "child" not in wish or two.outbound_lan(host):
            act(two, host, wish)
        two.net.run(chance.choice((0, 0.01, 0.02, 0.05, 0.3, 5)))
    two.net.loss = two.net.duplicate = 0
    two.net.run(150)
    two.check(ike=None, duplicates=True)
    assert len(two.a.established()) == len(two.b.established()) <= 1
    for host in (two.a, two.b):
        assert not host.events(LocalFault)
        each_pair_came_and_went_once(host)


def each_pair_came_and_went_once(host: Host) -> None:
    """G6: what came less what went is what there is."""
    moved = host.reports(ChildMoved)
    came = [r.pair.spi_in for r in host.reports(ChildUp)] + [r.pair.spi_in for r in moved]
    went = [r.spi_in for r in host.reports(ChildGone)] + [r.old_spi_in for r in moved]
    assert len(set(came)) == len(came)
    assert len(set(went)) == len(went)
    assert set(went) <= set(came)
    assert set(came) - set(went) == set(host.pairs)
