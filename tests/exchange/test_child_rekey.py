"""Rekeying a Child SA without collision (RFC 7296 1.3.3, 2.8)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.effects import RemoveSa
from ipsecd.events import ChildSaRekeyed
from ipsecd.ike.child_sa import LINGER_S, SWITCH_S
from ipsecd.ike.consts import ExchangeType
from ipsecd.policy import Pfs
from ipsecd.reports import ChildGone, ChildMoved, ChildUp
from tests.support.exchange import Two, esp, policy_a, policy_b
from tests.support.sim import exchange, sent_by

CREATE = ExchangeType.CREATE_CHILD_SA
INFO = ExchangeType.INFORMATIONAL


@pytest.mark.parametrize("from_a", [True, False])
def test_child_rekey_replaces_the_pair_once_on_both_ends(from_a: bool) -> None:
    # CR-01: HDR, SK {N(REKEY_SA), SA, Ni, KEi, TSi, TSr}  -->  <-- HDR, SK {SA, Nr, KEr, TSi, TSr}
    # HDR, SK {D}  -->  <-- HDR, SK {D}
    two = Two()
    two.establish()
    old_a, old_b = two.pair(two.a), two.pair(two.b)
    host = two.a if from_a else two.b
    host.endpoint.rekey_child(two.pair(host), two.net.now)
    two.net.run(0.5)
    assert old_a in two.a.pairs and old_b in two.b.pairs     # still receive what is on its way
    two.net.run(LINGER_S + 1)
    two.check(children=1)
    assert old_a not in two.a.pairs and old_b not in two.b.pairs
    for end in (two.a, two.b):
        assert len(end.reports(ChildMoved)) == len(end.events(ChildSaRekeyed)) == 1
        assert len(end.reports(ChildUp)) == 1
        assert not end.reports(ChildGone)


@pytest.mark.parametrize("pfs", list(Pfs))
def test_child_rekey_uses_a_key_exchange_as_pfs_says(pfs: Pfs) -> None:
    # CC-01
    two = Two(policy_a(pfs=pfs), policy_b(pfs=pfs))
    two.establish()
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(7)
    two.check(children=1)
    assert bool(next(iter(two.a.pairs.values())).suite.ke) == (pfs is not Pfs.OFF)


def test_pfs_offered_falls_back_to_none_where_the_peer_has_it_off() -> None:
    two = Two(policy_a(pfs=Pfs.OFFER), policy_b(pfs=Pfs.OFF))
    two.establish()
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(7)
    two.check(children=1)
    assert len(two.a.reports(ChildMoved)) == 1


def test_pfs_required_on_one_end_only_keeps_the_old_child_and_the_ike_sa() -> None:
    # CC-03
    two = Two(policy_a(pfs=Pfs.REQUIRED), policy_b(pfs=Pfs.OFF))
    two.establish()
    old = two.pair(two.a)
    two.a.endpoint.rekey_child(old, two.net.now)
    two.net.run(3)
    two.check(children=1)
    assert two.pair(two.a) == old
    assert not two.a.reports(ChildMoved)


def test_responder_sends_on_the_new_pair_after_the_delete_of_the_old() -> None:
    two = Two()
    two.establish()
    old = two.pair(two.b)
    two.net.hold(sent_by(two.a, exchange(INFO)))
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(SWITCH_S / 2)
    assert two.pair(two.b) == old
    assert two.pair(two.a) != old
    two.net.release()
    two.net.run(0.1)
    assert two.pair(two.b) != old


@pytest.mark.parametrize("how", ["first packet", "time"])
def test_responder_sends_on_the_new_pair_after_first_inbound_or_two_seconds(how: str) -> None:
    two = Two()
    two.establish()
    old = two.pair(two.b)
    two.net.hold(sent_by(two.a, exchange(INFO)))
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(0.1)
    new = next(spi for spi in two.b.pairs if spi != old)
    if how == "first packet":
        two.b.endpoint.first_inbound(new, two.net.now)
        two.b.collect()
    else:
        two.net.run(SWITCH_S + 0.1)
    assert two.pair(two.b) == new
    two.net.release()
    two.net.run(10)
    two.check(children=1)
    assert len(two.b.reports(ChildMoved)) == 1


def test_soft_lifetime_starts_a_rekey_before_the_hard_one() -> None:
    two = Two(policy_a(lifetime_s=100.0), policy_b(lifetime_s=3000.0))
    two.establish()
    old = two.pair(two.a)
    two.net.run(120)
    assert two.pair(two.a) != old
    two.check(children=1)
    assert not two.a.reports(ChildGone)


def test_hard_lifetime_closes_a_pair_whose_rekey_fails() -> None:
    # CR-12
    two = Two(policy_a(lifetime_s=100.0, pfs=Pfs.REQUIRED), policy_b(lifetime_s=3000.0, pfs=Pfs.OFF))
    two.establish()
    two.net.run(400)
    assert [g.failure.cause for g in two.a.reports(ChildGone)] == [Cause.EXPIRED]
    assert [g.failure.cause for g in two.b.reports(ChildGone)] == [Cause.PEER_DELETED]
    two.check(children=0)


def test_invalid_ke_costs_one_round_and_is_remembered() -> None:
    # CR-03, CC-02
    two = Two(policy_a(pfs=Pfs.REQUIRED), policy_b(pfs=Pfs.REQUIRED, proposals=(esp("aes256gcm16-ecp256"),)))
    two.establish()
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(7)
    requests = [d for d in two.net.sent if sent_by(two.a, exchange(CREATE))(d)]
    assert len(requests) == 2
    two.check(children=1)
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(7)
    assert len([d for d in two.net.sent if sent_by(two.a, exchange(CREATE))(d)]) == 3
    assert len(two.a.reports(ChildMoved)) == 2
    two.check(children=1)


def test_soft_expiry_of_a_replaced_pair_sends_nothing() -> None:
    # CR-05
    two = Two()
    two.establish()
    old = two.pair(two.b)
    two.net.hold(sent_by(two.a, exchange(INFO)))
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(0.1)
    before = len(two.net.sent)
    two.b.endpoint.rekey_child(old, two.net.now)
    two.b.collect()
    assert len(two.net.sent) == before


def test_hard_expiry_of_a_replaced_pair_switches_over_and_sends_no_delete() -> None:
    # CR-06
    two = Two(policy_a(lifetime_s=3000.0), policy_b(lifetime_s=100.0))
    two.establish()
    old = two.pair(two.b)
    two.net.drop(sent_by(two.a, exchange(INFO)))
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(1)
    sa = next(iter(two.b.endpoint._table.sas.values()))
    sa.session.timers.arm(next(t for t in sa.session.timers._armed if t.kind.name == "EXPIRE_CHILD" and t.spi == old),
                          two.net.now, "now")
    two.b.endpoint.check_liveness(sa.session.handle, two.net.now)
    two.net.run(0.5)
    assert old not in two.b.pairs
    assert two.pair(two.b) != old
    assert not two.b.reports(ChildGone)
    two.net.heal()
    two.net.run(40)
    two.check(children=1)


def test_successor_deleted_by_the_responder_before_the_old_one_leaves_nothing() -> None:
    # CR-07
    two = Two()
    two.establish()
    two.net.hold(sent_by(two.a, exchange(INFO)))
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(SWITCH_S + 0.5)
    two.b.endpoint.delete_child(two.pair(two.b), two.net.now, Cause.OPERATOR)
    two.net.run(0.5)
    two.net.release()
    two.net.run(10)
    two.check(children=0)
    assert len(two.a.reports(ChildGone)) == len(two.b.reports(ChildGone)) == 1


def test_pair_that_the_peer_lost_is_reported_gone() -> None:
    # CR-08
    two = Two()
    two.establish()
    sa = next(iter(two.b.endpoint._table.sas.values()))
    child = next(iter(sa.session.children.values()))
    sa.session.remove(child)
    two.b.endpoint.first_inbound(0, two.net.now)
    two.b.endpoint._table.touched.append(sa)
    two.b.endpoint.handle_timeout(two.net.now)
    two.b.endpoint.check_liveness(sa.session.handle, two.net.now)
    two.net.run(0.5)
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(1)
    assert [g.failure.cause for g in two.a.reports(ChildGone)] == [Cause.CHILD_NOT_FOUND]
    two.check(children=0)


def test_old_pair_is_removed_only_after_it_lingered() -> None:
    # CR-16
    two = Two()
    two.establish()
    old = two.pair(two.a)
    two.a.endpoint.rekey_child(old, two.net.now)
    two.net.run(LINGER_S - 0.1)
    assert not two.a.reports(RemoveSa)
    two.net.run(0.5)
    assert [r.spi_in for r in two.a.reports(RemoveSa)] == [old]


def test_rekey_that_cannot_reach_the_peer_ends_with_one_down_event() -> None:
    # CR-10
    two = Two()
    two.establish()
    two.net.drop(lambda d: True)
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(200)
    assert len(two.a.reports(ChildGone)) == 1
    assert not two.a.endpoint.views()


def test_lifetimes_are_jittered() -> None:
    # CR-11
    times = set()
    for seed in range(5):
        two = Two(seed=seed)
        two.establish()
        times.add(round(two.a.endpoint.views()[0].pairs[0].rekey_at - two.net.now, 3))
    assert len(times) == 5


def test_policies_can_differ_in_selectors_and_rekeys_keep_what_was_narrowed() -> None:
    # TS-01, TS-09
    a, b = policy_a(), policy_b()
    wide = replace(a.peers[0].children[0], remote=(replace(a.peers[0].children[0].remote[0], low=0, high=2**32 - 1),))
    a = replace(a, peers=(replace(a.peers[0], children=(wide,)),))
    two = Two(a, b)
    two.establish()
    assert two.a.reports(ChildUp)[0].narrowed
    before = next(iter(two.a.pairs.values())).ts_remote
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(7)
    two.check(children=1)
    assert next(iter(two.a.pairs.values())).ts_remote == before
