"""The exchanges of MOBIKE (RFC 4555 3.2-3.9): telling addresses, moving, and asking whether somebody is there."""

from __future__ import annotations

from functools import partial

from ipsecd.causes import Cause, Failure
from ipsecd.events import Warned
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.compare import same_bytes
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.mobility import (
    Mobility,
    answered,
    inherit,
    is_away,
    may_go,
    move_traffic,
    note_nat,
    other_addresses,
    paths_found,
    search,
)
from ipsecd.ike.session import Session
from ipsecd.ike.states import InitAnswered
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.nat_detection import nat_payloads
from ipsecd.ike.tasks.refusal import SaRefused
from ipsecd.ike.tasks.task import Payloads, Task
from ipsecd.ike.wire.addresses import additional_addresses, address_list, cookie2, nat_forbidden
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.sa import Path

COOKIE2_BYTES = 32              # RFC 4555 4.2.5: 8 to 64 that nobody guesses
# Tuning
MAX_REPEATS = 5                 # exchanges begun again for one move: what disturbs it once may be an accident


def offer_mobility(session: Session) -> Payloads:
    """Return what IKE_AUTH says of MOBIKE: N(MOBIKE_SUPPORTED), N(ADDITIONAL_*_ADDRESS)*; nothing where it is off."""
    if not session.peer.ike.mobike:
        return ()
    others = other_addresses(session)
    return (NotifyPayload(NotifyType.MOBIKE_SUPPORTED), *(address_list(others) if others else ()))


def agree_mobility(session: Session, payloads: Payloads) -> None:
    """Take what the peer's IKE_AUTH message says, where we want it too (RFC 4555 3.2)."""
    if session.peer.ike.mobike and find(payloads, NotifyType.MOBIKE_SUPPORTED) is not None:
        remotes = (session.path.remote.address, *(additional_addresses(payloads) or ()))
        session.mobility = Mobility(session.crypto.original_initiator, remotes, other_addresses(session))


