"""Additional key exchanges before IKE_AUTH (RFC 9242, RFC 9370 2.2.2), and what becomes of them with other peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.events import IkeAttemptFailed, LocalFault
from ipsecd.ike.consts import ExchangeType, KeId, NotifyType
from ipsecd.ike.wire.message import ClearMessage, build_clear, split
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import KePayload
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.policy import IkePolicy
from ipsecd.reports import IkeUp
from ipsecd.suites import DEFAULT_IKE_PROPOSALS, Proposal
from tests.exchange.test_auth_cert import GW_A, GW_B, by_certificate
from tests.exchange.test_message_layer import say
from tests.support.exchange import Two, ike, ike_policy, policy_a, policy_b
from tests.support.sim import Datagram, exchange, sent_by

INTERMEDIATE = ExchangeType.IKE_INTERMEDIATE
HYBRID = ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768")
TWICE = ike("aes256-sha256-x25519-ke1_mlkem768-ke3_mlkem1024")
CLASSICAL = ike("aes256gcm16-prfsha384-x25519")
BOTH = (HYBRID, CLASSICAL)
DEFAULT = tuple(map(ike, DEFAULT_IKE_PROPOSALS))


def pair(a: tuple[Proposal, ...], b: tuple[Proposal, ...], seed: object = 0, **changes: object) -> Two:
    def made(proposals: tuple[Proposal, ...]) -> IkePolicy:
        return ike_policy(proposals=proposals, **changes)
    return Two(policy_a(ike=made(a)), policy_b(ike=made(b)), seed=seed)


def suites(two: Two) -> set[str]:
    return {view.suite for host in (two.a, two.b) for view in host.endpoint.views()}


@pytest.mark.parametrize(("ours", "suite", "exchanges"), [
    (DEFAULT, "aes256gcm16-prfsha384-x25519-ke1_mlkem768", 1), (BOTH, str(HYBRID), 1),
    ((TWICE,), "aes256-sha256-prfsha256-x25519-ke1_mlkem768-ke3_mlkem1024", 2),
    ((ike("aes256gcm16-prfsha384-ecp256-ke1_x25519-ke7_mlkem1024"),),
     "aes256gcm16-prfsha384-ecp256-ke1_x25519-ke7_mlkem1024", 2)])
def test_hybrid_ike_sa_comes_up_and_names_its_key_exchanges(ours: tuple[Proposal, ...], suite: str,
                                                            exchanges: int) -> None:
    # IKE_SA_INIT { SA, KE, Ni, N(INTERMEDIATE_EXCHANGE_SUPPORTED) } -->
    # <-- IKE_SA_INIT { SA, KE, Nr, N(INTERMEDIATE_EXCHANGE_SUPPORTED) }
    # IKE_INTERMEDIATE { KEi(1) } -->        in two fragments
    # <-- IKE_INTERMEDIATE { KEr(1) }
    # IKE_AUTH { IDi, AUTH, SA, TSi, TSr } -->
    two = pair(ours, ours)
    two.establish()
    assert suites(two) == {suite}
    numbers = {d.header.message_id for d in two.net.sent if d.header.exchange == INTERMEDIATE}
    assert numbers == set(range(1, 1 + exchanges))
    assert all(len(d.data) <= 1280 - 28 for d in two.net.sent)
    one, other = (host.endpoint._table.current[1].session.crypto.keys for host in (two.a, two.b))
    assert one == other


def test_hybrid_ike_sa_comes_up_without_fragmentation_and_with_certificates() -> None:
    two = pair(BOTH, BOTH, fragment_bytes=0)
    two.establish()
    assert len([d for d in two.net.sent if d.header.exchange == INTERMEDIATE]) == 2
    a, b = policy_a(ike=ike_policy(proposals=BOTH)), policy_b(ike=ike_policy(proposals=BOTH))
    signed = Two(replace(a, peers=(replace(a.peers[0], auth=by_certificate(GW_A)),)),
                 replace(b, peers=(replace(b.peers[0], auth=by_certificate(GW_B)),)))
    signed.establish()


@pytest.mark.parametrize(("a", "b"), [(DEFAULT, (CLASSICAL,)), ((CLASSICAL,), DEFAULT)])
def test_classical_peer_costs_no_further_round_trip(a: tuple[Proposal, ...], b: tuple[Proposal, ...]) -> None:
    two = pair(a, b)
    two.establish()
    assert suites(two) == {str(CLASSICAL)}
    assert len(two.net.sent) == 4


@pytest.mark.parametrize("initiator", ["a", "b"])
def test_peer_without_post_quantum_is_refused_where_demanded(initiator: str) -> None:
    two = pair((HYBRID,), (CLASSICAL,))
    two.initiate(two.a if initiator == "a" else two.b)
    two.net.run(20)
    assert not two.a.reports(IkeUp)
    failure = two.a.last_event(IkeAttemptFailed).failure
    assert failure.cause is Cause.POST_QUANTUM
    assert "post_quantum" in failure.hint


def test_peer_without_intermediate_exchange_is_refused_where_post_quantum_is_demanded() -> None:
    two = pair((HYBRID,), BOTH)
    two.net.rewrite(edited(two, without_notify, "b"))
    two.initiate(two.b)
    two.net.run(20)
    assert not two.a.reports(IkeUp)
    assert two.a.last_event(IkeAttemptFailed).failure.detail == "peer does not support IKE_INTERMEDIATE"


Edit = Callable[[ClearMessage], tuple[object, ...]]


def edited(two: Two, edit: Edit, host: str = "a") -> Callable[[Datagram], Datagram]:
    """Return a man in the middle who changes what a host says in IKE_SA_INIT."""
    def change(datagram: Datagram) -> Datagram:
        message = split(datagram.data)
        sender = two.a if host == "a" else two.b
        if not isinstance(message, ClearMessage) or datagram.source.address != sender.address:
            return datagram
        header = message.header
        return replace(datagram, data=build_clear(
            spi_i=header.spi_i, spi_r=header.spi_r, exchange=header.exchange, flags=header.flags, message_id=0,
            payloads=edit(message)))  # type: ignore[arg-type]
    return change


def without_notify(message: ClearMessage) -> tuple[object, ...]:
    return tuple(p for p in message.payloads
                 if not (isinstance(p, NotifyPayload) and p.type == NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED))


def without_hybrid(message: ClearMessage) -> tuple[object, ...]:
    return tuple(SaPayload(tuple(replace(w, number=n) for n, w in enumerate(
        [w for w in p.proposals if all(t.type < 6 for t in w.transforms)], 1))) if isinstance(p, SaPayload) else p
        for p in message.payloads)


@pytest.mark.parametrize("edit", [without_notify, without_hybrid])
def test_stripping_the_hybrid_offer_fails_authentication(edit: Edit) -> None:
    two = pair(BOTH, BOTH)
    two.net.rewrite(edited(two, edit))
    two.initiate(two.a)
    two.net.run(60)
    assert not two.a.reports(IkeUp)
    assert not two.b.reports(IkeUp)
    if edit is without_notify:      # the proposal numbers still fit, so the attack shows only in AUTH
        causes = [e.failure.cause for e in two.b.events(IkeAttemptFailed)]
        assert causes == [Cause.AUTHENTICATION_FAILED]


@pytest.mark.parametrize("seed", range(6))
def test_hybrid_ike_sa_comes_up_under_loss_duplication_and_reordering(seed: int) -> None:
    two = pair((TWICE,), (TWICE,), seed)
    two.net.loss, two.net.duplicate, two.net.reorder_s = 0.15, 0.2, 0.05
    for _ in range(4):
        if not (two.a.reports(IkeUp) and two.b.reports(IkeUp)):
            two.initiate(two.a)
            two.net.run(60)
    assert two.a.reports(IkeUp)
    assert two.b.reports(IkeUp)
    assert not two.a.events(LocalFault)
    assert not two.b.events(LocalFault)


def half_open(proposals: tuple[Proposal, ...] = (HYBRID,)) -> Two:
    """Return two gateways of which B waits for IKE_INTERMEDIATE and A says nothing by itself."""
    two = pair(proposals, proposals)
    two.net.drop(sent_by(two.a, exchange(INTERMEDIATE, response=False)))
    two.initiate(two.a)
    two.net.run(0.2)
    return two


def tell(two: Two, *payloads: KePayload, kind: int = INTERMEDIATE, message_id: int = 1) -> list[Datagram]:
    """Have A say something of its own under the keys of IKE_SA_INIT; return B's answers."""
    two.net.heal()
    a = next(iter(two.a.endpoint._table.sas.values()))
    a.session.peer = replace(a.session.peer, ike=replace(a.session.peer.ike, fragment_bytes=0))
    before = len(two.net.sent)
    two.net.inject(say_half_open(two, payloads, kind, message_id))
    two.net.drop(sent_by(two.a))
    two.net.run(0.3)
    return [d for d in two.net.sent[before:] if d.source.address == two.b.address]


