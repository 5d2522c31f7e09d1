"""IKE SAs and children that were lost, deleted or refused by halves: both ends come to one picture again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.ike.consts import ExchangeType
from ipsecd.policy import Revocation
from ipsecd.reports import ChildGone, ChildUp, IkeFailed, IkeGone, IkeUp
from tests.exchange.test_auth_cert import GW_A, GW_B, ROOT, by_certificate, trust, with_auth
from tests.support.exchange import Two, ike_policy, policy_a, policy_b
from tests.support.gateways import Pair
from tests.support.sim import Host, exchange, sent_by
from tests.unit.crypto.test_revocation import crl

AUTH, INFO = ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL


@pytest.mark.parametrize("lost_s", [10.0, 35.0, 100.0])
def test_response_to_ike_auth_that_stays_lost_ends_in_one_ike_sa(lost_s: float) -> None:
    # B is up, A never hears of it and gives up; what B holds must not stand in the way of what comes after.
    pair = Pair()
    pair.net.drop(sent_by(pair.b, exchange(AUTH, response=True)))
    pair.start(lost_s)
    pair.net.heal()
    pair.net.run(60)
    pair.check("lan")


def test_liveness_check_of_the_old_ike_sa_takes_the_new_one_not_along() -> None:
    # A's requests on the old one go unanswered, when B, which knows of no trouble, comes with a new one.
    two = Two(policy_a(ike=ike_policy(dpd_s=10, unique="keep")), policy_b(ike=ike_policy(unique="keep")))
    two.establish()
    old = two.a.endpoint.views()[0].handle
    two.net.run(20)
    two.a.endpoint.check_liveness(old, two.net.now)
    spi = two.net.sent[-1].header.spi_i
    two.net.drop(lambda d: sent_by(two.b)(d) and d.header.spi_i == spi)
    two.net.run(5)
    two.initiate(two.b)
    two.net.run(2)
    assert len(two.a.established()) == 2
    two.net.run(40)
    assert [g.handle for g in two.a.reports(IkeGone)] == [old]
    assert two.a.reports(IkeGone)[0].failure.cause in (Cause.PEER_DEAD, Cause.REPLACED)
    assert two.outbound_lan(two.a)
    assert two.outbound_lan(two.b)


@pytest.mark.parametrize("mode", [Revocation.IF_AVAILABLE, Revocation.STRICT])
def test_certificate_revoked_since_the_set_up_makes_no_new_ike_sa(mode: Revocation) -> None:
    def known(*revoked: object) -> object:
        return by_certificate(GW_B, trusted=trust(crls=(crl(ROOT, revoked),), revocation=mode))  # type: ignore[arg-type]
    two = Two(with_auth(policy_a(), by_certificate(GW_A)), with_auth(policy_b(), known()))  # type: ignore[arg-type]
    two.establish()
    two.b.endpoint.replace_policy(with_auth(policy_b(), known(GW_A)), two.net.now)  # type: ignore[arg-type]
    two.initiate(two.a)
    two.net.run(45)
    assert len(two.a.reports(IkeFailed)) == 1
    assert len(two.b.reports(IkeUp)) == len(two.b.reports(ChildUp)) == 1
    two.check(children=1)       # the reload itself is what ends the old one, by the supervisor


def delete_ike(pair: Pair, host: Host) -> None:
    pair.gateway(host).endpoint.delete_ike(host.endpoint.views()[0].handle, pair.net.now, Cause.OPERATOR)
    host.collect()


def delete_child(pair: Pair, host: Host) -> None:
    pair.gateway(host).endpoint.delete_child(pair.spis(host)["lan"][0], pair.net.now, Cause.OPERATOR)
    host.collect()


@pytest.mark.parametrize("a", [delete_ike, delete_child])
@pytest.mark.parametrize("b", [delete_ike, delete_child])
@pytest.mark.parametrize("held", [None, "a", "b"])
def test_children_that_are_wanted_come_back_after_deletes_that_cross(a: object, b: object, held: str | None) -> None:
    pair = Pair()
    pair.start(10)
    pair.check("lan")
    if held is not None:
        pair.net.hold(sent_by(pair.net.hosts[held], exchange(INFO)))
    a(pair, pair.a)  # type: ignore[operator]
    b(pair, pair.b)  # type: ignore[operator]
    pair.net.run(0.2)
    pair.net.release()
    pair.net.run(30)
    pair.check("lan")
    downs = [len(host.reports(ChildGone)) for host in (pair.a, pair.b)]
    assert max(downs) <= 3, "they delete each other's without end"


def test_policy_without_a_peer_that_is_up_closes_it_at_both_ends() -> None:
    pair = Pair()
    pair.start(10)
    pair.reload(pair.a, replace(pair.gateway(pair.a).policy, peers=()))
    pair.net.run(5)
    assert not [v for v in pair.a.endpoint.views() if v.state == "Established"]
    assert not pair.a.pairs
