"""A peer that is authenticated and hostile: nothing but its own SAs may change, and those within limits."""

from __future__ import annotations

import pytest

from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.events import IkeSaDown
from ipsecd.ike.consts import NotifyType, PayloadType, ProtocolId
from ipsecd.ike.crypto.kex import generate
from ipsecd.ike.crypto.modp_primes import PRIMES
from ipsecd.ike.negotiate import offer_esp, offer_ike
from ipsecd.ike.sa_table import MAX_REPLACED
from ipsecd.ike.session import MAX_CHILDREN
from ipsecd.ike.tasks.pick import first
from ipsecd.ike.uniqueness import MAX_KEPT
from ipsecd.ike.wire.message import Payload, build_payloads
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import DeletePayload, KePayload, NoncePayload
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.policy import EsnPolicy, Pfs
from ipsecd.sa import Endpoint, Path
from tests.hostile.keyed_world import CHILD, FOREIGN, GROUPS, INFO, OWN, World, answer_until_silent
from tests.support.exchange import IKE
from tests.support.mallory import Mallory, child_payloads, rekey_notify


@pytest.fixture
def world() -> World:
    return World()


# Requests

ABUSES: dict[str, tuple[int, tuple[Payload, ...]]] = {
    "delete another peer's pair": (INFO, (DeletePayload(ProtocolId.ESP, (FOREIGN, b"\0\0\0\0", b"\xff\xff\xff\xff")),)),
    "delete AH": (INFO, (DeletePayload(ProtocolId.AH, (OWN, FOREIGN)),)),
    "rekey another peer's pair": (CHILD, (rekey_notify(FOREIGN), *child_payloads())),
    "rekey an unknown pair": (CHILD, (rekey_notify(b"\xde\xad\xbe\xef"), *child_payloads())),
    "contact, late": (INFO, (NotifyPayload(NotifyType.INITIAL_CONTACT),)),
    "networks of another peer": (CHILD, child_payloads(local="10.77.0.0/16")),
    "networks of nobody": (CHILD, child_payloads(local="192.168.0.0/16")),
    "remote networks of others": (CHILD, child_payloads(remote="10.99.0.0/16")),
    "an IKE SA without KE": (CHILD, (offer_ike((IKE,), spi=b"s" * 8), NoncePayload(b"n" * 32))),
    "an IKE SA with SPI 0": (CHILD, (offer_ike((IKE,), spi=bytes(8)), NoncePayload(b"n" * 32),
                                     KePayload(31, generate(31).public))),
    "an IKE SA with a short SPI": (CHILD, (offer_ike((IKE,), spi=b"s" * 4), NoncePayload(b"n" * 32),
                                           KePayload(31, generate(31).public))),
    "a child with SPI 0": (CHILD, child_payloads(spi=0)),
    "a child with a reserved SPI": (CHILD, child_payloads(spi=255)),
    "twenty notifies": (INFO, tuple(NotifyPayload(40000 + n, b"x" * 4000) for n in range(5))),
    "too many notifies": (INFO, tuple(NotifyPayload(40000 + n) for n in range(21))),
    "error notifies": (INFO, tuple(NotifyPayload(n) for n in range(1, 21) if n != NotifyType.AUTHENTICATION_FAILED)),
    "a nonce of 15": (CHILD, child_payloads(ni=b"n" * 15)),
    "a nonce of 257": (CHILD, child_payloads(ni=b"n" * 257)),
    "a nonce of 256": (CHILD, child_payloads(ni=b"n" * 256)),
    "two SA payloads": (CHILD, (*child_payloads(), child_payloads()[0])),
    "no TSr": (CHILD, tuple(p for p in child_payloads() if getattr(p, "payload_type", 0) != PayloadType.TSR)),
    "delete twice and with a notify": (INFO, (DeletePayload(ProtocolId.ESP, (OWN, OWN)),
                                              DeletePayload(ProtocolId.ESP, (OWN, FOREIGN)),
                                              NotifyPayload(NotifyType.CHILD_SA_NOT_FOUND, b"", 3, OWN),
                                              NotifyPayload(NotifyType.INVALID_SELECTORS, bytes(64), 3, OWN))),
    "delete the IKE SA and the child": (INFO, (DeletePayload(ProtocolId.ESP, (OWN,)), DeletePayload(ProtocolId.IKE),
                                               DeletePayload(ProtocolId.ESP, (OWN,)))),
}


