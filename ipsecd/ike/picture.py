"""The picture of an IKE SA for status, metrics and tests."""

from __future__ import annotations

from ipsecd.ike.ike_sa import IkeSa
from ipsecd.ike.session import Timer, TimerKind
from ipsecd.ike.states import InitAnswered
from ipsecd.views import IkeView


def picture(sa: IkeSa) -> IkeView:
    """Return the frozen view of an IKE SA; a half-open one as responder does not name a peer yet."""
    session, crypto = sa.session, sa.session.crypto
    sizing = session.sizing
    half_open = isinstance(session.state, InitAnswered)
    rekey = session.timers.get(Timer(TimerKind.REKEY_IKE))
    return IkeView(session.handle, "" if half_open else session.peer.name, type(session.state).__name__,
                   crypto.original_initiator, crypto.spi_i.hex(), crypto.spi_r.hex(), str(crypto.suite),
                   str(session.local_id or ""), str(session.remote_id or ""), session.path, str(session.nat),
                   sa.fragmentation, session.since, rekey.at if rekey else None, sa.next_deadline(),
                   tuple(c.view() for c in session.children.values()),
                   sizing.machine.current if sizing else None, sizing.machine.origin.value if sizing else "")
