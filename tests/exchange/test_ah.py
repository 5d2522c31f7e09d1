"""Children protected by AH (RFC 4302, RFC 7296 3.3): made, rekeyed and deleted by either end; never across a NAT."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest

from ipsecd.causes import Cause
from ipsecd.events import ChildFailed, IkeSaUp
from ipsecd.ike.consts import ExchangeType, IntegId, NotifyType, ProtocolId
from ipsecd.ike.negotiate import offer_esp
from ipsecd.ike.tasks.delete import ChildDelete
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.policy import EsnPolicy, Pfs, Policy
from ipsecd.reports import ChildGone, ChildMoved, ChildRefused, ChildUp
from ipsecd.sa import Endpoint, Path
from ipsecd.suites import GMACS, INTEGS, AhSuite, Proposal, parse_proposal
from tests.support.exchange import ESP, A, B, Two, ike_policy, policy_a, policy_b
from tests.support.mallory import Mallory
from tests.support.sim import Nat
from tests.support.victim import Victim

OUTSIDE = "192.0.2.1"
T = TypeVar("T")


def ah(text: str) -> Proposal:
    return parse_proposal(text, protocol=ProtocolId.AH)


AH = ah("sha256-aes256gmac-x25519-ecp256")


def two(*children: str, a: Proposal = AH, b: Proposal = AH, nat: Nat | None = None, **changes: object) -> Two:
    return Two(policy_a(*children, proposals=(a,), **changes), policy_b(*children, proposals=(b,), **changes), nat=nat)


@pytest.mark.parametrize("integ", [*INTEGS[:3], *GMACS], ids=lambda integ: integ.keyword)
@pytest.mark.parametrize("esn", [EsnPolicy.YES, EsnPolicy.NO])
def test_both_ends_hold_one_pair_of_the_suite_with_keys_of_its_length(integ: object, esn: EsnPolicy) -> None:
    chosen = next(i for i in (*INTEGS, *GMACS) if i is integ)
    ends = two(a=ah(chosen.keyword), b=ah(chosen.keyword), esn=esn)
    ends.establish()
    ours, theirs = only(ends.a.pairs), only(ends.b.pairs)
    assert ours.suite == theirs.suite == AhSuite(chosen, esn is EsnPolicy.YES)
    assert ours.inbound.integ_key.reveal() == theirs.outbound.integ_key.reveal() != ours.outbound.integ_key.reveal()
    assert len(ours.inbound.integ_key.reveal()) == chosen.key_bytes
    assert ours.inbound.encr_key.reveal() == b""
    assert (ours.inbound.spi, ours.outbound.spi) == (theirs.outbound.spi, theirs.inbound.spi)


def test_pair_goes_without_udp_and_follows_nobody_while_ike_is_at_4500() -> None:
    ends = two()
    ends.establish()
    pair = only(ends.a.pairs)
    assert pair.path == Path(Endpoint(A, 0), Endpoint(B, 0))
    assert not pair.follow
    assert ends.net.sent[-1].destination.port == 4500


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("pfs", [Pfs.OFF, Pfs.REQUIRED])
def test_rekey_by_either_end_replaces_the_pair_and_deletes_the_old_one(side: str, pfs: Pfs) -> None:
    ends = two(pfs=pfs, a=AH if pfs is Pfs.REQUIRED else AH.without_ke(),
               b=AH if pfs is Pfs.REQUIRED else AH.without_ke())
    ends.establish()
    host = ends.a if side == "a" else ends.b
    old = only(host.pairs)
    host.endpoint.rekey_child(old.spi_in, ends.net.now)
    ends.net.run(20)
    new = only(host.pairs)
    assert new.spi_in != old.spi_in
    assert isinstance(new.suite, AhSuite)
    assert new.path.raw
    assert (new.suite.ke != 0) is (pfs is Pfs.REQUIRED)
    assert [report.pair.spi_in for report in host.reports(ChildMoved)] == [new.spi_in]
    ends.check(children=1)


def test_rekeys_of_both_ends_at_once_leave_one_pair() -> None:
    ends = two()
    ends.establish()
    for host in (ends.a, ends.b):
        host.endpoint.rekey_child(only(host.pairs).spi_in, ends.net.now)
    ends.net.run(90)
    ends.check(children=1)


def test_delete_names_protocol_ah_and_takes_the_pair_away_at_both_ends() -> None:
    ends = two()
    ends.establish()
    ends.a.endpoint.delete_child(only(ends.a.pairs).spi_in, ends.net.now, Cause.OPERATOR)
    ends.net.run(10)
    assert ends.a.pairs == ends.b.pairs == {}
    assert [r.failure.cause for r in ends.b.reports(ChildGone)] == [Cause.PEER_DELETED]
    ends.check(children=0)


def test_ah_and_esp_children_stand_beside_each_other() -> None:
    ends = Two(mixed(policy_a("lan", "voice")), mixed(policy_b("lan", "voice")))
    ends.establish("lan", "voice")
    protocols = {pair.child.child: pair.suite.protocol for pair in ends.b.pairs.values()}
    assert protocols == {"lan": ProtocolId.AH, "voice": ProtocolId.ESP}
    assert {pair.child.child: pair.path.raw for pair in ends.a.pairs.values()} == {"lan": True, "voice": False}
    ends.a.endpoint.delete_child(ends.pair(ends.a), ends.net.now, Cause.OPERATOR)
    ends.net.run(10)
    assert [pair.child.child for pair in ends.b.pairs.values()] == ["voice"]


@pytest.mark.parametrize(("a", "b", "miss"), [
    (AH, ESP, "peer offers protocol AH; we ask for ESP"),
    (ESP, AH, "peer offers protocol ESP; we ask for AH"),
    (ah("sha256"), ah("sha512"), "peer offers INTEG sha256 only; we ask for sha512"),
    (ah("aes256gmac"), ah("aes128gmac-sha384"), "peer offers INTEG aes256gmac only; we ask for aes128gmac, sha384")])
def test_refusal_names_the_nearest_miss(a: Proposal, b: Proposal, miss: str) -> None:
    ends = two(a=a, b=b, pfs=Pfs.OFF)
    ends.initiate(ends.a)
    ends.net.run(2)
    failure, = (event.failure for event in ends.b.events(ChildFailed))
    assert (failure.cause, failure.detail) == (Cause.NO_CHILD_PROPOSAL, miss)
    assert not ends.a.reports(ChildUp)


@pytest.mark.parametrize("caller", ["behind", "outside"])
def test_ah_child_is_refused_with_its_cause_where_there_is_a_nat(caller: str) -> None:
    ends = two(nat=Nat(OUTSIDE))
    ends.initiate(ends.a)
    ends.net.run(2)
    handle = only(ends.a.endpoint.views() if caller == "behind" else ends.b.endpoint.views()).handle
    host = ends.a if caller == "behind" else ends.b
    host.endpoint.create_child(handle, only(ends.requests(host, "lan")), ends.net.now)
    ends.net.run(2)
    refused = host.reports(ChildRefused)
    assert {report.failure.cause for report in refused} == {Cause.AH_BEHIND_NAT}
    assert "AH cannot pass a NAT" in refused[0].failure.summary
    assert refused[0].failure.detail in ("NAT detection says: local", "NAT detection says: remote")
    assert ends.a.pairs == ends.b.pairs == {}
    assert {event.nat for event in ends.a.events(IkeSaUp)} == {"local"}


def test_responder_refuses_ah_behind_a_nat_that_only_it_sees() -> None:
    ends = two(nat=Nat(OUTSIDE))
    ends.initiate(ends.a)
    ends.net.run(2)
    session = only([sa.session for sa in ends.a.endpoint._table.sas.values()])
    session.nat = replace(session.nat, local=False)
    ends.a.endpoint.create_child(session.handle, only(ends.requests(ends.a, "lan")), ends.net.now)
    ends.net.run(2)
    assert {e.failure.cause for e in ends.b.events(ChildFailed)} == {Cause.AH_BEHIND_NAT}
    assert ends.a.reports(ChildRefused)[-1].failure.cause is Cause.NO_CHILD_PROPOSAL


def test_nat_detection_is_honest_toward_a_peer_with_an_ah_child_alone() -> None:
    ends = two()
    ends.establish()
    assert {sa.session.nat.honest for host in (ends.a, ends.b) for sa in host.endpoint._table.sas.values()} == {True}
    plain = Two()
    plain.establish()
    assert {sa.session.nat.honest for sa in plain.a.endpoint._table.sas.values()} == {False}


def test_pair_is_rekeyed_by_its_own_protocol_after_a_reload_to_the_other() -> None:
    ends = two()
    ends.establish()
    changed = policy_a(proposals=(ESP,))
    ends.a.endpoint.replace_policy(changed, ends.net.now)
    old = only(ends.a.pairs)
    ends.a.endpoint.rekey_child(old.spi_in, ends.net.now)
    ends.net.run(20)
    assert only(ends.a.pairs).spi_in != old.spi_in
    assert isinstance(only(ends.a.pairs).suite, AhSuite)


def test_mobile_ike_sa_takes_the_ah_pair_along_and_closes_it_where_a_nat_comes_up() -> None:
    ends = two(ike=ike_policy(mobike=True, dpd_s=10))
    for host in (ends.a, ends.b):
        host.readdress(host.address)
    ends.establish()
    ends.a.readdress("192.0.2.11")
    ends.net.run(10)
    assert {pair.path.remote for pair in ends.b.pairs.values()} == {Endpoint("192.0.2.11", 0)}
    ends.a.nat = Nat("192.0.2.77")
    ends.a.readdress("10.9.9.9")
    ends.net.run(30)
    assert ends.a.pairs == {}
    assert Cause.AH_BEHIND_NAT in {report.failure.cause for report in ends.a.reports(ChildGone)}


def test_gmac_has_the_numbers_of_iana() -> None:
    assert [(g.keyword, g.id, g.key_bytes, g.icv_bytes, g.iv_bytes) for g in GMACS] == [
        ("aes256gmac", IntegId.AES_256_GMAC, 36, 16, 8), ("aes128gmac", IntegId.AES_128_GMAC, 20, 16, 8),
        ("aes192gmac", IntegId.AES_192_GMAC, 28, 16, 8)]
    assert [int(g.id) for g in GMACS] == [11, 9, 10]


def mixed(policy: Policy) -> Policy:
    """The first child by AH, the others by ESP."""
    peer, = policy.peers
    first, *others = peer.children
    return replace(policy, peers=(replace(peer, children=(replace(first, proposals=(AH,)), *others)),))


def only(found: dict[int, T] | list[T] | tuple[T, ...]) -> T:
    one, = found.values() if isinstance(found, dict) else found
    return one


def test_peer_that_moves_behind_a_nat_and_back_has_its_pair_closed_once() -> None:
    # RFC 4555 3.8; the peer does not answer the request of ours that the Delete waits for.
    victim = Victim(policy_a(ike=ike_policy(mobike=True), proposals=(AH,)))
    mallory = Mallory(victim)
    assert mallory.init()
    id_i, auth, _, ts_i, ts_r = mallory.auth_payloads()
    sa = offer_esp((AH,), spi=b"\xc0\0\0\1", with_ke=False, pfs=Pfs.OFF, esn=EsnPolicy.AUTO)
    assert mallory.request(ExchangeType.IKE_AUTH, id_i, auth, sa, ts_i, ts_r,
                           NotifyPayload(NotifyType.MOBIKE_SUPPORTED))
    (spi,) = victim.installed
    session = victim.endpoint._table.by_child[spi].session
    assert session.mobility is not None
    victim.endpoint.check_liveness(session.handle, victim.now)
    victim.drain()
    for number in range(20):
        hashes = [p for p in mallory.nat(session.crypto.spi_i, session.crypto.spi_r) if isinstance(p, NotifyPayload)]
        said = [NotifyPayload(p.type, p.data if number % 2 else bytes(20)) for p in hashes]
        answer = mallory.request(ExchangeType.INFORMATIONAL, NotifyPayload(NotifyType.UPDATE_SA_ADDRESSES), *said)
        assert [p.type for p in answer or () if isinstance(p, NotifyPayload)] == [p.type for p in hashes]
    assert len([t for t in session.tasks() if isinstance(t, ChildDelete)]) == 1
    assert not victim.faults