@pytest.mark.parametrize("abuse", ABUSES)
def test_request_touches_nothing_but_the_peers_own_sas(world: World, abuse: str) -> None:
    # Rows 23, 47, 55, 56, 57, 77; CR-14, DL-08, DL-10, IR-22, TS-08, AU-27, CC-12.
    exchange, payloads = ABUSES[abuse]
    for _ in range(3):
        world.login()
        world.mallory.request(exchange, *payloads)
        world.check()
    assert len(world.own_children()) <= 4
    world.victim.wait(100)
    world.check()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 255])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 8, 255])
def test_rekey_notify_of_odd_protocol_and_spi_is_refused(world: World, protocol: int, size: int) -> None:
    # Row 56 (CVE-2023-38710), CR-14: nothing of it is copied into an answer.
    spi = (OWN * 64)[:size]
    before = world.own_children()
    answer = world.mallory.request(CHILD, rekey_notify(spi, protocol), *child_payloads())
    assert answer is not None
    if (protocol, size) == (3, 4):
        assert first(answer, SaPayload) is not None
    else:
        assert first(answer, SaPayload) is None
        assert world.own_children() <= before
    world.check()


@pytest.mark.parametrize("exchange", [0, 33, 34, 35, 38, 39, 40, 43, 45, 240, 255])
def test_other_exchange_types_neither_change_nor_end_the_ike_sa(world: World, exchange: int) -> None:
    # ML-19, row 2.
    world.mallory.request(exchange, *child_payloads(), message_id=2)
    world.mallory.request(exchange, message_id=3)
    assert "b" in world.victim.established()
    world.check()


def test_message_ids_outside_the_window_are_dropped(world: World) -> None:
    # Row 77, ML-01 to ML-03, IR: far ahead, behind, as a response, and each twice.
    first_spis = set(world.own_children())
    for message_id in (0, 1, 6, 7, 1000, 2**31, 2**32 - 1):
        for _ in range(2):
            assert world.mallory.request(CHILD, *child_payloads(), message_id=message_id) is None
    type_, body = build_payloads(child_payloads())
    for message_id in range(8):
        for exchange in (CHILD, INFO, 35):
            assert not world.mallory.send(world.mallory.seal(type_, body, exchange=exchange, message_id=message_id,
                                                             response=True))
    assert world.own_children() == first_spis
    for message_id in (5, 4, 3, 2):         # out of order inside the window: each is taken once
        assert world.mallory.request(INFO, message_id=message_id) == ()
    world.check()


def test_replayed_requests_are_answered_within_a_rate(world: World) -> None:
    # G9, rows 70, 74: a stored answer, again and again, to an address that the replayer chose.
    request = world.mallory.seal(0, b"", exchange=INFO, message_id=2)
    world.victim.feed(request, world.mallory.path)
    elsewhere = Path(world.mallory.path.local, Endpoint("203.0.113.250", 1))
    answers = sum(len(world.victim.feed(request, elsewhere)) for _ in range(1000))
    assert answers <= 20
    assert world.victim.dropped[DropReason.IKE_RATE_LIMIT] >= 980
    world.victim.wait(1)
    assert len(world.victim.feed(request, world.mallory.path)) == 1, "the genuine repetition is answered"
    world.check()