def say_half_open(two: Two, payloads: tuple[KePayload, ...], kind: int, message_id: int) -> Datagram:
    sa = next(iter(two.a.endpoint._table.sas.values()))
    path = sa.session.path
    data = sa._channel.seal(payloads, exchange=kind, message_id=message_id, response=False, path=path)[0]
    return Datagram(path.local, path.remote, data)


@pytest.mark.parametrize("ke", [
    KePayload(KeId.ML_KEM_768, b""), KePayload(KeId.ML_KEM_768, bytes(1183)), KePayload(KeId.ML_KEM_768, bytes(1568)),
    KePayload(KeId.ML_KEM_768, b"\xff" * 1184), KePayload(KeId.ML_KEM_1024, bytes(1568)),
    KePayload(KeId.CURVE25519, bytes(32))],
    ids=["empty", "short", "long", "out of range", "other set", "other group"])
def test_key_exchange_that_does_not_fit_ends_the_attempt(ke: KePayload) -> None:
    two = half_open()
    assert len(tell(two, ke)) == 1
    assert two.b.last_event(IkeAttemptFailed).failure.cause is Cause.INVALID_SYNTAX
    assert not two.b.events(LocalFault)
    two.net.run(60)
    assert two.b.endpoint.half_open == 0


def test_missing_key_exchange_ends_the_attempt() -> None:
    two = half_open()
    assert len(tell(two)) == 1
    assert not two.b.events(LocalFault)
    two.net.run(60)
    assert two.b.endpoint.half_open == 0


