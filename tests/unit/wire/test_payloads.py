from __future__ import annotations

import pytest

from ipsecd.errors import LocalError, WireError
from ipsecd.ike.consts import IdType, NotifyType, PayloadType
from ipsecd.ike.wire.message import Payload, parse_payloads
from ipsecd.ike.wire.notify import MAX_NOTIFY_BYTES, NotifyPayload, cookie
from ipsecd.ike.wire.payloads import (
    MAX_CERT_BYTES,
    MAX_CFG_ATTRIBUTES,
    MAX_ID_BYTES,
    AuthPayload,
    CertPayload,
    CertreqPayload,
    CfgAttribute,
    CpPayload,
    DeletePayload,
    EapPayload,
    IdPayload,
    KePayload,
    NoncePayload,
    VendorPayload,
)

# Bodies laid out by hand from the figures of RFC 7296 3.4 to 3.16.
LAYOUTS: list[tuple[Payload, str]] = [
    (KePayload(31, b"key"), "001f 0000 6b6579"),
    (IdPayload(35, 2, b"a.b"), "02 000000 612e62"),
    (IdPayload(36, 1, b"\xc0\0\2\1", b"\1\2\3"), "01 010203 c0000201"),
    (CertPayload(4, b"der"), "04 646572"),
    (CertreqPayload(4, b"sha"), "04 736861"),
    (AuthPayload(2, b"mac"), "02 000000 6d6163"),
    (NoncePayload(bytes(range(16))), "000102030405060708090a0b0c0d0e0f"),
    (NotifyPayload(16393, b"", 3, b"\xc0\1\2\3"), "03 04 4009 c0010203"),
    (NotifyPayload(17, b"\0\x1f"), "00 00 0011 001f"),
    (DeletePayload(1), "01 00 0000"),
    (DeletePayload(3, (b"\xc0\0\0\1", b"\xc0\0\0\2")), "03 04 0002 c0000001 c0000002"),
    (VendorPayload(b"me"), "6d65"),
    (CpPayload(2, (CfgAttribute(1, b"\n\0\0\1"), CfgAttribute(3))), "02 000000 0001 0004 0a000001 0003 0000"),
    (EapPayload(b"\3\7\0\4"), "03 07 0004"),
]


@pytest.mark.parametrize(("payload", "body"), LAYOUTS, ids=[f"{type(p).__name__}-{b}" for p, b in LAYOUTS])
def test_payload_has_the_layout_of_the_rfc(payload: Payload, body: str) -> None:
    wire = bytes.fromhex(body)
    assert payload.build() == wire
    assert one(payload.payload_type, wire) == payload


@pytest.mark.parametrize(("payload", "body"), [
    (KePayload(31, b"k"), "001f ffff 6b"), (AuthPayload(2, b"m"), "02 ffffff 6d"), (CpPayload(1), "01 ffffff"),
    (CpPayload(1, (CfgAttribute(1),)), "01 000000 8001 0000"),
])
def test_reserved_bits_are_ignored(payload: Payload, body: str) -> None:
    # IN-08
    assert one(payload.payload_type, bytes.fromhex(body)) == payload


def test_reserved_octets_of_an_identity_are_hashed_as_received() -> None:
    # AU-16
    body = bytes.fromhex("02 ff00ff 612e62")
    payload = one(PayloadType.IDI, body)
    assert isinstance(payload, IdPayload)
    assert (payload.data, payload.build()) == (b"a.b", body)


@pytest.mark.parametrize(("id_type", "data"), [
    (IdType.IPV4_ADDR, bytes(3)), (IdType.IPV4_ADDR, bytes(5)), (IdType.IPV6_ADDR, bytes(4)),
    (IdType.IPV6_ADDR, b""), (IdType.FQDN, b""), (IdType.FQDN, b"a\0b"), (IdType.RFC822_ADDR, b"a@b\0"),
    (IdType.KEY_ID, bytes(MAX_ID_BYTES + 1)), (IdType.DER_ASN1_DN, bytes(MAX_ID_BYTES + 1)),
])
@pytest.mark.parametrize("role", [PayloadType.IDI, PayloadType.IDR])
def test_identity_that_its_type_cannot_have_is_refused(role: int, id_type: int, data: bytes) -> None:
    # AU-16
    with pytest.raises(WireError, match="payload ID"):
        one(role, bytes([id_type, 0, 0, 0]) + data)


@pytest.mark.parametrize(("id_type", "size"), [
    (IdType.KEY_ID, MAX_ID_BYTES), (IdType.KEY_ID, 0), (IdType.NULL, 0), (200, 7), (IdType.FQDN, 1)])
def test_identity_at_its_limits_and_of_unknown_type_is_kept(id_type: int, size: int) -> None:
    assert one(PayloadType.IDI, bytes([id_type, 0, 0, 0]) + b"x" * size) == IdPayload(35, id_type, b"x" * size)


