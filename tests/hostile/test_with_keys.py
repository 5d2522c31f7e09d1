"""A peer that is authenticated and hostile: nothing but its own SAs may change, and those within limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.events import IkeSaDown
from ipsecd.ike.consts import ExchangeType, NotifyType, PayloadType, ProtocolId
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
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.policy import EsnPolicy, Pfs
from ipsecd.reports import ChildRequest
from ipsecd.sa import Endpoint, Path
from ipsecd.secret import Secret
from ipsecd.selectors import from_prefix
from tests.support.exchange import IKE, NETS, B, child_policy, esp, fqdn, ike_policy, peer_policy, policy
from tests.support.mallory import Mallory, Payloads, Victim, child_payloads, rekey_notify

C = "198.51.100.3"
C_PSK = Secret(b"the key of the innocent peer, thirty-two or more")
CHILD, INFO = ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL
GROUPS = esp("aes256gcm16-x25519-ecp256-modp2048")


class World:
    """A victim with a hostile peer, b, and an innocent one, c, both up with a child."""

    def __init__(self, *, login: bool = True, **ike: object) -> None:
        b = peer_policy("b", B, own="a.example", other="b.example", ike=ike_policy(**ike), children=tuple(
            child_policy("b", name, *NETS[name], proposals=(GROUPS,)) for name in ("lan", "voice")))
        c = peer_policy("c", C, own="a.example", other="c.example", psk=C_PSK,
                        children=(child_policy("c", "lan", "10.1.0.0/16", "10.77.0.0/16"),))
        self.victim = Victim(policy(b, c), keep_log=True)
        self.innocent = Mallory(self.victim, fqdn("c.example"), C, psk=C_PSK, seed="c")
        self.innocent.login(child=False)
        made = self.innocent.request(CHILD, *child_payloads(spi=0xCC000001, local="10.77.0.0/16"))
        assert made is not None
        (self.innocent_spi,) = self.victim.installed
        self.mallory = Mallory(self.victim)
        if login:
            self.login()

    def login(self) -> None:
        """Have Mallory up, anew where he was thrown out."""
        if "b" not in self.victim.established():
            self.mallory = Mallory(self.victim, seed=self.victim.sent)
            assert self.mallory.login() is not None
            assert "b" in self.victim.established()

    @property
    def handle(self) -> int:
        return next(v.handle for v in self.victim.endpoint.views() if v.peer == "b" and v.state == "Established")

    def own_children(self) -> set[int]:
        return self.victim.installed - {self.innocent_spi}

    def check(self) -> None:
        """The innocent peer is as it was, and the victim's tables are in order."""
        self.victim.check()
        assert self.innocent_spi in self.victim.installed
        assert "c" in self.victim.established()
        assert self.innocent.request(INFO) == (), "the innocent peer's liveness check was not answered"

    def ask_victim(self, start: Callable[[], None]) -> tuple[object, Payloads]:
        """Have the victim ask; return its request."""
        start()
        self.mallory.inbox += [s.datagram for s in self.victim.drain()]
        return self.mallory.take()

    def voice(self) -> ChildRequest:
        child = self.victim.endpoint._table.policy.peers[0].children[1]
        return ChildRequest(child.key, 0, child.local, child.remote)


@pytest.fixture
def world() -> World:
    return World()


# Requests

OWN, FOREIGN = b"\xc0\0\0\1", b"\xcc\0\0\1"
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


def answer_until_silent(world: World, *payloads: Payload) -> int:
    """Answer all requests of the victim that are in the inbox, and those that follow; return how many."""
    asked, seen = 0, set()
    while world.mallory.inbox:
        opened = world.mallory.open(world.mallory.inbox.pop(0))
        if opened is None or opened[0].is_response or opened[0].message_id in seen:
            continue
        seen.add(opened[0].message_id)
        asked += 1
        assert asked < 50, "the victim asks without end"
        refusal = (NotifyPayload(NotifyType.NO_ADDITIONAL_SAS),) if opened[0].exchange == CHILD else ()
        world.mallory.respond(opened[0], *(payloads or refusal))
    return asked
