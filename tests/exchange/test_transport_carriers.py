"""Transport mode by AH, by ESP in UDP and without, and moved to other addresses (RFC 4302 3.1.1, RFC 4555)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.ike.child_sa import LINGER_S
from ipsecd.ike.consts import ProtocolId
from ipsecd.ike.transport import cannot_follow
from ipsecd.policy import Encapsulation, Mode, Policy
from ipsecd.reports import ChildGone, ChildMoved, ChildRefused
from ipsecd.sa import Endpoint, Path, SaPair, TransportEnds
from ipsecd.suites import AhSuite, Proposal, parse_proposal
from tests.support.exchange import ESP, A, B, Two, child_policy, ike_policy, peer_policy, policy
from tests.support.sim import Host, Nat

AH = parse_proposal("sha256-x25519", protocol=ProtocolId.AH)
MOVED, ANOTHER, OUTSIDE = "192.0.2.11", "192.0.2.12", "198.51.100.9"
SIX_A, SIX_B = "2001:db8::11", "2001:db8::2"
CARRIERS = [pytest.param(AH, Encapsulation.AUTO, id="ah"), pytest.param(ESP, Encapsulation.RAW, id="raw"),
            pytest.param(ESP, Encapsulation.UDP, id="udp")]


@pytest.mark.parametrize(("proposal", "encapsulation"), CARRIERS)
@pytest.mark.parametrize("from_a", [True, False])
def test_pair_between_the_two_hosts_is_made_and_rekeyed_by_either_end(proposal: Proposal, encapsulation: Encapsulation,
                                                                      *, from_a: bool) -> None:
    ends = two(proposal, encapsulation)
    ends.establish()
    host = ends.a if from_a else ends.b
    host.endpoint.rekey_child(only(host).spi_in, ends.net.now)
    ends.net.run(LINGER_S + 2)
    ends.check(children=1)
    assert len(host.reports(ChildMoved)) == 1
    for side, local, remote in ((ends.a, A, B), (ends.b, B, A)):
        pair = only(side)
        assert pair.transport == TransportEnds(local, remote)
        assert isinstance(pair.suite, AhSuite) is (proposal is AH)
        raw = encapsulation is Encapsulation.RAW or proposal is AH
        assert (pair.path.raw, pair.path.local.address, pair.path.remote.address) == (raw, local, remote)
        assert [view.pairs[0].mode for view in side.endpoint.views()] == ["transport"]


@pytest.mark.parametrize(("proposal", "encapsulation"), CARRIERS)
def test_moved_pair_keeps_its_hosts_and_its_form_and_so_does_its_rekey(proposal: Proposal,
                                                                      encapsulation: Encapsulation) -> None:
    ends = two(proposal, encapsulation)
    ends.establish()
    ends.a.readdress(MOVED)
    ends.net.run(10)
    raw = encapsulation is Encapsulation.RAW or proposal is AH
    port = 0 if raw else 4500
    for rekeyed in (False, True):
        if rekeyed:
            ends.b.endpoint.rekey_child(only(ends.b).spi_in, ends.net.now)
            ends.net.run(LINGER_S + 2)
        ends.check(children=1)
        assert only(ends.a).path == Path(Endpoint(MOVED, port), Endpoint(B, port))
        assert only(ends.b).path == Path(Endpoint(B, port), Endpoint(MOVED, port))
        assert (only(ends.a).transport, only(ends.b).transport) == (TransportEnds(A, B), TransportEnds(B, A))


@pytest.mark.parametrize(("proposal", "encapsulation"), CARRIERS)
def test_pair_survives_a_move_that_finds_its_path_by_trying_several(proposal: Proposal,
                                                                   encapsulation: Encapsulation) -> None:
    # What NAT detection says of the path that was tried first is wrong of the one that answers (RFC 4555 3.5).
    ends = two(proposal, encapsulation)
    ends.establish()
    ends.net.drop(lambda d: MOVED in (d.source.address, d.destination.address))
    ends.a.readdress(MOVED, ANOTHER)
    ends.net.run(30)
    ends.check(children=1)
    assert only(ends.a).path.local.address == only(ends.b).path.remote.address == ANOTHER


@pytest.mark.parametrize(("proposal", "encapsulation"), CARRIERS)
def test_pair_follows_to_the_other_family_but_for_ah_which_is_closed(proposal: Proposal,
                                                                     encapsulation: Encapsulation) -> None:
    ends = two(proposal, encapsulation)
    ends.establish()
    failure = cannot_follow(only(ends.a), Path(Endpoint(SIX_A, 0), Endpoint(SIX_B, 0)))
    assert (failure is not None and failure.cause is Cause.TRANSPORT_ADDRESSES) is (proposal is AH)
    assert cannot_follow(only(ends.a), Path(Endpoint(MOVED, 0), Endpoint(B, 0))) is None
    ends.net.drop(lambda d: (":" in d.source.address) != (":" in d.destination.address))
    ends.b.readdress(B, SIX_B)
    ends.net.run(5)
    ends.a.readdress(SIX_A)
    ends.net.run(40)
    assert [view.path for view in ends.a.endpoint.views()] == [Path(Endpoint(SIX_A, 4500), Endpoint(SIX_B, 4500))]
    if proposal is AH:
        assert ends.a.pairs == ends.b.pairs == {}
    else:
        assert only(ends.a).path.remote.address == only(ends.b).path.local.address == SIX_B
        assert only(ends.a).transport == TransportEnds(A, B)


@pytest.mark.parametrize("side", ["a", "b"])
def test_end_of_the_other_mode_makes_no_ah_pair(side: str) -> None:
    ends = two(AH, tunnel=side)
    ends.initiate(ends.a)
    ends.net.run(2)
    ends.check(children=0)
    refusal = ends.a.reports(ChildRefused)[0].failure
    assert refusal.cause is (Cause.MODE_MISMATCH if side == "b" else Cause.TS_UNACCEPTABLE)


def test_nat_refuses_ah_between_hosts_and_a_move_behind_one_closes_it() -> None:
    behind = two(AH, local="10.9.9.9", nat=Nat(OUTSIDE))
    behind.initiate(behind.a)
    behind.net.run(2)
    handle = behind.a.endpoint.views()[0].handle
    request, = behind.requests(behind.a, "lan")
    behind.a.endpoint.create_child(handle, request, behind.net.now)
    behind.net.run(2)
    assert {report.failure.cause for report in behind.a.reports(ChildRefused)} == {Cause.AH_BEHIND_NAT}
    assert behind.a.pairs == behind.b.pairs == {}
    moved = two(AH)
    moved.establish()
    moved.a.nat = Nat(OUTSIDE)
    moved.a.readdress("10.9.9.9")
    moved.net.run(30)
    assert moved.a.pairs == {}
    assert Cause.AH_BEHIND_NAT in {report.failure.cause for report in moved.a.reports(ChildGone)}


def two(proposal: Proposal, encapsulation: Encapsulation = Encapsulation.AUTO, *, tunnel: str = "", local: str = A,
        nat: Nat | None = None) -> Two:
    """Two hosts with mobile IKE SAs; the end that `tunnel` names has its child in tunnel mode."""
    ike = ike_policy(mobike=True, dpd_s=10)

    def side(name: str, own: str, other: str, here: str, there: str) -> Policy:
        child = child_policy(other, "lan", here, there, proposals=(proposal,),
                             mode=Mode.TUNNEL if tunnel == name else Mode.TRANSPORT)
        peer = peer_policy(other, there, own=f"{own}.example", other=f"{other}.example", children=(child,), ike=ike)
        return policy(replace(peer, encapsulation=encapsulation))

    ends = Two(side("a", "a", "b", local, B), side("b", "b", "a", B, OUTSIDE if nat else A), nat=nat)
    for host in (ends.a, ends.b):
        host.readdress(host.address)
    return ends


def only(host: Host) -> SaPair:
    (pair,) = host.pairs.values()
    return pair
