"""Mallory: a scripted peer that holds valid keys and follows no rule.

He builds every message to the Victim himself, from the codec and the key derivation, so each byte and number in it is
for the test to choose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ipsecd.aead import make_sealer
from ipsecd.drops import DropReason
from ipsecd.ike.consts import AuthMethod, ExchangeType, NotifyType, PayloadType, ProtocolId
from ipsecd.ike.crypto import kex
from ipsecd.ike.crypto.auth import psk_auth
from ipsecd.ike.crypto.keymat import ike_keys, rekeyed_ike_keys
from ipsecd.ike.crypto.sk_payload import SkOpener, open_fragment, open_message
from ipsecd.ike.fragments import Reassembly
from ipsecd.ike.negotiate import Chosen, accept_ike, choose_ike, offer_esp, offer_ike
from ipsecd.ike.session import IkeCrypto
from ipsecd.ike.tasks.nat_detection import nat_payloads
from ipsecd.ike.tasks.pick import first, need
from ipsecd.ike.wire.header import FLAG_INITIATOR, FLAG_RESPONSE, HEADER_BYTES, VERSION, IkeHeader
from ipsecd.ike.wire.message import (
    ClearMessage,
    Payload,
    SealedMessage,
    build_clear,
    build_payloads,
    generic_header,
    split,
)
from ipsecd.ike.wire.notify import NotifyPayload, cookie
from ipsecd.ike.wire.payloads import AuthPayload, IdPayload, KePayload, NoncePayload
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.policy import EsnPolicy, Identity, Pfs
from ipsecd.reports import ChildRequest
from ipsecd.sa import Endpoint, Path
from ipsecd.secret import Secret
from ipsecd.selectors import from_prefix
from ipsecd.suites import IkeSuite, Proposal
from tests.support.exchange import ESP, IKE, PSK, B, fqdn
from tests.support.seeded_rng import SeededRng
from tests.support.victim import Victim

Payloads = tuple[Payload, ...]


@dataclass
class Mallory:
    """A peer of the victim; `request` and `respond` seal whatever they are given."""

    victim: Victim
    own: Identity = field(default_factory=lambda: fqdn("b.example"))
    address: str = B
    port: int = 4500
    psk: Secret = PSK
    seed: object = 1
    offer: Proposal = IKE               # as initiator
    nat_traversal: bool = True
    crypto: IkeCrypto | None = None
    next_id: int = 0
    inbox: list[bytes] = field(default_factory=list)    # what the victim sent, not yet looked at

    def __post_init__(self) -> None:
        self.rng = SeededRng((self.seed, "mallory"))
        self.reassembly = Reassembly()
        self._iv = 0
        self.init_request = self.init_response = b""
        self.ni = self.nr = b""

    @property
    def path(self) -> Path:
        """Return the way as the victim sees it."""
        return Path(Endpoint(self.victim.address, self.port), Endpoint(self.address, self.port))

    def send(self, datagram: bytes) -> list[bytes]:
        """Deliver bytes as they are; return and keep what comes back."""
        answers = [s.datagram for s in self.victim.feed(datagram, self.path)]
        self.inbox += answers
        return answers

    def nat(self, spi_i: bytes, spi_r: bytes) -> Payloads:
        """Return what he says of NATs, and of himself the truth."""
        return nat_payloads(spi_i=spi_i, spi_r=spi_r, path=_reversed(self.path),
                            true=True) if self.nat_traversal else ()

    # IKE_SA_INIT and IKE_AUTH as initiator

    def init_payloads(self, ke: kex.KeyExchange, *, spi_i: bytes, cookie_: bytes | None = None) -> Payloads:
        """Return what an honest initiator sends."""
        start = (NotifyPayload(NotifyType.COOKIE, cookie_),) if cookie_ else ()
        hybrid = (NotifyPayload(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED),) if self.offer.hybrid else ()
        return (*start, offer_ike((self.offer,)), KePayload(ke.method, ke.public), NoncePayload(self.ni),
                *self.nat(spi_i, bytes(8)),
                NotifyPayload(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED), *hybrid)

    def init(self, *, method: int = 31, change: Callable[[bytes], bytes] = bytes) -> bool:
        """Run IKE_SA_INIT as initiator, with the cookie where one is wanted; False where no answer came.

        `change` makes another request of the honest one.
        """
        self.ni, spi_i = self.rng.random_bytes(32), self.rng.random_bytes(8)
        ke, wanted = kex.generate(method), None
        for _ in range(2):
            self.init_request = change(clear(self.init_payloads(ke, spi_i=spi_i, cookie_=wanted), spi_i=spi_i))
            answers = self.send(self.init_request)
            if not answers:
                return False
            self.init_response = answers[-1]
            message = _clear(self.init_response)
            wanted = cookie(message.payloads)
            if wanted is None:
                break
        if first(message.payloads, KePayload) is None:
            return False
        self.nr = need(message.payloads, NoncePayload).data
        suite = accept_ike(offer_ike((self.offer,)), need(message.payloads, SaPayload), ke=method).suite
        shared = ke.shared(need(message.payloads, KePayload).data)
        self._derive(suite, shared, spi_i, message.header.spi_r, initiator=True)
        self.next_id, self.inbox = 1, []
        return True

    def auth_payloads(self, *, child: bool = True, psk: Secret | None = None, spi: int = 0xC0000001) -> Payloads:
        """Return what an honest initiator sends in IKE_AUTH."""
        assert self.crypto is not None
        id_i = IdPayload(PayloadType.IDI, self.own.type, self.own.data)
        auth = psk_auth(self.crypto.suite.prf, psk or self.psk, message=self.init_request, nonce=self.nr,
                        sk_p=self.crypto.keys.sk_pi, id_body=id_i.build())
        return (id_i, AuthPayload(AuthMethod.SHARED_KEY, auth), *(child_payloads(spi=spi)[:3] if child else ()))

    def login(self, *, child: bool = True, psk: Secret | None = None) -> Payloads | None:
        """Run both exchanges; return the payloads of the IKE_AUTH response."""
        assert self.init(), self.victim.dropped
        return self.request(ExchangeType.IKE_AUTH, *self.auth_payloads(child=child, psk=psk))

    # As responder

    def respond_init(self, request: bytes, *, method: int | None = None, spi_r: bytes | None = None,
                     change: tuple[Payload, ...] = (), extra: tuple[Payload, ...] = ()) -> bytes:
        """Return the answer of an honest responder to the victim's IKE_SA_INIT, having derived the keys.

        Payloads in `change` take the place of those of their class; `extra` come behind all others.
        """
        message = _clear(request)
        theirs = need(message.payloads, KePayload)
        self.ni, self.nr = need(message.payloads, NoncePayload).data, self.rng.random_bytes(32)
        chosen = choose_ike((IKE,), need(message.payloads, SaPayload), ke_sent=theirs.method)
        spi_i, spi_r = message.header.spi_i, spi_r or self.rng.random_bytes(8)
        answer = kex.respond(theirs.method, theirs.data)
        payloads: Payloads = (chosen.answer(b""), KePayload(theirs.method, answer.public), NoncePayload(self.nr),
                              *self.nat(spi_i, spi_r), NotifyPayload(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED))
        kept = tuple(next((c for c in change if type(c) is type(p) and not isinstance(p, NotifyPayload)), p)
                     for p in payloads)
        self.init_request = request
        self.init_response = clear(kept + extra, spi_i=spi_i, spi_r=spi_r, flags=FLAG_RESPONSE)
        self._derive(chosen.suite, answer.shared, spi_i, spi_r, initiator=False)
        return self.init_response

    def respond_auth(self, asked: Payloads, *, own: Identity | None = None) -> Payloads:
        """Return IDr and AUTH, and the child as asked for."""
        assert self.crypto is not None
        own = own or self.own
        id_r = IdPayload(PayloadType.IDR, own.type, own.data)
        auth = psk_auth(self.crypto.suite.prf, self.psk, message=self.init_response, nonce=self.ni,
                        sk_p=self.crypto.keys.sk_pr, id_body=id_r.build())
        return (id_r, AuthPayload(AuthMethod.SHARED_KEY, auth), *self.child_answer(asked)[:3])

    def child_answer(self, asked: Payloads, *, spi: int = 0xC1000001) -> Payloads:
        """Return SA, TSi, TSr, Nr of an honest answer without KE."""
        sa = need(asked, SaPayload)
        plain = next(p for p in sa.proposals if all(t.type != 4 for t in p.transforms))
        seen: dict[int, object] = {}
        picked = tuple(t for t in plain.transforms if seen.setdefault(t.type, t) is t)
        chosen = type(plain)(plain.number, plain.protocol, spi.to_bytes(4, "big"), picked)
        ts = tuple(p for p in asked if isinstance(p, TsPayload))
        return SaPayload((chosen,)), *ts, NoncePayload(self.rng.random_bytes(32))

    def accept_login(self, requests: tuple[ChildRequest, ...]) -> Payloads:
        """Answer the victim's own attempt honestly until it is up; return its IKE_AUTH request."""
        header, asked = self.accept_init(requests)
        self.respond(header, *self.respond_auth(asked))
        return asked

    def accept_init(self, requests: tuple[ChildRequest, ...]) -> tuple[IkeHeader, Payloads]:
        """Make the victim begin, and answer its IKE_SA_INIT; return its IKE_AUTH request."""
        victim = self.victim
        peer = next(p.name for p in victim.endpoint._table.policy.peers if self.address in p.addresses)
        start = Path(Endpoint(victim.address, 500), Endpoint(self.address, 500))
        victim.endpoint.initiate(peer, start, requests, victim.now)
        request = victim.drain()[-1].datagram
        self.send(self.respond_init(request))
        return self.take()

    # Under protection

    def request(self, exchange: int, *payloads: Payload, message_id: int | None = None) -> Payloads | None:
        """Ask; return the payloads of the response, None where none came."""
        if message_id is None:
            message_id, self.next_id = self.next_id, self.next_id + 1
        type_, body = build_payloads(payloads)
        answers = self.send(self.seal(type_, body, exchange=exchange, message_id=message_id))
        return self._response_to(answers, message_id)

    def respond(self, header: IkeHeader, *payloads: Payload, message_id: int | None = None,
                exchange: int | None = None) -> list[bytes]:
        """Answer a request of the victim."""
        type_, body = build_payloads(payloads)
        number = header.message_id if message_id is None else message_id
        return self.send(self.seal(type_, body, exchange=exchange or header.exchange, message_id=number, response=True))

    def take(self) -> tuple[IkeHeader, Payloads]:
        """Return the oldest request of the victim that is in the inbox."""
        while self.inbox:
            opened = self.open(self.inbox.pop(0))
            if opened is not None and not opened[0].is_response:
                return opened
        raise AssertionError("the victim asked nothing")

    def seal(self, first_inner: int, plaintext: bytes, *, exchange: int, message_id: int, response: bool = False,
             outer: int = PayloadType.SK, fragment: bytes = b"", before: bytes = b"",
             before_type: int = PayloadType.VENDOR, flip_role: bool = False,
             spis: tuple[bytes, bytes] | None = None) -> bytes:
        """Return a datagram with any content under valid keys; `before`: clear payloads, the first of `before_type`."""
        crypto = self.crypto
        assert crypto is not None
        keys = crypto.keys
        mine = (keys.sk_ei, keys.sk_ai) if crypto.original_initiator else (keys.sk_er, keys.sk_ar)
        sealer = make_sealer(crypto.suite.encr, crypto.suite.integ, encr_key=mine[0], integ_key=mine[1])
        flags = FLAG_INITIATOR if crypto.original_initiator != flip_role else 0
        inner = plaintext + b"\0"
        size = len(fragment) + sealer.iv_bytes + len(inner) + sealer.icv_bytes
        head = IkeHeader(*(spis or (crypto.spi_i, crypto.spi_r)), before_type if before else outer, VERSION,
                         exchange, flags | (FLAG_RESPONSE if response else 0), message_id,
                         HEADER_BYTES + len(before) + 4 + size)
        associated = head.build() + before + generic_header(first_inner, size) + fragment
        iv = self._iv.to_bytes(sealer.iv_bytes, "big")
        self._iv += 1
        return associated + iv + sealer.seal(iv, inner, associated)

    def open(self, datagram: bytes) -> tuple[IkeHeader, Payloads] | None:
        """Return a message of the victim, None while fragments are missing and for clear ones."""
        message = split(datagram)
        if not isinstance(message, SealedMessage):
            return None
        assert self.crypto is not None
        opened = (open_message(message, self._opener) if message.fragment is None
                  else self.reassembly.add(open_fragment(message, self._opener), 0.0))
        if opened is None or isinstance(opened, DropReason):
            return None
        return opened.header, opened.payloads

    def rekey_ike(self) -> Mallory | None:
        """Rekey the IKE SA; return the peer on the new one, None where it was refused."""
        assert self.crypto is not None
        ni, spi, ke = self.rng.random_bytes(32), self.rng.random_bytes(8), kex.generate(31)
        offer = offer_ike((IKE,), spi=spi)
        answer = self.request(ExchangeType.CREATE_CHILD_SA, offer, NoncePayload(ni), KePayload(31, ke.public))
        if answer is None or first(answer, SaPayload) is None:
            return None
        chosen: Chosen[IkeSuite] = accept_ike(offer, need(answer, SaPayload), ke=31)
        keys = rekeyed_ike_keys(self.crypto.suite.prf, self.crypto.keys.sk_d, chosen.suite, ni=ni,
                                nr=need(answer, NoncePayload).data, shared=ke.shared(need(answer, KePayload).data),
                                spi_i=spi, spi_r=chosen.spi)
        after = Mallory(self.victim, self.own, self.address, self.port, self.psk, (self.seed, spi))
        after._enter(IkeCrypto(spi, chosen.spi, chosen.suite, keys, original_initiator=True))
        return after

    def _response_to(self, answers: list[bytes], message_id: int) -> Payloads | None:
        for datagram in answers:
            opened = self.open(datagram)
            if opened is not None and opened[0].is_response and opened[0].message_id == message_id:
                self.inbox.remove(datagram)
                return opened[1]
        return None

    def _derive(self, suite: IkeSuite, shared: Secret, spi_i: bytes, spi_r: bytes, *, initiator: bool) -> None:
        keys = ike_keys(suite, ni=self.ni, nr=self.nr, shared=shared, spi_i=spi_i, spi_r=spi_r)
        self._enter(IkeCrypto(spi_i, spi_r, suite, keys, original_initiator=initiator))

    def _enter(self, crypto: IkeCrypto) -> None:
        self.crypto = crypto
        theirs = ((crypto.keys.sk_er, crypto.keys.sk_ar) if crypto.original_initiator
                  else (crypto.keys.sk_ei, crypto.keys.sk_ai))
        self._opener = SkOpener(crypto.suite, encr_key=theirs[0], integ_key=theirs[1])


