"""IKE_SA_INIT requests of Two, changed, delivered and in floods."""

from __future__ import annotations

from dataclasses import replace

from ipsecd.ike.wire.message import ClearMessage, build_clear, split
from ipsecd.sa import Endpoint
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.sim import Datagram, sent_by


def first_request(two: Two) -> Datagram:
    """Return A's IKE_SA_INIT request; it was delivered to nobody."""
    two.net.drop(lambda d: True)
    two.initiate(two.a)
    two.net.run(0.01)
    request = two.net.sent[0]
    two.net.heal()
    two.a.alive = False
    return request


def changed(request: Datagram, *, payloads: object = None, **header: object) -> Datagram:
    """Return a request rebuilt with other payloads or header fields."""
    message = split(request.data)
    assert isinstance(message, ClearMessage)
    h = replace(message.header, **header)  # type: ignore[arg-type]
    data = build_clear(spi_i=h.spi_i, spi_r=h.spi_r, exchange=h.exchange, flags=h.flags, message_id=h.message_id,
                       payloads=payloads or message.payloads)  # type: ignore[arg-type]
    return Datagram(request.source, request.destination, data)


def deliver(two: Two, *datagrams: Datagram) -> list[ClearMessage]:
    """Hand datagrams to B; return its clear answers."""
    before = len(two.net.sent)
    for datagram in datagrams:
        two.net.inject(datagram)
    two.net.run(0.001)
    answers = [split(d.data) for d in two.net.sent[before:] if sent_by(two.b)(d)]
    return [m for m in answers if isinstance(m, ClearMessage)]


def flood(two: Two, request: Datagram, count: int, *, sources: int) -> list[ClearMessage]:
    """Send requests with other SPIs from several addresses."""
    return deliver(two, *(
        Datagram(Endpoint(f"198.51.100.{1 + i % sources}", 500), request.destination,
                 changed(request, spi_i=(i + 1).to_bytes(8, "big")).data) for i in range(count)))


def open_to_all(two: Two) -> Two:
    """Let B take requests from any address."""
    return Two(policy_a(), policy_b(address=None))
