"""What each exchange may carry, as a table: how many of each payload, and which proposals (RFC 7296 1.2-1.5, App. C).

`check` is called once for every parsed message before a task sees it, so no task counts payloads.  EAP and other
payloads that no task handles are in no row: they make a message illegal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ipsecd.errors import PeerError
from ipsecd.ike.consts import ExchangeType, NotifyType, PayloadType, ProtocolId, enum_name
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.payloads import UnknownPayload
from ipsecd.ike.wire.sa_payload import SPI_BYTES, SaPayload, WireProposal

# Tuning: known peers send at most 12 notifies, 6 vendor IDs and a chain of 5
MAX_NOTIFIES = 20
MAX_VENDORS = 20
MAX_CERTREQS = 20
MAX_DELETES = 20
MAX_CERTS = 8
FIRST_FREE_SPI = 256                               # RFC 4303 2.1: 1-255 are reserved, 0 is for local use


class Rule(NamedTuple):
    """How many payloads of one type are legal."""

    type: int
    low: int
    high: int


Shape = tuple[Rule, ...]


def _one(type_: int) -> Rule:
    return Rule(type_, 1, 1)


def _maybe(type_: int, high: int = 1) -> Rule:
    return Rule(type_, 0, high)


_EXTRAS = (_maybe(PayloadType.NOTIFY, MAX_NOTIFIES), _maybe(PayloadType.VENDOR, MAX_VENDORS))
_ERROR: Shape = (Rule(PayloadType.NOTIFY, 1, MAX_NOTIFIES), _maybe(PayloadType.VENDOR, MAX_VENDORS))
_INIT: Shape = (_one(PayloadType.SA), _one(PayloadType.KE), _one(PayloadType.NONCE), *_EXTRAS)
_RESUME: Shape = (_one(PayloadType.NONCE), *_EXTRAS)   # RFC 5723 4.3.2
_CERTS = (_maybe(PayloadType.CERT, MAX_CERTS), _maybe(PayloadType.CERTREQ, MAX_CERTREQS))
_CHILD = (_one(PayloadType.SA), _one(PayloadType.TSI), _one(PayloadType.TSR))
# AUTH is absent where the initiator asks for EAP (RFC 7296 2.16): legal, so that the refusal can say what is wrong.
_AUTH_REQUEST: Shape = (_one(PayloadType.IDI), _maybe(PayloadType.IDR), _maybe(PayloadType.AUTH), *_CERTS,
                        _maybe(PayloadType.CP), *_EXTRAS)
_AUTH_RESPONSE: Shape = (_one(PayloadType.IDR), _one(PayloadType.AUTH), _maybe(PayloadType.CERT, MAX_CERTS),
                         _maybe(PayloadType.CP), *_EXTRAS)
_NEW_CHILD: Shape = (*_CHILD, _one(PayloadType.NONCE), _maybe(PayloadType.KE), _maybe(PayloadType.CP), *_EXTRAS)
_NEW_IKE: Shape = (_one(PayloadType.SA), _one(PayloadType.NONCE), _one(PayloadType.KE), *_EXTRAS)
_INFORMATIONAL: Shape = (_maybe(PayloadType.DELETE, MAX_DELETES), _maybe(PayloadType.CP), *_EXTRAS)
_ONE_KE: Shape = (_one(PayloadType.KE), *_EXTRAS)      # RFC 9370 2.2.2, 2.2.4

# (exchange, is_response) -> alternatives, the usual one first; a response of notifies alone reports a failure.
RULES: dict[tuple[int, bool], tuple[Shape, ...]] = {
    (ExchangeType.IKE_SA_INIT, False): (_INIT,),
    (ExchangeType.IKE_SA_INIT, True): ((*_INIT, _maybe(PayloadType.CERTREQ, MAX_CERTREQS)), _ERROR),
    (ExchangeType.IKE_SESSION_RESUME, False): (_RESUME,),
    (ExchangeType.IKE_SESSION_RESUME, True): (_RESUME, _ERROR),
    (ExchangeType.IKE_AUTH, False): ((*_AUTH_REQUEST, *_CHILD), _AUTH_REQUEST),
    (ExchangeType.IKE_AUTH, True): ((*_AUTH_RESPONSE, *_CHILD), _AUTH_RESPONSE, _ERROR),
    (ExchangeType.CREATE_CHILD_SA, False): (_NEW_CHILD, _NEW_IKE),
    (ExchangeType.CREATE_CHILD_SA, True): (_NEW_CHILD, _NEW_IKE, _ERROR),
    (ExchangeType.INFORMATIONAL, False): (_INFORMATIONAL,),
    (ExchangeType.INFORMATIONAL, True): (_INFORMATIONAL,),
    (ExchangeType.IKE_INTERMEDIATE, False): (_ONE_KE,),
    (ExchangeType.IKE_INTERMEDIATE, True): (_ONE_KE, _ERROR),
    (ExchangeType.IKE_FOLLOWUP_KE, False): (_ONE_KE,),
    (ExchangeType.IKE_FOLLOWUP_KE, True): (_ONE_KE, _EXTRAS),  # strongSwan says nothing where it has forgotten the rest
}
_CHILD_SPIS = {(int(ProtocolId.AH), 4), (int(ProtocolId.ESP), 4)}


def check(exchange: int, is_response: bool, payloads: Sequence[Payload]) -> None:
    """Raise PeerError unless an exchange may carry these payloads; non-critical unknown ones are ignored.

    The notify is UNSUPPORTED_CRITICAL_PAYLOAD or INVALID_SYNTAX; it may be sent only for an authenticated request, and
    never for a response (RFC 7296 2.21).
    """
    what = f"{enum_name(ExchangeType, exchange)} {'response' if is_response else 'request'}"
    for payload in payloads:
        if isinstance(payload, UnknownPayload) and payload.critical:
            raise PeerError(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, f"{what}: critical payload {payload.payload_type}",
                            bytes([payload.payload_type]))
    shapes = RULES.get((exchange, is_response))
    if shapes is None:
        raise PeerError(NotifyType.INVALID_SYNTAX, f"{what}: not an exchange we know")
    counts = Counter(p.payload_type for p in payloads if not isinstance(p, UnknownPayload))
    problems = [_problem(counts, shape) for shape in shapes]
    if all(problems):
        nearest = min(problems, key=len)           # most likely what the peer meant
        raise PeerError(NotifyType.INVALID_SYNTAX, f"{what}: {', '.join(nearest)}")
    for payload in payloads:
        if isinstance(payload, SaPayload):
            _check_proposals(what, exchange, is_response, payload, with_ts=PayloadType.TSI in counts)


def _problem(counts: Counter[int], shape: Shape) -> list[str]:
    rules = {rule.type: rule for rule in shape}
    types = [*rules, *(t for t in counts if t not in rules)]
    found = [(counts[t], rules.get(t, _maybe(t, 0))) for t in types]
    return [f"{count} {enum_name(PayloadType, rule.type)} where {rule.low} to {rule.high} may be"
            for count, rule in found if not rule.low <= count <= rule.high]


def _check_proposals(what: str, exchange: int, is_response: bool, sa: SaPayload, *, with_ts: bool) -> None:
    first = sa.proposals[0]
    # RFC 7296 2.7: the responder "MUST choose a single suite"; 3.3.1: an initiator counts from 1.
    if is_response and len(sa.proposals) > 1:
        raise PeerError(NotifyType.INVALID_SYNTAX, f"{what}: {len(sa.proposals)} proposals chosen")
    if not is_response and first.number != 1:
        raise PeerError(NotifyType.INVALID_SYNTAX, f"{what}: first proposal has number {first.number}")
    for proposal in sa.proposals:
        skipped = not is_response and proposal.protocol not in SPI_BYTES   # as one we cannot accept (RFC 7296 3.3.6)
        if not skipped and not _spi_fits(proposal, exchange, with_ts=with_ts):
            raise PeerError(NotifyType.INVALID_SYNTAX, f"{what}: proposal {proposal.number} for protocol "
                            f"{proposal.protocol} with SPI {proposal.spi.hex() or 'none'}")


# RFC 7296 3.3.1: no SPI while IKE_SA_INIT carries it in the header, 8 bytes when an IKE SA is rekeyed, else 4.
def _spi_fits(proposal: WireProposal, exchange: int, *, with_ts: bool) -> bool:
    kind = (proposal.protocol, len(proposal.spi))
    if exchange == ExchangeType.IKE_SA_INIT:
        return kind == (ProtocolId.IKE, 0)
    value = int.from_bytes(proposal.spi, "big")
    if with_ts:
        return kind in _CHILD_SPIS and value >= FIRST_FREE_SPI
    return kind == (ProtocolId.IKE, 8) and value > 0
