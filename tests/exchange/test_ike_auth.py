"""IKE_AUTH with pre-shared keys: identities, refusals, the first child, uniqueness (RFC 7296 2.4, 2.15, 2.21.2)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.events import IkeAttemptFailed, IkeMessage, LocalFault
from ipsecd.ike.consts import ExchangeType, IdType
from ipsecd.policy import Identity, Policy
from ipsecd.reports import ChildGone, ChildRefused, ChildUp, IkeFailed, IkeGone, IkeUp
from ipsecd.sa import Endpoint
from ipsecd.secret import Secret
from tests.support.exchange import (
    PSK,
    Two,
    child_policy,
    esp,
    fqdn,
    ike,
    ike_policy,
    peer_policy,
    policy,
    policy_a,
    policy_b,
)
from tests.support.sim import Datagram, exchange, sent_by

AUTH = ExchangeType.IKE_AUTH
OTHER = Secret(b"another key of the same length..")


def with_peer(base: Policy, **changes: object) -> Policy:
    return replace(base, peers=(replace(base.peers[0], **changes),))  # type: ignore[arg-type]


def refused_on_both(two: Two) -> tuple[Cause, Cause]:
    """Run an attempt that must fail; return the causes on A and B; nothing may be left."""
    two.initiate(two.a)
    two.net.run(45)
    assert not two.a.endpoint.views() + two.b.endpoint.views()
    assert len(two.a.reports(IkeFailed)) == 1
    assert not two.a.reports(ChildUp) + two.b.reports(ChildUp)
    assert not two.a.events(LocalFault) + two.b.events(LocalFault)
    return two.a.reports(IkeFailed)[0].failure.cause, two.b.last_event(IkeAttemptFailed).failure.cause


def test_wrong_key_fails_on_both_ends() -> None:
    # AU-01
    assert refused_on_both(Two(policy_a(psk=OTHER))) == (Cause.PEER_REFUSED_AUTH, Cause.AUTHENTICATION_FAILED)


def test_unknown_identity_and_wrong_key_look_alike_from_outside() -> None:
    # AU-02
    sizes = []
    for a in (policy_a(psk=OTHER), with_peer(policy_a(), local_identity=fqdn("x.example"))):
        two = Two(a)
        refused_on_both(two)
        sizes.append([len(d.data) for d in two.net.sent if sent_by(two.b)(d)])
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("length", [16, 63, 64, 65, 128, 1024])
def test_keys_of_any_length_work(length: int) -> None:
    # AU-03
    key = Secret(bytes(i % 256 for i in range(length)))
    Two(policy_a(psk=key), policy_b(psk=key)).establish()


def test_peers_behind_one_address_are_told_apart_by_identity() -> None:
    # AU-04
    entries = tuple(peer_policy(name, None, own="b.example", other=f"{name}.example", psk=key,
                                children=(child_policy(name, "lan", "10.2.0.0/16", "10.1.0.0/16"),))
                    for name, key in (("z", OTHER), ("a", PSK)))
    two = Two(policy_a(), policy(*entries))
    two.initiate(two.a)
    two.net.run(1)
    assert [r.peer for r in two.b.reports(IkeUp)] == ["a"]


def test_identity_asked_for_by_the_initiator_chooses_the_entry() -> None:
    # AU-05
    entries = tuple(peer_policy(name, None, own=own, other="a.example",
                                children=(child_policy(name, "lan", "10.2.0.0/16", "10.1.0.0/16"),))
                    for name, own in (("first", "c.example"), ("second", "b.example")))
    two = Two(policy_a(), policy(*entries))
    two.initiate(two.a)
    two.net.run(1)
    assert [r.peer for r in two.b.reports(IkeUp)] == ["second"]


def test_addresses_are_the_identities_where_none_is_configured() -> None:
    two = Two(with_peer(policy_a(), local_identity=None, remote_identity=None),
              with_peer(policy_b(), local_identity=None, remote_identity=None))
    two.establish()
    assert two.a.endpoint.views()[0].local_identity == "192.0.2.1"


def test_responder_with_another_identity_is_refused_and_told() -> None:
    # AU-06: B answers with an identity that A did not ask for
    two = Two(with_peer(policy_a(), remote_identity=None), policy_b())
    two.initiate(two.a)
    two.net.run(10)
    failure = two.a.reports(IkeFailed)[0].failure
    assert (failure.cause, failure.ours, failure.theirs) == (Cause.WRONG_IDENTITY, "203.0.113.2", "b.example")
    assert two.b.reports(IkeGone)[0].failure.cause == Cause.PEER_REFUSED_AUTH
    assert not two.a.endpoint.views() + two.b.endpoint.views()


def test_peer_that_shows_our_own_identity_is_a_mirror() -> None:
    # AU-15
    assert refused_on_both(Two(with_peer(policy_a(), local_identity=fqdn("b.example")),
                               with_peer(policy_b(), remote_identity=fqdn("b.example"))))[1] == Cause.WRONG_IDENTITY


def test_suite_taken_for_another_entry_is_refused_after_the_switch() -> None:
    # attack 12: the suite is allowed for the first entry of the address, not for the identity shown
    weak, strong = (ike("aes128gcm16-prfsha256-x25519"),), (ike("aes256gcm16-prfsha256-x25519"),)
    entries = tuple(peer_policy(name, None, own="b.example", other=other, ike=ike_policy(proposals=offers),
                                children=(child_policy(name, "lan", "10.2.0.0/16", "10.1.0.0/16"),))
                    for name, other, offers in (("weak", "w.example", weak), ("a", "a.example", strong)))
    assert refused_on_both(Two(policy_a(ike=ike_policy(proposals=weak)), policy(*entries))) == (
        Cause.PEER_REFUSED_AUTH, Cause.NO_PROPOSAL)


def test_corrupted_message_before_the_good_one_leaves_no_trace() -> None:
    # AU-18, ML-11
    two = Two()
    two.net.hold(sent_by(two.a, exchange(AUTH)))
    two.initiate(two.a)
    two.net.run(0.1)
    good = two.net.held[0]
    two.net.inject(Datagram(good.source, good.destination, good.data[:-1] + bytes([good.data[-1] ^ 1])))
    two.net.run(0.01)
    assert two.b.endpoint.drops[DropReason.IKE_BAD_ICV] == 1
    two.net.release()
    two.net.run(1)
    two.check(children=1)


def test_half_open_sa_opens_only_so_many_bad_messages_and_keeps_its_place() -> None:
    # attack 76: a place that junk could free would buy the next key exchange
    two = Two()
    two.net.hold(sent_by(two.a, exchange(AUTH)))
    two.initiate(two.a)
    two.net.run(0.1)
    good = two.net.held[0]
    for i in range(9):
        two.net.inject(Datagram(good.source, good.destination, good.data[:-1] + bytes([good.data[-1] ^ (1 + i)])))
    two.net.run(0.01)
    assert two.b.endpoint.drops[DropReason.IKE_BAD_ICV] == 8
    assert two.b.endpoint.drops[DropReason.IKE_RATE_LIMIT] == 1
    assert two.b.endpoint.half_open == 1
    two.net.run(31)
    assert two.b.endpoint.half_open == 0


@pytest.mark.parametrize(("a", "b", "cause"), [
    (policy_a(proposals=(esp("aes128gcm16"),)), policy_b(proposals=(esp("chacha20poly1305"),)),
     Cause.NO_CHILD_PROPOSAL),
    (policy_a("lan"), policy_b("voice"), Cause.TS_UNACCEPTABLE),
])
def test_refused_child_leaves_the_ike_sa_up(a: Policy, b: Policy, cause: Cause) -> None:
    # AU-21
    two = Two(a, b)
    handle = two.initiate(two.a)
    two.net.run(1)
    two.check(children=0)
    refused = two.a.reports(ChildRefused)
    assert [(r.handle, r.failure.cause) for r in refused] == [(handle, cause)]
    assert len(two.a.reports(IkeUp)) == len(two.b.reports(IkeUp)) == 1


def test_several_children_follow_the_first_by_create_child_sa() -> None:
    # AU-22: and the first is refused
    two = Two(policy_a("lan", "voice", "guest"), policy_b("voice", "guest"))
    two.initiate(two.a, "lan", "voice", "guest")
    two.net.run(1)
    two.check(children=2)
    assert [r.request.child.child for r in two.a.reports(ChildRefused)] == ["lan"]


def test_lost_response_is_repeated_to_the_bit() -> None:
    # AU-25
    two = Two()
    lost: list[Datagram] = []

    def lose_first(d: Datagram) -> bool:
        if exchange(AUTH, response=True)(d) and not lost:
            lost.append(d)
            return True
        return False

    two.net.drop(lose_first)
    two.establish()
    answers = [d.data for d in two.net.sent if exchange(AUTH, response=True)(d)]
    assert len(answers) == 2 and answers[0] == answers[1]


def test_ike_sa_without_a_child_where_none_is_asked_for() -> None:
    # AU-32
    two = Two()
    handle = two.a.endpoint.initiate("b", two.path(two.a), (), two.net.now)
    two.net.run(1)
    two.check(children=0)
    two.a.endpoint.create_child(handle, two.requests(two.a, "lan")[0], two.net.now)
    two.net.run(1)
    two.check(children=1)


def test_childless_may_be_preferred() -> None:
    two = Two(policy_a(ike=ike_policy(childless="prefer")))
    two.establish()
    auth = next(e for e in two.a.events(IkeMessage) if e.exchange == "IKE_AUTH")
    assert "SA" not in auth.payloads
    two.check(children=1)


def test_initial_contact_ends_the_forgotten_ike_sa_after_the_new_one_is_up() -> None:
    # AU-27
    two = Two()
    two.establish()
    old = two.a.endpoint.views()[0].handle
    two.net.restart(two.b, policy_b())
    two.initiate(two.b)
    two.net.run(1)
    gone, up = two.a.reports(IkeGone), two.a.reports(IkeUp)
    assert [g.handle for g in gone] == [old]
    assert two.a.log.index(up[-1]) < two.a.log.index(gone[0])
    assert len(two.a.reports(ChildGone)) == 1
    two.check(children=1)


@pytest.mark.parametrize(("unique", "left"), [("replace", 1), ("keep", 2)])
def test_second_ike_sa_of_one_identity_replaces_the_first_or_not(unique: str, left: int) -> None:
    # AU-28
    two = Two(policy_a(ike=ike_policy(unique=unique)), policy_b(ike=ike_policy(unique=unique)))
    two.establish()
    two.net.run(20)
    two.initiate(two.a)
    two.net.run(20)
    assert len(two.a.established()) == len(two.b.established()) == left


def test_peer_without_address_entry_may_come_from_anywhere() -> None:
    two = Two(policy_a(), policy_b(address=None))
    two.establish()


def test_identity_types_are_compared() -> None:
    two = Two(with_peer(policy_a(), local_identity=Identity(IdType.KEY_ID, b"a.example")))
    assert refused_on_both(two)[1] == Cause.UNKNOWN_IDENTITY


def test_nothing_but_ike_auth_is_taken_before_authentication() -> None:
    # AU-20, attacks 1 and 2: correctly encrypted, in both roles
    two = Two()
    two.net.hold(sent_by(two.a, exchange(AUTH)))
    two.initiate(two.a)
    two.net.run(0.1)
    sa = next(iter(two.a.endpoint._table.sas.values()))
    for kind in (ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL, ExchangeType.IKE_INTERMEDIATE, 240):
        for data in sa._channel.seal((), exchange=kind, message_id=1, response=False, path=sa.session.path):
            two.net.inject(Datagram(Endpoint("192.0.2.1", 4500), Endpoint("203.0.113.2", 4500), data))
    responder = next(iter(two.b.endpoint._table.sas.values()))
    for kind in (ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL):
        for data in responder._channel.seal((), exchange=kind, message_id=0, response=False,
                                            path=responder.session.path):
            two.net.inject(Datagram(Endpoint("203.0.113.2", 4500), Endpoint("192.0.2.1", 4500), data))
    two.net.run(0.01)
    assert two.b.endpoint.drops[DropReason.IKE_UNEXPECTED_EXCHANGE] == 4
    assert two.a.endpoint.drops[DropReason.IKE_UNEXPECTED_EXCHANGE] == 3
    two.net.release()
    two.net.run(1)
    two.check(children=1)
