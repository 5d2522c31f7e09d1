"""Which exchanges an IKE SA takes in which state, looked up before any task runs; and which answer fits a request.

Before AUTH is verified only IKE_AUTH is taken, and ahead of it exactly the IKE_INTERMEDIATE exchanges that were
negotiated, and only by the responder; a new IKE SA can come only from an established one (CVE-2014-2338 was the lack of
such a table).
"""

from __future__ import annotations

from ipsecd.errors import PeerError
from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.session import Session
from ipsecd.ike.states import AuthSent, Dead, Deleting, Established, IkeState, InitAnswered, Rekeyed
from ipsecd.ike.tasks.child_create import ChildCreateAnswer
from ipsecd.ike.tasks.child_rekey import ChildRekeyAnswer
from ipsecd.ike.tasks.follow_up import FollowUpAnswer
from ipsecd.ike.tasks.ike_rekey import IkeRekey, IkeRekeyAnswer
from ipsecd.ike.tasks.informational import InformationalAnswer
from ipsecd.ike.tasks.pick import first
from ipsecd.ike.tasks.task import Answer
from ipsecd.ike.wire.notify import find
from ipsecd.ike.wire.ts_payload import TsPayload

_CLOSING = frozenset({int(ExchangeType.INFORMATIONAL), int(ExchangeType.CREATE_CHILD_SA),
                      int(ExchangeType.IKE_FOLLOWUP_KE)})
ADMITTED: dict[type[IkeState], frozenset[int]] = {
    AuthSent: frozenset(),
    InitAnswered: frozenset({int(ExchangeType.IKE_AUTH), int(ExchangeType.IKE_INTERMEDIATE)}),
    Rekeyed: _CLOSING,
    Deleting: _CLOSING,
    Dead: frozenset(),
}


def admitted(session: Session, exchange: int) -> bool:
    """Return whether a request of this exchange is opened at all.

    An established peer gets an answer to whatever it asks under protection, if only an error (RFC 7296 2.21.3), but
    IKE_AUTH is over.
    """
    if isinstance(session.state, Established):
        return exchange not in (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH)
    if isinstance(session.state, InitAnswered) and (exchange == ExchangeType.IKE_INTERMEDIATE) != bool(session.kes_due):
        return False
    return exchange in ADMITTED[type(session.state)]


def answer_for(session: Session, request: OpenedMessage) -> Answer:
    """Return what answers a request of an authenticated peer; raise PeerError where nothing does."""
    exchange = request.header.exchange
    if exchange == ExchangeType.INFORMATIONAL:
        return InformationalAnswer(session)
    if exchange == ExchangeType.IKE_FOLLOWUP_KE:
        return FollowUpAnswer(session)
    if exchange != ExchangeType.CREATE_CHILD_SA:
        raise PeerError(NotifyType.INVALID_SYNTAX, f"exchange {exchange} was not negotiated")
    if first(request.payloads, TsPayload) is None:
        return IkeRekeyAnswer(session)
    # RFC 7296 2.25.2: no Child SA is made or rekeyed while the IKE SA is being rekeyed or closed.
    if not session.established or isinstance(session.active, IkeRekey):
        raise PeerError(NotifyType.TEMPORARY_FAILURE, "the IKE SA is being rekeyed or closed")
    if find(request.payloads, NotifyType.REKEY_SA) is not None:
        return ChildRekeyAnswer(session)
    return ChildCreateAnswer(session)
