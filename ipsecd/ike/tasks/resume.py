"""IKE_SESSION_RESUME (RFC 5723 4.3): an IKE SA that was lost is taken up again without a key exchange.

    HDR, [N(COOKIE),] Ni, N(TICKET_OPAQUE) -->
                                               <-- HDR, Nr        or HDR, N(TICKET_NACK), and IKE_SA_INIT follows

Keys come from the lost IKE SA's SK_d and the new nonces.  IKE_AUTH follows, with AUTH by SK_pi and SK_pr: only who had
the old keys has these.  Identities are those of the ticket, and the entry is asked about them again.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipsecd.causes import Cause, Failure
from ipsecd.errors import PeerError
from ipsecd.ike.consts import AuthMethod, ExchangeType, NotifyType
from ipsecd.ike.crypto.auth import signed_octets
from ipsecd.ike.crypto.compare import same_bytes
from ipsecd.ike.crypto.keymat import prf, resumed_ike_keys
from ipsecd.ike.crypto.ticket import Claims, nack
from ipsecd.ike.session import IkeCrypto, Session
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.cookies import CookieDemands
from ipsecd.ike.tasks.ike_init import NO_SPI, NONCE_BYTES, Again, InitResult, Late, Unhelpful, check_nonce
from ipsecd.ike.tasks.nat_detection import detect, nat_payloads
from ipsecd.ike.tasks.pick import first, need
from ipsecd.ike.tasks.refusal import SaRefused
from ipsecd.ike.tasks.task import Payloads
from ipsecd.ike.tickets import Ticket, Tickets, may_resume
from ipsecd.ike.wire.cursor import Reader, u32
from ipsecd.ike.wire.header import FLAG_INITIATOR, FLAG_RESPONSE
from ipsecd.ike.wire.message import ClearMessage, Payload, build_clear
from ipsecd.ike.wire.notify import NotifyPayload, cookie, find
from ipsecd.ike.wire.payloads import AuthPayload, IdPayload, NoncePayload
from ipsecd.policy import Encapsulation, Identity, PeerPolicy
from ipsecd.rng import Rng
from ipsecd.sa import Path

_LIFE_BYTES = 4                 # RFC 5723 7.2: the life of a ticket in seconds, before it
_FRAGMENTS = NotifyPayload(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)
_CHILDLESS = NotifyPayload(NotifyType.CHILDLESS_IKEV2_SUPPORTED)


@dataclass(frozen=True, slots=True)
class Instead:
    """The ticket leads nowhere: begin with IKE_SA_INIT."""


class ResumeRequest:
    """Our side as initiator."""

    exchange = ExchangeType.IKE_SESSION_RESUME

    def __init__(self, peer: PeerPolicy, path: Path, rng: Rng, spi_i: bytes, ticket: Ticket) -> None:
        self.spi_i = spi_i
        self.datagram = b""
        self._peer = peer
        self._path = path
        self._ticket = ticket
        self._ni = rng.random_bytes(NONCE_BYTES)
        self._cookies = CookieDemands()

    def build(self) -> Steps[bytes]:
        """[N(COOKIE),] Ni, N(TICKET_OPAQUE), and what IKE_SA_INIT would say of the path."""
        yield from ()
        payloads: list[Payload] = [
            *self._cookies.payloads, NoncePayload(self._ni),
            NotifyPayload(NotifyType.TICKET_OPAQUE, self._ticket.opaque),
            *nat_payloads(spi_i=self.spi_i, spi_r=NO_SPI, path=self._path, true=self._peer.tells_nat), _FRAGMENTS]
        self.datagram = build_clear(spi_i=self.spi_i, spi_r=NO_SPI, exchange=self.exchange, flags=FLAG_INITIATOR,
                                    message_id=0, payloads=payloads)
        return self.datagram

    def process(self, response: ClearMessage, datagram: bytes, path: Path, *,
                superseded: int) -> Steps[InitResult | Again | Instead | Late | Unhelpful]:
        """Take a response whose payloads are legal; `superseded` as in IKE_SA_INIT.

        Nothing of it is authenticated; a forged refusal costs no more than the key exchange that it leads to.
        """
        yield from ()
        nr, spi_r = first(response.payloads, NoncePayload), response.header.spi_r
        if nr is None:
            return self._notified(response, superseded)
        nat = detect(response.payloads, spi_i=self.spi_i, spi_r=spi_r, path=path, true=self._peer.tells_nat)
        suite, claims = self._ticket.suite, self._ticket.claims
        try:
            check_nonce(nr.data, suite)
        except PeerError:
            return Instead()
        if spi_r == NO_SPI or (not nat.supported and self._peer.encapsulation is Encapsulation.UDP):
            return Instead()
        keys = resumed_ike_keys(suite, claims.sk_d, ni=self._ni, nr=nr.data, spi_i=self.spi_i, spi_r=spi_r)
        return InitResult(IkeCrypto(self.spi_i, spi_r, suite, keys, original_initiator=True), self._ni, nr.data,
                          self.datagram, datagram, nat, find(response.payloads, _FRAGMENTS.type) is not None,
                          find(response.payloads, _CHILDLESS.type) is not None, resumed=claims)

    def _notified(self, response: ClearMessage, superseded: int) -> Again | Late | Instead:
        wanted = cookie(response.payloads)
        if wanted is None:
            return Instead()
        if not self._cookies.obey(wanted, superseded=superseded):
            return Late()
        return Instead() if self._cookies.endless else Again()


class ResumeAnswer:
    """Our side as responder; as long as AUTH is not verified the ticket is not spent."""

    def __init__(self, tickets: Tickets, candidates: tuple[PeerPolicy, ...], path: Path, rng: Rng, now: float) -> None:
        self._tickets = tickets
        self._candidates = candidates
        self._path = path
        self._rng = rng
        self._now = now

    def refusal(self, request: ClearMessage) -> PeerError | None:
        """Return why the request is refused without keeping state, None where `process` may go on."""
        try:
            entry, _, suite = self._tickets.recognise(_ticket(request), self._candidates, self._now)
            check_nonce(need(request.payloads, NoncePayload).data, suite)
        except PeerError as error:
            return error
        nat = detect(request.payloads, spi_i=request.header.spi_i, spi_r=NO_SPI, path=self._path, true=False)
        if not nat.supported and entry.encapsulation is Encapsulation.UDP:
            return nack("peer does not do NAT traversal, and its entry has encapsulation: udp")
        return None

    def process(self, request: ClearMessage, datagram: bytes, spi_r: bytes) -> Steps[tuple[PeerPolicy, InitResult]]:
        """Return the entry of the ticket, and the result with our response in it."""
        yield from ()
        entry, claims, suite = self._tickets.recognise(_ticket(request), self._candidates, self._now)
        spi_i, ni = request.header.spi_i, need(request.payloads, NoncePayload).data
        nat = detect(request.payloads, spi_i=spi_i, spi_r=NO_SPI, path=self._path, true=entry.tells_nat)
        nr, fragmentation = self._rng.random_bytes(NONCE_BYTES), find(request.payloads, _FRAGMENTS.type) is not None
        payloads: list[Payload] = [NoncePayload(nr), _CHILDLESS]
        if nat.supported:
            payloads += nat_payloads(spi_i=spi_i, spi_r=spi_r, path=self._path, true=entry.tells_nat)
        payloads += [_FRAGMENTS] if fragmentation else []
        response = build_clear(spi_i=spi_i, spi_r=spi_r, exchange=ExchangeType.IKE_SESSION_RESUME,
                               flags=FLAG_RESPONSE, message_id=0, payloads=payloads)
        keys = resumed_ike_keys(suite, claims.sk_d, ni=ni, nr=nr, spi_i=spi_i, spi_r=spi_r)
        return entry, InitResult(IkeCrypto(spi_i, spi_r, suite, keys, original_initiator=False), ni, nr, datagram,
                                 response, nat, fragmentation, childless=True, resumed=claims, said=tuple(payloads))


# IKE_AUTH: proofs by the keys alone, for the identities of the ticket (RFC 5723 4.3.3, 5.1)


def prove_resumed(init: InitResult, claims: Claims, id_payload: IdPayload, *, initiator: bool) -> AuthPayload:
    """Return our AUTH; raise SaRefused where we no longer are who the ticket says."""
    if Identity(id_payload.id_type, id_payload.data) != claims.local:
        raise _unproven("our own identity is another than the ticket's", theirs=str(claims.local))
    return AuthPayload(AuthMethod.SHARED_KEY, _mac(init, id_payload, initiator=initiator))


def check_resumed(peer: PeerPolicy, session: Session, init: InitResult, claims: Claims, id_payload: IdPayload,
                  auth: AuthPayload | None, *, initiator: bool) -> None:
    """Return if the peer of a ticket is who it was, under an entry that is what it was; spends the ticket.

    Raises SaRefused if not.
    """
    who, tickets = Identity(id_payload.id_type, id_payload.data), session.host.tickets
    if auth is None or auth.method != AuthMethod.SHARED_KEY or who != claims.remote:
        raise _unproven("the ticket is another identity's, or AUTH has another method", theirs=str(who))
    if not same_bytes(auth.data, _mac(init, id_payload, initiator=initiator)):
        raise _unproven("AUTH does not match: the keys of the lost IKE SA differ", theirs=str(who))
    if claims.entry != (peer.entry or peer.name) or not tickets.stands(claims) or not may_resume(peer):
        raise _unproven(f"entry {peer.name} changed since the ticket was given", theirs=str(who))
    if initiator and not tickets.spend(claims):
        raise _unproven("the ticket was used before", theirs=str(who))


def proved_at(init: InitResult, now: float) -> float:
    """Return when the ends of an IKE SA that comes up now proved themselves by more than a ticket."""
    return init.resumed.proved_at if init.resumed is not None else now


def _mac(init: InitResult, id_payload: IdPayload, *, initiator: bool) -> bytes:
    # RFC 5723 5.1: AUTH = prf(SK_px, <message octets>), which are those of RFC 7296 2.15.
    crypto = init.crypto
    message, nonce, sk_p = ((init.request, init.nr, crypto.keys.sk_pi) if initiator else
                            (init.response, init.ni, crypto.keys.sk_pr))
    octets = signed_octets(crypto.suite.prf, message=message, nonce=nonce, sk_p=sk_p, id_body=id_payload.build())
    return prf(crypto.suite.prf, sk_p.reveal(), octets)


def _unproven(detail: str, *, theirs: str) -> SaRefused:
    return SaRefused(Failure(Cause.AUTHENTICATION_FAILED, detail, theirs=theirs), NotifyType.AUTHENTICATION_FAILED)


# IKE_AUTH: the next ticket (RFC 5723 4.1)


def ask_ticket(session: Session) -> Payloads:
    """Return N(TICKET_REQUEST) where the entry lets us come back by a ticket."""
    return (NotifyPayload(NotifyType.TICKET_REQUEST),) if may_resume(session.peer) else ()


def answer_ticket(session: Session, payloads: tuple[Payload, ...], now: float) -> Payloads:
    """Return the ticket that the peer asked for, or that it gets none."""
    if find(payloads, NotifyType.TICKET_REQUEST) is None:
        return ()
    given = session.host.tickets.give(session, now)
    if given is None:
        return (NotifyPayload(NotifyType.TICKET_NACK),)
    ticket, life_s = given
    return (NotifyPayload(NotifyType.TICKET_LT_OPAQUE, u32(int(life_s), "life of a ticket") + ticket),)


def take_ticket(session: Session, payloads: tuple[Payload, ...], now: float) -> None:
    """Keep the ticket that the peer gave."""
    told = find(payloads, NotifyType.TICKET_LT_OPAQUE)
    if told is not None and len(told.data) > _LIFE_BYTES:
        reader = Reader(told.data)
        life_s = reader.u32()
        session.host.tickets.keep(session, reader.rest(), life_s, now)


def _ticket(request: ClearMessage) -> bytes:
    shown = find(request.payloads, NotifyType.TICKET_OPAQUE)
    if shown is None:
        raise nack("none was shown")
    return shown.data
