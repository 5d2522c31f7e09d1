from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.errors import LocalError, WireError
from ipsecd.ike.consts import ExchangeType, PayloadType
from ipsecd.ike.wire.header import HEADER_BYTES, VERSION, IkeHeader
from ipsecd.ike.wire.message import (
    MAX_FRAGMENTS,
    MAX_MESSAGE_BYTES,
    MAX_PAYLOADS,
    ClearMessage,
    SealedMessage,
    build_clear,
    build_payloads,
    names,
    parse_payloads,
    split,
)
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import IdPayload, KePayload, NoncePayload, UnknownPayload, VendorPayload
from ipsecd.ike.wire.sa_payload import Attribute, SaPayload, WireProposal, WireTransform
from tests.support.wire_capture import datagrams

SK, SKF, VENDOR = PayloadType.SK, PayloadType.SKF, PayloadType.VENDOR
HEADER = IkeHeader(b"i" * 8, b"r" * 8, 0, VERSION, ExchangeType.IKE_AUTH, 0x08, 1, 0)


def test_real_ike_sa_init_request_parses_to_every_field() -> None:
    datagram = datagrams()["init_request"]
    message = split(datagram)
    assert isinstance(message, ClearMessage)
    header = message.header
    assert header == IkeHeader(bytes.fromhex("ea684d21597afd36"), bytes(8), 33, 0x20, 34, 0x08, 0, 248)
    sa, ke, nonce, source, destination, hashes = message.payloads
    assert sa == SaPayload((WireProposal(1, 1, b"", (
        WireTransform(1, 15, (Attribute(14, 128),)), WireTransform(2, 5), WireTransform(4, 19))),))
    assert isinstance(ke, KePayload)
    assert (ke.method, len(ke.data), ke.data[:4].hex(), ke.data[-4:].hex()) == (19, 64, "32c6dffe", "53956172")
    assert nonce == NoncePayload(bytes.fromhex("b655462d6f4b66f872ccd7f0f4b4857732921339cbaa5237edba244f262b6823"))
    assert source == NotifyPayload(16388, bytes.fromhex("949c9db5739d75a974a49c184618369b34b7f942"))
    assert destination == NotifyPayload(16389, bytes.fromhex("3e721b46be07d53111425d7f80d2c6e220c6072e"))
    assert hashes == NotifyPayload(16431, bytes.fromhex("0001000200030004"))
    assert names(message.payloads) == ["SA", "KE", "Ni", "N(NAT_DETECTION_SOURCE_IP)",
                                       "N(NAT_DETECTION_DESTINATION_IP)", "N(SIGNATURE_HASH_ALGORITHMS)"]


@pytest.mark.parametrize("name", ["init_request", "init_response"])
def test_real_clear_message_is_rebuilt_byte_for_byte(name: str) -> None:
    message = split(datagrams()[name])
    assert isinstance(message, ClearMessage)
    first, body = build_payloads(message.payloads)
    assert first == message.header.next_payload
    assert message.header.build() + body == datagrams()[name]


@pytest.mark.parametrize(("name", "inner"), [("delete_request", PayloadType.DELETE), ("delete_response", 0)])
def test_real_sealed_message_names_its_first_payload_and_where_it_is_sealed(name: str, inner: int) -> None:
    datagram = datagrams()[name]
    message = split(datagram)
    assert isinstance(message, SealedMessage)
    assert (message.first_inner, message.body_offset, message.clear_payloads) == (inner, HEADER_BYTES + 4, ())
    assert (message.fragment, message.datagram, message.header.message_id) == (None, datagram, 2)


@pytest.mark.parametrize("offset", [28, 68, 140, 176, 204, 232])
@pytest.mark.parametrize("length", [0, 3, 0xDEAD, 0xFFFF])
def test_payload_length_that_does_not_fit_is_refused(offset: int, length: int) -> None:
    # IN-04: offsets of the six payloads of the captured request
    whole = datagrams()["init_request"]
    with pytest.raises(WireError):
        split(whole[:offset + 2] + length.to_bytes(2, "big") + whole[offset + 4:])


def test_bytes_behind_the_last_payload_are_refused() -> None:
    with pytest.raises(WireError):
        split(wire(VENDOR, payload(0, b"v") + b"\0"))
    with pytest.raises(WireError):
        parse_payloads(0, b"\0")
    with pytest.raises(WireError):
        parse_payloads(VENDOR, payload(VENDOR, b"v"))


def test_major_version_other_than_ours_is_not_read() -> None:
    # IN-07
    for version in (0x10, 0x30, 0x00, 0xF0):
        with pytest.raises(WireError, match="major version"):
            split(wire(VENDOR, payload(0, b"v"), version=version))
    assert isinstance(split(wire(VENDOR, payload(0, b"v"), version=0x29)), ClearMessage)


