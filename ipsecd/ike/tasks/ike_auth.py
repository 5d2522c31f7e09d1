"""IKE_AUTH (RFC 7296 1.2, 2.15, 2.21.2): both ends prove their identities; the first Child SA comes along.

What is opened here came from the holder of the Diffie-Hellman keys, and who that is only AUTH tells.  The peer's
identity and AUTH are checked before anything of ours depends on them, and a peer learns AUTHENTICATION_FAILED whatever
the reason was.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

from ipsecd.causes import Cause, Failure
from ipsecd.errors import PeerError
from ipsecd.ike import transport
from ipsecd.ike.collisions import Nonces
from ipsecd.ike.consts import ExchangeType, IdType, KeId, NotifyType, PayloadType
from ipsecd.ike.crypto.compare import same_bytes
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.failures import error_notify, of_error, refused_child, refused_ike
from ipsecd.ike.nat import no_ah
from ipsecd.ike.negotiate import permits
from ipsecd.ike.pfs_probe import arm_probe
from ipsecd.ike.session import Session
from ipsecd.ike.states import ChildState
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.addresses import agree_mobility, offer_mobility
from ipsecd.ike.tasks.auth_lifetime import take_lifetime, tell_lifetime
from ipsecd.ike.tasks.auth_methods import check, method_name, prove, unproven, verify_mac
from ipsecd.ike.tasks.child_create import ChildCreate, is_single_pair
from ipsecd.ike.tasks.child_exchange import (
    ChildOffer,
    accept_child,
    choose_child,
    make_child,
    offer_child,
    transport_ends,
)
from ipsecd.ike.tasks.crash_detection import take_token, tell_token
from ipsecd.ike.tasks.delete import ChildDelete
from ipsecd.ike.tasks.ike_init import NO_NAT_DETECTION, UDP_ONLY, InitResult
from ipsecd.ike.tasks.pick import first, identity, need
from ipsecd.ike.tasks.ppk import Keyed, chosen, confirmed, key_name, usable, warn_unused, with_ppk
from ipsecd.ike.tasks.redirect import judge, sent_on
from ipsecd.ike.tasks.refusal import SaRefused
from ipsecd.ike.tasks.resume import answer_ticket, ask_ticket, proved_at, take_ticket
from ipsecd.ike.tasks.signature_support import Requested, certificate_request, requested
from ipsecd.ike.tasks.task import Answer, Payloads, Task
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.ike.wire.payloads import AuthPayload, IdPayload
from ipsecd.ike.wire.sa_payload import SaPayload
from ipsecd.policy import NOBODY, Encapsulation, Identity, PeerPolicy, Ppk
from ipsecd.reports import ChildRequest
from ipsecd.secret import Secret
from ipsecd.suites import IkeSuite

STRANGER = Secret(bytes(32))    # the key that an unknown identity is checked with: takes as long as a known one


class AuthRequest(Task):
    """Our side as initiator."""

    exchange = ExchangeType.IKE_AUTH

    def __init__(self, session: Session, init: InitResult, requests: tuple[ChildRequest, ...]) -> None:
        super().__init__(session)
        self._init = init
        self._requests = requests
        self._offer: ChildOffer | None = None
        self._auth = b""
        self._ppk: Ppk | None = None

    def build(self, now: float) -> Steps[Payloads | None]:
        """IDi, [CERT+], [N(INITIAL_CONTACT)], [CERTREQ], [IDr], AUTH, [SA, TSi, TSr], [N(MOBIKE_SUPPORTED)], ..."""
        session, init = self.session, self._init
        ppk = self._ppk = usable(session.peer, init)
        own = local_identity(session.peer, session)
        id_i = IdPayload(PayloadType.IDI, own.type, own.data)
        keyed = with_ppk(init, ppk) if ppk else init
        proof = yield from prove(session.peer, keyed, id_i, now, initiator=True, asked=init.asked,
                                 wall_now=session.host.wall_now())
        self._auth = proof.auth.data
        payloads: list[Payload] = [id_i, *proof.certs]
        if own != NOBODY and session.host.alone_with(session):      # RFC 7619 2.4: nobody has no other IKE SAs
            payloads.append(NotifyPayload(NotifyType.INITIAL_CONTACT))
        payloads += certificate_request((session.peer,)) if init.resumed is None else ()
        wanted = session.peer.remote_identity
        if wanted is not None and wanted != NOBODY:
            payloads.append(IdPayload(PayloadType.IDR, wanted.type, wanted.data))
        payloads += [proof.auth, *self._child_offer(), *offer_mobility(session), *tell_token(session),
                     *ask_ticket(session)]
        if ppk is not None:
            payloads.append(key_name(ppk))
            if not ppk.required:
                spare = yield from prove(session.peer, init, id_i, now, initiator=True,
                                         asked=Requested(init.asked.authorities), wall_now=session.host.wall_now())
                payloads.append(NotifyPayload(NotifyType.NO_PPK_AUTH, spare.auth.data))
        return tuple(payloads)

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """Verify the responder, then take the child that came along."""
        if first(response.payloads, AuthPayload) is None:
            notify = error_notify(response.payloads)
            if notify is None:
                raise SaRefused(Failure(Cause.INVALID_SYNTAX, "IKE_AUTH response without AUTH or error"))
            raise SaRefused(refused_ike(notify, ours=claim(self.session.peer, self.session)))
        session, entry = self.session, self.session.peer
        keyed = confirmed(self._ppk, self._init, response.payloads)
        remote, now = yield from self._verify(response, keyed, now)
        if session.peer != entry:
            raise unproven(Cause.RELOADED, f"entry {entry.name} changed while its peer was being authenticated")
        session.crypto = keyed.init.crypto
        if session.released is not None:
            session.remote_id = remote                 # proved, but nobody waits for it any more: a Delete follows
            return
        agree_mobility(session, response.payloads)
        take_token(session, response.payloads)
        session.authenticated(remote, local_identity(session.peer, session), now, proved_at=proved_at(self._init, now))
        take_ticket(session, response.payloads, now)
        take_lifetime(session, response.payloads, now)
        warn_unused(session, keyed)
        if sent_on(session, response.payloads, self.exchange):
            return                  # RFC 5685 6: no child comes along; the other gateway is asked for all of them
        if self._offer is not None:
            self._take_child(self._offer, response, now)
        for request in self._requests[1 if self._offer else 0:]:
            session.enqueue(ChildCreate(session, request))

    def failed(self, failure: Failure, now: float) -> None:
        """Nothing was promised to anybody."""

    def _child_offer(self) -> tuple[Payload, ...]:
        session = self.session
        prefer_childless = session.peer.ike.childless == "prefer" or not self._requests
        if session.childless_supported and prefer_childless:
            return ()
        if not self._requests:
            raise SaRefused(Failure(Cause.PEER_ERROR, "no child is wanted and the peer takes no IKE SA without one"))
        request = self._requests[0]
        policy = session.peer.child(request.child.child)
        if policy is None:
            raise SaRefused(Failure(Cause.RELOADED, f"{request.child} is no longer configured"))
        refusal = no_ah(session.nat, policy.protocol)
        if refusal is not None:
            if session.childless_supported:
                return ()                              # each is refused for that reason behind this exchange
            raise SaRefused(refusal)
        ends = transport_ends(session, policy)
        unfit = ends and transport.unfit(request.ts_local, request.ts_remote, ends)
        if unfit:
            if not session.childless_supported:
                raise SaRefused(unfit)
            return ()                                  # made after this exchange, where it is refused
        self._offer = offer_child(session, request, policy, ke=KeId.NONE, ends=ends)
        return self._offer.payloads()

    def _verify(self, response: OpenedMessage, keyed: Keyed, now: float) -> Steps[tuple[Identity, float]]:
        session = self.session
        id_r = identity(response.payloads, PayloadType.IDR)
        auth = need(response.payloads, AuthPayload)
        assert id_r is not None                     # the rules of the exchange have it beside AUTH
        remote = Identity(id_r.id_type, id_r.data)
        expected = session.peer.remote_identity or address_identity(session.path.remote.address)
        if remote != expected:
            raise unproven(Cause.WRONG_IDENTITY, ours=str(expected), theirs=str(remote))
        # RFC 7296 2.15 covers different messages on each side, so the same value or our own identity is a mirror.
        if is_mirror(remote, session.peer, session) or same_bytes(auth.data, self._auth):
            raise unproven(Cause.WRONG_IDENTITY, "the peer shows our own identity or proof", ours=str(expected),
                           theirs=str(remote))
        now = yield from check(session.peer, session, keyed.init, id_r, auth, response.payloads, now, initiator=False)
        return remote, now

    def _take_child(self, offer: ChildOffer, response: OpenedMessage, now: float) -> None:
        session = self.session
        if first(response.payloads, SaPayload) is None:
            notify = error_notify(response.payloads)
            failure = (refused_child(notify, ours=offer.shown(notify.type)) if notify
                       else self._left_out(response))
            session.refuse(offer.request, failure, single_pair=is_single_pair(notify))
            return
        try:
            agreed = accept_child(session, offer, response.payloads)
        except PeerError as error:
            session.refuse(offer.request, of_error(error, child=True))
            session.enqueue(ChildDelete.unmade(session, offer.policy.protocol, offer.spi), first=True)
            return
        child = make_child(session, agreed, offer.policy, slot=offer.request.slot,
                           nonces=Nonces(self._init.ni, self._init.nr), shared=None, initiator=True, now=now)
        session.install(child, now)
        session.use(child)
        narrowed = (set(agreed.ts_local), set(agreed.ts_remote)) != (set(offer.request.ts_local),
                                                                     set(offer.request.ts_remote))
        session.child_up(child, narrowed=narrowed)
        arm_probe(session, child, now)


    def _left_out(self, response: OpenedMessage) -> Failure:
        """Say why a child that we asked for did not come along, where no error does."""
        redirect = find(response.payloads, NotifyType.REDIRECT)
        found = judge(self.session.peer, redirect, here=self.session.path.remote.address) if redirect else None
        return found if isinstance(found, Failure) else Failure(
            Cause.INVALID_SYNTAX, "the peer left the Child SA out without a reason")


class AuthAnswer(Answer):
    """Our side as responder: finds the peer entry by the identities and checks everything against that entry."""

    def __init__(self, session: Session, init: InitResult) -> None:
        super().__init__(session)
        self._init = init
        self._entry: PeerPolicy | None = None   # under which the peer is proved

    def process(self, request: OpenedMessage, now: float) -> Steps[Payloads]:
        """IDr, [CERT+], AUTH, [SA, TSi, TSr] or, where the child is refused, its notify; raises SaRefused."""
        session = self.session
        remote, keyed, now = yield from self._verify(request, now)
        own = local_identity(session.peer, session)
        id_r = IdPayload(PayloadType.IDR, own.type, own.data)
        proof = yield from prove(session.peer, keyed.init, id_r, now, initiator=False,
                                 asked=requested(request.payloads), wall_now=session.host.wall_now())
        now = proof.now
        contact = find(request.payloads, NotifyType.INITIAL_CONTACT) is not None
        self._admit(remote, _asked(request), alone=contact and remote != NOBODY)
        session.crypto = keyed.init.crypto
        agree_mobility(session, request.payloads)
        take_token(session, request.payloads)
        session.authenticated(remote, own, now, proved_at=proved_at(self._init, now), initial_contact=contact)
        warn_unused(session, keyed)
        confirmation = (NotifyPayload(NotifyType.PPK_IDENTITY),) if keyed.used else ()
        told = (*(offer_mobility(session) if session.mobility else ()), *tell_token(session),
                *answer_ticket(session, request.payloads, now), *tell_lifetime(session, now))
        return (id_r, *proof.certs, proof.auth, *self._child(request, now, at_once=contact), *told, *confirmation)

    def _verify(self, request: OpenedMessage, now: float) -> Steps[tuple[Identity, Keyed, float]]:
        session = self.session
        id_i = identity(request.payloads, PayloadType.IDI)
        assert id_i is not None
        remote, asked = Identity(id_i.id_type, id_i.data), _asked(request)
        entry = session.host.identify(remote, asked, session)
        if entry is None:
            self._verify_nobody(request, id_i)
            wanted = f" asking for {asked}" if asked else ""
            raise unproven(Cause.UNKNOWN_IDENTITY, f"{remote}{wanted}", theirs=str(remote),
                           ours=str(session.peer.remote_identity or address_identity(session.path.remote.address)))
        keyed = chosen(entry, self._init, request.payloads)
        now = yield from check(entry, session, keyed.init, id_i, keyed.auth, request.payloads, now, initiator=True)
        if session.host.identify(remote, asked, session) != entry:
            raise unproven(Cause.RELOADED, f"entry {entry.name} changed while its peer was being authenticated")
        session.peer = self._entry = entry
        if is_mirror(remote, entry, session):
            raise unproven(Cause.WRONG_IDENTITY, "the peer shows our own identity", ours=str(remote),
                           theirs=str(remote))
        if not allows(entry, session.crypto.suite):
            # The suite was taken under another entry for the same address; this identity's own does not have it.
            raise unproven(Cause.NO_PROPOSAL, f"entry {entry.name} does not allow {session.crypto.suite}",
                           ours=", ".join(map(str, entry.ike.proposals)), theirs=str(session.crypto.suite))
        if not session.nat.supported and entry.encapsulation is Encapsulation.UDP:
            raise unproven(Cause.NO_NAT_TRAVERSAL, f"entry {entry.name}", ours=UDP_ONLY, theirs=NO_NAT_DETECTION)
        return remote, keyed, now

    def _admit(self, remote: Identity, asked: Identity | None, *, alone: bool) -> None:
        """Raise SaRefused where a peer that is proved gets no IKE SA; nothing comes between this and its being up.

        Our own proof took time: of a token, or of a server that tells whether our certificate is revoked.
        """
        session = self.session
        if session.host.identify(remote, asked, session) != self._entry:
            raise unproven(Cause.RELOADED, f"entry {session.peer.name} changed while we proved ourselves to its peer")
        kept_out = session.host.kept_out(session, remote, alone=alone)
        if kept_out is not None:
            raise SaRefused(kept_out, NotifyType.AUTHENTICATION_FAILED)

    def _verify_nobody(self, request: OpenedMessage, id_i: IdPayload) -> None:
        """Spend the time that the key of a known peer would take."""
        with suppress(SaRefused):
            verify_mac(self._init, STRANGER, id_i, first(request.payloads, AuthPayload), initiator=True)

    def _child(self, request: OpenedMessage, now: float, *, at_once: bool) -> tuple[Payload, ...]:
        """Make the child that came along; `at_once` where the peer says that it knows of no other."""
        session = self.session
        if first(request.payloads, SaPayload) is None:
            return ()
        try:
            choice = choose_child(session, request.payloads, with_ke=False, ke_sent=KeId.NONE)
        except PeerError as error:
            session.child_refused_peer(of_error(error, child=True))
            return (NotifyPayload(error.notify, error.data),)
        child = make_child(session, choice.agreed, choice.policy, slot=choice.slot,
                           nonces=Nonces(self._init.ni, self._init.nr), shared=None, initiator=False, now=now)
        if not at_once and session.has_sender(child):
            child.state = ChildState.ARRIVING
        session.install(child, now)
        if child.state is ChildState.UP:
            session.use(child)
        session.child_up(child, narrowed=False)
        return choice.payloads()


def _asked(request: OpenedMessage) -> Identity | None:
    """Return which of our identities the initiator wants."""
    id_r = identity(request.payloads, PayloadType.IDR)
    return Identity(id_r.id_type, id_r.data) if id_r else None


def local_identity(peer: PeerPolicy, session: Session) -> Identity:
    """Return who we are to this peer; without a configured identity, our address."""
    return peer.local_identity or address_identity(session.path.local.address)


def claim(peer: PeerPolicy, session: Session) -> str:
    """Return what we said of ourselves, for the report that the peer refused it."""
    return f"{local_identity(peer, session)} by {method_name(peer.auth.local)}"


def is_mirror(remote: Identity, peer: PeerPolicy, session: Session) -> bool:
    """Return whether a peer shows our own identity; nobody's is no name (RFC 7619 2.2)."""
    return remote != NOBODY and remote == local_identity(peer, session)


def address_identity(address: str) -> Identity:
    """Return the identity that an address is (RFC 7296 3.5)."""
    parsed = ip_address(address)
    return Identity(IdType.IPV4_ADDR if parsed.version == 4 else IdType.IPV6_ADDR, parsed.packed)


def allows(peer: PeerPolicy, suite: IkeSuite) -> bool:
    """Return whether one proposal of an entry has every algorithm of a suite, and asks for no more."""
    return any(permits(proposal, suite) for proposal in peer.ike.proposals)
