"""Quick crash detection (RFC 6290): tokens told inside an IKE SA, shown in the clear once it is lost.

Both ends make tokens and take them.  IKE_AUTH carries the first ones; after a rekey of the IKE SA the responder's comes
in its answer, the initiator's, which did not know the SPI of the other end before, in an exchange of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipsecd.causes import Failure
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.compare import same_bytes
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.session import Session
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.task import Payloads, Task
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.secret import Secret

# Specification constants
MIN_TOKEN_BYTES, MAX_TOKEN_BYTES = 16, 128         # RFC 6290 4.1


def tell_token(session: Session) -> Payloads:
    """Return N(QUICK_CRASH_DETECTION) with our token for this IKE SA; nothing where it is off."""
    own = session.host.crash_token(session.crypto.spi_i, session.crypto.spi_r)
    if own is None or not session.peer.ike.crash_detection:
        return ()
    return (NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, own),)


def take_token(session: Session, payloads: Iterable[object]) -> None:
    """Remember the peer's token, where a protected message brings one."""
    told = find(payloads, NotifyType.QUICK_CRASH_DETECTION)
    if told is not None and MIN_TOKEN_BYTES <= len(told.data) <= MAX_TOKEN_BYTES and session.peer.ike.crash_detection:
        session.peer_token = Secret(told.data)


def lost_by_peer(session: Session, payloads: Iterable[object]) -> bool:
    """Return whether a message in the clear has the peer's token: it made it, and has the IKE SA no more."""
    known = session.peer_token
    return known is not None and any(
        same_bytes(p.data, known.reveal()) for p in payloads
        if isinstance(p, NotifyPayload) and p.type == NotifyType.QUICK_CRASH_DETECTION)


def renew_token(session: Session) -> None:
    """Tell our token for an IKE SA whose rekey we began (RFC 6290 4.3)."""
    if tell_token(session):
        session.enqueue(TellToken(session), first=True)


class TellToken(Task):
    """Gives the peer our token for an IKE SA that replaced another."""

    exchange = ExchangeType.INFORMATIONAL

    def build(self, now: float) -> Steps[Payloads | None]:
        """N(QUICK_CRASH_DETECTION)."""
        yield from ()
        return tell_token(self.session) or None

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """The peer has it."""
        yield from ()

    def failed(self, failure: Failure, now: float) -> None:
        """The IKE SA ended first."""
