"""ESP in UDP or without, as each end's policy and NAT detection have it (RFC 7296 2.23; `encapsulation`)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.effects import SendIke, UpdatePath
from ipsecd.events import IkeAttemptFailed, IkeSaUp, PathChanged, Warned
from ipsecd.ike.consts import NotifyType
from ipsecd.ike.wire.header import FLAG_RESPONSE, IkeHeader
from ipsecd.ike.wire.message import ClearMessage, split
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.policy import Encapsulation, IkePolicy, Policy
from ipsecd.reports import ChildRequest, ChildUp, IkeFailed
from ipsecd.sa import Endpoint, Path
from tests.support.exchange import A, B, Two, ike_policy, policy_a, policy_b
from tests.support.mallory import Mallory
from tests.support.sim import Host, Nat
from tests.support.victim import Victim

AUTO, UDP, RAW = Encapsulation.AUTO, Encapsulation.UDP, Encapsulation.RAW
OUTSIDE, A2 = "192.0.2.1", "192.0.2.11"
MOBILE = ike_policy(mobike=True, dpd_s=10)


def encapsulated(policy: Policy, how: Encapsulation) -> Policy:
    return replace(policy, peers=tuple(replace(p, encapsulation=how) for p in policy.peers))


def two(a: Encapsulation, b: Encapsulation, *, nat: Nat | None = None, ike: IkePolicy | None = None) -> Two:
    made = Two(encapsulated(policy_a(ike=ike), a), encapsulated(policy_b(ike=ike), b), nat=nat)
    for host in (made.a, made.b):
        host.readdress(host.address)
    return made


def raw(host: Host) -> set[bool]:
    """Which ways the pairs of a host send: True is without UDP."""
    return {pair.path.raw for pair in host.pairs.values()}


def warned(host: Host) -> list[str]:
    return [event.detail for event in host.events(Warned) if event.what == "esp_in_udp"]


@pytest.mark.parametrize(("a", "b", "a_raw", "b_raw"), [
    (AUTO, AUTO, False, False), (UDP, AUTO, False, False), (RAW, RAW, True, True),
    (RAW, AUTO, True, False), (UDP, RAW, False, True)])
def test_each_end_sends_as_its_own_policy_says_where_no_nat_is(a: Encapsulation, b: Encapsulation, *, a_raw: bool,
                                                               b_raw: bool) -> None:
    ends = two(a, b)
    ends.establish()
    assert (raw(ends.a), raw(ends.b)) == ({a_raw}, {b_raw})
    assert {event.nat for host in (ends.a, ends.b) for event in host.events(IkeSaUp)} == {"none"}
    assert warned(ends.a) == warned(ends.b) == []
    assert ends.net.sent[-1].destination.port == 4500      # IKE is there with NAT traversal, whatever ESP does


def test_raw_path_has_addresses_and_no_ports() -> None:
    ends = two(RAW, RAW)
    ends.establish()
    pair, = ends.a.pairs.values()
    assert pair.path == Path(Endpoint(A, 0), Endpoint(B, 0))
    assert str(pair.path) == f"{A} -> {B}"


def test_nat_puts_both_ends_into_udp_with_a_warning() -> None:
    ends = two(RAW, RAW, nat=Nat(OUTSIDE))
    ends.establish()
    assert (raw(ends.a), raw(ends.b)) == ({False}, {False})
    assert warned(ends.a) == ["b: there is a NAT (local)"]
    assert warned(ends.b) == ["a: there is a NAT (remote)"]


def test_rekeyed_pairs_and_ike_sas_keep_to_it() -> None:
    ends = two(RAW, RAW)
    handle = ends.establish()
    for _ in range(2):
        ends.a.endpoint.rekey_child(ends.pair(ends.a), ends.net.now)
        ends.net.run(10)
        ends.b.endpoint.rekey_child(ends.pair(ends.b), ends.net.now)
        ends.net.run(10)
        ends.a.endpoint.rekey_ike(handle, ends.net.now)
        ends.net.run(10)
        assert (raw(ends.a), raw(ends.b)) == ({True}, {True})
    ends.check(children=1)


def test_move_takes_raw_traffic_along() -> None:
    ends = two(RAW, RAW, ike=MOBILE)
    ends.establish()
    ends.a.readdress(A2)
    ends.net.run(2)
    for host, local, remote in ((ends.a, A2, B), (ends.b, B, A2)):
        pair, = host.pairs.values()
        assert pair.path == Path(Endpoint(local, 0), Endpoint(remote, 0))
    assert warned(ends.a) == warned(ends.b) == []


def test_move_behind_a_nat_goes_on_in_udp_and_out_of_it_without() -> None:
    ends = two(RAW, RAW, ike=MOBILE)
    ends.establish()
    ends.a.nat = Nat("198.51.100.1")
    ends.a.readdress("10.9.9.9")
    ends.net.run(2)
    assert (raw(ends.a), raw(ends.b)) == ({False}, {False})
    assert [len(warned(host)) for host in (ends.a, ends.b)] == [1, 1]
    ends.a.nat = None
    ends.a.readdress(A)
    ends.net.run(2)
    assert (raw(ends.a), raw(ends.b)) == ({True}, {True})
    ends.check(children=1)


def test_peer_that_comes_from_another_port_all_at_once_gets_udp() -> None:
    ends = two(RAW, RAW)                                   # without MOBIKE, which would ask again
    ends.establish()
    ends.a.nat = Nat(OUTSIDE)
    ends.a.endpoint.check_liveness(1, ends.net.now)
    ends.net.run(1)
    assert raw(ends.b) == {False}


def test_moved_esp_of_the_peer_moves_ike_and_pairs_too() -> None:
    ends = two(RAW, RAW)
    ends.establish()
    spi = ends.pair(ends.b)
    ends.b.endpoint.path_observed(spi, Path(Endpoint(B, 0), Endpoint(A2, 0)), ends.net.now)
    ends.b.collect()
    assert ends.b.last_event(PathChanged).new == f"{B}:4500 -> {A2}:4500"
    assert ends.b.reports(UpdatePath)[-1].path == Path(Endpoint(B, 0), Endpoint(A2, 0))


@pytest.mark.parametrize("how", [AUTO, RAW])
def test_initiator_without_nat_traversal_gets_raw_esp_and_stays_at_port_500(how: Encapsulation) -> None:
    victim = Victim(encapsulated(policy_a(), how))
    mallory = Mallory(victim, port=500, nat_traversal=False)
    assert mallory.login() is not None
    answer = split(mallory.init_response)
    assert isinstance(answer, ClearMessage)
    assert not any(isinstance(p, NotifyPayload) and p.type in (NotifyType.NAT_DETECTION_SOURCE_IP,
                                                               NotifyType.NAT_DETECTION_DESTINATION_IP)
                   for p in answer.payloads)
    up = next(entry for entry in victim.log if isinstance(entry, ChildUp))
    assert up.pair.path == Path(Endpoint(A, 0), Endpoint(B, 0))
    assert [v.path for v in victim.endpoint.views()] == [Path(Endpoint(A, 500), Endpoint(B, 500))]
    assert [v.nat for v in victim.endpoint.views()] == ["unknown"]
    assert not victim.events(Warned)


def test_initiator_without_nat_traversal_is_refused_where_only_udp_will_do() -> None:
    victim = Victim(encapsulated(policy_a(), UDP))
    mallory = Mallory(victim, port=500, nat_traversal=False)
    assert not mallory.init()
    assert victim.endpoint.half_open == 0


def test_entry_that_wants_udp_refuses_a_peer_that_another_entry_let_in() -> None:
    listening = policy_a().peers[0]
    other = replace(listening, name="other", addresses=(), remote_identity=None, encapsulation=AUTO)
    policy = replace(policy_a(), peers=(replace(listening, encapsulation=UDP), other))
    victim = Victim(policy)
    mallory = Mallory(victim, port=500, nat_traversal=False)
    mallory.login()
    assert victim.established() == []
    failed, = victim.events(IkeAttemptFailed)
    assert isinstance(failed, IkeAttemptFailed)
    assert failed.failure.cause is Cause.NO_NAT_TRAVERSAL


@pytest.mark.parametrize(("how", "refused"), [(AUTO, False), (RAW, False), (UDP, True)])
def test_responder_without_nat_traversal_is_taken_unless_only_udp_will_do(how: Encapsulation, *,
                                                                          refused: bool) -> None:
    victim = Victim(encapsulated(policy_a(), how))
    mallory = Mallory(victim, port=500, nat_traversal=False)
    child = victim.endpoint._table.policy.peers[0].children[0]
    requests = (ChildRequest(child.key, 0, child.local, child.remote),)
    if refused:
        victim.endpoint.initiate("b", mallory.path, requests, victim.now)
        assert mallory.send(mallory.respond_init(victim.drain()[-1].datagram)) == []
        victim.wait(20)
        failed, = (entry for entry in victim.log if isinstance(entry, IkeFailed))
        assert failed.failure.cause is Cause.NO_NAT_TRAVERSAL
        assert victim.established() == []
        return
    mallory.accept_login(requests)
    up = next(entry for entry in victim.log if isinstance(entry, ChildUp))
    assert up.pair.path == Path(Endpoint(A, 0), Endpoint(B, 0))
    assert [v.path for v in victim.endpoint.views()] == [Path(Endpoint(A, 500), Endpoint(B, 500))]


def test_esp_of_no_sa_is_answered_where_ike_of_its_sender_listens() -> None:
    victim = Victim(policy_a())
    victim.endpoint.unknown_spi(Path(Endpoint(A, 0), Endpoint(B, 0)), 0x7777, victim.now)
    sent = victim.drain()
    assert [(s.path, IkeHeader.parse(s.datagram).flags & FLAG_RESPONSE) for s in sent if isinstance(s, SendIke)] == [
        (Path(Endpoint(A, 500), Endpoint(B, 500)), 0)]
