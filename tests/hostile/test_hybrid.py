"""What IKE_INTERMEDIATE gives to whoever is not authenticated (RFC 9242, RFC 9370): one key exchange that was agreed
on, once, for as long as a half-open IKE SA lives, and no memory to speak of.
"""

from __future__ import annotations

import tracemalloc

import pytest

from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.events import IkeAttemptFailed
from ipsecd.ike.consts import ExchangeType, KeId, PayloadType
from ipsecd.ike.crypto import kex
from ipsecd.ike.wire.message import Payload, build_payloads
from ipsecd.ike.wire.payloads import KePayload, VendorPayload
from tests.support.exchange import IKE, ike, ike_policy, policy_a, policy_b
from tests.support.mallory import Mallory
from tests.support.victim import Victim

INTERMEDIATE = ExchangeType.IKE_INTERMEDIATE
HYBRID = ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768")
KE = KePayload(KeId.ML_KEM_768, kex.generate(KeId.ML_KEM_768).public)
FRAGMENT_BYTES = 1100


def victim() -> Victim:
    return Victim(policy_a(ike=ike_policy(proposals=(HYBRID, IKE))))


def fragments(mallory: Mallory, payloads: tuple[Payload, ...], *, message_id: int = 1) -> list[bytes]:
    """Return a request in fragments (RFC 7383 2.5)."""
    first, body = build_payloads(payloads)
    pieces = [body[at:at + FRAGMENT_BYTES] for at in range(0, len(body), FRAGMENT_BYTES)]
    return [mallory.seal(first if number == 1 else 0, piece, exchange=INTERMEDIATE, message_id=message_id,
                         outer=PayloadType.SKF, fragment=bytes([0, number, 0, len(pieces)]))
            for number, piece in enumerate(pieces, 1)]


def whole(mallory: Mallory, *payloads: Payload, message_id: int = 1, response: bool = False) -> bytes:
    first, body = build_payloads(payloads)
    return mallory.seal(first, body, exchange=INTERMEDIATE, message_id=message_id, response=response)


def test_key_exchange_is_done_for_the_request_that_is_due_and_once() -> None:
    target = victim()
    mallory = Mallory(target, offer=HYBRID)
    assert mallory.init()
    assert target.jobs == 1
    for unasked in (whole(mallory, KE, message_id=2), whole(mallory, KE, message_id=0),
                    whole(mallory, KE, response=True), whole(mallory, KE)[:-1] + b"\0"):
        assert mallory.send(unasked) == []
    assert target.jobs == 1
    pieces = fragments(mallory, (KE,))
    assert len(pieces) == 2
    assert mallory.send(pieces[1]) == []
    answer = mallory.send(pieces[0])
    assert target.jobs == 2
    # A repetition is answered with the same bytes; another request of this number, or under these keys, not at all.
    assert mallory.send(pieces[0]) in ([], answer)
    assert mallory.send(whole(mallory, KE, VendorPayload(b"another"))) == []
    assert mallory.send(whole(mallory, KE, message_id=2)) == []
    assert target.jobs == 2
    target.wait(31)
    assert target.endpoint.half_open == 0
    target.check()


def test_classical_half_open_ike_sa_takes_no_additional_key_exchange() -> None:
    target = victim()
    mallory = Mallory(target, offer=IKE)
    assert mallory.init()
    for datagram in (whole(mallory, KE), *fragments(mallory, (KE,))):
        assert mallory.send(datagram) == []
    assert target.jobs == 1
    assert target.dropped[DropReason.IKE_UNEXPECTED_EXCHANGE] == 3
    assert mallory.request(ExchangeType.IKE_AUTH, *mallory.auth_payloads()) is not None
    assert target.established() == ["b"]
    target.check()


@pytest.mark.parametrize("payloads", [
    (KePayload(KeId.ML_KEM_768, bytes(60_000)),), (KE, VendorPayload(bytes(60_000))),
    (KE, *(VendorPayload(b"") for _ in range(70)))], ids=["long key", "filled up", "many payloads"])
@pytest.mark.parametrize("form", ["whole", "fragments"])
def test_oversized_request_costs_no_key_exchange_or_one(payloads: tuple[Payload, ...], form: str) -> None:
    target = victim()
    mallory = Mallory(target, offer=HYBRID)
    assert mallory.init()
    for datagram in [whole(mallory, *payloads)] if form == "whole" else fragments(mallory, payloads):
        assert sum(map(len, mallory.send(datagram))) <= 1400
    fits = payloads[0] is KE and len(payloads) == 2          # what nobody asked for is passed over (RFC 7296 2.5)
    assert target.jobs == (2 if fits else 1)
    if not fits:
        failed = target.events(IkeAttemptFailed)
        assert [e.failure.cause for e in failed] == [Cause.INVALID_SYNTAX]      # type: ignore[attr-defined]
    target.wait(31)
    assert target.endpoint.half_open == 0
    target.check()


def test_fragments_beyond_the_limit_of_a_message_are_given_up() -> None:
    target = victim()
    mallory = Mallory(target, offer=HYBRID)
    assert mallory.init()
    for number in range(1, 65):
        mallory.send(mallory.seal(PayloadType.VENDOR if number == 1 else 0, bytes(1400), exchange=INTERMEDIATE,
                                  message_id=1, outer=PayloadType.SKF, fragment=bytes([0, number, 0, 64])))
    assert target.jobs == 1
    assert target.dropped[DropReason.IKE_FRAGMENT] >= 1
    assert target.endpoint.half_open == 1
    target.check()


@pytest.mark.parametrize("stop", ["init", "intermediate", "bad key"])
def test_half_open_hybrid_ike_sas_are_bounded_in_number_work_and_memory(stop: str) -> None:
    target = Victim(policy_b(address=None, ike=ike_policy(proposals=(HYBRID, IKE))), keep_log=False)
    tracemalloc.start()
    before, held = tracemalloc.get_traced_memory()[0], 0
    for number in range(100):
        mallory = Mallory(target, seed=number, address=f"198.51.{number // 250}.{number % 250 + 1}", offer=HYBRID)
        if not mallory.init():
            continue
        held += 1
        if stop != "init":
            ke = KE if stop == "intermediate" else KePayload(KeId.ML_KEM_768, b"\xff" * 1184)
            mallory.send(whole(mallory, ke))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0 < target.endpoint.half_open <= 512
    assert target.jobs <= held * (1 if stop == "init" else 2)
    assert grown < 300_000 + 24_000 * target.endpoint.half_open, f"{grown / target.endpoint.half_open:.0f} bytes each"
    target.check()
    target.wait(31)
    assert target.endpoint.half_open == 0
    target.check()
