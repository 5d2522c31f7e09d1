"""An attempt to reach a peer: IKE_SA_INIT as initiator, until there are keys (RFC 7296 1.2, 2.1, 2.21.1).

With a ticket it begins with IKE_SESSION_RESUME (RFC 5723), and goes on with IKE_SA_INIT where that leads nowhere.

No answer ends it, for none is authenticated.  An error notify is published once as a hint.  Listening goes on for
REFUSED_LISTEN_S, in which a genuine response still wins over a forged refusal or redirect; then the hint is the
failure's cause.
"""

from __future__ import annotations

from ipsecd.causes import Cause, Failure
from ipsecd.drops import DropReason
from ipsecd.effects import Emit, SendIke
from ipsecd.errors import PeerError
from ipsecd.events import Hint, IkeAttemptFailed, IkeMessage, LocalFault, PeerRedirected
from ipsecd.ike.collisions import Nonces
from ipsecd.ike.consts import ExchangeType
from ipsecd.ike.host import Host
from ipsecd.ike.ike_sa import IkeSa
from ipsecd.ike.retransmit import MAX_INIT_INTERVAL_S, Retransmission
from ipsecd.ike.session import Output, Session
from ipsecd.ike.states import AuthSent
from ipsecd.ike.steps import StepRunner
from ipsecd.ike.tasks.ike_init import Again, InitRequest, InitResult, Late, Unhelpful
from ipsecd.ike.tasks.intermediate import authentication
from ipsecd.ike.tasks.nat_detection import floated
from ipsecd.ike.tasks.resume import Instead, ResumeRequest
from ipsecd.ike.tickets import Tickets
from ipsecd.ike.wire import rules
from ipsecd.ike.wire.message import ClearMessage, names, split
from ipsecd.policy import PeerPolicy
from ipsecd.reports import ChildRequest, IkeFailed
from ipsecd.rng import Rng
from ipsecd.sa import Deadline, Path
from ipsecd.text import printable
from ipsecd.views import IkeView

# Tuning
REFUSED_LISTEN_S = 2.0          # a genuine response is on its way for less; a real refusal need not wait for the end
MAX_RESPONSES = 32              # looked at in one attempt: each may cost a key exchange


