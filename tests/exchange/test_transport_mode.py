"""Transport mode: asked for, agreed to, declined, kept by rekeys, and through NATs (RFC 7296 1.3.1, 2.23.1)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from ipsecd.causes import Cause
from ipsecd.events import ChildFailed
from ipsecd.ike.child_sa import LINGER_S
from ipsecd.ike.consts import ExchangeType
from ipsecd.ike.transport import Selectors
from ipsecd.policy import ChildPolicy, Mode, Pfs, Policy
from ipsecd.reports import ChildMoved, ChildRefused, ChildUp
from ipsecd.sa import Endpoint, SaPair, TransportEnds
from ipsecd.selectors import from_prefix
from tests.support.exchange import A, B, Two, at_rest, child_policy, ike_policy, peer_policy, policy
from tests.support.nat import Datagram, Nat
from tests.support.sim import Host, exchange

OUTSIDE, INSIDE = "198.51.100.9", "10.9.9.9"
CREATE = ExchangeType.CREATE_CHILD_SA


@pytest.mark.parametrize("childless", ["allow", "prefer"])
def test_both_ends_have_a_pair_in_transport_mode_between_their_addresses(childless: str) -> None:
    # IKE_AUTH {..., N(USE_TRANSPORT_MODE), SA, TSi, TSr}  -->  <-- {..., N(USE_TRANSPORT_MODE), SA, TSi, TSr}
    two = Two(a_side(childless=childless), b_side())
    two.establish()
    two.check(children=1)
    assert only(two.a).transport == TransportEnds(A, B)
    assert only(two.b).transport == TransportEnds(B, A)
    assert [view.pairs[0].mode for view in two.a.endpoint.views()] == ["transport"]


@pytest.mark.parametrize(("mode_a", "mode_b"), [(Mode.TRANSPORT, Mode.TUNNEL), (Mode.TUNNEL, Mode.TRANSPORT)])
@pytest.mark.parametrize("childless", ["allow", "prefer"])
def test_mode_mismatch_leaves_no_child_and_the_ike_sa(mode_a: Mode, mode_b: Mode, childless: str) -> None:
    # AU-23: a responder with a tunnel only answers without the notify, and the initiator deletes what it did not want.
    two = Two(a_side(mode=mode_a, childless=childless), b_side(mode=mode_b))
    two.initiate(two.a)
    two.net.run(2)
    two.check(children=0)
    refusal = two.a.reports(ChildRefused)[0].failure
    if mode_a is Mode.TRANSPORT:
        assert (refusal.cause, refusal.ours, refusal.theirs) == (Cause.MODE_MISMATCH, "transport", "tunnel")
    else:
        assert refusal.notify == "TS_UNACCEPTABLE"
        causes = [event.failure.cause for event in two.b.events(ChildFailed)]
        assert causes == [Cause.MODE_MISMATCH]


@pytest.mark.parametrize("pfs", list(Pfs))
@pytest.mark.parametrize("from_a", [True, False])
def test_rekey_keeps_the_mode(pfs: Pfs, from_a: bool) -> None:
    two = natted(pfs=pfs)
    begun(two)
    first = only(two.a).transport, only(two.b).transport
    host = two.a if from_a else two.b
    host.endpoint.rekey_child(two.pair(host), two.net.now)
    two.net.run(LINGER_S + 2)
    settled(two)
    assert (only(two.a).transport, only(two.b).transport) == first
    assert len(two.a.reports(ChildMoved)) == 1


def test_rekeys_of_both_ends_at_once_leave_one_pair_in_the_mode() -> None:
    two = natted()
    begun(two)
    two.net.hold(exchange(CREATE))
    for host in (two.a, two.b):
        host.endpoint.rekey_child(two.pair(host), two.net.now)
    two.net.run(0.1)
    two.net.release()
    two.net.run(LINGER_S + 2)
    settled(two)


def test_rekey_of_the_ike_sa_moves_the_pair_and_its_next_rekey_keeps_the_mode() -> None:
    two = natted()
    handle = begun(two)
    two.a.endpoint.rekey_ike(handle, two.net.now)
    two.net.run(2)
    two.b.endpoint.rekey_child(two.pair(two.b), two.net.now)
    two.net.run(LINGER_S + 2)
    settled(two)


def test_nat_before_the_initiator_is_taken_out_of_selectors_and_into_checksums() -> None:
    # TR-03, RFC 7296 2.23.1: TSi = IP1 from A; B has IPN1 and answers so; A has its own again.
    two = natted()
    begun(two)
    settled(two)
    a, b = only(two.a), only(two.b)
    assert (named(a), named(b)) == ((INSIDE, B), (B, OUTSIDE))
    taken = (value(INSIDE) - value(OUTSIDE)) % 65535
    assert a.transport == TransportEnds(INSIDE, B, -taken % 65535)     # what B sends was summed over OUTSIDE
    assert b.transport == TransportEnds(B, OUTSIDE, taken)


@pytest.mark.parametrize("before_a", [False, True])
def test_nat_before_the_responder_is_taken_out_of_both_views(before_a: bool) -> None:
    # TR-03, RFC 7296 2.23.1: B's NAT forwards B's outside address IPN2 to IP2; A knows IPN2 only.
    inside, a_seen = "10.8.8.8", OUTSIDE if before_a else A
    a_here = INSIDE if before_a else A
    two = Two(a_side(local=a_here), b_side(local=inside, remote=a_seen),
              nat=Nat(OUTSIDE) if before_a else None)
    two.b.nat = Forwarding(B, inside)
    two.b.readdress(inside)
    two.initiate(two.a)
    two.net.run(2)
    a, b = only(two.a), only(two.b)
    assert (a.inbound, a.outbound) == (b.outbound, b.inbound)
    assert (named(a), named(b)) == ((a_here, B), (inside, a_seen))
    taken = (value(a_here) + value(B) - value(a_seen) - value(inside)) % 65535
    assert a.transport == TransportEnds(a_here, B, -taken % 65535)
    assert b.transport == TransportEnds(inside, a_seen, taken)
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(LINGER_S + 2)
    assert (only(two.a).transport, only(two.b).transport) == (a.transport, b.transport)


def test_child_for_other_addresses_than_those_of_ike_is_refused_at_home() -> None:
    # TR-02: nothing is sent that would protect a third host's traffic.
    two = Two(a_side(local="192.0.2.77"), b_side())
    two.initiate(two.a)
    two.net.run(2)
    two.check(children=0)
    failure = two.a.reports(ChildRefused)[0].failure
    assert failure.cause is Cause.TRANSPORT_ADDRESSES
    assert "192.0.2.77/32" in failure.ours and A in failure.detail


def test_tunnel_entry_serves_a_request_for_transport_mode_by_what_the_peer_named() -> None:
    # RFC 7296 2.23.1: no entry allows transport mode, so the selectors are looked up anew as they came.
    two = Two(a_side(local=INSIDE), b_side(remote=INSIDE, mode=Mode.TUNNEL), nat=Nat(OUTSIDE))
    two.initiate(two.a)
    two.net.run(2)
    made = two.b.reports(ChildUp)[0].pair
    assert (made.transport, named(made)) == (None, (B, INSIDE))
    assert two.a.reports(ChildRefused)[0].failure.cause is Cause.MODE_MISMATCH
    two.check(children=0)                          # A wants no tunnel and deletes it


def test_ports_are_narrowed_in_transport_mode_as_in_a_tunnel() -> None:
    https = (from_prefix(B, 6, (443, 443)),), (from_prefix(OUTSIDE, 6),)
    two = Two(a_side(local=INSIDE), b_side(selectors=https), nat=Nat(OUTSIDE))
    two.initiate(two.a)
    two.net.run(2)
    settled(two)
    assert list(map(str, only(two.a).ts_remote)) == list(map(str, only(two.b).ts_local)) == [f"{B}/32[tcp/443]"]
    assert list(map(str, only(two.a).ts_local)) == [f"{INSIDE}/32[tcp]"]


def test_rekey_that_asks_for_a_tunnel_in_place_of_transport_mode_is_refused() -> None:
    two = Two(a_side(), b_side())
    two.establish()
    old = two.pair(two.a)
    ours = next(iter(two.a.endpoint._table.sas.values())).session.children[old]
    ours.pair = replace(ours.pair, transport=None)
    two.a.endpoint.rekey_child(old, two.net.now)
    two.net.run(2)
    assert [event.failure.cause for event in two.b.events(ChildFailed)] == [Cause.MODE_MISMATCH]
    two.check(children=1)


# Helpers

class Forwarding(Nat):
    """A static NAT: every port of its outside address leads to one host."""

    def __init__(self, outside: str, inside: str) -> None:
        super().__init__(outside)
        self._inside = inside

    def leave_from(self, source: Endpoint) -> Endpoint:
        return Endpoint(self.outside, source.port)

    def enter(self, datagram: Datagram) -> Datagram:
        return Datagram(datagram.source, Endpoint(self._inside, datagram.destination.port), datagram.data)


def value(address: str) -> int:
    return int(ip_address(address))


def natted(**changes: object) -> Two:
    """A behind a NAT, which B knows by the NAT's address."""
    return Two(a_side(local=INSIDE, **changes), b_side(remote=OUTSIDE, **changes), nat=Nat(OUTSIDE))


