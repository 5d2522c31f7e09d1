"""scapy.contrib.ikev2 as an independent oracle: it reads what we build, we read what it builds."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib import ikev2 as scapy

from ipsecd.ike.consts import PayloadType
from ipsecd.ike.wire.message import ClearMessage, Payload, SealedMessage, build_clear, split
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import (
    AuthPayload,
    CertreqPayload,
    CfgAttribute,
    CpPayload,
    DeletePayload,
    IdPayload,
    KePayload,
    NoncePayload,
    VendorPayload,
)
from ipsecd.ike.wire.sa_payload import Attribute, SaPayload, WireProposal, WireTransform
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.selectors import TrafficSelector
from tests.support.wire_capture import datagrams
from tests.support.wire_strategies import payloads

TYPES = {
    SaPayload: scapy.IKEv2_SA, KePayload: scapy.IKEv2_KE, AuthPayload: scapy.IKEv2_AUTH,
    NoncePayload: scapy.IKEv2_Nonce, NotifyPayload: scapy.IKEv2_Notify, DeletePayload: scapy.IKEv2_Delete,
    VendorPayload: scapy.IKEv2_VendorID, CpPayload: scapy.IKEv2_CP, CertreqPayload: scapy.IKEv2_CERTREQ,
}
REDIRECTS = (16407, 16408)                         # scapy reads their data, any bytes would not do


def readable(payload: Payload) -> bool:
    """Return whether scapy supports what this payload holds."""
    match payload:
        case SaPayload(proposals):
            # scapy knows one attribute only: Key Length in its short form.
            return all(t.attributes == () or (len(t.attributes) == 1 and t.attributes[0].type == 14
                       and isinstance(t.attributes[0].value, int)) for p in proposals for t in p.transforms)
        case NotifyPayload(type=type_):
            return type_ not in REDIRECTS
        case _:
            return type(payload) in TYPES or isinstance(payload, IdPayload | TsPayload)


@given(st.lists(payloads.filter(readable), min_size=1, max_size=5))
def test_scapy_reads_what_we_build(chain: list[Payload]) -> None:
    datagram = build_clear(spi_i=b"initiate", spi_r=b"responds", exchange=35, flags=0x28, message_id=7, payloads=chain)
    packet = scapy.IKEv2(datagram)

    assert (packet.init_SPI, packet.resp_SPI, packet.exch_type, int(packet.flags), packet.id, packet.length) == (
        b"initiate", b"responds", 35, 0x28, 7, len(datagram))
    layer = packet
    for payload in chain:
        assert layer.next_payload == payload.payload_type
        layer = layer.payload
        compare(payload, layer)
    assert layer.next_payload == 0


def compare(payload: Payload, layer) -> None:
    if type(payload) in TYPES:
        assert isinstance(layer, TYPES[type(payload)])
    match payload:
        case SaPayload(proposals):
            assert proposals == tuple(_proposal(p) for p in _chain(layer.prop))
        case KePayload(method, data):
            assert (layer.group, layer.ke) == (method, data)
        case IdPayload(payload_type, id_type, data, reserved):
            assert isinstance(layer, scapy.IKEv2_IDi if payload_type == 35 else scapy.IKEv2_IDr)
            assert (layer.IDtype, layer.res2.to_bytes(3, "big")) == (id_type, reserved)
            shown = str(ip_address(data)) if id_type in (1, 5) else data
            assert shown == layer.ID
        case AuthPayload(method, data):
            assert (layer.auth_type, layer.load) == (method, data)
        case NoncePayload(data):
            assert layer.nonce == data
        case NotifyPayload(type_, data, protocol, spi):
            assert (layer.type, layer.notify, layer.proto, layer.SPI) == (type_, data, protocol, spi)
        case DeletePayload(protocol, spis):
            assert (layer.proto, layer.SPInum, tuple(layer.SPI)) == (protocol, len(spis), spis)
        case VendorPayload(data):
            assert layer.vendorID == data
        case CertreqPayload(encoding, data):
            assert (layer.cert_encoding, layer.cert_authority) == (encoding, data)
        case CpPayload(cfg_type, attributes):
            assert layer.CFGType == cfg_type
            assert [(a.type, a.length) for a in layer.attributes] == [(a.type, len(a.value)) for a in attributes]
        case TsPayload(payload_type, selectors):
            assert isinstance(layer, scapy.IKEv2_TSi if payload_type == 44 else scapy.IKEv2_TSr)
            assert tuple(_selector(s) for s in layer.traffic_selector) == selectors


def _chain(layer) -> list:
    found = []
    while isinstance(layer, scapy.IKEv2_Proposal | scapy.IKEv2_Transform):
        found.append(layer)
        layer = layer.payload
    return found


def _proposal(layer) -> WireProposal:
    transforms = _chain(layer.trans) if layer.trans_nb else []
    assert layer.trans_nb == len(transforms)
    return WireProposal(layer.proposal, layer.proto, layer.SPI, tuple(
        WireTransform(t.transform_type, t.transform_id,
                      () if t.length == 8 else (Attribute(14, t.key_length & 0xFFFF),)) for t in transforms))


def _selector(layer) -> TrafficSelector:
    version = 4 if layer.TS_type == 7 else 6
    low, high = (int(ip_address(getattr(layer, f"{end}ing_address_v{version}"))) for end in ("start", "end"))
    return TrafficSelector(version, low, high, layer.IP_protocol_ID, layer.start_port, layer.end_port)


BUILT = [
    (scapy.IKEv2_SA(prop=scapy.IKEv2_Proposal(
        proposal=1, proto=3, SPI=b"\xc0\x01\x02\x03", trans_nb=2,
        trans=scapy.IKEv2_Transform(next_payload=3, transform_type=1, transform_id=20, length=12, key_length=256)
        / scapy.IKEv2_Transform(next_payload=0, transform_type=5, transform_id=0))),
     SaPayload((WireProposal(1, 3, b"\xc0\x01\x02\x03", (
         WireTransform(1, 20, (Attribute(14, 256),)), WireTransform(5, 0))),))),
    (scapy.IKEv2_KE(group=31, ke=b"k" * 32), KePayload(31, b"k" * 32)),
    (scapy.IKEv2_IDi(IDtype=2, ID=b"a.example"), IdPayload(35, 2, b"a.example")),
    (scapy.IKEv2_IDr(IDtype=1, ID="192.0.2.7", res2=0x010203), IdPayload(36, 1, b"\xc0\0\x02\x07", b"\1\2\3")),
    (scapy.IKEv2_AUTH(auth_type=2, load=b"mac"), AuthPayload(2, b"mac")),
    (scapy.IKEv2_Nonce(nonce=b"n" * 32), NoncePayload(b"n" * 32)),
    (scapy.IKEv2_Notify(proto=3, type=16393, SPI=b"1234", notify=b""), NotifyPayload(16393, b"", 3, b"1234")),
    (scapy.IKEv2_Delete(proto=3, SPIsize=4, SPInum=2, SPI=[b"1234", b"5678"]), DeletePayload(3, (b"1234", b"5678"))),
    (scapy.IKEv2_VendorID(vendorID=b"v"), VendorPayload(b"v")),
    (scapy.IKEv2_CERTREQ(cert_encoding=4, cert_authority=b"h" * 20), CertreqPayload(4, b"h" * 20)),
    (scapy.IKEv2_CP(CFGType=1, attributes=[scapy.ConfigurationAttribute(type=7, value=b"x")]),
     CpPayload(1, (CfgAttribute(7, b"x"),))),
    (scapy.IKEv2_TSi(traffic_selector=[scapy.IPv4TrafficSelector(
        IP_protocol_ID=6, start_port=80, end_port=90, starting_address_v4="10.0.0.0", ending_address_v4="10.0.0.9")]),
     TsPayload(44, (TrafficSelector(4, 0x0A000000, 0x0A000009, 6, 80, 90),))),
    (scapy.IKEv2_TSr(traffic_selector=[scapy.IPv6TrafficSelector(
        IP_protocol_ID=0, length=40, starting_address_v6="2001:db8::", ending_address_v6="2001:db8::ff")]),
     TsPayload(45, (TrafficSelector(6, 0x20010DB8 << 96, (0x20010DB8 << 96) + 255),))),
]


@pytest.mark.parametrize(("layer", "payload"), BUILT, ids=[type(b[1]).__name__ for b in BUILT])
def test_we_read_what_scapy_builds(layer, payload: Payload) -> None:
    packet = scapy.IKEv2(init_SPI=b"i" * 8, resp_SPI=b"r" * 8, next_payload=payload.payload_type, exch_type=36,
                         flags=0x08) / layer.copy()
    layer = packet.payload
    layer.next_payload = 0
    message = split(bytes(packet))
    assert isinstance(message, ClearMessage)
    assert message.payloads == (payload,)


@pytest.mark.parametrize(("number", "total"), [(1, 1), (2, 3), (64, 64)])
def test_we_read_fragments_that_scapy_builds(number: int, total: int) -> None:
    # FR-04
    packet = (scapy.IKEv2(init_SPI=b"i" * 8, resp_SPI=b"r" * 8, next_payload=53, exch_type=35, flags=0x08, id=1)
              / scapy.IKEv2_Encrypted_Fragment(next_payload=PayloadType.IDI if number == 1 else 0, frag_number=number,
                                               frag_total=total, load=b"sealed"))
    message = split(bytes(packet))
    assert isinstance(message, SealedMessage)
    assert message.fragment == (number, total)
    assert message.datagram[message.body_offset:] == b"sealed"


@pytest.mark.parametrize("name", sorted(datagrams()))
def test_scapy_and_we_agree_on_a_real_exchange(name: str) -> None:
    datagram = datagrams()[name]
    layer = scapy.IKEv2(datagram)
    message = split(datagram)
    for payload in message.payloads if isinstance(message, ClearMessage) else ():
        layer = layer.payload
        compare(payload, layer)
    if isinstance(message, SealedMessage):
        assert layer.payload.load == datagram[message.body_offset:]
        assert layer.payload.next_payload == message.first_inner
