"""Quick crash detection (RFC 6290): a restarted end is believed at once where it shows its token, and only then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.drops import DropReason
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.crash_token import TOKEN_BYTES, crash_token
from ipsecd.ike.endpoint import IkeEndpoint
from ipsecd.ike.receptionist import LOST_BURST
from ipsecd.ike.wire.header import FLAG_RESPONSE
from ipsecd.ike.wire.message import ClearMessage, build_clear, split
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.policy import IkePolicy
from ipsecd.reports import IkeGone
from ipsecd.sa import Endpoint
from ipsecd.secret import Secret
from tests.support.exchange import A, B, Two, ike_policy, policy_a, policy_b
from tests.support.seeded_rng import SeededRng
from tests.support.sim import Datagram, Host

INFO = ExchangeType.INFORMATIONAL
ON = ike_policy(dpd_s=10)
SECRETS = {"a": Secret(b"a" * 32), "b": Secret(b"b" * 32)}


def crash(two: Two, host: Host) -> None:
    """The daemon dies, and starts with what its state directory kept."""
    policy = host.endpoint._table.policy
    rng = SeededRng((host.name, two.net.now))
    host.endpoint = IkeEndpoint(policy, rng, now=two.net.now, last_inbound=host.seen_at.get,
                                crash_secret=SECRETS[host.name])
    host.pairs.clear()
    host.outbound.clear()


def detecting(a: IkePolicy = ON, b: IkePolicy = ON) -> Two:
    two = Two(policy_a(ike=a), policy_b(ike=b))
    for host in (two.a, two.b):
        crash(two, host)
    two.establish()
    return two


def spis(two: Two, host: Host) -> tuple[bytes, bytes]:
    view = host.established()[0]
    return bytes.fromhex(view.spi_i), bytes.fromhex(view.spi_r)


def shown(two: Two, token: bytes, pair: tuple[bytes, bytes], *, source: str = B) -> Datagram:
    """Return INVALID_IKE_SPI with a token, toward A."""
    data = build_clear(spi_i=pair[0], spi_r=pair[1], exchange=INFO, flags=FLAG_RESPONSE, message_id=2, payloads=(
        NotifyPayload(NotifyType.INVALID_IKE_SPI), NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, token)))
    return Datagram(Endpoint(source, 4500), Endpoint(A, 4500), data)


@pytest.mark.parametrize("survivor", ["a", "b"])
@pytest.mark.parametrize("rekeys", ["none", "by a", "by b"])
def test_restarted_end_is_noticed_with_the_first_message(survivor: str, rekeys: str) -> None:
    two = detecting()
    if rekeys != "none":
        (two.a if rekeys == "by a" else two.b).endpoint.rekey_ike(1, two.net.now)
        two.net.run(1)
        two.check(children=1)
    one, other = (two.a, two.b) if survivor == "a" else (two.b, two.a)
    crash(two, other)
    one.endpoint.check_liveness(1, two.net.now)
    two.net.run(0.05)
    gone, = one.reports(IkeGone)
    assert gone.failure.cause == Cause.PEER_DEAD
    assert not one.pairs
    assert not one.endpoint.views()


def test_restarted_end_is_noticed_at_once_though_a_request_waits_for_its_next_try() -> None:
    two = detecting()
    spi = two.pair(two.a)
    two.net.drop(lambda datagram: True)
    two.a.endpoint.check_liveness(1, two.net.now)
    two.net.run(5)
    crash(two, two.b)
    two.net.heal()
    two.b.endpoint.unknown_spi(two.path(two.b), two.a.pairs[spi].outbound.spi, two.net.now)
    two.net.run(0.05)
    assert [gone.failure.cause for gone in two.a.reports(IkeGone)] == [Cause.PEER_DEAD]
    assert not two.a.endpoint.views()


@pytest.mark.parametrize(("a", "b"), [(False, True), (True, False)])
def test_token_is_neither_told_nor_believed_where_one_end_does_not_want_it(*, a: bool, b: bool) -> None:
    two = detecting(ike_policy(dpd_s=10, crash_detection=a), ike_policy(dpd_s=10, crash_detection=b))
    crash(two, two.b)
    two.a.endpoint.check_liveness(1, two.net.now)
    two.net.run(1)
    assert not two.a.reports(IkeGone)


@pytest.mark.parametrize("forged", [b"\0" * TOKEN_BYTES, b"", b"x" * 128, b"x" * 1000])
def test_forged_token_does_nothing(forged: bytes) -> None:
    two = detecting()
    for _ in range(100):
        two.net.inject(shown(two, forged, spis(two, two.a)))
    two.net.run(1)
    two.check(children=1)
    assert two.a.endpoint.drops[DropReason.IKE_NOT_PROTECTED] == 100


def test_token_of_another_ike_sa_does_nothing() -> None:
    # Attack 90: bound to the SPIs.
    two = detecting()
    old = spis(two, two.a)
    token = crash_token(SECRETS["b"], spi_i=old[0], spi_r=old[1])
    two.a.endpoint.rekey_ike(1, two.net.now)
    two.net.run(10)
    for pair in (old, spis(two, two.a)):
        two.net.inject(shown(two, token, pair))
    two.net.run(1)
    two.check(children=1)


def test_token_is_never_shown_while_its_ike_sa_lives() -> None:
    two = detecting()
    spi_i, spi_r = spis(two, two.b)
    request = next(d for d in two.net.sent if d.header.exchange == ExchangeType.IKE_AUTH and not d.header.is_response)
    before = len(two.net.sent)
    for data in (request.data, request.data[:-1] + b"?", request.data[:28]):
        two.net.inject(replace(request, data=data))
    two.net.run(1)
    for answer in two.net.sent[before:]:
        message = split(answer.data)
        assert not isinstance(message, ClearMessage) or find(message.payloads,
                                                             NotifyType.QUICK_CRASH_DETECTION) is None
    assert (spi_i, spi_r) == spis(two, two.b)


def test_answers_with_tokens_are_limited() -> None:
    two = detecting()
    two.a.endpoint.check_liveness(1, two.net.now)
    two.net.run(1)
    request = next(d for d in two.net.sent if d.header.exchange == INFO and not d.header.is_response)
    crash(two, two.b)
    before = len(two.net.sent)
    for _ in range(3 * int(LOST_BURST)):
        two.net.inject(request)
    two.net.run(0.001)
    answers = two.net.sent[before:]
    assert 0 < len(answers) <= LOST_BURST
    assert len(answers[0].data) <= len(request.data) + 3


def test_gateway_without_a_kept_secret_tells_no_token() -> None:
    two = Two(policy_a(ike=ON), policy_b(ike=ON))
    two.establish()
    assert all(sa.session.peer_token is None for h in (two.a, two.b) for sa in h.endpoint._table.sas.values())
