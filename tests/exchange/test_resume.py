"""Session resumption (RFC 5723): an IKE SA that was lost comes back by a ticket, once, to whom it was given alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.events import IkeAttemptFailed
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.ticket import MAX_TICKET_BYTES, TICKET_LIFE_S
from ipsecd.ike.tickets import PROOF_LIFE_S
from ipsecd.ike.wire.header import FLAG_INITIATOR
from ipsecd.ike.wire.message import ClearMessage, build_clear, split
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.policy import AuthPolicy, NullAuth, Policy
from ipsecd.reports import IkeGone, IkeUp
from ipsecd.secret import Secret
from tests.support.exchange import Two, fqdn, ike, ike_policy, policy, policy_a, policy_b
from tests.support.gateways import Pair
from tests.support.sim import Datagram

RESUME, INIT, AUTH = ExchangeType.IKE_SESSION_RESUME, ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH
ON = ike_policy(dpd_s=10, dpd_timeout_s=5, resumption=True, lifetime_s=100 * 3600)


def ticketed(a: Policy | None = None, b: Policy | None = None, *, seed: object = 0) -> Two:
    """A has an IKE SA and a ticket of B's."""
    two = Two(a or policy_a(ike=ON), b or policy_b(ike=ON), seed=seed)
    two.establish()
    return two


def lose(two: Two) -> None:
    """The path is cut until both ends have given the IKE SA up."""
    two.net.drop(lambda datagram: True)
    two.net.run(60)
    assert not two.a.endpoint.views()
    assert not two.b.endpoint.views()
    two.net.heal()
    two.net.sent.clear()


def come_back(two: Two, *, resumed: bool, tried: bool = True) -> None:
    """A comes back, in full or by its ticket."""
    before = len(two.a.reports(IkeUp))
    two.initiate(two.a)
    two.net.run(5)
    assert len(two.a.reports(IkeUp)) == before + 1, two.a.log
    exchanges = [d.header.exchange for d in two.net.sent]
    assert (RESUME in exchanges) == tried
    assert (INIT in exchanges) != resumed
    two.check(children=1)


def shown(two: Two) -> Datagram:
    """Return the first request of A that had a ticket."""
    return next(d for d in two.net.sent if d.header.exchange == RESUME and not d.header.is_response)


def with_ticket(datagram: Datagram, ticket: bytes) -> Datagram:
    """Return a request with another ticket in it."""
    message = split(datagram.data)
    assert isinstance(message, ClearMessage)
    payloads = [replace(p, data=ticket) if isinstance(p, NotifyPayload) and p.type == NotifyType.TICKET_OPAQUE else p
                for p in message.payloads]
    header = message.header
    return replace(datagram, data=build_clear(spi_i=bytes(7) + b"\1", spi_r=header.spi_r, exchange=RESUME,
                                              flags=FLAG_INITIATOR, message_id=0, payloads=payloads))


def answers_to(two: Two, datagram: Datagram) -> list[int]:
    """Return the notifies in what B answers."""
    before = len(two.net.sent)
    two.net.inject(datagram)
    two.net.run(0.1)
    messages = [split(d.data) for d in two.net.sent[before:] if d.header.is_response]
    return [p.type for m in messages if isinstance(m, ClearMessage) for p in m.payloads
            if isinstance(p, NotifyPayload) and p.type in (NotifyType.TICKET_NACK, NotifyType.COOKIE)]


# Coming back

@pytest.mark.parametrize("suite", ["aes256gcm16-prfsha384-ecp256", "aes128-sha256-x25519",
                                   "aes256gcm16-prfsha256-x25519-ke1_mlkem768"])
def test_lost_ike_sa_comes_back_without_a_key_exchange(suite: str) -> None:
    entry = replace(ON, proposals=(ike(suite),))
    two = ticketed(policy_a(ike=entry), policy_b(ike=entry))
    for _ in range(3):
        lose(two)
        come_back(two, resumed=True)
        two.a.endpoint.rekey_ike(two.a.reports(IkeUp)[-1].handle, two.net.now)
        two.net.run(2)
        two.check(children=1)


def test_ticket_is_asked_for_only_where_the_entry_says_so() -> None:
    for a, b in ((False, True), (True, False)):
        two = ticketed(policy_a(ike=replace(ON, resumption=a)), policy_b(ike=replace(ON, resumption=b)))
        lose(two)
        come_back(two, resumed=False, tried=False)


def test_initiator_comes_back_under_a_cookie() -> None:
    two = ticketed(b=replace(policy_b(ike=ON), cookie_threshold=0))
    lose(two)
    come_back(two, resumed=True)
    assert find(split(two.net.sent[1].data).payloads, NotifyType.COOKIE)  # type: ignore[union-attr]


