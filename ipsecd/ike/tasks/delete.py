"""Closing Child SAs and IKE SAs (RFC 7296 1.4.1, 2.25).

A Delete names the sender's own inbound SPIs; the answer names the reverse ones.  Where both ends delete one pair at
once, both answer without it, and each removes it with the response to its own.
"""

from __future__ import annotations

from ipsecd.causes import Cause, Failure
from ipsecd.ike.child_sa import ChildSa
from ipsecd.ike.consts import ExchangeType, ProtocolId
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.session import Session
from ipsecd.ike.states import ChildState
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.task import Payloads, Task
from ipsecd.ike.wire.payloads import DeletePayload


class ChildDelete(Task):
    """Close a pair: one that is not wanted, one that was replaced, or one that only the peer holds."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, session: Session, child: ChildSa | None, protocol: int, spi_in: int, failure: Failure, *,
                 follows: bool = True) -> None:
        super().__init__(session)
        self._child = child
        self._follows = follows         # to the pair that replaced it while this task waited: that one is not wanted
        self._protocol = protocol
        self._spi_in = spi_in
        self._failure = failure

    def is_of(self, child: ChildSa) -> bool:
        """Return whether it closes this pair."""
        return self._child is child

    @classmethod
    def of(cls, session: Session, child: ChildSa, failure: Failure) -> ChildDelete:
        """Close a pair that we hold; `failure` is what is reported where nothing replaced it."""
        return cls(session, child, child.protocol, child.spi_in, failure)

    @classmethod
    def replaced(cls, session: Session, old: ChildSa) -> ChildDelete:
        """Close a pair that our rekey replaced."""
        return cls(session, old, old.protocol, old.spi_in, Failure(Cause.REPLACED), follows=False)

    @classmethod
    def unmade(cls, session: Session, protocol: int, spi_in: int) -> ChildDelete:
        """Tell the peer to close a pair that we do not hold."""
        return cls(session, None, protocol, spi_in, Failure(Cause.REPLACED))

    def build(self, now: float) -> Steps[Payloads | None]:
        """D(SPI); None where the pair is gone already."""
        yield from ()
        child = self._child
        while child is not None and self._follows and (new := self._in_place_of(child)) is not None:
            child = new
        if child is not None:
            if child.state in (ChildState.DELETING, ChildState.LINGERING, ChildState.DOOMED, ChildState.GONE):
                return None
            self._child, self._spi_in = child, child.spi_in
            child.move(ChildState.DELETING)
        return (DeletePayload(self._protocol, (self._spi_in.to_bytes(4, "big"),)),)

    def _in_place_of(self, child: ChildSa) -> ChildSa | None:
        """Return the pair that replaced one, or that the peer made to replace it: that one is taken into use first."""
        self.session.use_successor_of(child)
        return self.session.children.get(child.successor or 0)

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """Remove the pair; one that was replaced receives a little longer."""
        yield from ()
        child = self._child
        if child is None or child.state is not ChildState.DELETING:
            return
        if child.successor is not None:
            self.session.linger(child, now)
        else:
            self.session.remove(child, self._failure)

    def failed(self, failure: Failure, now: float) -> None:
        """The IKE SA takes the pair with it."""


class IkeDelete(Task):
    """Close the IKE SA: the last request on it."""

    exchange = ExchangeType.INFORMATIONAL

    def build(self, now: float) -> Steps[Payloads | None]:
        """D of the IKE SA itself: no SPI."""
        yield from ()
        return (DeletePayload(ProtocolId.IKE),)

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """The peer knows: nothing is left to wait for."""
        yield from ()
        self.session.ended = Failure(Cause.REPLACED)

    def failed(self, failure: Failure, now: float) -> None:
        """It is gone all the same."""