BAD_VALUES = {
    "x25519 zero": (31, bytes(32)), "x25519 one": (31, b"\1" + bytes(31)), "x25519 short": (31, bytes(31)),
    "x25519 p": (31, (2**255 - 19).to_bytes(32, "little")), "x25519 p+1": (31, (2**255 - 18).to_bytes(32, "little")),
    "x25519 empty": (31, b""), "x25519 long": (31, bytes(64)),
    "ecp256 zero": (19, bytes(64)), "ecp256 off the curve": (19, b"\1" * 64), "ecp256 ones": (19, b"\xff" * 64),
    "ecp256 compressed": (19, b"\2" + b"\1" * 32), "ecp256 prefixed": (19, b"\4" + generate(19).public),
    "modp zero": (14, bytes(256)), "modp one": (14, (1).to_bytes(256, "big")),
    "modp p-1": (14, (PRIMES[14] - 1).to_bytes(256, "big")), "modp p": (14, PRIMES[14].to_bytes(256, "big")),
    "modp short": (14, b"\2"), "modp ones": (14, b"\xff" * 256),
    "internal": (1025, b"x" * 32), "none": (0, b""), "legacy": (2, b"\2" * 128), "65535": (65535, b"x"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_public_value_is_refused_and_the_ike_sa_stays(world: World, name: str) -> None:
    # Rows 39, 40, 41, 44, IN-35: in requests for a child and for an IKE SA.
    method, value = BAD_VALUES[name]
    before = set(world.own_children())
    esp_sa = offer_esp((GROUPS,), spi=b"\xc0\0\0\x09", with_ke=True, pfs=Pfs.REQUIRED, esn=EsnPolicy.AUTO)
    _, ts_i, ts_r, nonce = child_payloads()
    for payloads in ((esp_sa, nonce, KePayload(method, value), ts_i, ts_r),
                     (offer_ike((IKE,), spi=b"s" * 8), nonce, KePayload(method, value))):
        answer = world.mallory.request(CHILD, *payloads)
        assert answer is not None
        assert [p.type for p in answer if isinstance(p, NotifyPayload) and p.is_error]
    assert world.own_children() == before
    assert "b" in world.victim.established()
    world.check()


# Answers to what the victim asks


def test_child_that_is_never_rekeyed_ends_with_its_hard_lifetime(world: World) -> None:
    # Row 77, IR-23: TEMPORARY_FAILURE for ever, to every request.
    world.victim.endpoint.rekey_ike(world.handle, world.victim.now)
    (old,) = world.own_children()
    world.victim.endpoint.rekey_child(old, world.victim.now)
    asked = 0
    for _ in range(60):
        world.mallory.inbox += [s.datagram for s in world.victim.wait(5)]
        asked += answer_until_silent(world, NotifyPayload(NotifyType.TEMPORARY_FAILURE))
    assert 10 < asked < 200
    assert "b" not in world.victim.established()
    assert [e.failure.cause for e in world.victim.events(IkeSaDown)] == [Cause.TEMPORARY_FAILURE]   # type: ignore[attr-defined]
    assert world.own_children() == set()
    world.victim.check()


def test_delete_during_a_rekey_leaves_no_pair_behind(world: World) -> None:
    # CX-05, CX-14, DL-09: the peer deletes the old pair, an unknown one, or the IKE SA while the victim rekeys.
    for spis, protocol in (((OWN,), 3), ((b"\xc1\0\0\1",), 3), ((OWN, b"\xc1\0\0\1"), 3), ((), 1)):
        world.login()
        for child in sorted(world.own_children()):
            header, asked = world.ask_victim(lambda: world.victim.endpoint.rekey_child(child, world.victim.now))  # noqa: B023
            world.mallory.request(INFO, DeletePayload(protocol, spis))
            world.mallory.respond(header, *world.mallory.child_answer(asked))    # type: ignore[arg-type]
            answer_until_silent(world)
        world.victim.wait(70)
        answer_until_silent(world)
        assert len(world.own_children()) <= 1
        world.check()


def test_child_asked_for_before_an_ike_rekey_finishes_lands_nowhere(world: World) -> None:
    # Row 1: two requests in the window; the key exchange of the first ends after the IKE SA was replaced.
    before = set(world.own_children())
    world.victim.hold_jobs = True
    sa = offer_esp((GROUPS,), spi=b"\xc0\0\0\x09", with_ke=True, pfs=Pfs.REQUIRED, esn=EsnPolicy.AUTO)
    _, ts_i, ts_r, nonce = child_payloads()
    world.mallory.request(CHILD, sa, nonce, KePayload(31, generate(31).public), ts_i, ts_r)
    world.mallory.request(CHILD, offer_ike((IKE,), spi=b"s" * 8), nonce, KePayload(31, generate(31).public))
    world.victim.run_jobs()
    assert world.own_children() == before
    world.check()


# Floods


def test_children_of_one_peer_are_limited(world: World) -> None:
    # Row 77: 10,000 requests would be answered NO_ADDITIONAL_SAS; what each costs does not grow without end.
    for number in range(MAX_CHILDREN + 50):
        world.victim.now += 0.05
        answer = world.mallory.request(CHILD, *child_payloads(spi=0xD0000000 + number))
    assert answer == (NotifyPayload(NotifyType.NO_ADDITIONAL_SAS),)
    assert len(world.own_children()) == MAX_CHILDREN
    world.mallory.request(INFO, DeletePayload(ProtocolId.IKE))
    assert world.own_children() == set()
    world.check()


def test_ike_sas_that_are_replaced_and_never_deleted_are_limited(world: World) -> None:
    # Row 77: each costs the peer one key exchange and would stay for a minute.
    mallory: Mallory | None = world.mallory
    refused = 0
    for _ in range(100):
        after = mallory.rekey_ike() if mallory else None
        refused += after is None
        mallory = after or mallory
    assert refused > 50
    assert len(world.victim.endpoint.views()) <= MAX_REPLACED + 2
    world.check()
    world.victim.wait(61)
    assert len(world.victim.endpoint.views()) == 2
    world.check()


def test_pairs_made_and_deleted_leave_no_timers_behind(world: World) -> None:
    # Rows 61, 77: the timers of a pair are set for an hour ahead.
    sa = next(s for s in world.victim.endpoint._table.sas.values() if s.session.peer.name == "b")
    for number in range(300):
        world.victim.now += 0.1
        spi = 0xD0000000 + number
        assert world.mallory.request(CHILD, *child_payloads(spi=spi)) is not None
        assert world.mallory.request(INFO, DeletePayload(ProtocolId.ESP, (spi.to_bytes(4, "big"),))) is not None
    assert len(sa.session.timers._heap) <= 100
    assert len(sa.responses._requests) <= 8
    world.check()


@pytest.mark.parametrize("unique", ["replace", "keep"])
def test_peer_that_logs_in_without_end_keeps_a_bounded_number_of_ike_sas(unique: str) -> None:
    # Rows 77, 61: whatever the policy about several IKE SAs of one identity.
    world = World(login=False, unique=unique)
    for number in range(MAX_KEPT + 50):
        mallory = Mallory(world.victim, seed=number)
        assert mallory.login() is not None
        world.victim.wait(0.5)
    world.victim.wait(1)
    views = [v for v in world.victim.endpoint.views() if v.peer == "b"]
    assert len(views) <= (20 if unique == "replace" else MAX_KEPT + 20)
    assert len([v for v in views if v.state == "Established"]) <= (10 if unique == "replace" else MAX_KEPT)
    world.check()


def test_events_of_a_peer_are_few_for_each_message(world: World) -> None:
    # Rows 58, 78: three for each message of its own at most, the messages themselves included.
    before = world.victim.events_seen
    for _ in range(200):
        world.mallory.request(CHILD, *child_payloads(local="192.168.0.0/16"))
        world.mallory.request(INFO, *(NotifyPayload(40000 + n) for n in range(20)))
    assert world.victim.events_seen - before <= 3 * 400
    world.check()