def test_loss_of_any_message_is_survived() -> None:
    for lost in range(4):
        two = ticketed(seed=lost)
        lose(two)
        count = iter(range(100))
        two.net.drop(lambda datagram: next(count) == lost)      # noqa: B023
        two.initiate(two.a)
        two.net.run(30)
        assert len(two.a.reports(IkeUp)) == 2
        two.check(children=1)


def test_path_that_returns_brings_the_tunnel_back_by_the_ticket_though_attempts_failed_meanwhile() -> None:
    pair = Pair(policy_a(ike=ON), policy_b(ike=ON, address=None))
    pair.start()
    pair.net.drop(lambda datagram: True)
    pair.net.run(200)
    assert not pair.a.established()
    pair.net.sent.clear()
    pair.net.run_until(lambda: any(d.header.exchange == RESUME for d in pair.net.sent))
    pair.net.heal()
    pair.net.sent.clear()
    pair.net.run(30)
    assert pair.sends(pair.a, "lan")
    assert INIT not in [d.header.exchange for d in pair.net.sent if d.header.is_response]


@pytest.mark.parametrize("closer", ["a", "b"])
def test_closed_ike_sa_is_not_taken_up_again(closer: str) -> None:
    two = ticketed()
    host = two.a if closer == "a" else two.b
    host.endpoint.delete_ike(host.reports(IkeUp)[0].handle, two.net.now, Cause.OPERATOR)
    two.net.run(10)
    two.net.sent.clear()
    come_back(two, resumed=False, tried=False)


def test_proof_is_asked_for_again_after_its_life_however_many_tickets_followed() -> None:
    two = ticketed()
    resumed, proved_at = 0, two.net.now
    while two.net.now - proved_at < PROOF_LIFE_S - TICKET_LIFE_S:
        two.net.run(TICKET_LIFE_S - 600)
        lose(two)
        come_back(two, resumed=True)
        resumed += 1
    assert resumed > 3
    two.net.run(proved_at + PROOF_LIFE_S - two.net.now + 10)
    lose(two)
    come_back(two, resumed=False, tried=False)


def test_nobody_gets_a_ticket() -> None:
    # RFC 7619: who has no name cannot come back as the same.
    null = AuthPolicy(local=NullAuth(), remote=NullAuth())

    def open_to_all(one: Policy) -> Policy:
        return replace(one, peers=tuple(replace(p, auth=null) for p in one.peers))

    two = ticketed(open_to_all(policy_a(ike=ON)), open_to_all(policy_b(ike=ON)))
    assert not two.a.endpoint._table.tickets._held


# Refused, and in full instead

def test_restarted_responder_knows_no_ticket() -> None:
    two = ticketed()
    two.net.restart(two.b, policy_b(ike=ON))
    two.net.run(60)
    two.net.sent.clear()
    come_back(two, resumed=False)


def test_ticket_is_too_old_after_its_life() -> None:
    two = ticketed()
    tickets = two.a.endpoint._table.tickets
    lose(two)
    held = tickets._held["b"]
    tickets._held["b"] = held._replace(claims=replace(held.claims, expires_at=1e9))
    two.net.run(TICKET_LIFE_S)
    come_back(two, resumed=False)


@pytest.mark.parametrize("change", ["psk", "proposals", "identity", "off"])
def test_ticket_is_void_after_a_reload_that_changes_the_peer(change: str) -> None:
    two = ticketed()
    lose(two)
    entry = two.b.endpoint._table.policy.peers[0]
    changed = {"psk": replace(entry, psk=Secret(b"another one")), "identity": replace(entry, remote_identity=fqdn("c")),
               "proposals": replace(entry, ike=replace(ON, proposals=(ike("aes256gcm16-prfsha512-x25519"),))),
               "off": replace(entry, ike=replace(ON, resumption=False))}[change]
    two.b.endpoint.replace_policy(policy(changed), two.net.now)
    two.initiate(two.a)
    two.net.run(5)
    assert RESUME in [d.header.exchange for d in two.net.sent]
    assert INIT in [d.header.exchange for d in two.net.sent]
    assert len(two.a.reports(IkeUp)) == (2 if change == "off" else 1)


def test_reload_between_ticket_and_auth_is_noticed() -> None:
    two = ticketed()
    lose(two)
    two.net.hold(lambda datagram: datagram.header.exchange == AUTH)
    two.initiate(two.a)
    two.net.run(0.5)
    entry = two.b.endpoint._table.policy.peers[0]
    two.b.endpoint.replace_policy(policy(replace(entry, psk=Secret(b"another one"))), two.net.now)
    two.net.release()
    two.net.run(5)
    assert len(two.a.reports(IkeUp)) == 1
    failed = two.b.events(IkeAttemptFailed)[-1].failure
    assert (failed.cause, "changed" in failed.detail) == (Cause.AUTHENTICATION_FAILED, True)