class Checked(Task):
    """An exchange whose COOKIE2 shows that the peer receives where we send it (RFC 4555 3.7)."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, session: Session, *, repeats: int = 0) -> None:
        super().__init__(session)
        self._repeats = repeats
        self._path: Path | None = None
        self._cookie = b""

    def build(self, now: float) -> Steps[Payloads | None]:
        """N(COOKIE2), and what else the exchange is about."""
        yield from ()
        session = self.session
        if session.mobility is None or not session.in_charge or not self.wanted():
            return None
        self._path = session.path
        self._cookie = session.host.rng.random_bytes(COOKIE2_BYTES)
        return (*self.says(), NotifyPayload(NotifyType.COOKIE2, self._cookie))

    def process(self, response: OpenedMessage, now: float) -> Steps[None]:
        """Believe it only where request and response had one path, the present one; else ask again."""
        yield from ()
        session, mobility = self.session, self.session.mobility
        back = find(response.payloads, NotifyType.COOKIE2)
        if back is None or not same_bytes(back.data, self._cookie):
            raise SaRefused(Failure(Cause.PEER_ERROR, "the peer returned another COOKIE2 than it was sent"))
        if mobility is None or not session.in_charge:
            return                                 # the successor of a rekeyed IKE SA asks again by itself
        straight = session.arrival is not None and session.arrival.remote == session.path.remote
        if self._path == session.path and straight and not mobility.ambiguous:
            self.reached(response.payloads, now)
        elif self._path != session.path or self._repeats < MAX_REPEATS:
            self.again(0 if self._path != session.path else self._repeats + 1)

    def failed(self, failure: Failure, now: float) -> None:
        """The IKE SA ended first."""

    def wanted(self) -> bool:
        """Return whether there is still something to ask."""
        return True

    def says(self) -> tuple[Payload, ...]:
        """Return what the request carries beside the cookie."""
        return ()

    def reached(self, payloads: Payloads, now: float) -> None:
        """The peer receives there: the traffic goes there too."""
        move_traffic(self.session)

    def again(self, repeats: int) -> None:
        """Ask once more, over the path that is the present one then."""
        _enqueue(self.session, type(self)(self.session, repeats=repeats))


class ReturnCheck(Checked):
    """Asks at the address that the peer moved to whether it is there, before traffic goes."""

    def wanted(self) -> bool:
        """Return whether the traffic is still elsewhere."""
        return self.session.traffic != self.session.path


class AddressUpdate(Checked):
    """Tells all our addresses; from the end that decides also to send where this message came from."""

    def says(self) -> tuple[Payload, ...]:
        """N(UPDATE_SA_ADDRESSES), NAT detection, and the list of addresses."""
        session, mobility = self.session, self.session.mobility
        assert mobility is not None
        mobility.announced = other_addresses(session)
        listed = address_list(mobility.announced)
        if not mobility.decides:
            return listed
        nat = _nat(session, session.path)
        return (NotifyPayload(NotifyType.UPDATE_SA_ADDRESSES), *nat, *listed)

    def reached(self, payloads: Payloads, now: float) -> None:
        """The peer knows; where we decide, it sends there from here on, or said why it does not."""
        session, mobility = self.session, self.session.mobility
        assert mobility is not None
        if not mobility.decides:
            return
        for refusal in (NotifyType.UNEXPECTED_NAT_DETECTED, NotifyType.UNACCEPTABLE_ADDRESSES):
            if find(payloads, refusal) is not None:
                self._refused(refusal)
                return
        note_nat(session, payloads, now)
        mobility.mapping = _mapping(payloads)
        super().reached(payloads, now)

    def _refused(self, refusal: NotifyType) -> None:
        """RFC 4555 3.9: try again some times; 3.5: go back to where the traffic is, or end what can go nowhere."""
        session = self.session
        if refusal == NotifyType.UNEXPECTED_NAT_DETECTED and self._repeats < MAX_REPEATS:
            self.again(self._repeats + 1)
            return
        session.emit(Warned("move_refused", f"{session.peer.name}: {session.path}: {refusal.name}"))
        if session.traffic.local.address in session.host.own_addresses and session.traffic != session.path:
            session.path = session.traffic
        else:
            session.host.release(session, Failure(Cause.PEER_ERROR, "the peer does not accept our addresses",
                                                  notify=refusal.name))


def request_update(session: Session) -> None:
    """Tell the peer our addresses as soon as the window allows; one that waits says the latest (RFC 4555 3.5)."""
    if not any(isinstance(t, AddressUpdate) for t in session.queue):
        _enqueue(session, AddressUpdate(session))


def try_paths(session: Session, found: tuple[Path, ...]) -> bool:
    """Let requests go over the paths that the edge found; return whether there is any."""
    return paths_found(session, found, partial(request_update, session))


def note_arrival(session: Session, path: Path, *, is_response: bool) -> None:
    """An authentic, new message came over `path`: follow it where that is the rule.

    RFC 7296 2.23: an end that is not behind a NAT follows the other; one that is keeps what it has.  With MOBIKE
    nobody follows but on UPDATE_SA_ADDRESSES (RFC 4555 3.8).
    """
    session.arrival = path
    if isinstance(session.state, InitAnswered):
        session.follow(path)                       # IKE_AUTH comes from port 4500
    elif session.mobility is not None:
        if is_response:
            answered(session, path, partial(request_update, session))
    elif not session.nat.local:
        session.follow(path)


def addresses_changed(session: Session) -> None:
    """Take note of other addresses of this host: leave one that is gone, tell the peer of the others (RFC 4555 3.6)."""
    mobility = session.mobility
    if mobility is None or not session.in_charge:
        return
    if session.path.local.address not in session.host.own_addresses or is_away(session):
        mobility.searching = False                 # what is on its way knows the addresses of before
        search(session)
    elif other_addresses(session) != mobility.announced:
        request_update(session)


def mapping_asked(session: Session) -> Payloads:
    """Return what a liveness check carries where a NAT may have changed our mapping (RFC 4555 3.8)."""
    mobility = session.mobility
    if mobility is None or not mobility.decides or not session.nat.local:
        return ()
    return _nat(session, session.path)


def mapping_told(session: Session, payloads: Payloads) -> None:
    """Take the response to it: another hash than when we last moved means that the peer sees us elsewhere."""
    mapping = _mapping(payloads)
    if mapping and mapping_asked(session) and session.mobility and mapping != session.mobility.mapping:
        request_update(session)


def seen_elsewhere(session: Session, path: Path) -> None:
    """Traffic of the peer came from another address: follow; with MOBIKE ask there first (RFC 4555 3.8)."""
    if path.raw:                                   # it tells no port
        ports = session.path
        path = Path(path.local._replace(port=ports.local.port), path.remote._replace(port=ports.remote.port))
    if session.mobility is None:
        session.follow(path)
    elif session.nat.remote and may_go(session, path.remote) and path != session.path:
        session.path = path
        _check_return(session)


def continue_moves(new: Session, old: Session) -> None:
    """A move that was under way goes on with the successor of a rekeyed IKE SA."""
    began = isinstance(old.active, Checked)
    if inherit(new, old) or (began and new.mobility is not None and new.mobility.decides):
        request_update(new)
    elif began and new.path != new.traffic:
        _check_return(new)


def answer_addresses(session: Session, request: OpenedMessage, now: float) -> Payloads:
    """Do what an INFORMATIONAL request says of addresses; return what belongs into the response."""
    mobility, arrival, payloads = session.mobility, session.arrival, request.payloads
    if mobility is None or arrival is None:
        return ()
    echo = cookie2(payloads)
    answer: list[Payload] = [echo] if echo else []
    if find(payloads, NotifyType.NAT_DETECTION_SOURCE_IP) is not None:
        answer += _nat(session, arrival)
    told, update = additional_addresses(payloads), find(payloads, NotifyType.UPDATE_SA_ADDRESSES) is not None
    stale = request.header.message_id < mobility.newest or not session.in_charge
    if (told is None and not update) or stale:
        return tuple(answer)
    mobility.newest = request.header.message_id
    if nat_forbidden(payloads, arrival):
        return (*answer, NotifyPayload(NotifyType.UNEXPECTED_NAT_DETECTED))
    if update and (mobility.decides or not may_go(session, arrival.remote)):
        return (*answer, NotifyPayload(NotifyType.UNACCEPTABLE_ADDRESSES))
    mobility.remotes = (arrival.remote.address, *(told if told is not None else mobility.remotes[1:]))
    if update:
        _follow(session, payloads, arrival, now)
    elif mobility.decides and session.path.remote.address not in mobility.remotes:
        search(session)
    return tuple(answer)


def _nat(session: Session, path: Path) -> tuple[NotifyPayload, ...]:
    """Return NAT detection for a message over `path`; nothing to a peer that does no NAT traversal."""
    if not session.nat.supported:
        return ()
    return nat_payloads(spi_i=session.crypto.spi_i, spi_r=session.crypto.spi_r, path=path,
                        true=session.peer.tells_nat)


def _follow(session: Session, payloads: Payloads, arrival: Path, now: float) -> None:
    session.path = arrival
    assert session.mobility is not None
    session.mobility.candidates = ()
    note_nat(session, payloads, now)
    if not session.peer.ike.return_routability or arrival.remote.address == session.traffic.remote.address:
        move_traffic(session)
    else:
        _check_return(session)


def _check_return(session: Session) -> None:
    if not any(isinstance(t, ReturnCheck) for t in session.queue):
        _enqueue(session, ReturnCheck(session))


def _enqueue(session: Session, task: Task) -> None:
    session.enqueue(task, first=True)


def _mapping(payloads: Payloads) -> bytes:
    found = find(payloads, NotifyType.NAT_DETECTION_DESTINATION_IP)
    return found.data if found else b""
