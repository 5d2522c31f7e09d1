"""Liveness: an empty INFORMATIONAL exchange (RFC 7296 2.4), and the notify that ends an IKE SA at once (2.21.2)."""

from __future__ import annotations

from ipsecd.causes import Cause, Failure
from ipsecd.ike.consts import ExchangeType
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.session import Session
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.addresses import mapping_asked, mapping_told
from ipsecd.ike.tasks.task import Payloads, Task
from ipsecd.ike.wire.notify import NotifyPayload


class Liveness(Task):
    """Ask whether the peer is there; any response to any request of ours says so."""

    exchange = ExchangeType.INFORMATIONAL

    def build(self, now: float) -> Steps[Payloads | None]:
        """Nothing, or N(NAT_DETECTION_*) where our NAT may have moved us (RFC 4555 3.8)."""
        yield from ()
        return mapping_asked(self.session)

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """Its arrival says that the peer lives, and with MOBIKE where it sees us."""
        yield from ()
        mapping_told(self.session, response.payloads)

    def failed(self, failure: Failure, now: float) -> None:
        """The IKE SA closes over it."""


class TellRefusal(Task):
    """Tell a responder whose proof we do not accept; the IKE SA never was."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, session: Session, notify: int) -> None:
        super().__init__(session)
        self._notify = notify

    def build(self, now: float) -> Steps[Payloads | None]:
        """The notify alone."""
        yield from ()
        return (NotifyPayload(self._notify),)

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """The peer knows."""
        yield from ()
        self.session.ended = Failure(Cause.REPLACED)

    def failed(self, failure: Failure, now: float) -> None:
        """Its half-open IKE SA ends by itself."""
