from __future__ import annotations

import pytest

from ipsecd.errors import PeerError
from ipsecd.ike.consts import ExchangeType, NotifyType, PayloadType
from ipsecd.ike.wire.message import ClearMessage, Payload, split
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    CpPayload,
    DeletePayload,
    EapPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    UnknownPayload,
    VendorPayload,
)
from ipsecd.ike.wire.rules import check
from ipsecd.ike.wire.sa_payload import SaPayload, WireProposal, WireTransform
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.selectors import from_prefix
from tests.support.wire_capture import datagrams

INIT, AUTH, CHILD = ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA
INFO, INTERMEDIATE = ExchangeType.INFORMATIONAL, ExchangeType.IKE_INTERMEDIATE


def sa(protocol: int, spi: bytes, *numbers: int) -> SaPayload:
    return SaPayload(tuple(WireProposal(n, protocol, spi, (WireTransform(1, 20),)) for n in numbers or (1,)))


SA_IKE, SA_ESP, SA_REKEY = sa(1, b""), sa(3, b"\xc0\0\0\1"), sa(1, b"newspi__")
KE, NONCE, N, V = KePayload(31, bytes(32)), NoncePayload(bytes(32)), NotifyPayload(16430), VendorPayload(b"v")
IDI, IDR, AUTH_MAC = IdPayload(35, 2, b"a"), IdPayload(36, 2, b"b"), AuthPayload(2, b"m")
CERT, CERTREQ, CP, D = CertPayload(4, b"c"), CertreqPayload(4, b""), CpPayload(1), DeletePayload(1)
ERROR = NotifyPayload(NotifyType.NO_PROPOSAL_CHOSEN)
TSI, TSR = (TsPayload(t, (from_prefix("10.0.0.0/8"),)) for t in (PayloadType.TSI, PayloadType.TSR))
NEW_CHILD = [SA_ESP, TSI, TSR]

LEGAL: list[tuple[int, bool, list[Payload]]] = [
    (INIT, False, [SA_IKE, KE, NONCE]), (INIT, False, [N, SA_IKE, KE, NONCE, *[N] * 19, *[V] * 20]),
    (INIT, True, [SA_IKE, KE, NONCE, CERTREQ, N, V]), (INIT, True, [ERROR]), (INIT, True, [ERROR, V]),
    (AUTH, False, [IDI, AUTH_MAC, *NEW_CHILD]), (AUTH, False, [IDI, AUTH_MAC]),
    (AUTH, False, [IDI, *[CERT] * 8, CERTREQ, IDR, AUTH_MAC, CP, *NEW_CHILD, N, V]), (AUTH, False, [IDI, *NEW_CHILD]),
    (AUTH, True, [IDR, AUTH_MAC, *NEW_CHILD]), (AUTH, True, [IDR, CERT, AUTH_MAC, ERROR]), (AUTH, True, [ERROR]),
    (CHILD, False, [N, SA_ESP, NONCE, KE, TSI, TSR]), (CHILD, False, [SA_ESP, NONCE, TSI, TSR]),
    (CHILD, False, [SA_REKEY, NONCE, KE]), (CHILD, True, [SA_REKEY, NONCE, KE]), (CHILD, True, [ERROR]),
    (CHILD, True, [sa(3, b"\xc0\0\0\1", 4), NONCE, TSI, TSR]), (CHILD, True, [sa(2, b"\xc0\0\0\1"), NONCE, TSI, TSR]),
    (INFO, False, []), (INFO, True, []), (INFO, False, [D]), (INFO, True, [D, DeletePayload(3, (b"1234",)), N, CP]),
    (INTERMEDIATE, False, [KE, N]), (INTERMEDIATE, True, [KE]), (INFO, False, [UnknownPayload(200, False, b"")]),
    (CHILD, False, [sa(77, b"1234"), NONCE, TSI, TSR]),      # for negotiation to skip
]


@pytest.mark.parametrize(("exchange", "is_response", "chain"), LEGAL)
def test_what_the_rfc_shows_is_legal(exchange: int, is_response: bool, chain: list[Payload]) -> None:
    check(exchange, is_response, chain)