def begun(two: Two) -> int:
    handle = two.initiate(two.a)
    two.net.run(1)
    settled(two)
    return handle


def settled(two: Two) -> None:
    """Both ends have one pair, in transport mode, with the same keys and their own view of the addresses."""
    a, b = only(two.a), only(two.b)
    assert (a.inbound, a.outbound) == (b.outbound, b.inbound)
    assert (named(a), named(b)) == ((INSIDE, B), (B, OUTSIDE))
    for pair in (a, b):
        assert pair.transport is not None
        assert named(pair) == pair.transport[:2]
    at_rest(two.a.endpoint, two.b.endpoint)


def child(peer: str, local: str, remote: str, **changes: object) -> ChildPolicy:
    return child_policy(peer, "lan", local, remote, **{"mode": Mode.TRANSPORT, **changes})


def a_side(*, local: str = A, childless: str = "allow", **changes: object) -> Policy:
    return policy(peer_policy("b", B, own="a.example", other="b.example", ike=ike_policy(childless=childless),
                              children=(child("b", local, B, **changes),)))


def b_side(*, local: str = B, remote: str = A, selectors: tuple[Selectors, Selectors] | None = None,
           **changes: object) -> Policy:
    made = child("a", local, remote, **changes)
    if selectors is not None:
        made = replace(made, local=selectors[0], remote=selectors[1])
    return policy(peer_policy("a", None, own="b.example", other="a.example", children=(made,)))


def only(host: Host) -> SaPair:
    (pair,) = host.pairs.values()
    return pair


def named(pair: SaPair) -> tuple[str, str]:
    return str(pair.ts_local[0].addresses()[0]), str(pair.ts_remote[0].addresses()[0])
