"""How long a proof of identity counts (RFC 4478): the responder says it, and the initiator authenticates anew in time.

A responder with `reauth_time` that cannot call the peer tells it the seconds with its own proof, and again where a
reload changes them.  Who is told makes a new IKE SA before the time is over.
"""

from __future__ import annotations

from ipsecd.causes import Failure
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.session import Session
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.task import Payloads, Task
from ipsecd.ike.wire.cursor import Reader, u32
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload, find

# Specification constants
LIFETIME_BYTES = 4              # RFC 4478 3: seconds
# Tuning
EARLY = (0.8, 0.9)              # the part of the peer's time after which we begin: attempts may have to be repeated
MIN_REAUTH_S = 10.0             # since the last proof: a notify of the peer buys no more key exchanges of ours


def tell_lifetime(session: Session, now: float) -> Payloads:
    """Return N(AUTH_LIFETIME) with the seconds for which the peer's proof counts still; none where it always does.

    None either where we can call the peer and do it ourselves: strongSwan, told of less than its `over_time`, would
    begin at once, and again with each IKE SA that comes of it.
    """
    reauth_s = session.peer.ike.reauth_s
    if not reauth_s or session.peer.addresses:
        return ()
    left_s = max(0, int(session.authenticated_at + reauth_s - now))
    return (NotifyPayload(NotifyType.AUTH_LIFETIME, u32(left_s, "seconds of a proof")),)


def take_lifetime(session: Session, payloads: tuple[Payload, ...], now: float) -> None:
    """Authenticate anew before our proof counts no more for the peer; the last that it said holds."""
    told = find(payloads, NotifyType.AUTH_LIFETIME)
    if told is None or len(told.data) != LIFETIME_BYTES or not session.in_charge:
        return
    at = now + Reader(told.data).u32() * session.host.rng.uniform(*EARLY)
    session.reauth_by = max(at, session.authenticated_at + MIN_REAUTH_S)
    session.arm_reauth(now)


class TellLifetime(Task):
    """Tell it on an IKE SA that is up."""

    exchange = ExchangeType.INFORMATIONAL

    def build(self, now: float) -> Steps[Payloads | None]:
        """N(AUTH_LIFETIME); None where there is nothing to tell any more."""
        yield from ()
        return tell_lifetime(self.session, now) or None

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """The peer knows, and does what it thinks right."""
        yield from ()

    def failed(self, failure: Failure, now: float) -> None:
        """The IKE SA closes over it."""