def clear(payloads: Payloads, *, spi_i: bytes, spi_r: bytes = bytes(8), flags: int = FLAG_INITIATOR,
          exchange: int = ExchangeType.IKE_SA_INIT, message_id: int = 0) -> bytes:
    """Return an unprotected message."""
    return build_clear(spi_i=spi_i, spi_r=spi_r, exchange=exchange, flags=flags, message_id=message_id,
                       payloads=payloads)


def child_payloads(*, spi: int = 0xC0000002, local: str = "10.2.0.0/16", remote: str = "10.1.0.0/16",
                   ni: bytes = b"n" * 32) -> Payloads:
    """Return SA, TSi, TSr, Ni of a request for a Child SA without KE; `local` is Mallory's side."""
    sa = offer_esp((ESP,), spi=spi.to_bytes(4, "big"), with_ke=False, pfs=Pfs.OFF, esn=EsnPolicy.AUTO)
    return (sa, TsPayload(PayloadType.TSI, (from_prefix(local),)), TsPayload(PayloadType.TSR, (from_prefix(remote),)),
            NoncePayload(ni))


def rekey_notify(spi: bytes, protocol: int = ProtocolId.ESP) -> NotifyPayload:
    """Return N(REKEY_SA)."""
    return NotifyPayload(NotifyType.REKEY_SA, b"", protocol, spi)


def _clear(datagram: bytes) -> ClearMessage:
    message = split(datagram)
    assert isinstance(message, ClearMessage)
    return message


def _reversed(path: Path) -> Path:
    return Path(path.remote, path.local)