@pytest.mark.parametrize(("kind", "number", "reason"), [
    (ExchangeType.IKE_AUTH, 1, DropReason.IKE_UNEXPECTED_EXCHANGE),             # before the exchange that is due
    (INTERMEDIATE, 2, DropReason.IKE_BUSY), (INTERMEDIATE, 9, DropReason.IKE_MESSAGE_ID)])
def test_message_out_of_order_is_dropped_unopened(kind: int, number: int, reason: DropReason) -> None:
    two = half_open()
    assert not tell(two, KePayload(KeId.ML_KEM_768, bytes(1184)), kind=kind, message_id=number)
    assert two.b.endpoint.drops[reason] == 1


def test_exchange_more_than_negotiated_is_dropped_unopened() -> None:
    two = pair((HYBRID,), (HYBRID,))
    two.net.drop(sent_by(two.a, exchange(ExchangeType.IKE_AUTH, response=False)))
    two.initiate(two.a)
    two.net.run(0.3)
    assert two.b.endpoint.half_open == 1
    assert not tell(two, KePayload(KeId.ML_KEM_768, bytes(1184)), message_id=2)
    assert two.b.endpoint.drops[DropReason.IKE_UNEXPECTED_EXCHANGE] == 1


def test_repeated_request_is_answered_again_without_another_key_exchange() -> None:
    two = pair((HYBRID,), (HYBRID,))
    two.net.drop(sent_by(two.b, exchange(INTERMEDIATE, response=True)))
    two.initiate(two.a)
    two.net.run(4)
    answers = [d.data for d in two.net.sent if d.source.address == two.b.address
               and d.header.exchange == INTERMEDIATE]
    assert len(answers) > len(set(answers)) == 1
    two.net.heal()
    two.net.run(20)
    assert two.b.reports(IkeUp)


def test_exchange_after_auth_is_refused_and_changes_nothing() -> None:
    two = pair((HYBRID,), (HYBRID,))
    two.establish()
    keys = two.b.endpoint._table.current[1].session.crypto.keys
    two.net.inject(say(two, two.a, (KePayload(KeId.CURVE25519, bytes(32)),), kind=INTERMEDIATE))
    two.net.run(0.5)
    assert two.b.endpoint._table.current[1].session.crypto.keys == keys
    assert two.b.established()
