"""Message IDs, retransmission, protected errors, strangers, and the cost of a datagram (RFC 7296 2.1-2.5, 2.21)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.events import IkeMessage, LocalFault
from ipsecd.ike.channel import Channel
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.fragments import SET_LIFE_S
from ipsecd.ike.ike_sa import IkeSa
from ipsecd.ike.receptionist import LOST_BURST
from ipsecd.ike.session import MAX_QUEUED, Session, Timer, TimerKind
from ipsecd.ike.states import Established
from ipsecd.ike.tasks.liveness import Liveness
from ipsecd.ike.wire.message import ClearMessage, Payload, SealedMessage, build_clear, split
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.ike.wire.payloads import DeletePayload, UnknownPayload, VendorPayload
from ipsecd.reports import ChildGone, ChildRefused, IkeGone, IkeUp, Suspected
from ipsecd.sa import Endpoint
from tests.support.calls import calls
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.sim import Datagram, Host, exchange, sent_by

INFO, CREATE = ExchangeType.INFORMATIONAL, ExchangeType.CREATE_CHILD_SA
PORT = 4500


def sa_of(host: Host) -> IkeSa:
    return next(iter(host.endpoint._table.sas.values()))


def say(two: Two, host: Host, payloads: tuple[Payload, ...], *, kind: int = INFO, message_id: int | None = None,
        response: bool = False) -> Datagram:
    """Return a protected message of `host` that its own tasks did not make."""
    sa = sa_of(host)
    number = sa.requests._next_id if message_id is None else message_id
    data = sa._channel.seal(payloads, exchange=kind, message_id=number, response=response, path=sa.session.path)[0]
    other = two.b if host is two.a else two.a
    return Datagram(Endpoint(host.address, PORT), Endpoint(other.address, PORT), data)


def answers_to(two: Two, *datagrams: Datagram) -> list[Datagram]:
    before = len(two.net.sent)
    for datagram in datagrams:
        two.net.inject(datagram)
    two.net.run(0.001)
    return two.net.sent[before:]


def events_out(host: Host) -> tuple[str, ...]:
    return next(e.payloads for e in reversed(host.events(IkeMessage)) if e.direction == "out")


def test_repeated_request_draws_the_stored_answer_and_altered_one_nothing() -> None:
    # ML-01
    two = Two()
    two.establish()
    probe = say(two, two.a, ())
    first = answers_to(two, probe)
    again = answers_to(two, probe)
    other = say(two, two.a, (NotifyPayload(40000),), message_id=probe.header.message_id)
    assert [d.data for d in first] == [d.data for d in again]
    assert answers_to(two, other) == []
    assert two.b.endpoint.drops[DropReason.IKE_RETRANSMIT_MISMATCH] == 1


@pytest.mark.parametrize("offset", [10, 2**31])
def test_request_outside_the_window_is_ignored(offset: int) -> None:
    # ML-02
    two = Two()
    two.establish()
    assert answers_to(two, say(two, two.a, (), message_id=offset)) == []
    assert two.b.endpoint.drops[DropReason.IKE_MESSAGE_ID] == 1
    two.check(children=1)


def test_response_that_nobody_waits_for_is_ignored() -> None:
    # ML-03
    two = Two()
    two.establish()
    answers_to(two, say(two, two.b, (), message_id=7, response=True))
    assert two.a.endpoint.drops[DropReason.IKE_UNEXPECTED_RESPONSE] == 1
    two.net.hold(sent_by(two.b))
    two.a.endpoint.check_liveness(1, two.net.now)
    two.net.run(0.02)
    answers_to(two, say(two, two.b, (), kind=CREATE, message_id=2, response=True))
    assert two.a.endpoint.drops[DropReason.IKE_UNEXPECTED_EXCHANGE] == 1
    two.net.release()
    two.net.run(1)
    two.check(children=1)


def test_requests_wait_for_the_window_of_one() -> None:
    # ML-04
    two = Two(policy_a("lan", "voice", "guest"), policy_b("lan", "voice", "guest"))
    two.establish()
    two.net.hold(sent_by(two.b))
    for request in two.requests(two.a, "voice", "guest"):
        two.a.endpoint.create_child(1, request, two.net.now)
    two.net.run(0.1)
    assert len([d for d in two.net.sent if sent_by(two.a, exchange(CREATE))(d)]) == 1
    two.net.release()
    two.net.run(1)
    two.check(children=3)


ACTIONS = ("create", "rekey child", "rekey ike", "delete child", "delete ike", "liveness")


def act(two: Two, host: Host, what: str) -> None:
    endpoint, now, handle = host.endpoint, two.net.now, host.endpoint.views()[0].handle
    match what:
        case "create":
            endpoint.create_child(handle, two.requests(host, "voice")[0], now)
        case "rekey child":
            endpoint.rekey_child(two.pair(host), now)
        case "rekey ike":
            endpoint.rekey_ike(handle, now)
        case "delete child":
            endpoint.delete_child(two.pair(host), now, Cause.OPERATOR)
        case "delete ike":
            endpoint.delete_ike(handle, now, Cause.OPERATOR)
        case _:
            endpoint.check_liveness(handle, now)


@pytest.mark.parametrize("ours", ACTIONS)
@pytest.mark.parametrize("theirs", ACTIONS)
@pytest.mark.parametrize("order", ["together", "a held", "b held", "slow work"])
def test_every_pair_of_crossing_exchanges_comes_to_rest(ours: str, theirs: str, order: str) -> None:
    # ML-05
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"))
    two.establish()
    if order.endswith("held"):
        held = two.a if order[0] == "a" else two.b
        two.net.hold(sent_by(held))
    elif order == "slow work":
        two.a.work_s, two.b.work_s = 0.015, 0.025
    act(two, two.a, ours)
    act(two, two.b, theirs)
    two.net.run(0.2)
    two.net.release()
    two.net.run(100)
    two.check(ike=0 if "delete ike" in (ours, theirs) else 1, duplicates=ours == theirs == "create")
    for host in (two.a, two.b):
        assert not host.events(LocalFault)
        assert len(host.reports(ChildGone)) <= 1 + (ours == "create" or theirs == "create")


def test_request_is_repeated_to_the_bit_with_growing_pauses_and_then_the_ike_sa_ends() -> None:
    # ML-06
    two = Two()
    two.establish()
    two.net.drop(lambda d: True)
    start = len(two.net.sent)
    times: list[float] = []
    two.net.rewrite(lambda d: (times.append(two.net.now), d)[1])
    two.a.endpoint.check_liveness(1, two.net.now)
    two.net.run(170)
    assert len({d.data for d in two.net.sent[start:]}) == 1
    pauses = [b - a for a, b in pairwise(times)]
    assert all(b > a for a, b in pairwise(pauses) if b < 25)
    assert two.a.reports(IkeGone)[0].failure.cause == Cause.PEER_DEAD


def test_request_for_an_unknown_ike_sa_draws_one_unprotected_notify_and_a_response_none() -> None:
    # ML-09
    two = Two()
    two.establish()
    probe = say(two, two.a, ())
    reply = say(two, two.a, (), response=True, message_id=0)
    two.net.restart(two.b, policy_b())
    answer = split(answers_to(two, probe)[0].data)
    assert isinstance(answer, ClearMessage)
    assert find(answer.payloads, NotifyType.INVALID_IKE_SPI)
    assert answers_to(two, reply) == []
    many = answers_to(two, *([probe] * 3 * int(LOST_BURST)))
    assert len(many) <= LOST_BURST


def test_unprotected_invalid_ike_spi_starts_one_liveness_check_and_changes_nothing() -> None:
    # ML-10, LV-08
    two = Two()
    two.establish()
    crypto = sa_of(two.a).session.crypto
    lie = build_clear(spi_i=crypto.spi_i, spi_r=crypto.spi_r, exchange=INFO, flags=0x20, message_id=1,
                      payloads=(NotifyPayload(NotifyType.INVALID_IKE_SPI),))
    forged = Datagram(Endpoint("203.0.113.2", PORT), Endpoint("192.0.2.1", PORT), lie)
    for _ in range(3):
        answers_to(two, *([forged] * 10))
        two.net.run(1)
    assert len(two.a.reports(Suspected)) == 1
    assert len([d for d in two.net.sent if sent_by(two.a, exchange(INFO))(d)]) == 1
    two.check(children=1)


@pytest.mark.parametrize("what", ["delete", "initial contact"])
def test_clear_text_changes_nothing(what: str) -> None:
    # attack 9
    two = Two()
    two.establish()
    crypto = sa_of(two.a).session.crypto
    payload: Payload = DeletePayload(1) if what == "delete" else NotifyPayload(NotifyType.INITIAL_CONTACT)
    lie = build_clear(spi_i=crypto.spi_i, spi_r=crypto.spi_r, exchange=INFO, flags=0, message_id=0, payloads=(payload,))
    assert answers_to(two, Datagram(Endpoint("203.0.113.2", PORT), Endpoint("192.0.2.1", PORT), lie)) == []
    assert two.a.endpoint.drops[DropReason.IKE_NOT_PROTECTED] == 1
    two.check(children=1)


def test_malformed_request_after_authentication_ends_the_ike_sa_on_both_ends() -> None:
    # ML-14
    two = Two()
    two.establish()
    answers_to(two, say(two, two.a, (NotifyPayload(1),), kind=CREATE))
    assert events_out(two.b) == ("N(INVALID_SYNTAX)",)
    assert two.b.reports(IkeGone)[0].failure.cause == Cause.INVALID_SYNTAX
    assert not two.b.pairs


def test_malformed_response_ends_the_ike_sa_without_an_error_message() -> None:
    # ML-14
    two = Two()
    two.establish()
    two.net.drop(sent_by(two.b))
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(0.1)
    number = sa_of(two.a).requests.outstanding
    assert answers_to(two, say(two, two.b, (UnknownPayload(200, True, b""),), kind=CREATE, message_id=number,
                               response=True)) == []
    assert two.a.reports(IkeGone)[0].failure.cause == Cause.PEER_ERROR


def test_unknown_critical_payload_after_authentication_is_refused_and_the_ike_sa_lives() -> None:
    # ML-15
    two = Two()
    two.establish()
    answers_to(two, say(two, two.a, (UnknownPayload(255, True, b""),)))
    assert events_out(two.b) == ("N(UNSUPPORTED_CRITICAL_PAYLOAD)",)
    assert two.b.established()


@pytest.mark.parametrize("kind", [38, 43, 240])
def test_exchange_that_was_not_negotiated_gets_an_error_and_the_ike_sa_lives(kind: int) -> None:
    # ML-19
    two = Two()
    two.establish()
    answers_to(two, say(two, two.a, (), kind=kind))
    assert events_out(two.b) == ("N(INVALID_SYNTAX)",)
    assert two.b.established()


def test_fault_in_one_ike_sa_closes_that_one_only() -> None:
    # ML-16
    two = Two()
    two.establish()
    two.net.run(20)
    broken = sa_of(two.b)

    class Broken(Channel):
        def open(self, sealed: SealedMessage, now: float) -> OpenedMessage | DropReason | None:
            raise ZeroDivisionError("a bug of ours")

    broken._channel = Broken(broken.session, fragmentation=True)
    answers_to(two, say(two, two.a, ()))
    assert two.b.events(LocalFault)[0].error == "ZeroDivisionError: a bug of ours"
    assert two.b.reports(IkeGone)[0].failure.cause == Cause.LOCAL_ERROR
    assert two.b.endpoint.drops[DropReason.IKE_LOCAL_ERROR] == 1
    two.initiate(two.a)
    two.net.run(1)
    assert len(two.b.reports(IkeUp)) == 2


@pytest.mark.parametrize("data", [b"", b"\xff", bytes(4), bytes(27), bytes(28), b"\1" * 40])
def test_junk_is_counted(data: bytes) -> None:
    # IN-05
    two = Two()
    two.establish()
    before = sum(two.b.endpoint.drops.values())
    answers_to(two, Datagram(Endpoint("198.51.100.1", 500), Endpoint("203.0.113.2", 500), data))
    assert sum(two.b.endpoint.drops.values()) == before + 1


def test_replaying_everything_changes_no_state() -> None:
    # G9
    two = Two()
    two.establish()
    two.a.endpoint.rekey_child(two.pair(two.a), two.net.now)
    two.net.run(10)
    two.a.endpoint.rekey_ike(1, two.net.now)
    two.net.run(70)
    recorded = list(two.net.sent)
    pairs = dict(two.a.pairs), dict(two.b.pairs)
    for datagram in [*recorded, *reversed(recorded)]:
        two.net.inject(datagram)
    two.net.run(60)
    assert (two.a.pairs, two.b.pairs) == pairs
    two.check(children=1)


@pytest.mark.parametrize("seed", range(12))
def test_life_goes_on_over_a_bad_network(seed: int) -> None:
    # section 0.2: loss, duplicates and reordering together, under every exchange
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"), seed=seed)
    two.net.loss, two.net.duplicate, two.net.reorder_s = 0.2, 0.2, 0.05
    two.initiate(two.a)
    two.net.run(60)
    for what in ("create", "rekey child", "rekey ike", "rekey child", "delete child"):
        for host in (two.a,) if what == "create" else (two.a, two.b):
            if host.endpoint.views() and two.outbound_lan(host):
                act(two, host, what)
        two.net.run(90)
    two.net.loss = 0.0
    two.net.run(200)
    two.check(ike=None)
    assert not two.a.events(LocalFault) + two.b.events(LocalFault)


def test_cost_of_a_datagram_does_not_grow_with_the_number_of_ike_sas() -> None:
    two = Two()
    two.establish()
    endpoint = two.b.endpoint
    probe = iter(range(2, 100))

    def cost() -> int:
        datagram = say(two, two.a, (), message_id=next(probe))
        path = two.path(two.b, PORT)._replace(remote=Endpoint("192.0.2.1", PORT))
        return calls(lambda: (endpoint.receive(datagram.data, path, two.net.now), endpoint.next_deadline(),
                              endpoint.take_effects()))

    few = cost()
    real = sa_of(two.b)
    for number in range(10_000):
        crypto = real.session.crypto
        other = replace(crypto, spi_r=number.to_bytes(8, "big"))
        session = Session(endpoint._table, real.session.peer, other, handle=number + 10, path=real.session.path,
                          nat=real.session.nat, state=Established(two.net.now), now=two.net.now)
        sa = IkeSa(session, fragmentation=True)
        session.take_charge(two.net.now)
        endpoint._table.add(sa)
    endpoint.handle_timeout(two.net.now)
    endpoint._drain(two.net.now)
    many = cost()
    assert many <= few * 1.1


def test_incomplete_set_of_fragments_is_given_up_after_its_time() -> None:
    # RFC 7383 2.6
    two = Two()
    two.establish()
    two.net.inject(say(two, two.a, (VendorPayload(bytes(3000)),)))       # the first fragment of three
    two.net.run(1)
    session = sa_of(two.b).session
    assert session.timers.get(Timer(TimerKind.FRAGMENTS)) is not None
    two.net.run(SET_LIFE_S)
    assert sa_of(two.b)._channel._requests.expires_at is None
    assert session.timers.get(Timer(TimerKind.FRAGMENTS)) is None
    two.check(children=1)


def test_request_that_finds_no_place_in_the_queue_is_reported() -> None:
    two = Two(policy_a("lan", "voice"), policy_b("lan", "voice"))
    two.establish()
    session = sa_of(two.a).session
    session.queue.extend([Liveness(session)] * MAX_QUEUED)
    two.a.endpoint.create_child(1, two.requests(two.a, "voice")[0], two.net.now)
    two.net.run(0)
    assert two.a.reports(ChildRefused)
    assert "ChildCreate" in two.a.last_event(LocalFault).error
