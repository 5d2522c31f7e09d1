"""A probe of the path's size: an INFORMATIONAL request padded to it with status notifies that nobody knows.

RFC 7296 3.10.1 has the peer ignore them and answer.  The request goes out once as one datagram; an answer before
anything else shows that it passed.  After `patience_s` it is repeated, with the same Message ID, as it was and in
small fragments beside that (RFC 7383 2.5.1 allows to fall back to them): so it is answered like any request, a lost
probe neither looks like a dead peer nor keeps the window, and an outage is told from a path that is too narrow.  Where
another request of ours waits, the pieces go out at once, and the probe tells nothing.
"""

from __future__ import annotations

from enum import Enum, auto

from ipsecd.causes import Cause, Failure
from ipsecd.events import Warned
from ipsecd.ike.consts import ExchangeType
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.session import Session
from ipsecd.ike.sizing import Sizing, settle
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.task import Payloads, Task

# Tuning
PADDING_NOTIFY = 61_443         # a status type of private use (RFC 7296 3.10.1) that no known software uses
PIECE_BYTES = 576               # what every host takes (RFC 791 3.1)


class Verdict(Enum):
    """What an answer would show."""

    PASSED = auto()
    LOST = auto()               # it was repeated because no answer came in time
    UNCLEAR = auto()            # it was repeated for another reason


def probe_path(session: Session, now: float) -> None:
    """Send the probe that is due, unless another request is on its way: then later."""
    sizing = session.sizing
    if sizing is None or not session.established:
        return
    if session.tasks() or session.path != sizing.path:
        sizing.machine.unclear(now)
    elif sizing.machine.next_at <= now:
        session.enqueue(PathProbe(session, sizing, sizing.machine.probe_bytes(now)))
        return
    settle(session, now)


class PathProbe(Task):
    """Ask whether a datagram of `wanted` bytes arrives; `sent` and `sent_at` are set when it goes out."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, session: Session, sizing: Sizing, wanted: int) -> None:
        super().__init__(session)
        self.wanted = wanted
        self.sent = 0
        self.sent_at = 0.0
        self._sizing = sizing
        self._verdict = Verdict.PASSED

    @property
    def patience_s(self) -> float:
        """How long the one datagram has before it is repeated in pieces."""
        return self._sizing.machine.patience_s

    @property
    def whole(self) -> bool:
        """Whether nothing was repeated yet."""
        return self._verdict is Verdict.PASSED

    def repeated(self, *, timed_out: bool) -> None:
        """Note that it is sent again, because no answer came in time or for another reason."""
        if self.whole:
            self._verdict = Verdict.LOST if timed_out else Verdict.UNCLEAR

    def build(self, now: float) -> Steps[Payloads | None]:
        """Nothing but the padding, which the sender of requests adds."""
        yield from ()
        if self.session.sizing is self._sizing and not self.session.queue:
            return ()
        self._sizing.machine.unclear(now)
        settle(self.session, now)
        return None

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """Its arrival is what it says."""
        yield from ()
        self.session.host.sizes.answered(self.session.peer.name)
        if self.session.sizing is not self._sizing:
            return                                 # the path or the IKE SA is another one by now
        machine = self._sizing.machine
        match self._verdict:
            case Verdict.PASSED:
                machine.answered(self.wanted, self.sent, now - self.sent_at, now)
            case Verdict.LOST:
                machine.lost(self.sent, now)
            case Verdict.UNCLEAR:
                machine.unclear(now)
        settle(self.session, now)

    def failed(self, failure: Failure, now: float) -> None:
        """The IKE SA ended over it: a dead peer, or one that cannot read it in any form."""
        session = self.session
        if failure.cause is Cause.PEER_DEAD and session.host.sizes.unanswered(session.peer.name):
            session.emit(Warned("path_not_probed", f"{session.peer.name}: two IKE SAs ended with a probe of the path "
                                "as the request that was not answered: the size of the route is used from here on"))
