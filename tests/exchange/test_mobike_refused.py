"""MOBIKE (RFC 4555): moves that are forged, refused or not answered for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.effects import UpdatePath
from ipsecd.events import PathChanged, Warned
from ipsecd.ike.consts import NotifyType
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.reports import IkeGone
from ipsecd.sa import Endpoint, Path
from tests.support.exchange import A, B, Two
from tests.support.mobile import A2, B2, INFO, VICTIM, check_on, tasks_of, up
from tests.support.sim import Datagram, Host, exchange, sent_by


def test_plain_request_from_another_address_moves_nothing() -> None:
    # MB-09
    two = up()
    two.net.rewrite(lambda d: replace(d, source=Endpoint(VICTIM, 4500)) if sent_by(two.a, exchange(INFO))(d) else d)
    two.a.endpoint.check_liveness(1, two.net.now)
    two.net.run(0.1)
    assert not two.b.events(PathChanged)
    assert two.b.endpoint.views()[0].path.remote.address == A


def test_traffic_is_not_sent_to_an_address_from_which_nobody_answers() -> None:
    # Third-party bombing (RFC 4555 5.2): the update claims to come from somebody else.
    two = up()

    def forge(d: Datagram) -> Datagram:
        return replace(d, source=Endpoint(VICTIM, 4500)) if d.source.address == A2 else d

    two.net.rewrite(forge)
    two.a.readdress(A2)
    two.net.run(25)
    assert not [u for u in two.b.reports(UpdatePath) if u.path.remote.address == VICTIM]
    assert len([d for d in two.net.sent if d.destination.address == VICTIM]) < 24
    two.net.run(60)
    assert two.b.reports(IkeGone)


def test_without_return_routability_traffic_follows_at_once() -> None:
    two = up(return_routability=False)
    before = len(two.net.sent)
    two.a.readdress(A2)
    two.net.run(1)
    check_on(two, A2, B)
    assert len(two.net.sent) - before == 2


def test_flood_of_updates_leaves_one_check_queued() -> None:
    two = up()
    session = next(iter(two.a.endpoint._table.sas.values())).session
    two.net.drop(lambda d: sent_by(two.b)(d) and not d.header.is_response)
    for number in range(40):
        two.a.readdress(f"192.0.2.{100 + number}")
        two.net.run(0.1)
    assert session.mobility is not None
    assert len(tasks_of(two.b)) <= 2
    two.net.heal()
    two.net.run(30)
    check_on(two, "192.0.2.139", B)


def test_update_from_the_end_that_does_not_decide_is_refused() -> None:
    two = up()
    rogue = next(iter(two.b.endpoint._table.sas.values())).session
    assert rogue.mobility is not None
    rogue.mobility.decides = True
    two.b.readdress(B2)
    two.net.run(5)
    assert not two.a.events(PathChanged)
    assert two.b.events(Warned)[0].what == "move_refused"


def tampered(two: Two, host: Host, change: Callable[[tuple[object, ...]], tuple[object, ...]]) -> None:
    """Have a host say something else in every response on its IKE SA."""
    sa, = host.endpoint._table.sas.values()
    inner = sa._channel.seal

    def seal(payloads: tuple[object, ...], **fields: object) -> tuple[bytes, ...]:
        return inner(change(payloads) if fields["response"] else payloads, **fields)    # type: ignore[arg-type]

    sa._channel = _Sealing(sa._channel, seal)                                          # type: ignore[assignment]
    sa._requester._channel = sa._channel


class _Sealing:
    def __init__(self, channel: object, seal: object) -> None:
        self._channel, self.seal = channel, seal

    def say(self, payloads: tuple[object, ...], *, path: Path, now: float, **fields: object) -> tuple[bytes, ...]:
        datagrams: tuple[bytes, ...] = self.seal(payloads, path=path, **fields)         # type: ignore[operator]
        self._channel.send(datagrams, path, now)                                       # type: ignore[attr-defined]
        return datagrams

    def __getattr__(self, name: str) -> object:
        return getattr(self._channel, name)


@pytest.mark.parametrize("cookie", [b"", b"x" * 32])
def test_wrong_cookie2_closes_the_ike_sa(cookie: bytes) -> None:
    # MB-07
    two = up()
    wrong = (NotifyPayload(NotifyType.COOKIE2, cookie),) if cookie else ()
    tampered(two, two.b, lambda payloads: (
        *(p for p in payloads if not (isinstance(p, NotifyPayload) and p.type == NotifyType.COOKIE2)), *wrong))
    two.a.readdress(A2)
    two.net.run(1)
    assert two.a.reports(IkeGone)[0].failure.cause == Cause.PEER_ERROR


@pytest.mark.parametrize("refusal", [NotifyType.UNACCEPTABLE_ADDRESSES, NotifyType.UNEXPECTED_NAT_DETECTED])
def test_refused_move_ends_what_can_go_nowhere(refusal: NotifyType) -> None:
    # MB-06
    two = up()
    tampered(two, two.b, lambda payloads: (*payloads, NotifyPayload(refusal)))
    before = len(two.net.sent)
    two.a.readdress(A2)
    two.net.run(10)
    updates = [d for d in two.net.sent[before:] if sent_by(two.b, exchange(INFO, response=True))(d)]
    assert len(updates) > (5 if refusal == NotifyType.UNEXPECTED_NAT_DETECTED else 0)
    assert two.a.reports(IkeGone)[0].failure.notify == refusal.name