@pytest.mark.parametrize(("size", "legal"), [(15, False), (16, True), (256, True), (257, False), (0, False)])
def test_nonce_is_of_16_to_256_bytes(size: int, legal: bool) -> None:
    # IN-13
    if legal:
        assert one(PayloadType.NONCE, bytes(size)) == NoncePayload(bytes(size))
    else:
        with pytest.raises(WireError, match=f"nonce of {size} bytes"):
            one(PayloadType.NONCE, bytes(size))


@pytest.mark.parametrize("body", [
    "01 00 0001", "01 08 0001 0000000000000001", "01 04 0000", "03 00 0000", "03 08 0001 0000000000000001",
    "00 00 0000", "04 04 0000", "03 04 0002 c0000001", "03 04 0001 c0000001 c0000002", "03 04 0001 c00000", "03 04 00",
    "03 04 ffff",
])
def test_delete_whose_count_or_spi_size_does_not_fit_is_refused(body: str) -> None:
    with pytest.raises(WireError):
        one(PayloadType.DELETE, bytes.fromhex(body))


def test_limits_of_sizes_and_counts_are_exact() -> None:
    assert len(one(PayloadType.DELETE, b"\3\4\0\x40" + bytes(256)).spis) == 64
    assert len(one(PayloadType.CERT, bytes(1 + MAX_CERT_BYTES)).data) == MAX_CERT_BYTES
    assert len(one(PayloadType.NOTIFY, bytes(4 + MAX_NOTIFY_BYTES)).data) == MAX_NOTIFY_BYTES
    assert len(one(PayloadType.CP, bytes(4 + 4 * MAX_CFG_ATTRIBUTES)).attributes) == MAX_CFG_ATTRIBUTES
    for type_, body in ((PayloadType.DELETE, b"\3\4\0\x41" + bytes(260)), (PayloadType.CERT, bytes(2 + MAX_CERT_BYTES)),
                        (PayloadType.CERTREQ, bytes(2 + MAX_CERT_BYTES)),
                        (PayloadType.NOTIFY, bytes(5 + MAX_NOTIFY_BYTES)),
                        (PayloadType.CP, bytes(8 + 4 * MAX_CFG_ATTRIBUTES))):
        with pytest.raises(WireError):
            one(type_, body)


@pytest.mark.parametrize(("type_", "body"), [
    (PayloadType.KE, "001f00"), (PayloadType.IDI, "020000"), (PayloadType.CERT, ""), (PayloadType.CERTREQ, ""),
    (PayloadType.AUTH, "020000"), (PayloadType.NOTIFY, "000040"), (PayloadType.CP, "0200"),
    (PayloadType.CP, "02000000 0001 0004 000000"), (PayloadType.CP, "02000000 0001"), (PayloadType.EAP, "030700"),
    (PayloadType.EAP, "03070003"), (PayloadType.EAP, "03070005"), (PayloadType.EAP, "0307000400"),
    (PayloadType.NOTIFY, "03 04 4009 c00102"), (PayloadType.NOTIFY, "03 08 4009 c001020304050607"),
    (PayloadType.NOTIFY, "01 04 4009 c0010203"), (PayloadType.NOTIFY, "02 10 4009" + 16 * "00"),
])
def test_truncated_payload_is_refused(type_: int, body: str) -> None:
    with pytest.raises(WireError):
        one(type_, bytes.fromhex(body))


@pytest.mark.parametrize("bad", [
    KePayload(65536, b""), IdPayload(35, 256, b""), IdPayload(35, 1, b"", b"\0"), CertPayload(256, b""),
    AuthPayload(-1, b""), NotifyPayload(65536), NotifyPayload(1, protocol=256), NotifyPayload(1, spi=bytes(256)),
    DeletePayload(3, (b"12345",)), DeletePayload(1, (b"1234",)), CpPayload(256), CpPayload(1, (CfgAttribute(0x8000),)),
    CpPayload(1, (CfgAttribute(1, bytes(65536)),)),
])
def test_payload_that_does_not_fit_is_our_own_fault(bad: Payload) -> None:
    with pytest.raises(LocalError):
        bad.build()


@pytest.mark.parametrize(("size", "legal"), [(0, False), (1, True), (64, True), (65, False)])
def test_cookie_of_illegal_size_is_as_good_as_absent(size: int, legal: bool) -> None:
    # IN-24
    chain = (NotifyPayload(NotifyType.NO_PROPOSAL_CHOSEN), NotifyPayload(NotifyType.COOKIE, b"c" * size))
    assert cookie(chain) == (b"c" * size if legal else None)
    assert cookie(chain[:1]) is None


def test_notify_numbers_below_16384_are_errors() -> None:
    # RFC 7296 3.10.1
    assert NotifyPayload(16383).is_error
    assert not NotifyPayload(16384).is_error


def one(type_: int, body: bytes) -> Payload:
    """Parse one payload through the chain, as every caller does."""
    (payload,) = parse_payloads(type_, b"\0\0" + (4 + len(body)).to_bytes(2, "big") + body)
    return payload