def test_limit_of_payloads_is_exact_and_counts_what_precedes_the_sealed_part() -> None:
    # IN-11
    full = [VendorPayload(b"v")] * MAX_PAYLOADS
    assert len(parse_payloads(*build_payloads(full))) == MAX_PAYLOADS
    with pytest.raises(WireError, match="more than 64 payloads"):
        parse_payloads(*build_payloads([*full, VendorPayload(b"v")]))
    with pytest.raises(WireError, match="more than 3 payloads"):
        parse_payloads(*build_payloads(full), limit=3)
    with pytest.raises(WireError):
        split(wire(VENDOR, payload(VENDOR) * (MAX_PAYLOADS - 1) + payload(SK) + payload(0, bytes(32))))


def test_message_of_more_than_64_kib_is_refused() -> None:
    with pytest.raises(WireError, match="message of 65537 bytes"):
        split(bytes(MAX_MESSAGE_BYTES + 1))


def test_critical_flag_counts_only_on_unknown_payloads() -> None:
    # IN-09
    chain = parse_payloads(VENDOR, b"\xc8\x80\0\4" + b"\xc9\x80\0\5x" + b"\0\x7f\0\4")
    assert chain == (VendorPayload(b""), UnknownPayload(200, True, b"x"), UnknownPayload(201, False, b""))


def test_clear_payloads_before_the_sealed_part_are_parsed() -> None:
    datagram = wire(VENDOR, payload(SK, b"v") + payload(PayloadType.IDI, b"sealed"))
    message = split(datagram)
    assert isinstance(message, SealedMessage)
    assert (message.clear_payloads, message.first_inner) == ((VendorPayload(b"v"),), PayloadType.IDI)
    assert datagram[message.body_offset:] == b"sealed"


@pytest.mark.parametrize("type_", [SK, SKF])
def test_sealed_part_must_be_last(type_: int) -> None:
    # ML-12: followed by a payload, by another sealed one, by trailing bytes
    body = b"\0\1\0\1" + bytes(32)
    for behind in (payload(0, b"v"), payload(0, body), b"\0"):
        with pytest.raises(WireError):
            split(wire(type_, payload(VENDOR, body) + behind))


@pytest.mark.parametrize("type_", [SK, SKF])
def test_sealed_part_inside_another_is_refused(type_: int) -> None:
    # ML-12
    with pytest.raises(WireError, match="inside of another"):
        parse_payloads(type_, payload(0, b"\0\1\0\1" + bytes(32)))


@pytest.mark.parametrize(("number", "total"), [(0, 1), (0, 0), (1, 0), (2, 1), (1, MAX_FRAGMENTS + 1), (65535, 65535)])
def test_fragment_number_outside_of_its_total_is_refused(number: int, total: int) -> None:
    # FR-04
    with pytest.raises(WireError, match=f"fragment {number} of {total}"):
        split(fragment(number, total, inner=PayloadType.IDI if number == 1 else 0))


@pytest.mark.parametrize(("number", "inner"), [(1, 0), (2, PayloadType.IDI), (3, 255)])
def test_only_the_first_fragment_names_a_payload(number: int, inner: int) -> None:
    # FR-07
    with pytest.raises(WireError, match="next payload"):
        split(fragment(number, 3, inner=inner))


def test_fragment_says_where_its_sealed_part_begins() -> None:
    message = split(fragment(MAX_FRAGMENTS, MAX_FRAGMENTS, inner=0))
    assert isinstance(message, SealedMessage)
    assert (message.fragment, message.body_offset) == ((MAX_FRAGMENTS, MAX_FRAGMENTS), HEADER_BYTES + 8)
    with pytest.raises(WireError):                 # no room for the fragment header
        split(wire(SKF, payload(PayloadType.IDI, b"\0\1\0")))


def test_names_are_those_of_the_rfc_also_for_what_we_do_not_know() -> None:
    chain = [IdPayload(35, 2, b"a"), IdPayload(36, 2, b"a"), NoncePayload(bytes(16)), NotifyPayload(16390),
             NotifyPayload(40961), UnknownPayload(200, False, b"\x1b")]
    assert names(chain) == ["IDi", "IDr", "Ni", "N(COOKIE)", "N(NotifyType(40961))", "payload 200"]
    assert names(chain[2:3], is_response=True) == ["Nr"]


def test_payload_longer_than_its_length_field_is_our_own_fault() -> None:
    assert build_payloads([]) == (0, b"")
    with pytest.raises(LocalError):
        build_clear(spi_i=bytes(8), spi_r=bytes(8), exchange=34, flags=8, message_id=0,
                    payloads=[VendorPayload(bytes(65532))])


def payload(next_type: int, body: bytes = b"") -> bytes:
    return bytes([next_type, 0]) + (4 + len(body)).to_bytes(2, "big") + body


def wire(first: int, rest: bytes, *, version: int = VERSION) -> bytes:
    return replace(HEADER, next_payload=first, version=version, length=HEADER_BYTES + len(rest)).build() + rest


def fragment(number: int, total: int, *, inner: int) -> bytes:
    return wire(SKF, payload(inner, number.to_bytes(2, "big") + total.to_bytes(2, "big") + bytes(32)))
