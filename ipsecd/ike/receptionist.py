"""The desk for strangers: requests for a new IKE SA, and datagrams that belong to none (RFC 7296 1.5, 2.4-2.6, 2.21).

A request for a new IKE SA goes  1 peer entries for the address  2 repetition  3 cookie, limit of its source
4 payload rules  5 proposals, KE and NAT traversal, all without state  6 a place among the half-open  7 key exchange and
answer.
Whatever goes wrong before 6 leaves nothing behind; 1 to 3 come before it is parsed, and carry a flood.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from ipsecd.causes import Cause, Failure
from ipsecd.drops import DropReason
from ipsecd.effects import Effect, Emit, SendIke
from ipsecd.errors import PeerError, WireError
from ipsecd.events import IkeAttemptFailed, IkeMessage, LocalFault
from ipsecd.ike.collisions import Nonces
from ipsecd.ike.consts import ExchangeType, NotifyType, enum_name
from ipsecd.ike.crypto.cookie import CookieJar
from ipsecd.ike.crypto.digest import request_digest
from ipsecd.ike.failures import of_error
from ipsecd.ike.half_open import HalfOpens
from ipsecd.ike.ike_sa import IkeSa
from ipsecd.ike.nat import with_ike_ports
from ipsecd.ike.requester import HALF_OPEN_LIFE_S
from ipsecd.ike.sa_table import SaTable
from ipsecd.ike.session import Session
from ipsecd.ike.states import InitAnswered
from ipsecd.ike.steps import StepRunner
from ipsecd.ike.tasks.crash_detection import lost_by_peer
from ipsecd.ike.tasks.ike_init import NO_SPI, InitAnswer, InitResult
from ipsecd.ike.tasks.intermediate import HalfOpenAnswer
from ipsecd.ike.tasks.resume import ResumeAnswer
from ipsecd.ike.wire import rules
from ipsecd.ike.wire.glance import Glance, glance
from ipsecd.ike.wire.header import FLAG_INITIATOR, FLAG_RESPONSE, IkeHeader
from ipsecd.ike.wire.message import ClearMessage, build_clear, names
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.policy import PeerPolicy
from ipsecd.rate import Bucket
from ipsecd.reports import Suspected
from ipsecd.rng import Rng, nonzero_spi64
from ipsecd.sa import Path
from ipsecd.text import printable

BEGIN: tuple[int, ...] = (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_SESSION_RESUME)
# Tuning
MAX_ANSWERS = 8                 # repetitions of one IKE_SA_INIT request that are answered: 15 s of ours has 6
MAX_REMEMBERED = 4096           # requests known by their digest: eight times the places, about 1 MiB
REPLIES_PER_S, REPLY_BURST = 100.0, 200.0      # error notifies to strangers, all together
# Apart from those: a restarted head-end tells all its peers, whose liveness checks may come at once, however many
# strangers are refused meanwhile.  None is longer than what it answers.
LOST_PER_S, LOST_BURST = 200.0, 1000.0         # notifies that we do not have the SA of a message
EVENTS_PER_S, EVENT_BURST = 1.0, 20.0          # events that a stranger causes
MAX_GAIN_BYTES = 3              # a token beside the notify, against a bare liveness check under AES-GCM
MAX_HINTED_PEERS = 16           # entries of one address that an unprotected hint may make us look through
HINTS_PER_S, HINT_BURST = 10.0, 50.0           # INVALID_SPI hints, each of which is a search for the IKE SA
SUSPICION_S = 5.0               # at most one liveness check of an IKE SA in this time for unprotected hints

# Steps of the negotiation, as COOKIE is: a flood of other refusals must not use them up.
_STEPS = (NotifyType.INVALID_KE_PAYLOAD, NotifyType.TICKET_NACK)


@dataclass(frozen=True, slots=True)
class _Request:
    """What tells an IKE_SA_INIT request from others: two hosts behind one NAT may choose one SPIi (RFC 7296 2.1)."""

    spi_i: bytes
    path: Path
    digest: bytes


@dataclass(slots=True)
class _Answering:
    """A request that has a place: `sa` once its key exchange is done."""

    spi_r: bytes
    until: float
    sa: IkeSa | None = None
    answers: int = 1


class Receptionist:
    """See the head of this file."""

    def __init__(self, table: SaTable, rng: Rng, *, now: float) -> None:
        self.half_opens = HalfOpens()
        self.runner = StepRunner()
        self._table = table
        self._rng = rng
        self._jar = CookieJar(rng, now)
        self._answering: OrderedDict[_Request, _Answering] = OrderedDict()      # the first to be forgotten first
        self._requests: dict[bytes, _Request] = {}      # of half-open IKE SAs, by our SPI
        self._effects: list[Effect | Suspected] = []
        self._replies = Bucket(per_s=REPLIES_PER_S, burst=REPLY_BURST, now=now)
        self._lost = Bucket(per_s=LOST_PER_S, burst=LOST_BURST, now=now)
        self._events = Bucket(per_s=EVENTS_PER_S, burst=EVENT_BURST, now=now)
        self._hints = Bucket(per_s=HINTS_PER_S, burst=HINT_BURST, now=now)
        self._suspected: dict[bytes, float] = {}

    def take_effects(self) -> list[Effect | Suspected]:
        """Hand over effects since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def established(self, session: Session) -> None:
        """An IKE SA is no longer half-open: it was authenticated, or it ended."""
        spi = session.crypto.own_spi
        self.half_opens.remove(spi)
        self._suspected.pop(spi, None)
        request = self._requests.pop(spi, None)
        if request is not None:
            self._table.forget_half_open(spi, request.path.remote.address)
            known = self._answering.get(request)
            if known is not None:
                known.sa, known.answers = None, MAX_ANSWERS             # remembered without its keys

    # A request for a new IKE SA

    def at_the_door(self, header: IkeHeader, datagram: bytes, path: Path, now: float) -> DropReason | None:
        """Look at a datagram that nobody has parsed; return why it goes no further, if it asks for a new IKE SA."""
        source = path.remote.address
        if header.exchange not in BEGIN or header.is_response or header.message_id != 0:
            return None
        if not header.is_initiator or header.spi_r != NO_SPI:
            return DropReason.IKE_WRONG_ROLE_FLAG
        if not self._table.offers(source):
            # Whether it is well-formed or not, there is nothing to say to it but a refusal, and of those are enough.
            return None if self._replies.has_any(now) else DropReason.IKE_NO_PEER
        if not self.half_opens.needs_cookie(source, threshold=self._table.policy.cookie_threshold, now=now):
            return None
        if _Request(header.spi_i, path, request_digest(datagram)) in self._answering:
            return None
        try:
            seen = glance(datagram, header)
        except WireError:
            return DropReason.IKE_MALFORMED
        if self._is_proved(seen, header, source, now):
            # Five hundred behind one NAT repeat their requests until there is a place.
            return self._no_place(source, proved=True)
        demand = self._jar.make(ni=seen.ni, source_address=source, spi_i=header.spi_i, now=now)
        self._reply(header, path, NotifyPayload(NotifyType.COOKIE, demand))
        return DropReason.IKE_COOKIE_REQUIRED

    def _no_place(self, source: str, *, proved: bool) -> DropReason | None:
        return self.half_opens.refuse(source, proved=proved, peer=self._table.is_configured(source),
                                      source_limit=self._table.policy.source_limit)

    def _is_proved(self, seen: Glance, header: IkeHeader, source: str, now: float) -> bool:
        return seen.cookie is not None and self._jar.check(seen.cookie, ni=seen.ni, source_address=source,
                                                           spi_i=header.spi_i, now=now)

    def init_request(self, message: ClearMessage, datagram: bytes, path: Path, now: float) -> DropReason | None:
        """Take an IKE_SA_INIT request that came through the door; return why it was dropped."""
        header = message.header
        self._forget_old(now)
        request = _Request(header.spi_i, path, request_digest(datagram))
        known = self._answering.get(request)
        if known is not None:
            return self._repeated(known, request, path, now)
        try:
            rules.check(header.exchange, False, message.payloads)
        except PeerError as error:
            self._refuse(header, path, error, now)
            return DropReason.IKE_MALFORMED
        candidates = self._table.offers(path.remote.address)
        if not candidates:
            self._refuse(header, path, PeerError(NotifyType.NO_PROPOSAL_CHOSEN, "no peer entry for this address"), now)
            return DropReason.IKE_NO_PEER
        return self._admit(message, datagram, request, candidates, now)

    def _forget_old(self, now: float) -> None:
        """A request is remembered beyond IKE_AUTH, so that a late copy of it begins nothing (RFC 7296 2.1)."""
        while self._answering:
            request, known = next(iter(self._answering.items()))
            if known.until > now and len(self._answering) <= MAX_REMEMBERED:
                return
            del self._answering[request]

    def _repeated(self, known: _Answering, request: _Request, path: Path, now: float) -> DropReason | None:
        if known.answers >= MAX_ANSWERS:
            return DropReason.IKE_RATE_LIMIT
        if known.sa is None:
            return DropReason.IKE_BUSY
        if not isinstance(known.sa.session.state, InitAnswered):
            return DropReason.IKE_RATE_LIMIT
        known.answers += 1
        known.sa.repeat_init(request.digest, path, now)
        self._table.touched.append(known.sa)
        return None

    def _admit(self, message: ClearMessage, datagram: bytes, request: _Request, candidates: tuple[PeerPolicy, ...],
               now: float) -> DropReason | None:
        path, source = request.path, request.path.remote.address
        proved = self._is_proved(glance(datagram, message.header), message.header, source, now)
        answer: InitAnswer | ResumeAnswer = InitAnswer(candidates, path, self._rng)
        if message.header.exchange == ExchangeType.IKE_SESSION_RESUME:
            answer = ResumeAnswer(self._table.tickets, self._table.candidates(source), path, self._rng, now)
        refusal = answer.refusal(message)
        if refusal is not None:
            self._refuse(message.header, path, refusal, now)
            return None
        no_place = self._no_place(source, proved=proved)
        if no_place is not None:
            return no_place
        shown = tuple(names(message.payloads))
        exchange = enum_name(ExchangeType, message.header.exchange)
        self._effects.append(Emit(IkeMessage("in", "", exchange, False, 0, shown, str(path))))
        spi_r = self._table.new_ike_spi()
        self.half_opens.add(spi_r, source, proved=proved)
        self._answering[request] = _Answering(spi_r, now + HALF_OPEN_LIFE_S)
        self._requests[spi_r] = request
        self.runner.start(answer.process(message, datagram, spi_r), now=now,
                          done=lambda result, then: self._answered(request, *result, then, since=now),
                          failed=lambda error, then: self._failed(request, message.header, error, then, spi_r))
        return None

    def _answered(self, request: _Request, peer: PeerPolicy, result: InitResult, now: float, *, since: float) -> None:
        session = Session(self._table, peer, result.crypto, handle=self._table.new_handle(), path=request.path,
                          nat=result.nat, state=InitAnswered(since), now=since)
        session.nonces = Nonces(result.ni, result.nr)
        sa = IkeSa(session, fragmentation=result.fragmentation, auth=HalfOpenAnswer(session, result))
        known = self._answering.setdefault(request, _Answering(session.crypto.own_spi, since + HALF_OPEN_LIFE_S))
        known.sa = sa
        self._table.add(sa)
        sa.answer_init(request.digest, result.response, result.said, now)
        sa.start(since)

    def _failed(self, request: _Request, header: IkeHeader, error: Exception, now: float,
                spi_r: bytes) -> None:
        self._answering.pop(request, None)
        self._requests.pop(spi_r, None)
        self.half_opens.remove(spi_r)
        if isinstance(error, PeerError):
            self.half_opens.alarm(now)
            self._refuse(header, request.path, error, now)
        else:
            text = printable(f"{type(error).__name__}: {error}")
            self._effects.append(Emit(LocalFault(f"IKE_SA_INIT from {request.path.remote}", text)))

    # Datagrams of no IKE SA

    def unknown_spi(self, header: IkeHeader, path: Path, now: float) -> DropReason:
        """A protected message for an IKE SA that we do not have: one notify for a request (RFC 7296 2.21.4)."""
        if not header.is_response and self._lost.take(now):
            token = self._table.crash_token(header.spi_i, header.spi_r)
            notifies = (NotifyPayload(NotifyType.INVALID_IKE_SPI),
                        *((NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, token),) if token else ()))
            flags = FLAG_RESPONSE | (0 if header.is_initiator else FLAG_INITIATOR)
            self._send(header, path, *notifies, exchange=header.exchange, message_id=header.message_id, flags=flags)
        return DropReason.IKE_UNKNOWN_SPI

    def unprotected(self, message: ClearMessage, path: Path, now: float) -> DropReason | None:
        """A clear message where none may be: a hint at most that the peer lost its state (RFC 7296 2.4, 2.21.4)."""
        header = message.header
        told = find(message.payloads, NotifyType.INVALID_IKE_SPI) or find(message.payloads, NotifyType.INVALID_SPI)
        sa = self._table.sas.get(header.spi_i) or self._table.sas.get(header.spi_r)
        if sa is None and told is not None and told.type == NotifyType.INVALID_SPI and self._hints.take(now):
            sa = self._sends_on(told.data, path)
        if told is None or sa is None or not sa.session.established or not sa.session.in_charge:
            return DropReason.IKE_NOT_PROTECTED
        named = (header.spi_i, header.spi_r) == (sa.session.crypto.spi_i, sa.session.crypto.spi_r)
        if named and lost_by_peer(sa.session, message.payloads):
            sa.close(Failure(Cause.PEER_DEAD, "it lost the IKE SA, as its crash token shows"), now, tell=False)
            self._table.touched.append(sa)
            return None
        spi = sa.session.crypto.own_spi
        if now - self._suspected.get(spi, now - SUSPICION_S) >= SUSPICION_S:
            self._suspected[spi] = now
            sa.ask_at_once(now)
            self._table.touched.append(sa)
            self._effects.append(Suspected(sa.session.handle, sa.session.peer.name))
        return DropReason.IKE_NOT_PROTECTED

    def wayward_esp(self, path: Path, spi: int, now: float) -> None:
        """Hint a configured sender of ESP for an SPI that we do not have: we may have restarted (RFC 7296 1.5).

        Who answered our offer may send before we have verified the answer: that is no sign of anything.
        """
        if spi in self._table.announced or spi in self._table.by_child:
            return
        if self._table.is_configured(path.remote.address) and self._lost.take(now):
            notify = NotifyPayload(NotifyType.INVALID_SPI, spi.to_bytes(4, "big"))
            datagram = build_clear(spi_i=nonzero_spi64(self._rng), spi_r=NO_SPI, exchange=ExchangeType.INFORMATIONAL,
                                   flags=FLAG_INITIATOR, message_id=0, payloads=(notify,))
            self._effects.append(SendIke(path if not path.raw else with_ike_ports(path), datagram))

    def _sends_on(self, spi: bytes, path: Path) -> IkeSa | None:
        """Return the IKE SA of a peer at this address that has a pair with this outbound SPI."""
        if not self._table.is_configured(path.remote.address):
            return None
        wanted = int.from_bytes(spi, "big")
        return next((sa for peer in self._table.candidates(path.remote.address)[:MAX_HINTED_PEERS]
                     for sa in self._table.of_peer(peer.name)
                     if any(child.spi_out == wanted for child in sa.session.children.values())), None)

    def refuse_version(self, header: IkeHeader, path: Path, now: float) -> None:
        """Answer a request of a higher major version in ours (RFC 7296 2.5)."""
        if header.major > 2 and not header.is_response and self._replies.take(now):
            self._send(header, path, NotifyPayload(NotifyType.INVALID_MAJOR_VERSION), exchange=header.exchange,
                       message_id=header.message_id, flags=FLAG_RESPONSE)

    # Answers without state

    def _refuse(self, header: IkeHeader, path: Path, error: PeerError, now: float) -> None:
        if error.notify not in _STEPS and self._events.take(now):
            known = self._table.candidates(path.remote.address)
            name = known[0].name if self._table.is_configured(path.remote.address) else ""
            failure = of_error(error) if known else Failure(Cause.UNKNOWN_IDENTITY, error.detail)
            self._effects.append(Emit(IkeAttemptFailed(name, "responder", str(path), failure)))
        if error.notify in _STEPS or self._replies.take(now):
            self._reply(header, path, NotifyPayload(error.notify, error.data))

    def _reply(self, header: IkeHeader, path: Path, notify: NotifyPayload) -> None:
        self._send(header, path, notify, exchange=header.exchange, message_id=0, flags=FLAG_RESPONSE)

    def _send(self, header: IkeHeader, path: Path, *notifies: NotifyPayload, exchange: int, message_id: int,
              flags: int) -> None:
        datagram = build_clear(spi_i=header.spi_i, spi_r=header.spi_r, exchange=exchange, flags=flags,
                               message_id=message_id, payloads=notifies)
        if len(datagram) <= header.length + MAX_GAIN_BYTES:    # or whoever spoofs an address makes us flood
            self._effects.append(SendIke(path, datagram))