ILLEGAL: list[tuple[int, bool, list[Payload], str]] = [
    # IN-12: each of the three missing, and twice
    (INIT, False, [KE, NONCE], "0 SA"), (INIT, False, [SA_IKE, NONCE], "0 KE"), (INIT, False, [SA_IKE, KE], "0 NONCE"),
    (INIT, False, [SA_IKE, SA_IKE, KE, NONCE], "2 SA"), (INIT, False, [SA_IKE, KE, KE, NONCE], "2 KE"),
    (INIT, False, [SA_IKE, KE, NONCE, NONCE], "2 NONCE"), (INIT, False, [], "0 SA"), (INIT, False, [ERROR], "0 SA"),
    (INIT, True, [], "NOTIFY"), (INIT, True, [SA_IKE, NONCE, N], "0 KE"),
    # IN-11: one more than the limit
    (INIT, False, [SA_IKE, KE, NONCE, *[N] * 21], "21 NOTIFY"),
    (INIT, False, [SA_IKE, KE, NONCE, *[V] * 21], "21 VENDOR"),
    (INIT, True, [SA_IKE, KE, NONCE, *[CERTREQ] * 21], "21 CERTREQ"), (INFO, False, [D] * 21, "21 DELETE"),
    (AUTH, False, [IDI, AUTH_MAC, *[CERT] * 9], "9 CERT"),
    # SA, TSi and TSr come together
    (AUTH, False, [IDI, AUTH_MAC, SA_ESP], "SA"), (AUTH, False, [IDI, AUTH_MAC, TSI, TSR], "0 SA"),
    (AUTH, True, [IDR, AUTH_MAC, SA_ESP, TSI], "0 TSR"), (CHILD, False, [SA_ESP, NONCE, TSI], "0 TSR"),
    (AUTH, False, [AUTH_MAC], "0 IDI"), (AUTH, True, [AUTH_MAC, N], "0 IDR"), (AUTH, True, [IDR], "0 AUTH"),
    (AUTH, False, [IDI, IDI, AUTH_MAC], "2 IDI"), (AUTH, False, [IDI, AUTH_MAC, AUTH_MAC], "2 AUTH"),
    (CHILD, False, [SA_REKEY, NONCE], "0 KE"), (CHILD, False, [ERROR], "0 SA"), (CHILD, True, [], "NOTIFY"),
    # payloads of another exchange
    (INFO, False, [SA_IKE], "1 SA"), (INFO, True, [KE], "1 KE"), (INTERMEDIATE, False, [SA_IKE, KE], "1 SA"),
    (INIT, False, [SA_IKE, KE, NONCE, IDI], "1 IDI"), (AUTH, False, [EapPayload(b"\1\1\0\4")], "1 EAP"),
    (39, False, [], "not an exchange we know"), (0, True, [], "not an exchange we know"),
    # IN-39, RFC 7296 3.3.1: protocol, SPI size, numbering by exchange
    (INIT, False, [sa(1, b"newspi__"), KE, NONCE], "proposal 1"), (INIT, False, [SA_ESP, KE, NONCE], "proposal 1"),
    (INIT, False, [sa(1, b"", 2), KE, NONCE], "number 2"), (INIT, True, [sa(1, b"", 1, 2), KE, NONCE], "2 proposals"),
    (AUTH, False, [IDI, AUTH_MAC, SA_REKEY, TSI, TSR], "protocol 1"), (CHILD, False, [SA_IKE, NONCE, KE], "SPI none"),
    (CHILD, False, [SA_ESP, NONCE, KE], "protocol 3"), (CHILD, False, [sa(1, bytes(8)), NONCE, KE], "SPI 00000000"),
    (CHILD, False, [sa(3, b"\0\0\0\xff"), NONCE, TSI, TSR], "SPI 000000ff"),
    (CHILD, True, [sa(77, b"1234"), NONCE, TSI, TSR], "protocol 77"),
]


@pytest.mark.parametrize(("exchange", "is_response", "chain", "detail"), ILLEGAL)
def test_what_the_rfc_does_not_show_is_invalid_syntax(exchange, is_response, chain, detail: str) -> None:
    with pytest.raises(PeerError, match=detail) as caught:
        check(exchange, is_response, chain)
    assert (caught.value.notify, caught.value.data) == (NotifyType.INVALID_SYNTAX, b"")


@pytest.mark.parametrize("is_response", [False, True])
def test_unknown_critical_payload_refuses_the_whole_message_with_its_type(is_response: bool) -> None:
    # IN-09, IN-10
    chain = [SA_IKE, KE, NONCE, UnknownPayload(200, False, b""), UnknownPayload(201, True, b"")]
    with pytest.raises(PeerError) as caught:
        check(INIT, is_response, chain)
    assert (caught.value.notify, caught.value.data) == (NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, b"\xc9")


def test_error_names_the_nearest_legal_form() -> None:
    with pytest.raises(PeerError, match=r"^CREATE_CHILD_SA request: 0 KE where 1 to 1 may be$"):
        check(CHILD, False, [SA_REKEY, NONCE])


@pytest.mark.parametrize("name", ["init_request", "init_response"])
def test_real_exchange_is_legal(name: str) -> None:
    message = split(datagrams()[name])
    assert isinstance(message, ClearMessage)
    check(message.header.exchange, message.header.is_response, message.payloads)
