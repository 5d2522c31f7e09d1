"""Redirect (RFC 5685): a gateway that is busy, or goes down for maintenance, sends us to another one.

It may do so in its answers to IKE_SA_INIT and IKE_AUTH, and at any time on an IKE SA that is up; only toward who said
REDIRECT_SUPPORTED, as we do where the entry allows it.  The other gateway is the same peer: it has to prove the same
identity in the way that the entry says, so a redirect leads nobody to a stranger.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from ipsecd.causes import Cause, Failure
from ipsecd.errors import WireError
from ipsecd.events import Hint, PeerRedirected
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.mobility import is_one_host
from ipsecd.ike.session import Session
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload, find
from ipsecd.ike.wire.redirect import redirect_target, redirected_from
from ipsecd.policy import PeerPolicy
from ipsecd.reports import Redirect


def redirect_payloads(peer: PeerPolicy, came_from: str) -> tuple[Payload, ...]:
    """Return what IKE_SA_INIT says of redirects: that we follow one, or which gateway sent us here.

    The second implies the first (RFC 5685 3).
    """
    if not peer.ike.redirect:
        return ()
    return (redirected_from(came_from) if came_from else NotifyPayload(NotifyType.REDIRECT_SUPPORTED),)


def judge(peer: PeerPolicy, notify: NotifyPayload, *, here: str, nonce: bytes = b"") -> str | Failure:
    """Return the gateway to go to, from the one at the address `here`; or why we do not.

    In the clear `nonce` is ours of the request, which shows that whoever answers saw it (RFC 5685 3).
    """
    try:
        gateway, echoed = redirect_target(notify)
    except WireError as error:
        return Failure(Cause.INVALID_SYNTAX, str(error), notify="REDIRECT")
    if nonce and echoed != nonce:
        return Failure(Cause.INVALID_SYNTAX, "REDIRECT without the nonce of our request", notify="REDIRECT")
    if not peer.ike.redirect or not peer.addresses:
        return Failure(Cause.REDIRECT_REFUSED, f"to {gateway}", ours="redirect: false", theirs=gateway,
                       notify="REDIRECT")
    if not _may_go(peer, gateway):
        return Failure(Cause.REDIRECT_REFUSED, f"to {gateway}", ours=", ".join(peer.ike.redirect_to) or "any unicast",
                       theirs=gateway, notify="REDIRECT")
    if gateway == here:
        return Failure(Cause.REDIRECT_LOOP, "to the gateway that we talk to", ours=here, theirs=gateway,
                       notify="REDIRECT")
    return gateway


def sent_on(session: Session, payloads: Iterable[object], exchange: ExchangeType) -> bool:
    """Report whether a protected message sends us to another gateway, and that we go; or say why we do not."""
    notify = find(payloads, NotifyType.REDIRECT)
    if notify is None:
        return False
    found = judge(session.peer, notify, here=session.path.remote.address)
    if isinstance(found, Failure):
        session.emit(Hint(session.peer.name, str(session.path), found))
        return False
    session.emit(PeerRedirected(session.peer.name, str(session.path), found, exchange.name))
    session.output(Redirect(session.handle, session.peer.name, found))
    return True


def _may_go(peer: PeerPolicy, gateway: str) -> bool:
    try:
        possible = is_one_host(ip_address(gateway))
    except ValueError:
        possible = True                            # a name, not an address
    return possible and (not peer.ike.redirect_to or gateway in peer.ike.redirect_to)
