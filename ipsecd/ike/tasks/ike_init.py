"""IKE_SA_INIT (RFC 7296 1.2, 2.6, 2.7, 2.10, 2.14): the only exchange in the clear.

Nothing in it is authenticated until IKE_AUTH covers it.  So no answer ends an attempt: an error notify is a hint, and
COOKIE and INVALID_KE_PAYLOAD are obeyed a bounded number of times.  AUTH covers the last request sent and the response
to it, to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from ipsecd.causes import Cause, Failure
from ipsecd.errors import PeerError
from ipsecd.ike import negotiate
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto import kex
from ipsecd.ike.crypto.keymat import ike_keys
from ipsecd.ike.crypto.ticket import Claims
from ipsecd.ike.failures import error_notify, refused_ike
from ipsecd.ike.nat import Nat
from ipsecd.ike.session import IkeCrypto
from ipsecd.ike.steps import Steps, work
from ipsecd.ike.tasks.cookies import MAX_COOKIES, CookieDemands
from ipsecd.ike.tasks.nat_detection import detect, nat_payloads
from ipsecd.ike.tasks.pick import first, need
from ipsecd.ike.tasks.redirect import judge, redirect_payloads
from ipsecd.ike.tasks.signature_support import (
    NOTHING_ASKED,
    Requested,
    announced_hashes,
    certificate_request,
    hash_payloads,
    requested,
)
from ipsecd.ike.wire.header import FLAG_INITIATOR, FLAG_RESPONSE
from ipsecd.ike.wire.message import ClearMessage, Payload, build_clear
from ipsecd.ike.wire.notify import NotifyPayload, cookie, find
from ipsecd.ike.wire.payloads import KePayload, NoncePayload
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.policy import Encapsulation, PeerPolicy
from ipsecd.rng import Rng
from ipsecd.sa import Path
from ipsecd.suites import KE_NAMES, IkeSuite
from ipsecd.text import printable

NO_SPI = bytes(8)
NONCE_BYTES = 32                # RFC 7296 2.10: at least half the key of the longest PRF, which has 64
# Tuning
MAX_KE_RETRIES = 3              # a responder needs one (RFC 7296 1.2); forged ones must not go on


# Of a peer that does no NAT traversal, in a refusal
UDP_ONLY, NO_NAT_DETECTION = "encapsulation: udp", "no NAT_DETECTION_SOURCE_IP"


@dataclass(frozen=True, slots=True)
class InitResult:
    """What IKE_SA_INIT agreed, for IKE_AUTH; `request` and `response` are whole messages (RFC 7296 2.15)."""

    crypto: IkeCrypto
    ni: bytes
    nr: bytes
    request: bytes
    response: bytes
    nat: Nat
    fragmentation: bool
    childless: bool
    peer_hashes: tuple[int, ...] = ()       # with which the peer verifies signatures (RFC 7427 4)
    int_auth: bytes = b""                   # what AUTH covers of IKE_INTERMEDIATE (RFC 9242 3.3.2)
    asked: Requested = NOTHING_ASKED        # by the responder's CERTREQ
    ppk: bool = False                       # both said USE_PPK (RFC 8784 3)
    resumed: Claims | None = None           # it was IKE_SESSION_RESUME instead: what the ticket says (RFC 5723)
    said: tuple[Payload, ...] = ()          # as responder: what `response` is made of


@dataclass(frozen=True, slots=True)
class Again:
    """The responder wants the request in another form: build it again."""


@dataclass(frozen=True, slots=True)
class Late:
    """The response is one to a form of the request that was given up: it means nothing any more."""


@dataclass(frozen=True, slots=True)
class Unhelpful:
    """The response leads nowhere; `failure` is why, unauthenticated, and `refused` that the peer said no.

    `redirect` is the gateway that it sends us to instead, where its entry lets us go.
    """

    failure: Failure
    refused: bool = False
    redirect: str = ""


class InitRequest:
    """Our side as initiator."""

    exchange = ExchangeType.IKE_SA_INIT

    def __init__(self, peer: PeerPolicy, path: Path, rng: Rng, spi_i: bytes, *, came_from: str = "") -> None:
        self.peer = peer
        self.spi_i = spi_i
        self._path = path
        self._came_from = came_from
        self._offer = negotiate.offer_ike(peer.ike.proposals)
        self._ni = rng.random_bytes(NONCE_BYTES)
        self._ke_method = negotiate.first_ke(peer.ike.proposals)
        self._kes: tuple[kex.KeyExchange, ...] = ()
        self._cookies = CookieDemands()
        self._ke_retries = 0
        self.datagram = b""

    def build(self) -> Steps[bytes]:
        """Return the request in the form that the responder last asked for."""
        if not self._kes:
            worked = yield from work(partial(kex.generate, self._ke_method))
            self._kes = (worked.value,)
        payloads: list[Payload] = [
            *self._cookies.payloads, self._offer, *(KePayload(ke.method, ke.public) for ke in self._kes),
            NoncePayload(self._ni),
            *nat_payloads(spi_i=self.spi_i, spi_r=NO_SPI, path=self._path, true=self.peer.tells_nat),
            NotifyPayload(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED), *hash_payloads((self.peer,)),
            *ppk_payloads((self.peer,)), *redirect_payloads(self.peer, self._came_from)]
        if any(proposal.hybrid for proposal in self.peer.ike.proposals):
            payloads.append(NotifyPayload(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED))
        self.datagram = build_clear(spi_i=self.spi_i, spi_r=NO_SPI, exchange=ExchangeType.IKE_SA_INIT,
                                    flags=FLAG_INITIATOR, message_id=0, payloads=payloads)
        return self.datagram

    def process(self, response: ClearMessage, datagram: bytes, path: Path, *,
                superseded: int) -> Steps[InitResult | Again | Late | Unhelpful]:
        """Take a response whose payloads are legal; `path` is the one it came by.

        `superseded` counts the requests that were sent in forms before the present one.
        """
        nr = first(response.payloads, NoncePayload)
        if nr is None:
            return self._notified(response, superseded)
        try:
            result = yield from self._agree(response, nr.data, datagram, path)
        except PeerError as error:
            return Unhelpful(Failure(_CAUSES.get(error.notify, Cause.INVALID_SYNTAX), error.detail,
                                     ours=_offered(self.peer)))
        return result

    def _notified(self, response: ClearMessage, superseded: int) -> Again | Late | Unhelpful:
        wanted_cookie = cookie(response.payloads)
        if wanted_cookie is not None:
            if not self._cookies.obey(wanted_cookie, superseded=superseded):
                return Late()
            if self._cookies.endless:
                return Unhelpful(Failure(Cause.RETRY_LOOP, f"{MAX_COOKIES} cookies were not enough"))
            return Again()
        invalid_ke = find(response.payloads, NotifyType.INVALID_KE_PAYLOAD)
        if invalid_ke is not None:
            return self._other_group(invalid_ke)
        redirect = find(response.payloads, NotifyType.REDIRECT)
        if redirect is not None:
            found = judge(self.peer, redirect, here=self._path.remote.address, nonce=self._ni)
            if isinstance(found, Failure):
                return Unhelpful(found, refused=found.cause is not Cause.INVALID_SYNTAX)
            return Unhelpful(Failure(Cause.REDIRECTED, f"to {found}"), refused=True, redirect=found)
        notify = error_notify(response.payloads)
        if notify is None:
            return Unhelpful(Failure(Cause.INVALID_SYNTAX, "IKE_SA_INIT response without SA, KE or error"))
        failure = refused_ike(notify, ours=_offered(self.peer))
        if failure.cause is Cause.NO_PROPOSAL and not negotiate.classical(self.peer.ike.proposals):
            failure = replace(failure, cause=Cause.POST_QUANTUM)
        return Unhelpful(failure, refused=True)

    def _other_group(self, notify: NotifyPayload) -> Again | Unhelpful:
        method = negotiate.ke_to_retry(self.peer.ike.proposals, notify.data, used=self._ke_method)
        if method is None:
            wanted = int.from_bytes(notify.data[:2], "big")
            group = KE_NAMES.get(wanted, f"group {wanted}")
            return Unhelpful(Failure(Cause.KE_REFUSED, f"peer wants {group}", ours=_offered(self.peer), theirs=group,
                                     notify="INVALID_KE_PAYLOAD"))
        self._ke_retries += 1
        if self._ke_retries > MAX_KE_RETRIES:
            return Unhelpful(Failure(Cause.RETRY_LOOP, f"{MAX_KE_RETRIES} changes of group were not enough"))
        # A fresh key pair for each group: a public value is never sent twice (RFC 7296 2.12).
        self._ke_method, self._kes = method, ()
        return Again()

    def _agree(self, response: ClearMessage, nr: bytes, datagram: bytes, path: Path) -> Steps[InitResult | Unhelpful]:
        sa, ke = need(response.payloads, SaPayload), need(response.payloads, KePayload)
        spi_r = response.header.spi_r
        suite = negotiate.accept_ike(self._offer, sa, ke=self._ke_method).suite
        if spi_r == NO_SPI or ke.method != self._ke_method:
            raise PeerError(NotifyType.INVALID_SYNTAX, "responder SPI of zero, or a KE payload of another group")
        if suite.additional and not _has(response, NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED):
            raise PeerError(NotifyType.INVALID_SYNTAX, f"peer takes {suite}, but does not say that it supports "
                            "IKE_INTERMEDIATE")
        check_nonce(nr, suite)
        nat = detect(response.payloads, spi_i=self.spi_i, spi_r=spi_r, path=path, true=self.peer.tells_nat)
        if not nat.supported and self.peer.encapsulation is Encapsulation.UDP:
            return Unhelpful(Failure(Cause.NO_NAT_TRAVERSAL, ours=UDP_ONLY, theirs=NO_NAT_DETECTION))
        ppk = _has(response, NotifyType.USE_PPK)
        if self.peer.ppk is not None and self.peer.ppk.required and not ppk:
            return Unhelpful(Failure(Cause.PPK_MISMATCH, "peer does not say that it uses one (USE_PPK)",
                                      ours=printable(self.peer.ppk.id), theirs="no USE_PPK"))
        request, ni, own = self.datagram, self._ni, self._kes[0]
        worked = yield from work(partial(own.shared, ke.data))
        keys = ike_keys(suite, ni=ni, nr=nr, shared=worked.value, spi_i=self.spi_i, spi_r=spi_r)
        return InitResult(IkeCrypto(self.spi_i, spi_r, suite, keys, original_initiator=True), ni, nr, request, datagram,
                          nat, _has(response, NotifyType.IKEV2_FRAGMENTATION_SUPPORTED),
                          _has(response, NotifyType.CHILDLESS_IKEV2_SUPPORTED), announced_hashes(response.payloads),
                          asked=requested(response.payloads), ppk=ppk)


class _Choice(NamedTuple):
    """What a request leads to, before anything is kept for it."""

    peer: PeerPolicy
    chosen: negotiate.Chosen[IkeSuite]
    nat: Nat


class InitAnswer:
    """Our side as responder, once cookies and limits let the request in."""

    def __init__(self, candidates: tuple[PeerPolicy, ...], path: Path, rng: Rng) -> None:
        self._candidates = candidates
        self._path = path
        self._rng = rng
        self._choice: _Choice | None = None

    def refusal(self, request: ClearMessage) -> PeerError | None:
        """Return why the request is refused without keeping state, None where `process` may go on."""
        try:
            self._choice = self._choose(request)
        except PeerError as error:
            return error
        return None

    def process(self, request: ClearMessage, datagram: bytes, spi_r: bytes) -> Steps[tuple[PeerPolicy, InitResult]]:
        """Return the peer entry that fits so far, and the result with our response in it; raise PeerError.

        The request is the one that `refusal` let through.
        """
        assert self._choice is not None
        peer, chosen, nat = self._choice
        ni, ke = need(request.payloads, NoncePayload), need(request.payloads, KePayload)
        spi_i = request.header.spi_i
        worked = yield from work(partial(kex.respond, ke.method, ke.data))
        nr = self._rng.random_bytes(NONCE_BYTES)
        fragmentation = _has(request, NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)
        payloads: list[Payload] = [chosen.answer(b""), KePayload(ke.method, worked.value.public), NoncePayload(nr)]
        if nat.supported:
            payloads += nat_payloads(spi_i=spi_i, spi_r=spi_r, path=self._path, true=peer.tells_nat)
        if fragmentation:
            payloads.append(NotifyPayload(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED))
        ppk = ppk_payloads(self._candidates) if _has(request, NotifyType.USE_PPK) else ()
        payloads += [NotifyPayload(NotifyType.CHILDLESS_IKEV2_SUPPORTED), *hash_payloads(self._candidates),
                     *certificate_request(self._candidates), *ppk]
        if chosen.suite.additional:
            payloads.append(NotifyPayload(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED))
        response = build_clear(spi_i=spi_i, spi_r=spi_r, exchange=ExchangeType.IKE_SA_INIT, flags=FLAG_RESPONSE,
                               message_id=0, payloads=payloads)
        keys = ike_keys(chosen.suite, ni=ni.data, nr=nr, shared=worked.value.shared, spi_i=spi_i, spi_r=spi_r)
        crypto = IkeCrypto(spi_i, spi_r, chosen.suite, keys, original_initiator=False)
        return peer, InitResult(crypto, ni.data, nr, datagram, response, nat, fragmentation, childless=True,
                                peer_hashes=announced_hashes(request.payloads), ppk=bool(ppk), said=tuple(payloads))

    def _choose(self, request: ClearMessage) -> _Choice:
        sa, ke = need(request.payloads, SaPayload), need(request.payloads, KePayload)
        ni = need(request.payloads, NoncePayload)
        peer, chosen = self._choose_peer(sa, ke.method, _has(request, NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED))
        wanted = negotiate.wanted_ke(chosen.suite, ke.method)
        if wanted is not None:
            raise PeerError(NotifyType.INVALID_KE_PAYLOAD, f"peer sent a value for another group than "
                            f"{KE_NAMES[wanted]}", wanted.to_bytes(2, "big"))
        if len(ke.data) != kex.public_bytes(ke.method):
            raise PeerError(NotifyType.INVALID_SYNTAX, f"public value of {len(ke.data)} bytes")
        check_nonce(ni.data, chosen.suite)
        nat = detect(request.payloads, spi_i=request.header.spi_i, spi_r=NO_SPI, path=self._path, true=peer.tells_nat)
        if not nat.supported and all(p.encapsulation is Encapsulation.UDP for p in self._candidates):
            raise PeerError(NotifyType.NO_PROPOSAL_CHOSEN, "peer does no NAT traversal", ours=UDP_ONLY,
                            theirs=NO_NAT_DETECTION)
        return _Choice(peer, chosen, nat)

    def _choose_peer(self, sa: SaPayload, ke_sent: int,
                     intermediate: bool) -> tuple[PeerPolicy, negotiate.Chosen[IkeSuite]]:
        refused: PeerError | None = None
        for peer in self._candidates:
            try:
                return peer, negotiate.choose_ike(peer.ike.proposals, sa, ke_sent=ke_sent, intermediate=intermediate)
            except PeerError as error:
                refused = refused or error
        raise refused or PeerError(NotifyType.NO_PROPOSAL_CHOSEN, "no peer entry for this address")


def ppk_payloads(peers: tuple[PeerPolicy, ...]) -> tuple[Payload, ...]:
    """Return USE_PPK where one of the entries has such a key (RFC 8784 3)."""
    return (NotifyPayload(NotifyType.USE_PPK),) if any(p.ppk for p in peers) else ()


def check_nonce(nonce: bytes, suite: IkeSuite) -> None:
    """Raise PeerError for a nonce shorter than half the PRF's key, but 16 bytes will do for SHA-256 (RFC 7296 2.10)."""
    if len(nonce) < suite.prf.size // 2:
        raise PeerError(NotifyType.INVALID_SYNTAX, f"nonce of {len(nonce)} bytes is too short for {suite.prf.keyword}")


_CAUSES: dict[int, Cause] = {NotifyType.NO_PROPOSAL_CHOSEN: Cause.NO_PROPOSAL}


def _offered(peer: PeerPolicy) -> str:
    return ", ".join(map(str, peer.ike.proposals))


def _has(message: ClearMessage, type_: int) -> bool:
    return find(message.payloads, type_) is not None
