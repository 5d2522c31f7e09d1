"""Hypothesis strategies for every payload of ipsecd.ike.wire, inside the limits that parsing enforces."""

from __future__ import annotations

from hypothesis import strategies as st

from ipsecd.ike.consts import IdType, PayloadType, ProtocolId
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.ike.wire.payloads import (
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
    UnknownPayload,
    VendorPayload,
)
from ipsecd.ike.wire.sa_payload import Attribute, SaPayload, WireProposal, WireTransform
from ipsecd.ike.wire.ts_payload import TsPayload
from ipsecd.selectors import ANY_PORTS, OPAQUE_PORTS, TrafficSelector

u8, u15, u16 = st.integers(0, 0xFF), st.integers(0, 0x7FFF), st.integers(0, 0xFFFF)
some_bytes = st.binary(max_size=40)
spi4 = st.binary(min_size=4, max_size=4)
spi8 = st.binary(min_size=8, max_size=8)
KNOWN_TYPES = frozenset(int(t) for t in PayloadType)

attributes = st.builds(Attribute, u15, u16 | some_bytes)
transforms = st.builds(WireTransform, u8, u16, st.lists(attributes, max_size=3).map(tuple))


@st.composite
def sa_payloads(draw: st.DrawFn) -> SaPayload:
    count = draw(st.integers(1, 4))
    first = 1 if count > 1 else draw(st.integers(1, 255))
    return SaPayload(tuple(draw(_proposals(first + i)) for i in range(count)))


def _proposals(number: int) -> st.SearchStrategy[WireProposal]:
    kinds = st.one_of(
        st.tuples(st.just(int(ProtocolId.IKE)), st.just(b"") | spi8),
        st.tuples(st.sampled_from([int(ProtocolId.AH), int(ProtocolId.ESP)]), spi4),
        st.tuples(st.integers(4, 255), st.binary(max_size=16)))
    return st.builds(lambda kind, found: WireProposal(number, kind[0], kind[1], tuple(found)),
                     kinds, st.lists(transforms, max_size=5))


def _ids() -> st.SearchStrategy[IdPayload]:
    data = st.one_of(
        st.tuples(st.just(int(IdType.IPV4_ADDR)), spi4),
        st.tuples(st.just(int(IdType.IPV6_ADDR)), st.binary(min_size=16, max_size=16)),
        st.tuples(st.sampled_from([int(IdType.FQDN), int(IdType.RFC822_ADDR)]),
                  st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(str.encode)),
        st.tuples(st.sampled_from([9, 10, 11, 13, 200]), some_bytes))
    return st.builds(lambda role, pair, reserved: IdPayload(role, pair[0], pair[1], reserved),
                     st.sampled_from([int(PayloadType.IDI), int(PayloadType.IDR)]), data,
                     st.binary(min_size=3, max_size=3))


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    version = draw(st.sampled_from([4, 6]))
    low, high = sorted(draw(st.tuples(*[st.integers(0, 2 ** (32 if version == 4 else 128) - 1)] * 2)))
    ports = draw(st.tuples(u16, u16).map(sorted).map(tuple) | st.sampled_from([ANY_PORTS, OPAQUE_PORTS]))
    return TrafficSelector(version, low, high, draw(u8), *ports)


notifies = st.one_of(
    st.builds(NotifyPayload, u16, some_bytes, st.just(0), st.just(b"")),
    st.builds(NotifyPayload, u16, some_bytes, st.just(1), st.just(b"") | spi8),
    st.builds(NotifyPayload, u16, some_bytes, st.sampled_from([2, 3]), st.just(b"") | spi4),
    st.builds(NotifyPayload, u16, some_bytes, st.integers(4, 255), st.binary(max_size=20)))
deletes = st.one_of(
    st.just(DeletePayload(ProtocolId.IKE)),
    st.builds(DeletePayload, st.sampled_from([2, 3]), st.lists(spi4, max_size=5).map(tuple)))
eaps = some_bytes.map(lambda b: EapPayload(b"\x01\x07" + (4 + len(b)).to_bytes(2, "big") + b))
cps = st.builds(CpPayload, u8, st.lists(st.builds(CfgAttribute, u15, some_bytes), max_size=5).map(tuple))
unknowns = st.builds(UnknownPayload, u8.filter(lambda t: t not in KNOWN_TYPES), st.booleans(), some_bytes)
ts_payloads = st.builds(TsPayload, st.sampled_from([int(PayloadType.TSI), int(PayloadType.TSR)]),
                        st.lists(selectors(), min_size=1, max_size=6).map(tuple))

payloads: st.SearchStrategy[Payload] = st.one_of(
    sa_payloads(), st.builds(KePayload, u16, some_bytes), _ids(), st.builds(CertPayload, u8, some_bytes),
    st.builds(CertreqPayload, u8, some_bytes), st.builds(AuthPayload, u8, some_bytes),
    st.builds(NoncePayload, st.binary(min_size=16, max_size=256)), notifies, deletes,
    st.builds(VendorPayload, some_bytes), ts_payloads, cps, eaps, unknowns)
