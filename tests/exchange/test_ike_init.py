"""IKE_SA_INIT: demultiplexing, cookies, groups, forged answers, half-open limits (RFC 7296 1.2, 2.6, 2.21)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.events import Hint, IkeAttemptFailed
from ipsecd.ike.consts import ExchangeType, KeId, NotifyType
from ipsecd.ike.wire.header import FLAG_RESPONSE
from ipsecd.ike.wire.message import ClearMessage, build_clear, split
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.ike.wire.payloads import KePayload, NoncePayload, UnknownPayload
from ipsecd.reports import IkeFailed, IkeUp
from ipsecd.sa import Endpoint
from tests.support.exchange import Two, ike, ike_policy, policy_a, policy_b
from tests.support.init_requests import changed, deliver, first_request, open_to_all
from tests.support.sim import Datagram, exchange, sent_by

INIT, AUTH = ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH


@pytest.mark.parametrize(("header", "reason"), [
    ({"spi_i": bytes(8)}, DropReason.IKE_MALFORMED),
    ({"spi_r": b"12345678"}, DropReason.IKE_WRONG_ROLE_FLAG),
    ({"flags": 0}, DropReason.IKE_WRONG_ROLE_FLAG),
    ({"flags": FLAG_RESPONSE}, DropReason.IKE_UNEXPECTED_RESPONSE),
    ({"message_id": 1}, DropReason.IKE_MESSAGE_ID),
    ({"exchange": AUTH}, DropReason.IKE_NOT_PROTECTED),
])
def test_request_with_a_wrong_header_is_dropped_without_answer(header: dict[str, object], reason: DropReason) -> None:
    # IN-02, IN-03
    two = Two()
    assert deliver(two, changed(first_request(two), **header)) == []
    assert two.b.endpoint.drops[reason] == 1
    assert not two.b.endpoint.views()


def test_other_major_version_is_answered_with_ours_and_ikev1_is_a_hint() -> None:
    # IN-07
    two = Two()
    request = first_request(two)
    for version, reason in ((0x30, DropReason.IKE_VERSION), (0x10, DropReason.IKE_V1)):
        data = request.data[:17] + bytes([version]) + request.data[18:]
        answers = deliver(two, Datagram(request.source, request.destination, data))
        assert two.b.endpoint.drops[reason] == 1
        assert [find(a.payloads, NotifyType.INVALID_MAJOR_VERSION) is not None for a in answers] == (
            [True] if version == 0x30 else [])
    assert two.b.last_event(Hint).failure.cause == Cause.IKEV1_ONLY


def test_minor_version_changed_on_the_way_is_taken_and_auth_notices() -> None:
    # IN-07, IN-08: and AUTH still covers them as they came
    two = Two()
    two.net.rewrite(lambda d: Datagram(d.source, d.destination, d.data[:17] + b"\x29" + d.data[18:])
                    if exchange(INIT)(d) else d)
    two.initiate(two.a)
    two.net.run(40)
    assert not two.a.reports(IkeUp), "the change was made on the way, so AUTH must fail"
    assert two.b.last_event(IkeAttemptFailed).failure.cause == Cause.AUTHENTICATION_FAILED


def test_unknown_critical_payload_is_refused_by_its_type() -> None:
    # IN-09
    two = Two()
    request = first_request(two)
    message = split(request.data)
    assert isinstance(message, ClearMessage)
    answers = deliver(two, changed(request, payloads=(*message.payloads, UnknownPayload(255, True, b""))))
    notify = find(answers[0].payloads, NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)
    assert notify is not None and notify.data == b"\xff"
    assert len(deliver(two, changed(request, payloads=(*message.payloads, UnknownPayload(255, False, b""))))) == 1
    assert two.b.endpoint.half_open == 1


@pytest.mark.parametrize("missing", range(3))
def test_request_without_a_payload_leaves_no_half_open_sa(missing: int) -> None:
    # IN-12
    two = Two()
    request = first_request(two)
    message = split(request.data)
    assert isinstance(message, ClearMessage)
    payloads = message.payloads[:missing] + message.payloads[missing + 1:]
    answers = deliver(two, changed(request, payloads=payloads))
    assert find(answers[0].payloads, NotifyType.INVALID_SYNTAX) is not None
    assert two.b.endpoint.half_open == 0


def test_stranger_without_peer_entry_is_refused() -> None:
    # IN-14
    two = Two(policy_a(), policy_b(address="198.51.100.77"))
    two.initiate(two.a)
    two.net.run(5)
    assert two.b.endpoint.drops[DropReason.IKE_NO_PEER] > 0
    assert two.b.last_event(IkeAttemptFailed).failure.cause == Cause.UNKNOWN_IDENTITY
    assert two.a.reports(IkeFailed)[0].refused


def test_repeated_request_gets_the_same_bytes_a_bounded_number_of_times() -> None:
    # IN-15
    two = Two()
    request = first_request(two)
    answers = deliver(two, *([request] * 50))
    assert len({repr(a) for a in answers}) == 1
    assert len(answers) < 20
    assert two.b.endpoint.half_open == 1


def test_one_spi_from_two_sources_or_with_two_nonces_makes_separate_sas() -> None:
    # IN-16
    two = open_to_all(Two())
    request = first_request(two)
    other_source = Datagram(Endpoint("192.0.2.1", 61000), request.destination, request.data)
    message = split(request.data)
    assert isinstance(message, ClearMessage)
    other = tuple(NoncePayload(bytes(32)) if isinstance(p, NoncePayload) else p for p in message.payloads)
    deliver(two, request, other_source, changed(request, payloads=other))
    assert two.b.endpoint.half_open == 3


def test_repetition_after_ike_auth_is_ignored() -> None:
    # IN-17
    two = Two()
    two.establish()
    request = two.net.sent[0]
    before = two.b.endpoint.views()
    deliver(two, request)
    two.net.run(31)
    assert two.b.endpoint.views() == before


def test_half_open_sa_ends_after_thirty_seconds() -> None:
    # IN-18
    two = Two()
    deliver(two, first_request(two))
    assert two.b.endpoint.half_open == 1
    two.net.run(29)
    assert two.b.endpoint.half_open == 1
    two.net.run(2)
    assert two.b.endpoint.half_open == 0
    assert not two.b.endpoint.views()


@pytest.mark.parametrize("notify", [NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.INVALID_SYNTAX,
                                    NotifyType.AUTHENTICATION_FAILED])
def test_forged_refusal_does_not_beat_the_genuine_response(notify: NotifyType) -> None:
    # IN-19
    two = Two()
    two.net.hold(sent_by(two.b))
    two.initiate(two.a)
    two.net.run(0.1)
    spi_i = two.net.sent[0].header.spi_i
    forged = build_clear(spi_i=spi_i, spi_r=bytes(8), exchange=INIT, flags=FLAG_RESPONSE, message_id=0,
                         payloads=(NotifyPayload(notify),))
    two.net.inject(Datagram(Endpoint("203.0.113.2", 500), Endpoint("192.0.2.1", 500), forged))
    two.net.run(1)
    assert len(two.a.events(Hint)) == 1
    two.net.release()
    two.net.run(1)
    two.check(children=1)


def test_genuine_refusal_is_the_cause_of_the_failure() -> None:
    two = Two(policy_a(), policy_b(ike=ike_policy(proposals=(ike("aes256gcm16-prfsha512-x25519"),))))
    two.initiate(two.a)
    two.net.run(3)
    report = two.a.reports(IkeFailed)[0]
    assert report.refused
    assert report.failure.cause == Cause.NO_PROPOSAL
    assert report.failure.notify == "NO_PROPOSAL_CHOSEN"
    theirs = two.b.last_event(IkeAttemptFailed)
    assert "prfsha512" in theirs.failure.detail and "prfsha256" in theirs.failure.detail
    assert not two.a.endpoint.views() + two.b.endpoint.views()


def test_forged_response_with_another_key_is_recovered_by_a_retry() -> None:
    # IN-20
    two = Two()
    two.net.hold(sent_by(two.b))
    two.initiate(two.a)
    two.net.run(0.1)
    genuine = two.net.held[0]
    message = split(genuine.data)
    assert isinstance(message, ClearMessage)
    payloads = tuple(KePayload(p.method, bytes([9]) + bytes(31)) if isinstance(p, KePayload) else p
                     for p in message.payloads)
    two.net.inject(changed(genuine, payloads=payloads, spi_r=b"forgery!"))
    two.net.run(0.1)
    two.net.release()
    two.net.run(40)
    assert len(two.a.reports(IkeFailed)) == 1
    two.initiate(two.a)
    two.net.run(1)
    assert len(two.a.reports(IkeUp)) == 1


@pytest.mark.parametrize("threshold", [0, 30])
def test_invalid_ke_with_and_without_cookies_ends_established(threshold: int) -> None:
    # IN-29, IN-33
    a = policy_a(ike=ike_policy(proposals=(ike("aes256gcm16-prfsha256-x25519-ecp384"),)))
    b = replace(policy_b(ike=ike_policy(proposals=(ike("aes256gcm16-prfsha256-ecp384"),))), cookie_threshold=threshold)
    two = Two(a, b)
    two.establish()
    requests = [d for d in two.net.sent if sent_by(two.a, exchange(INIT))(d)]
    assert len(requests) <= 4
    assert len({d.header.spi_i for d in requests}) == 1
    assert "ecp384" in two.a.endpoint.views()[0].suite


def test_group_of_the_ke_payload_is_taken_though_it_is_not_our_first() -> None:
    # IN-32
    two = Two(policy_a(ike=ike_policy(proposals=(ike("aes256gcm16-prfsha256-ecp256-x25519"),))))
    two.establish()
    assert "ecp256" in two.a.endpoint.views()[0].suite
    assert len([d for d in two.net.sent if exchange(INIT)(d)]) == 2


@pytest.mark.parametrize("answer", [NotifyPayload(NotifyType.COOKIE, b"again"),
                                    NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, b"\0\x13")])
def test_endless_wishes_are_bounded(answer: NotifyPayload) -> None:
    # IN-30
    two = Two()
    two.b.alive = False

    def answering(d: Datagram) -> Datagram:
        if sent_by(two.a)(d):
            data = build_clear(spi_i=d.header.spi_i, spi_r=bytes(8), exchange=INIT, flags=FLAG_RESPONSE, message_id=0,
                               payloads=(answer,))
            two.net.inject(Datagram(d.destination, d.source, data))
        return d

    two.net.rewrite(answering)
    two.initiate(two.a)
    two.net.run(20)
    assert len([d for d in two.net.sent if sent_by(two.a)(d)]) < 25
    assert len(two.a.reports(IkeFailed)) == 1


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\x13\0", KeId.CURVE25519.to_bytes(2, "big"), b"\0\x0e"])
def test_invalid_ke_that_makes_no_sense_is_ignored(data: bytes) -> None:
    # IN-34: the group just used, one that was not offered, wrong lengths
    two = Two()
    two.net.hold(sent_by(two.b))
    two.initiate(two.a)
    two.net.run(0.1)
    forged = build_clear(spi_i=two.net.sent[0].header.spi_i, spi_r=bytes(8), exchange=INIT, flags=FLAG_RESPONSE,
                         message_id=0, payloads=(NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, data),))
    two.net.inject(Datagram(Endpoint("203.0.113.2", 500), Endpoint("192.0.2.1", 500), forged))
    two.net.run(0.1)
    two.net.release()
    two.net.run(1)
    two.check(children=1)


@pytest.mark.parametrize("value", [b"", bytes(32), bytes(31), bytes(33), b"\1" + bytes(31)])
@pytest.mark.parametrize("in_response", [False, True])
def test_bad_public_value_is_refused_without_state(value: bytes, in_response: bool) -> None:
    # IN-35
    two = Two()

    def spoil(d: Datagram) -> Datagram:
        message = split(d.data)
        if not isinstance(message, ClearMessage) or message.header.is_response != in_response:
            return d
        payloads = tuple(KePayload(p.method, value) if isinstance(p, KePayload) else p for p in message.payloads)
        return changed(d, payloads=payloads)

    two.net.rewrite(spoil)
    two.initiate(two.a)
    two.net.run(50)
    assert not two.a.endpoint.views() + two.b.endpoint.views()
    assert two.b.endpoint.half_open == 0
    assert len(two.a.reports(IkeFailed)) == 1


def test_initiator_may_start_on_port_4500_or_any_other() -> None:
    # IN-51, IN-53
    for port in (4500, 61000):
        two = Two()
        path = two.path(two.a, port)
        path = path._replace(remote=Endpoint(path.remote.address, 4500)) if port == 4500 else path._replace(
            remote=Endpoint(path.remote.address, 500))
        two.a.endpoint.initiate("b", path, two.requests(two.a, "lan"), two.net.now)
        two.net.run(1)
        two.check(children=1)
        assert {d.source.port for d in two.net.sent if sent_by(two.a)(d)} == {port}


def test_silent_peer_ends_the_attempt_after_its_time() -> None:
    two = Two()
    two.net.drop(lambda d: True)
    two.initiate(two.a)
    two.net.run(14.9)
    assert not two.a.reports(IkeFailed)
    two.net.run(0.2)
    failed = two.a.reports(IkeFailed)[0]
    assert (failed.refused, failed.failure.cause) == (False, Cause.PEER_SILENT)
    assert len(two.net.sent) >= 6
    assert len({d.data for d in two.net.sent}) == 1


def test_ikev1_answer_explains_a_silent_peer() -> None:
    two = Two()
    two.b.alive = False
    two.initiate(two.a)
    two.net.run(1)
    d = two.net.sent[0]
    two.net.inject(Datagram(d.destination, d.source, d.data[:17] + b"\x10" + d.data[18:]))
    two.net.run(20)
    assert two.a.reports(IkeFailed)[0].failure.cause == Cause.IKEV1_ONLY
