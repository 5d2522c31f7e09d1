"""The two halves of every operation: a task asks, an answer answers.  Neither sees Message IDs or retransmission."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ipsecd.causes import Failure
from ipsecd.ike.consts import ExchangeType
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.session import Session
from ipsecd.ike.steps import Steps
from ipsecd.ike.wire.message import Payload

Payloads = tuple[Payload, ...]


class Task(ABC):
    """A request of ours.  `session` is the IKE SA it runs on; waiting tasks move to the successor of a rekeyed one."""

    exchange: ExchangeType      # of the next request

    def __init__(self, session: Session) -> None:
        self.session = session

    @abstractmethod
    def build(self, now: float) -> Steps[Payloads | None]:
        """Return the payloads of the request, None where it has become pointless."""

    @abstractmethod
    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """Take the response, an error response included.

        Raises PeerError where the IKE SA cannot go on after it.
        """

    @abstractmethod
    def failed(self, failure: Failure, now: float) -> None:
        """The IKE SA ended, or the request was given up, before a response came."""


class Answer(ABC):
    """How we answer one kind of request of the peer."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @abstractmethod
    def process(self, request: OpenedMessage, now: float) -> Steps[Payloads]:
        """Return the payloads of the response.  A PeerError becomes its notify, and the IKE SA stays."""