def test_reload_that_changes_the_initiators_entry_drops_its_ticket() -> None:
    two = ticketed()
    lose(two)
    entry = two.a.endpoint._table.policy.peers[0]
    two.a.endpoint.replace_policy(policy(replace(entry, ike=replace(ON, dpd_s=11))), two.net.now)
    come_back(two, resumed=False, tried=False)


def test_peer_that_does_not_answer_the_exchange_is_reached_in_full_by_the_next_attempt() -> None:
    two = ticketed()
    lose(two)
    two.net.drop(lambda datagram: datagram.header.exchange == RESUME)
    two.initiate(two.a)
    two.net.run(20)
    assert not two.a.endpoint.views()
    come_back(two, resumed=False)


# Hostile

def test_replayed_ticket_is_refused() -> None:
    two = ticketed()
    lose(two)
    come_back(two, resumed=True)
    first = shown(two)
    ticket = find(split(first.data).payloads, NotifyType.TICKET_OPAQUE)  # type: ignore[union-attr]
    assert ticket is not None
    assert answers_to(two, with_ticket(first, ticket.data)) == [NotifyType.TICKET_NACK]
    two.check(children=1)


def test_ticket_without_its_keys_brings_nothing() -> None:
    # Another peer that saw the ticket on the wire: AUTH needs SK_d, and what is half-open ends by itself.
    two = ticketed()
    lose(two)
    two.net.drop(lambda datagram: datagram.header.exchange == AUTH)
    two.initiate(two.a)
    two.net.run(1)
    stolen = shown(two)
    two.net.run(120)
    two.net.heal()
    ticket = find(split(stolen.data).payloads, NotifyType.TICKET_OPAQUE)  # type: ignore[union-attr]
    assert ticket is not None
    assert answers_to(two, with_ticket(stolen, ticket.data)) == []
    two.net.run(60)
    assert not two.b.endpoint.views()
    assert len(two.b.reports(IkeUp)) == 1


def test_ticket_of_another_identity_is_refused() -> None:
    two = ticketed()
    lose(two)
    tickets = two.a.endpoint._table.tickets
    held = tickets._held["b"]
    entry = replace(held.entry, local_identity=fqdn("c.example"))
    tickets._held["b"] = held._replace(claims=replace(held.claims, local=fqdn("c.example")), entry=entry)
    two.a.endpoint._table.policy = policy(entry)
    b = two.b.endpoint._table.policy.peers[0]
    two.b.endpoint.replace_policy(policy(b, replace(b, name="c", remote_identity=fqdn("c.example"))), two.net.now)
    two.initiate(two.a)
    two.net.run(5)
    assert RESUME in [d.header.exchange for d in two.net.sent]
    assert len(two.b.reports(IkeUp)) == 1
    assert two.b.events(IkeAttemptFailed)[-1].failure.cause == Cause.AUTHENTICATION_FAILED


@pytest.mark.parametrize("ticket", [b"\1", bytes(16), bytes(200), bytes(MAX_TICKET_BYTES + 1), b"flip", b"cut"])
def test_ticket_that_is_none_of_ours_is_refused_without_state(ticket: bytes) -> None:
    two = ticketed()
    lose(two)
    come_back(two, resumed=True)
    request = shown(two)
    held = two.a.endpoint._table.tickets._held["b"].ticket
    ticket = {b"flip": held[:-1] + bytes([held[-1] ^ 1]), b"cut": held[:-1]}.get(ticket, ticket)
    assert answers_to(two, with_ticket(request, ticket)) == [NotifyType.TICKET_NACK]
    assert two.b.endpoint.half_open == 0
    assert len(two.b.reports(IkeGone)) == 1


def test_ticket_from_an_address_of_another_entry_is_refused() -> None:
    two = ticketed(b=policy(*policy_b(ike=ON).peers,
                            replace(policy_b(ike=ON, address="192.0.2.9").peers[0], name="c",
                                    remote_identity=fqdn("c.example"))))
    lose(two)
    come_back(two, resumed=True)
    held = two.a.endpoint._table.tickets._held["b"].ticket
    moved = with_ticket(shown(two), held)
    moved = replace(moved, source=moved.source._replace(address="192.0.2.9"))
    assert answers_to(two, moved) == [NotifyType.TICKET_NACK]


def test_oversized_ticket_is_not_kept() -> None:
    two = ticketed()
    session = next(iter(two.a.endpoint._table.sas.values())).session
    tickets = two.a.endpoint._table.tickets
    held = tickets._held.pop("b")
    for opaque in (b"", bytes(MAX_TICKET_BYTES + 1)):
        tickets.keep(session, opaque, 3600, two.net.now)
        assert not tickets._held
    tickets.keep(session, held.ticket, 2**32 - 1, two.net.now)
    assert tickets._held["b"].claims.expires_at <= two.net.now + TICKET_LIFE_S


