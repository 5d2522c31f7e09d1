"""A peer that is authenticated and hostile: its answers to what the victim asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ipsecd.ike.consts import NotifyType, PayloadType, ProtocolId
from ipsecd.ike.crypto.kex import generate
from ipsecd.ike.negotiate import offer_ike
from ipsecd.ike.tasks.pick import first
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import DeletePayload, KePayload, NoncePayload
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.selectors import from_prefix
from tests.hostile.keyed_world import OWN, World, answer_until_silent
from tests.support.exchange import IKE
from tests.support.mallory import Payloads, child_payloads


@pytest.fixture
def world() -> World:
    return World()


def stray_transform(answer: Payloads) -> Payloads:
    sa = first(answer, SaPayload)
    assert sa is not None
    proposal = sa.proposals[0]
    changed = replace(proposal.transforms[0], id=12)
    return (SaPayload((replace(proposal, transforms=(changed, *proposal.transforms[1:])),)), *answer[1:])


def other_selectors(*prefixes: str) -> Callable[[Payloads], Payloads]:
    def change(answer: Payloads) -> Payloads:
        wide = TsPayload(PayloadType.TSR, tuple(map(from_prefix, prefixes)))
        return tuple(wide if isinstance(p, TsPayload) and p.payload_type == PayloadType.TSR else p for p in answer)
    return change


def other_spi(spi: bytes) -> Callable[[Payloads], Payloads]:
    def change(answer: Payloads) -> Payloads:
        sa = first(answer, SaPayload)
        assert sa is not None
        return (SaPayload((replace(sa.proposals[0], spi=spi),)), *answer[1:])
    return change
ANSWERS: dict[str, Callable[[Payloads], Payloads]] = {
    "a foreign transform": stray_transform,
    "two proposals": lambda a: (SaPayload((first(a, SaPayload).proposals[0],      # type: ignore[union-attr]
                                           replace(first(a, SaPayload).proposals[0], number=2))), *a[1:]),  # type: ignore[union-attr]
    "wider selectors": other_selectors("10.0.0.0/8"),
    "selectors of others": other_selectors("10.77.0.0/16"),
    "selectors of the other family": other_selectors("2001:db8::/32"),
    "selectors and more": other_selectors("10.4.0.0/16", "10.5.0.0/16"),
    "SPI 0": other_spi(bytes(4)),
    "a reserved SPI": other_spi(b"\0\0\0\xff"),
    "a long SPI": other_spi(bytes(range(8))),
    "no SA": lambda a: a[1:],
    "no nonce": lambda a: a[:-1],
    "no selectors": lambda a: tuple(p for p in a if not isinstance(p, TsPayload)),
    "a short nonce": lambda a: (*a[:-1], NoncePayload(b"n" * 15)),
    "KE that was not asked for": lambda a: (*a, KePayload(19, generate(19).public)),
    "nothing": lambda _: (),
    "a status alone": lambda _: (NotifyPayload(NotifyType.INITIAL_CONTACT),),
    "a delete": lambda _: (DeletePayload(ProtocolId.ESP, (OWN,)),),
    "an IKE SA": lambda _: (offer_ike((IKE,), spi=b"s" * 8), NoncePayload(b"n" * 32),
                            KePayload(31, generate(31).public)),
    "an error and all the rest": lambda a: (*a, NotifyPayload(NotifyType.NO_ADDITIONAL_SAS)),
    "a group that is not ours": lambda _: (NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, b"\0\2"),),
    "a group of three bytes": lambda _: (NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, b"\0\0\x13"),),
}


@pytest.mark.parametrize("kind", ["create", "rekey"])
@pytest.mark.parametrize("name", ANSWERS)
def test_answer_outside_the_offer_makes_no_pair(world: World, kind: str, name: str) -> None:
    # Rows 54, 55; TS-04, IN-40, CC-12: the pair is refused, or the IKE SA ends; no fault of ours.
    before = set(world.own_children())
    (old,) = before
    header, asked = world.ask_victim(
        (lambda: world.victim.endpoint.create_child(world.handle, world.voice(), world.victim.now))
        if kind == "create" else (lambda: world.victim.endpoint.rekey_child(old, world.victim.now)))
    world.mallory.respond(header, *ANSWERS[name](world.mallory.child_answer(asked)))     # type: ignore[arg-type]
    if name not in ("an error and all the rest", "KE that was not asked for"):     # these answer what was asked
        assert world.own_children() <= before
    answer_until_silent(world)
    world.check()
    world.victim.wait(20)
    answer_until_silent(world)
    world.check()


@pytest.mark.parametrize("name", [*ANSWERS, "a child"])
def test_wrong_answer_to_an_ike_rekey_keeps_the_ike_sa_or_ends_it(world: World, name: str) -> None:
    # IR-22, IN-40: the same answers to a request for an IKE SA.
    header, _ = world.ask_victim(lambda: world.victim.endpoint.rekey_ike(world.handle, world.victim.now))
    honest = (offer_ike((IKE,), spi=b"s" * 8), NoncePayload(b"n" * 32), KePayload(31, generate(31).public))
    answer = child_payloads() if name == "a child" else ANSWERS[name](honest)
    world.mallory.respond(header, *answer)                                   # type: ignore[arg-type]
    answer_until_silent(world)
    world.check()
    assert len([v for v in world.victim.endpoint.views() if v.peer == "b"]) <= 3


@pytest.mark.parametrize(("number", "exchange"), [(-1, None), (1, None), (1000, None), (0, 35), (0, 37), (0, 34),
                                                  (0, 99)])
def test_response_of_another_id_or_exchange_is_dropped(world: World, number: int, exchange: int | None) -> None:
    # ML-03: the genuine response afterwards still counts.
    header, asked = world.ask_victim(
        lambda: world.victim.endpoint.create_child(world.handle, world.voice(), world.victim.now))
    good = world.mallory.child_answer(asked)
    world.mallory.respond(header, *good, message_id=max(header.message_id + number, 0) + (number == -1) * 7,  # type: ignore[attr-defined]
                          exchange=exchange)                                 # type: ignore[arg-type]
    assert len(world.own_children()) == 1
    world.mallory.respond(header, *good)                                     # type: ignore[arg-type]
    assert len(world.own_children()) == 2
    world.mallory.respond(header, *good)                                     # type: ignore[arg-type]
    assert len(world.own_children()) == 2
    world.check()
