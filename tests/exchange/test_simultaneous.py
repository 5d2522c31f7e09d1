"""Both ends initiate (RFC 7296 2.4, 2.25; both may be `start: always`): one IKE SA stays, without a flap."""

from __future__ import annotations

import itertools

import pytest

from ipsecd.ike.consts import ExchangeType
from ipsecd.reports import ChildGone, ChildUp, IkeFailed, IkeGone, IkeUp
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.sim import exchange, sent_by

INIT, AUTH = ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH


def both(seed: object = 0, *names: str) -> Two:
    chosen = names or ("lan",)
    two = Two(policy_a(*chosen), policy_b(*chosen), seed=seed)
    two.initiate(two.a)
    two.initiate(two.b)
    return two


@pytest.mark.parametrize("seed", range(10))
def test_both_ends_at_once_leave_one_ike_sa_and_one_child(seed: int) -> None:
    # IN-55, IN-56
    two = both(seed)
    two.net.run(15)
    two.check(children=1)
    assert two.a.endpoint.views()[0].spi_i == two.b.endpoint.views()[0].spi_i
    for host in (two.a, two.b):
        assert not host.dark, "the tunnel went away for a moment"
        assert len(host.reports(IkeUp)) == len(host.reports(IkeGone)) + 1
        assert len(host.reports(ChildUp)) == len(host.reports(ChildGone)) + 1


@pytest.mark.parametrize("delays", list(itertools.permutations((0.0, 0.1, 0.2, 0.3))))
def test_every_interleaving_leaves_one_ike_sa(delays: tuple[float, ...]) -> None:
    # IN-55: each end's two messages are late by another time
    two = Two(seed=delays)
    messages = [(host.address, kind) for host in (two.a, two.b) for kind in (INIT, AUTH)]
    late = dict(zip(messages, delays, strict=True))
    send = two.net._deliver_later
    two.net._deliver_later = lambda d, s: send(d, s + late.get((d.source.address, d.header.exchange), 0.0))  # type: ignore[method-assign]
    two.initiate(two.a)
    two.net.run(0.05)
    two.initiate(two.b)
    two.net.run(60)
    two.check(children=1)
    assert not two.a.dark + two.b.dark
    assert two.a.endpoint.views()[0].spi_i == two.b.endpoint.views()[0].spi_i


def test_attempt_without_keys_gives_way_to_the_peers_established_sa() -> None:
    # IN-57
    two = Two()
    two.net.drop(sent_by(two.a, exchange(INIT, response=False)))
    two.initiate(two.a)
    two.net.run(0.2)
    two.initiate(two.b)
    two.net.run(30)
    two.check(children=1)
    assert len(two.a.reports(IkeFailed)) == 1
    assert not two.a.reports(IkeGone)


def test_peer_that_restarted_takes_over_at_once() -> None:
    # a restart is not a crossing: the new IKE SA wins whatever its nonces are
    for seed in range(6):
        two = Two(seed=seed)
        two.establish()
        two.net.restart(two.b, policy_b())
        two.net.run(3)
        two.initiate(two.b)
        two.net.run(1)
        two.check(children=1)
        assert len(two.a.reports(IkeGone)) == 1
        assert not two.a.dark
        assert not two.a.endpoint.views()[0].initiator


def test_peer_that_restarted_while_we_are_in_ike_auth_takes_over() -> None:
    # IN-58
    two = Two()
    two.net.drop(sent_by(two.a, exchange(AUTH)))
    two.initiate(two.a)
    two.net.run(0.5)
    two.net.restart(two.b, policy_b())
    two.net.heal()
    two.net.drop(lambda d: d.source.address == two.a.address and exchange(AUTH, response=False)(d))
    two.initiate(two.b)
    two.net.run(1)
    assert len(two.a.pairs) == 1
    assert two.a.outbound
    two.net.run(60)
    two.check(children=1)
    assert len(two.a.reports(IkeFailed)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_crossing_ike_sas_with_a_child_each_keep_both_children(seed: int) -> None:
    # IN-60
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"), seed=seed)
    two.initiate(two.a, "lan")
    two.initiate(two.b, "voice")
    two.net.run(15)
    two.check(children=2)
    assert not two.a.dark + two.b.dark


def test_initial_contact_is_not_sent_while_an_exchange_of_the_peer_is_open() -> None:
    two = both()
    two.net.run(15)
    assert len(two.a.reports(IkeUp)) == len(two.b.reports(IkeUp))
    two.check(children=1)
