"""The last step of two crossing IKE SAs: what waited for the survivor's children lets the other one go."""

from __future__ import annotations

from ipsecd.causes import Cause, Failure
from ipsecd.ike.consts import ExchangeType
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.session import Session
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.task import Payloads, Task

GAVE_WAY = Failure(Cause.REPLACED, "of two that crossed, the one with the lowest nonce gave way")


class Yield(Task):
    """Stands in the survivor's queue behind the children that it takes over.

    The peer made the survivor, and takes requests on it only once it has seen our IKE_AUTH response.  So an answer to
    an empty request proves that it stands on both ends before the other one goes.
    """

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, session: Session, loser: Session) -> None:
        super().__init__(session)
        self._loser = loser

    def build(self, now: float) -> Steps[Payloads | None]:
        """Nothing, as in a liveness check."""
        yield from ()
        return ()

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """Let the loser go."""
        yield from ()
        loser = self._loser.host.heir(self._loser)     # either end may have rekeyed it meanwhile
        if loser.established:
            loser.host.release(loser, GAVE_WAY)

    def failed(self, failure: Failure, now: float) -> None:
        """The survivor ended: the loser carries on."""
