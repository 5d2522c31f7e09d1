"""CREATE_CHILD_SA for new children, narrowing and selector pairs (RFC 7296 1.3.1, 2.9)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.events import ChildFailed
from ipsecd.ike.consts import ExchangeType
from ipsecd.policy import Pfs, Policy, TsStyle
from ipsecd.reports import ChildGone, ChildRefused, ChildRequest, ChildUp
from ipsecd.sa import ChildKey
from ipsecd.selectors import from_prefix
from tests.support.exchange import Two, child_policy, esp, peer_policy, policy, policy_a, policy_b
from tests.support.sim import Host, exchange, sent_by

CREATE = ExchangeType.CREATE_CHILD_SA
NET_A, NET_B = ("10.1.0.0/24", "10.1.1.0/24"), ("10.2.0.0/24", "10.2.1.0/24")


def one_child(own: str, other: str, address: str, name: str, local: tuple[str, ...], remote: tuple[str, ...],
              **changes: object) -> Policy:
    child = child_policy(name, "lan", local, remote, **changes)
    return policy(peer_policy(name, address, own=own, other=other, children=(child,)))


def wide(local: tuple[str, ...] = NET_A, remote: tuple[str, ...] = NET_B, **changes: object) -> Policy:
    return one_child("a.example", "b.example", "203.0.113.2", "b", local, remote, **changes)


def far(local: tuple[str, ...] = NET_B, remote: tuple[str, ...] = NET_A, **changes: object) -> Policy:
    return one_child("b.example", "a.example", "192.0.2.1", "a", local, remote, **changes)


def create(two: Two, host: Host, name: str) -> None:
    host.endpoint.create_child(host.endpoint.views()[0].handle, two.requests(host, name)[0], two.net.now)


@pytest.mark.parametrize("pfs", list(Pfs))
@pytest.mark.parametrize("from_a", [True, False])
def test_second_child_comes_up_from_either_end(pfs: Pfs, from_a: bool) -> None:
    # CC-01: HDR, SK {SA, Ni, KEi, TSi, TSr}  -->  <-- HDR, SK {SA, Nr, KEr, TSi, TSr}
    two = Two(policy_a("lan", "voice", pfs=pfs), policy_b("lan", "voice", pfs=pfs))
    two.establish()
    create(two, two.a if from_a else two.b, "voice")
    two.net.run(1)
    two.check(children=2)
    assert len(two.a.reports(ChildUp)) == len(two.b.reports(ChildUp)) == 2
    voice = two.a.pairs[two.a.outbound[ChildKey("b", "voice"), 0]]
    assert bool(voice.suite.ke) == (pfs is not Pfs.OFF)


def test_pfs_mismatch_refuses_this_child_and_not_the_next() -> None:
    # CC-03
    two = Two(policy_a("lan", "voice", pfs=Pfs.REQUIRED), policy_b("lan", "voice", pfs=Pfs.OFF))
    two.establish()
    create(two, two.a, "voice")
    two.net.run(1)
    refused = two.a.reports(ChildRefused)
    assert [r.failure.cause for r in refused] == [Cause.NO_CHILD_PROPOSAL]
    assert "KE" in two.b.last_event(ChildFailed).failure.detail
    two.a.endpoint.replace_policy(policy_a("lan", "voice", pfs=Pfs.OFF), two.net.now)
    create(two, two.a, "voice")
    two.net.run(1)
    two.check(children=2)


def test_identical_child_is_not_made_twice() -> None:
    # CC-04, TS-10
    two = Two()
    two.establish()
    before = len(two.net.sent)
    create(two, two.a, "lan")
    two.net.run(1)
    assert len(two.net.sent) == before
    two.check(children=1)


def test_several_wishes_for_one_child_at_once_make_one_exchange() -> None:
    # CC-11
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"))
    two.establish()
    for _ in range(5):
        create(two, two.a, "voice")
    two.net.run(1)
    assert len([d for d in two.net.sent if sent_by(two.a, exchange(CREATE))(d)]) == 1
    two.check(children=2)


def test_child_removed_from_the_configuration_meanwhile_is_deleted_at_the_peer() -> None:
    # CC-09
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"))
    two.establish()
    two.net.hold(sent_by(two.b))
    create(two, two.a, "voice")
    two.net.run(0.1)
    two.a.endpoint.replace_policy(policy_a("lan"), two.net.now)
    two.net.release()
    two.net.run(1)
    two.check(children=1)
    assert two.a.reports(ChildRefused)[0].failure.cause == Cause.RELOADED


def test_wish_for_an_ike_sa_that_is_gone_is_refused() -> None:
    # CC-08
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"))
    handle = two.establish()
    two.a.endpoint.delete_ike(handle, two.net.now, Cause.OPERATOR)
    two.a.endpoint.create_child(handle, two.requests(two.a, "voice")[0], two.net.now)
    two.a.collect()
    assert len(two.a.reports(ChildRefused)) == 1


def test_wishes_that_wait_when_the_ike_sa_ends_are_refused() -> None:
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"))
    two.establish()
    two.net.drop(lambda d: True)
    create(two, two.a, "voice")
    two.net.run(200)
    assert len(two.a.reports(ChildRefused)) == len(two.a.reports(ChildGone)) == 1


def test_several_selectors_ride_in_one_child() -> None:
    two = Two(wide(), far())
    two.establish()
    two.check(children=1)
    assert len(next(iter(two.a.pairs.values())).ts_remote) == 2


def test_responder_with_pairs_only_takes_one_and_says_that_more_is_possible() -> None:
    # TS-03
    two = Two(wide(), far(ts_style=TsStyle.PER_PAIR))
    two.establish()
    assert two.a.reports(ChildUp)[0].narrowed
    assert next(iter(two.a.pairs.values())).ts_local == (from_prefix(NET_A[0]),)


def test_pairs_of_one_child_have_slots_of_their_own_on_both_ends() -> None:
    two = Two(wide(ts_style=TsStyle.PER_PAIR), far(ts_style=TsStyle.PER_PAIR))
    entry = two.a.endpoint._table.policy.peers[0].children[0]
    wishes = tuple(ChildRequest(entry.key, i, (a,), (b,)) for i, (a, b) in enumerate(
        (a, b) for a in entry.local for b in entry.remote))
    two.a.endpoint.initiate("b", two.path(two.a), wishes, two.net.now)
    two.net.run(1)
    two.check(children=4)
    # B counts its own (local, remote) product, so the numbers differ; that each pair has one of its own is what counts.
    assert {slot for _, slot in two.a.outbound} == {slot for _, slot in two.b.outbound} == {0, 1, 2, 3}
    for host in (two.a, two.b):
        for spi in list(host.pairs):
            host.endpoint.rekey_child(spi, two.net.now)
        two.net.run(20)
    two.check(children=4)


def test_duplicate_of_the_peer_takes_the_slot_and_falls_back_when_it_goes() -> None:
    # TS-10
    two = Two()
    two.establish()
    first = two.pair(two.b)
    sa = next(iter(two.a.endpoint._table.sas.values()))
    for child in sa.session.children.values():
        child.policy = replace(child.policy, lifetime_s=1.0)   # another policy: a reload wants a successor
    create(two, two.a, "lan")
    two.net.run(3)
    two.check(duplicates=True)
    second = two.pair(two.b)
    assert first != second
    two.b.endpoint.delete_child(second, two.net.now, Cause.REPLACED)
    two.net.run(1)
    assert two.pair(two.b) == first
    two.check(children=1)


def test_answer_outside_our_offer_is_refused_and_deleted_at_the_peer() -> None:
    # TS-04: B is told another policy than A's request asks for, by A forgetting half of its offer
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"))
    two.establish()
    two.net.hold(sent_by(two.b))
    create(two, two.a, "voice")
    two.net.run(0.1)
    sa = next(iter(two.a.endpoint._table.sas.values()))
    creation = sa.session.active.creation
    key = creation._offer.request.child
    narrow = ChildRequest(key, 0, (from_prefix("10.99.0.0/16"),), (from_prefix("10.4.0.0/16"),))
    creation._offer = replace(creation._offer, request=narrow)
    two.net.release()
    two.net.run(1)
    assert two.a.reports(ChildRefused)[0].failure.cause == Cause.TS_UNACCEPTABLE
    two.check(children=1)


def test_request_is_given_to_the_child_that_holds_all_of_it() -> None:
    inner = child_policy("a", "inner", "10.2.5.0/24", "10.1.5.0/24")
    outer = child_policy("a", "outer", "10.2.0.0/16", "10.1.0.0/16")
    two = Two(policy_a(), policy(peer_policy("a", "192.0.2.1", own="b.example", other="a.example",
                                             children=(inner, outer))))
    two.establish()
    assert [c.child for c, _ in two.b.outbound] == ["outer"]


def test_reload_moves_timers_by_the_age_of_what_exists() -> None:
    two = Two(policy_a(lifetime_s=3000.0), policy_b(lifetime_s=3000.0))
    two.establish()
    two.net.run(100)
    old = two.pair(two.a)
    two.a.endpoint.replace_policy(policy_a(lifetime_s=50.0), two.net.now)
    two.net.run(8)
    assert two.pair(two.a) != old
    two.check(children=1)


def test_esp_suites_are_agreed_in_our_order() -> None:
    two = Two(policy_a(proposals=(esp("aes128gcm16-aes256gcm16-x25519"),)),
              policy_b(proposals=(esp("chacha20poly1305-aes256gcm16-aes128gcm16-x25519"),)))
    two.establish()
    assert next(iter(two.a.pairs.values())).suite.encr.keyword == "aes256gcm16"


@pytest.mark.parametrize("suite", ["aes256-sha256-x25519", "aes128-sha512-ecp384", "aes192gcm16-modp2048",
                                   "chacha20poly1305-ecp521"])
def test_suites_of_every_family_carry_through_child_rekey(suite: str) -> None:
    two = Two(policy_a(proposals=(esp(suite),)), policy_b(proposals=(esp(suite),)))
    two.establish()
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(7)
    two.check(children=1)