class Attempt:
    """One attempt; `result` is set when it succeeded, `failed` when it ended without."""

    def __init__(self, peer: PeerPolicy, path: Path, requests: tuple[ChildRequest, ...], *, handle: int, spi_i: bytes,
                 rng: Rng, now: float, tickets: Tickets, came_from: str = "") -> None:
        self.peer = peer
        self.path = path
        self.requests = requests
        self.handle = handle
        self.since = now
        self.runner = StepRunner()
        self.outputs: list[Output] = []
        self.result: InitResult | None = None
        self.done = False
        self.gateway = path.remote.address if came_from else ""     # where we are instead of at the peer's own
        self._tickets, ticket = tickets, None if came_from else tickets.take(peer, now)     # of another gateway
        self._task: InitRequest | ResumeRequest = (ResumeRequest(peer, path, rng, spi_i, ticket) if ticket else
                                                   InitRequest(peer, path, rng, spi_i, came_from=came_from))
        self._redirect = ""
        self._hint: Failure | None = None
        self._refused = False
        self._responses = 0
        self._superseded = 0                         # requests sent in forms that were given up
        self._schedule = Retransmission(rng, now=now, give_up_at=now + peer.ike.init_timeout_s,
                                        max_interval_s=MAX_INIT_INTERVAL_S)
        self._rng = rng

    @property
    def spi_i(self) -> bytes:
        """Our SPI, by which responses are found."""
        return self._task.spi_i

    def start(self, now: float) -> None:
        """Send the first request."""
        self._build(now)

    def receive(self, message: ClearMessage, datagram: bytes, path: Path, now: float) -> DropReason | None:
        """Take a response; return why it was dropped."""
        if self.runner.busy:
            return DropReason.IKE_BUSY
        if message.header.exchange != self._task.exchange:
            return DropReason.IKE_UNEXPECTED_RESPONSE
        if self._responses >= MAX_RESPONSES:
            return DropReason.IKE_RATE_LIMIT
        try:
            rules.check(self._task.exchange, True, message.payloads)
        except PeerError:
            return DropReason.IKE_MALFORMED
        self._responses += 1
        self._trace("in", message, path)
        self.runner.start(self._task.process(message, datagram, path, superseded=self._superseded),
                          done=self._processed, failed=self._fault, now=now)
        return None

    def hint(self, failure: Failure, *, refused: bool, now: float, redirect: str = "") -> None:
        """Keep what an unauthenticated message says; a refusal, or a gateway to go to instead, shortens the wait."""
        if failure != self._hint:
            self._hint, self._redirect = failure, redirect
            if not redirect:
                self.outputs.append(Emit(Hint(self.peer.name, str(self.path), failure)))
        if refused and not self._refused:
            self._refused = True
            self._schedule.limit(now + REFUSED_LISTEN_S)

    def handle_timeout(self, now: float) -> None:
        """Send again, or give up."""
        if self.done or now < self._schedule.next_at:
            return
        if self._schedule.expired(now):
            failure = self._hint or Failure(Cause.PEER_SILENT, f"no answer after {self._schedule.tries} tries")
            self._fail(failure)
            return
        self._schedule.repeat(now)
        if self._task.datagram:
            self.outputs.append(SendIke(self.path, self._task.datagram))

    def resume(self, token: int, value: object, now: float) -> None:
        """A job came to its end."""
        self.runner.resume(token, value, now)

    def next_deadline(self) -> Deadline | None:
        """Return when to call handle_timeout."""
        if self.done:
            return None
        tries = self._schedule.tries
        what = self._task.exchange.name
        return Deadline(self._schedule.next_at, f"retransmit {what} to {self.peer.name}, sent {tries} times")

    def abandon(self, failure: Failure | None) -> None:
        """End it; report `failure` where given."""
        if failure is not None and not self.done:
            self._fail(failure)
        self.done = True
        self.runner.abandon()

    def view(self) -> IkeView:
        """Return the picture for status."""
        return IkeView(self.handle, self.peer.name, "InitSent", True, self.spi_i.hex(), "", "", "", "", self.path,
                       "none", False, self.since, None, self.next_deadline(), ())

    def _build(self, now: float) -> None:
        self.runner.start(self._task.build(), done=self._built, failed=self._fault, now=now)

    def _built(self, datagram: bytes, now: float) -> None:
        self._trace("out", split(datagram), self.path)
        self.outputs.append(SendIke(self.path, datagram))

    def _processed(self, outcome: InitResult | Again | Instead | Late | Unhelpful, now: float) -> None:
        if isinstance(self._task, ResumeRequest) and not isinstance(outcome, Again | Late):
            self._tickets.answered(self.peer)
        match outcome:
            case InitResult():
                self.result = outcome
                self.done = True
            case Again():
                self._begin_again(now)
            case Instead():
                self._begin_full(now)
            case Late():
                pass
            case Unhelpful():
                self.hint(outcome.failure, refused=outcome.refused, now=now, redirect=outcome.redirect)

    def _begin_again(self, now: float) -> None:
        """The new form has a schedule of its own inside the time that is left for the attempt."""
        self._superseded += self._schedule.tries
        self._schedule = Retransmission(self._rng, now=now, give_up_at=self._schedule.give_up_at,
                                        max_interval_s=MAX_INIT_INTERVAL_S)
        self._build(now)

    def _begin_full(self, now: float) -> None:
        """Our ticket is refused: go on as without."""
        self._task = InitRequest(self.peer, self.path, self._rng, self.spi_i)
        self._begin_again(now)
        self._superseded = 0                         # of another exchange, whose responses are told apart

    def _fault(self, error: Exception, now: float) -> None:
        text = printable(f"{type(error).__name__}: {error}")
        self.outputs.append(Emit(LocalFault(f"{self._task.exchange.name} to {self.peer.name}", text)))
        self.abandon(Failure(Cause.LOCAL_ERROR, text))

    def _fail(self, failure: Failure) -> None:
        self.done = True
        redirect = self._redirect if failure is self._hint else ""
        self.outputs.append(IkeFailed(self.handle, self.peer.name, self._refused, failure, redirect))
        self.outputs.append(Emit(
            PeerRedirected(self.peer.name, str(self.path), redirect, self._task.exchange.name) if redirect
            else IkeAttemptFailed(self.peer.name, "initiator", str(self.path), failure)))

    def _trace(self, direction: str, message: object, path: Path) -> None:
        if isinstance(message, ClearMessage):
            shown = tuple(names(message.payloads, is_response=message.header.is_response))
            self.outputs.append(Emit(IkeMessage(direction, self.peer.name, self._task.exchange.name,
                                                message.header.is_response, 0, shown, str(path))))


def keyed(host: Host, attempt: Attempt, result: InitResult, now: float) -> IkeSa:
    """Return the IKE SA that IKE_SA_INIT gave keys to, about to ask for IKE_AUTH."""
    path = floated(attempt.path) if result.nat.supported else attempt.path
    session = Session(host, attempt.peer, result.crypto, handle=attempt.handle, path=path, nat=result.nat,
                      state=AuthSent(now), now=now)
    session.nonces, session.opened_at = Nonces(result.ni, result.nr), attempt.since
    session.childless_supported, session.gateway = result.childless, attempt.gateway
    sa = IkeSa(session, fragmentation=result.fragmentation)
    sa.requests.take(ExchangeType.IKE_SA_INIT)
    sa.requests.finish()
    session.enqueue(authentication(session, result, attempt.requests))
    return sa
