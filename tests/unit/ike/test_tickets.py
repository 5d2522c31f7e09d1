"""Tickets of RFC 5723: who gets one, and the box that makes them."""

from __future__ import annotations

import hmac
from dataclasses import replace

import pytest

from ipsecd.errors import PeerError
from ipsecd.ike.consts import KeId
from ipsecd.ike.crypto.keymat import resumed_ike_keys
from ipsecd.ike.crypto.ticket import TICKET_LIFE_S, Claims, TicketBox
from ipsecd.ike.negotiate import choose_ike, offer_ike
from ipsecd.ike.tickets import may_resume
from ipsecd.policy import AuthPolicy, CertificateTrust, NullAuth, Revocation
from ipsecd.secret import Secret
from ipsecd.suites import PRFS, IkeSuite
from tests.support.exchange import IKE, fqdn, ike_policy, policy_a
from tests.support.seeded_rng import SeededRng

CLAIMS = Claims("b", 3, fqdn("b.example"), fqdn("a.example"), offer_ike((IKE,)), Secret(b"d" * 32), 5.0, 1e9)


def opened(box: TicketBox, ticket: bytes, now: float = 0.0) -> str:
    try:
        return box.open(ticket, now).entry
    except PeerError as error:
        return error.detail


def test_ticket_opens_to_what_was_sealed() -> None:
    box = TicketBox(SeededRng(1))
    made = box.seal(CLAIMS, 0.0)
    assert replace(box.open(made, 0.0), id=b"") == CLAIMS
    assert CLAIMS.sk_d.reveal() not in made
    assert box.seal(CLAIMS, 0.0) != made


def test_ticket_outlives_one_change_of_key_and_not_two() -> None:
    box = TicketBox(SeededRng(1))
    made = box.seal(CLAIMS, 0.0)
    box.seal(CLAIMS, TICKET_LIFE_S)
    assert opened(box, made) == "b"
    box.seal(CLAIMS, 2 * TICKET_LIFE_S)
    assert "no longer have" in opened(box, made)


def test_key_ends_after_so_many_tickets() -> None:
    box = TicketBox(SeededRng(1), tickets_per_key=2)
    assert len({box.seal(CLAIMS, 0.0)[:8] for _ in range(6)}) == 3


def test_no_changed_ticket_opens() -> None:
    box = TicketBox(SeededRng(1))
    made = box.seal(CLAIMS, 0.0)
    for at in range(len(made)):
        assert opened(box, made[:at] + bytes([made[at] ^ 1]) + made[at + 1:]) != "b"
        assert opened(box, made[:at]) != "b"
    assert opened(TicketBox(SeededRng(2)), made) != "b"


def test_ticket_is_spent_once() -> None:
    box = TicketBox(SeededRng(1))
    made = box.seal(CLAIMS, 0.0)
    id_ = box.open(made, 0.0).id
    assert [box.spend(id_), box.spend(id_), box.spend(bytes(16))] == [True, False, False]
    assert "used before" in opened(box, made)


@pytest.mark.parametrize(("auth", "may"), [
    (AuthPolicy(), True), (AuthPolicy(remote=NullAuth()), False), (AuthPolicy(local=NullAuth()), False),
    *((AuthPolicy(remote=CertificateTrust((b"ca",), (b"hash",), revocation=policy)), policy is not Revocation.STRICT)
      for policy in Revocation)])
def test_ticket_stands_for_no_proof_that_is_checked_each_time(auth: AuthPolicy, *, may: bool) -> None:
    entry = replace(policy_a(ike=ike_policy(resumption=True)).peers[0], auth=auth)
    assert may_resume(entry) is may
    assert not may_resume(replace(entry, ike=ike_policy()))


def test_keys_follow_from_the_old_sk_d_and_the_nonces() -> None:
    # RFC 5723 5.1, worked out by hand for SHA-256: SK_d is the first block of prf+.
    prf = next(p for p in PRFS if p.hash_name == "sha256")
    template = choose_ike((IKE,), offer_ike((IKE,)), ke_sent=KeId.CURVE25519).suite
    suite = IkeSuite(template.encr, prf, None, template.ke)
    keys = resumed_ike_keys(suite, Secret(b"o" * 32), ni=b"i" * 32, nr=b"r" * 32, spi_i=b"1" * 8, spi_r=b"2" * 8)
    seed = hmac.digest(b"o" * 32, b"Resumption" + b"i" * 32 + b"r" * 32, "sha256")
    assert keys.sk_d.reveal() == hmac.digest(seed, b"i" * 32 + b"r" * 32 + b"1" * 8 + b"2" * 8 + b"\1", "sha256")
